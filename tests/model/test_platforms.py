"""The program of a TPU (two kernels, unflattened projections), run here, trains as that of a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config
from tests.model.test_remat import count

ARCHITECTURE = Qwen3Config(32, 48, 1, 2, 1, head_dim=128, vocab_size=32)
TOKENS = np.random.default_rng(0).integers(0, 32, (1, 128)).astype(np.int32)
SEGMENTS = np.repeat(np.array([[1, 2, 0]], np.int32), [50, 60, 18], axis=1)
POSITIONS = np.concatenate([np.arange(50), np.arange(60), np.zeros(18)]).astype(np.int32)[None]
ENDS = [49, 109]


@pytest.fixture(scope="module")
def params():
    fresh = init_params(Qwen3(ARCHITECTURE), 0)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), fresh)


def gradient_of(platform: str, dtype: str, params):
    """Returns the gradient of a loss on the end tokens by weight, as `platform` computes it, and its jaxpr."""
    kernel = {"tpu": "segments_interpret", "cpu": "xla"}[platform]
    model = Qwen3(ARCHITECTURE, dtype=jnp.dtype(dtype), kernel=kernel)

    def loss(params):
        hidden_btd = model.apply({"params": params}, TOKENS, SEGMENTS, POSITIONS)
        return jnp.sum(jnp.sin(hidden_btd[0, ENDS].astype(jnp.float32)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("f2jax.parallel.sharding.platform", lambda: platform)
        traced = jax.jit(jax.grad(loss)).trace(params)
        gradient = traced.lower().compile()(params)
    return {"/".join(path): np.asarray(x) for path, x in flatten_dict(gradient).items()}, traced.jaxpr.jaxpr


def distance(a: dict, b: dict) -> dict[str, float]:
    """Returns the relative error of each weight's gradient in the Euclidean norm."""
    return {name: np.linalg.norm(a[name] - b[name]) / np.linalg.norm(b[name]) for name in b}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares with the program of a CPU")
def test_the_gradient_of_the_whole_model_on_a_tpu_is_that_of_a_cpu(params):
    tpu, program = gradient_of("tpu", "float32", params)
    assert count(program, "pallas_call") == 2 * 3, "of attention, queries and keys, forward and backward"
    cpu, _ = gradient_of("cpu", "float32", params)
    assert tpu.keys() == cpu.keys() and len(tpu) == 13
    assert max(distance(tpu, cpu).values()) < 1e-5


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares with the program of a CPU")
def test_in_bfloat16_a_tpu_rounds_the_gradient_no_further_than_a_cpu(params):
    exact, _ = gradient_of("cpu", "float32", params)
    cpu, tpu = (distance(gradient_of(platform, "bfloat16", params)[0], exact) for platform in ("cpu", "tpu"))
    assert 1e-4 < max(cpu.values()) < 0.05
    for name, error in tpu.items():
        assert error < 2 * cpu[name], name
