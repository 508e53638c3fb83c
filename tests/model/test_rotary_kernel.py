"""The TPU kernel of norm and rotation, in interpret mode, beside the plain path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.model.qwen3 import rms_norm, rotary_angles, rotate, turn_heads
from f2jax.model.rotary_kernel import normed_rotation

SHAPES = [(1, 128, 1, 128), (2, 256, 3, 128), (1, 384, 2, 256), (3, 128, 8, 128)]  # rows, positions, heads, head_dim


def inputs(shape, dtype="float32", theta=1e6):
    """Heads, a scale, angles of rows with several texts and padding, and the gradient of the result."""
    rows, length, _, head_dim = shape
    keys = jax.random.split(jax.random.key(length), 3)
    x, dy = (3 * jax.random.normal(key, shape).astype(dtype) for key in keys[:2])
    scale_h = 1 + 0.3 * jax.random.normal(keys[2], (head_dim,))
    column, start = np.arange(length), length // 3
    positions_bt = np.stack([np.where(column < start + b, column, column - start - b) for b in range(rows)])
    positions_bt[:, -20:] = 0
    return x, scale_h, *rotary_angles(jnp.asarray(positions_bt), head_dim, theta), dy


def plain(x, scale_h, cos, sin, eps):
    return rotate(rms_norm(x, scale_h, eps), cos, sin)


def interpreted(x, scale_h, cos, sin, eps):
    return normed_rotation(x, scale_h, cos, sin, eps, interpret=True)


def value_and_gradients(function, x, scale_h, cos, sin, dy, eps):
    """The result, and the gradients of heads and scale, in float64."""
    out, back = jax.vjp(lambda x, scale_h: function(x, scale_h, cos, sin, eps), x, scale_h)
    return [np.asarray(a, np.float64) for a in (out, *back(dy.astype(out.dtype)))]


@pytest.mark.parametrize("shape,eps,theta", [*((shape, 1e-6, 1e6) for shape in SHAPES), (SHAPES[1], 0.5, 1e4)])
def test_in_float32_values_and_gradients_are_those_of_the_plain_path(shape, eps, theta):
    arrays = inputs(shape, theta=theta)
    found, expected = (value_and_gradients(function, *arrays, eps) for function in (interpreted, plain))
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= 2e-6 * np.abs(b).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_the_kernel_rounds_no_further_than_the_plain_path(shape):
    arrays = inputs(shape, "bfloat16")
    exact = value_and_gradients(plain, *(x.astype(jnp.float32) for x in arrays), 1e-6)
    found, rounded = (value_and_gradients(function, *arrays, 1e-6) for function in (interpreted, plain))
    assert interpreted(*arrays[:-1], 1e-6).dtype == jnp.bfloat16
    for a, b, right in zip(found, rounded, exact, strict=True):
        assert np.linalg.norm(a - right) <= np.linalg.norm(b - right) < 0.01 * np.linalg.norm(right)


@pytest.mark.parametrize(
    "kernel,length,head_dim,used",
    [
        ("splash_interpret", 256, 128, True),
        ("splash_interpret", 144, 128, False),  # no multiple of the kernel's 128 positions
        ("splash_interpret", 256, 64, False),  # half of a TPU's lanes
        ("xla", 256, 128, False),
    ],
)
def test_the_model_uses_the_kernel_beside_the_attention_kernel_of_a_tpu(kernel, length, head_dim, used):
    x, scale_h, cos, sin, _ = inputs((1, length, 2, head_dim))
    traced = jax.make_jaxpr(lambda x: turn_heads(x, scale_h, cos, sin, 1e-6, kernel, factor=0.25))(x)
    assert ("normed_rotation_fwd" in str(traced)) == used
    found = turn_heads(x, scale_h, cos, sin, 1e-6, kernel, factor=0.25)
    np.testing.assert_allclose(found, plain(x, scale_h, cos, sin, 1e-6) / 4, atol=2e-6)
