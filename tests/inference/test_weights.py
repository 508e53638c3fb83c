"""On a CPU, encoding holds the layers of a model apart: the same vectors, the same weights, no second copy."""

import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.inference import weights as weights_lib
from f2jax.inference.encode import encode_texts
from f2jax.inference.program import make_embed
from f2jax.inference.weights import Weights
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from tests import tiny_model

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms read the parameter tree")

ARCHITECTURES = {
    "tiny": size("tiny"),
    "factorized": size("tiny", table_rank=24),
    "more heads": size("tiny", layers=3, heads=6, kv_heads=2, head_dim=16),
}


def params_of(architecture, dtype="float32"):
    return jax.tree.map(lambda x: x.astype(dtype), tiny_model.random_params(architecture))


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(expected)]


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("lengths", [[3], [5, 9, 2, 70]])
def test_layers_apart_give_the_vectors_of_stacked_layers(name, dtype, tolerance, lengths):
    architecture = ARCHITECTURES[name]
    params = params_of(architecture, dtype)
    model = Qwen3(architecture, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    embed, rng = make_embed(model), np.random.default_rng(0)
    sequences = [rng.integers(0, architecture.vocab_size, n).astype(np.int32) for n in lengths]
    stacked = encode_texts(embed, params, sequences, architecture.width, 0)
    apart = encode_texts(embed, Weights(params, dtype).to_encode, sequences, architecture.width, 0)
    np.testing.assert_allclose(apart, stacked, atol=tolerance * np.abs(stacked).max())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_parameter_tree_comes_back_bit_by_bit(name, dtype):
    params = params_of(ARCHITECTURES[name], dtype)
    weights = Weights(params, dtype)
    assert weights.tree["layers"]["query"] is params["layers"]["query"]
    layers = weights.to_encode["layers"]
    assert len(layers) == ARCHITECTURES[name].layers
    assert_same(weights.tree, params)


def test_weights_of_another_type_are_kept_beside_those_that_are_computed_with():
    params = params_of(size("tiny"))
    weights = Weights(params, "bfloat16")
    layer = weights.to_encode["layers"][0]
    assert {str(x.dtype) for x in layer.values() if x.ndim > 1} == {"bfloat16"}
    assert_same(weights.tree, params)


def test_stacked_matrices_are_dropped_when_nobody_else_holds_them():
    params = params_of(size("tiny"))
    held = {name: weakref.ref(x) for name, x in params["layers"].items() if not name.endswith("norm")}
    weights = Weights(params, "float32")
    del params
    assert all(ref() is not None for ref in held.values())
    weights.to_encode  # noqa: B018
    assert [name for name, ref in held.items() if ref() is not None] == []


def test_an_interrupted_conversion_loses_nothing_and_goes_on(monkeypatch):
    params = params_of(size("tiny"))
    weights, calls = Weights(params, "float32"), iter(range(100))
    put = jax.device_put

    def interrupted(x):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return put(x)

    monkeypatch.setattr(weights_lib.jax, "device_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.to_encode  # noqa: B018
    assert_same(weights.tree, params)
    assert_same(weights.to_encode, Weights(params, "float32").to_encode)


def test_threads_that_encode_first_share_one_conversion():
    weights, found = Weights(params_of(size("tiny")), "float32"), []
    threads = [threading.Thread(target=lambda: found.append(weights.to_encode["layers"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(layers[1]["gate"] is found[0][1]["gate"] for layers in found)


def test_a_model_without_weights_may_lend_its_programs():
    assert Weights({}, "float32").tree == {"layers": {}}


def test_devices_that_share_the_work_read_the_parameter_tree():
    params = params_of(size("tiny"))
    assert Weights(params, "float32", make_mesh(devices=jax.devices()[:2])).to_encode["layers"]["query"].ndim == 4
