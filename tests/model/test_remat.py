"""What the backward pass computes again under each remat policy: its products are counted; gradients are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.model.qwen3 import REMAT_POLICIES, Qwen3, init_params
from f2jax.model.sizes import Qwen3Config

CONFIG = Qwen3Config(16, 32, 2, 2, 1, head_dim=8, vocab_size=32)
FORWARD = 9  # products of a layer: q, k, v, scores, weighted values, output, gate, up, down


def gradient(remat: str, **options):
    model = Qwen3(CONFIG, remat=remat, **{"kernel": "xla"} | options)
    tokens = np.random.default_rng(0).integers(0, 32, (2, 8)).astype(np.int32)
    segments, positions = np.ones((2, 8), np.int32), np.tile(np.arange(8, dtype=np.int32), (2, 1))

    def loss(params):
        return jnp.sum(jnp.square(model.apply({"params": params}, tokens, segments, positions)[:, -1, :4]))

    return jax.grad(loss)


def count(jaxpr, name: str) -> int:
    """Operations in a jaxpr whose names start so; the body of a loop counts once."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name.startswith(name)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += count(inner, name) if hasattr(inner, "eqns") else 0
    return found


@pytest.fixture(scope="module")
def params():
    return init_params(Qwen3(CONFIG), 0)


@pytest.mark.parametrize(
    "remat,again",
    [
        ("none", 0),
        ("dots", 1),  # scores
        ("mlp", 3),  # scores, gate, up
        ("qkv", 6),  # q, k and v too
        ("full", 8),  # all but down, whose result no gradient needs
    ],
)
def test_each_policy_computes_the_products_again_that_it_says(params, remat, again):
    assert count(jax.make_jaxpr(gradient(remat))(params).jaxpr, "dot_general") == FORWARD + 2 * FORWARD + again


@pytest.mark.parametrize("remat,again", [("none", 0), ("dots", 0), ("mlp", 0), ("qkv", 0), ("full", 1)])
def test_the_attention_kernel_of_a_gpu_runs_again_with_full_alone(params, monkeypatch, remat, again):
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91_900)
    traced = jax.make_jaxpr(gradient(remat, kernel="cudnn", dtype=jnp.bfloat16))(params).jaxpr
    assert count(traced, "dot_product_attention_fwd_wrapper") == 1 + again
    assert count(traced, "dot_product_attention_bwd_wrapper") == 1


@pytest.mark.parametrize("remat", [name for name in REMAT_POLICIES if name != "none"])
def test_gradients_do_not_depend_on_the_policy(params, remat):
    for a, b in zip(*(jax.tree.leaves(jax.jit(gradient(name))(params)) for name in ("none", remat)), strict=True):
        assert np.abs(a - b).max() <= 1e-6 * max(np.abs(a).max(), 1)
