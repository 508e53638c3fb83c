"""Rotary angles: a TPU swaps the halves of a head by a product, which gives what moving them gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.model import qwen3
from f2jax.model.matmul import swap_halves


@pytest.mark.parametrize("head_dim", [8, 128])
def test_the_product_that_swaps_halves_on_a_tpu_loses_no_bit(monkeypatch, head_dim):
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(2, 3, 4, head_dim)), jnp.bfloat16) for _ in range(2))
    expected, back = (
        np.concatenate(np.split(np.asarray(v, np.float32), 2, axis=-1)[::-1], axis=-1) for v in (x, weight)
    )
    monkeypatch.setattr("f2jax.parallel.sharding.platform", lambda: "tpu")
    assert "dot_general" in str(jax.make_jaxpr(swap_halves)(x))
    assert (np.asarray(swap_halves(x)) == expected).all()
    gradient = jax.grad(lambda x: jnp.sum(swap_halves(x) * weight.astype(jnp.float32)))(x)
    assert (np.asarray(gradient, np.float32) == back).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_rotation_is_that_of_complex_numbers(dtype):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 5, 2, 8)), dtype)
    cos, sin = qwen3.rotary_angles(jnp.arange(5)[None], 8, 1e4)
    first, second = np.split(np.asarray(x, np.float64), 2, axis=-1)
    angle = np.arange(5)[:, None, None] * 1e4 ** (-np.arange(0, 8, 2) / 8)
    turned = (first + 1j * second) * np.exp(1j * angle)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    error = np.abs(np.asarray(qwen3.rotate(x, cos, sin), np.float64) - expected)
    assert error.max() < (1e-5 if dtype == jnp.float32 else 0.02)
