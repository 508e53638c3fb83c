"""The ONNX graph gives transformers' vectors over the settings that an export gets wrong, in plain ONNX Runtime."""

import numpy as np
import pytest

from f2jax.model.sizes import Qwen3Config
from f2jax.release import onnx as release_onnx
from tests.parity.oracle import BASE, SETTINGS, oracle, save_for_transformers
from tests.tiny_model import random_params

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.parity

LENGTHS = [1, 2, 7, 33, 120]


def sequences(config: Qwen3Config) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, config.vocab_size, length).astype(np.int32) for length in LENGTHS]


def run(path, texts: list[np.ndarray], side: str, padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(last_hidden_state, sentence_embedding) of a batch that is padded on one side with tokens that are no zeros."""
    length = max(map(len, texts)) + padding
    ids, mask = np.full((len(texts), length), 5, np.int64), np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(length - len(text), length)
        ids[row, place], mask[row, place] = text, 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["last_hidden_state", "sentence_embedding"], {"input_ids": ids, "attention_mask": mask})


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, tmp_path_factory):
    """(folder with both graphs, texts, transformers' normalized vectors, one text at a time)"""
    config = Qwen3Config(**BASE | SETTINGS[request.param])
    params, folder = random_params(config), tmp_path_factory.mktemp("onnx")
    save_for_transformers(folder, config, params)
    for precision in ("float32", "int8"):
        release_onnx.write_onnx(folder, config, params, precision)
    texts = sequences(config)
    return folder, texts, oracle(folder, texts)


@pytest.mark.parametrize("side,padding", [("right", 0), ("left", 0), ("left", 9)])
def test_float32_is_transformers_whatever_the_padding(case, side, padding):
    folder, texts, expected = case
    tokens, found = run(folder / "onnx/model.onnx", texts, side, padding)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found * expected).sum(axis=1).min() > 0.99999
    last = tokens[np.arange(len(texts)), [-1 if side == "left" else len(text) - 1 for text in texts]]
    np.testing.assert_allclose(last / np.linalg.norm(last, axis=1, keepdims=True), found, atol=1e-6)


def test_batches_of_any_number_and_length_run(case):
    folder, texts, expected = case
    for text, vector in zip(texts, expected, strict=True):
        np.testing.assert_allclose(run(folder / "onnx/model.onnx", [text], "right")[1][0], vector, atol=1e-4)


def test_int8_stays_close_on_random_weights(case):
    """The worst case for rounding: trained weights come closer, as `f2jax verify` measures for each package."""
    folder, texts, expected = case
    found = run(folder / "onnx/model_quantized.onnx", texts, "left")[1]
    assert (found * expected).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_weights_in_a_file_of_their_own_give_the_same(precision, tmp_path):
    """As of models above a gigabyte, which protobuf cannot hold; a smaller one written over it leaves no such file."""
    config = Qwen3Config(**BASE)
    params, texts = random_params(config), sequences(config)
    for folder, inline in ((tmp_path / "inside", release_onnx.INLINE), (tmp_path / "beside", 1_000)):
        release_onnx.write_onnx(folder, config, params, precision, inline)
    name = release_onnx.package.ONNX[precision]
    assert (tmp_path / f"beside/{name}_data").stat().st_size > (tmp_path / "beside" / name).stat().st_size
    inside, beside = (run(tmp_path / folder / name, texts, "right")[1] for folder in ("inside", "beside"))
    np.testing.assert_array_equal(inside, beside)
    release_onnx.write_onnx(tmp_path / "beside", config, params, precision)
    assert not (tmp_path / f"beside/{name}_data").exists()


def test_int8_takes_a_quarter_of_the_room(case):
    folder, _, _ = case
    sizes = []
    for name in ("model.onnx", "model_quantized.onnx"):
        model = onnx.load(folder / "onnx" / name)
        sizes.append(sum(len(one.raw_data) for one in model.graph.initializer if "constant" not in one.name))
    assert sizes[1] < sizes[0] * 0.35, "the scales of these small matrices are a tenth of their bytes"


def test_a_large_number_in_a_token_takes_steps_from_its_own_part_alone(tmp_path):
    """The numbers of the other parts are off by half a step of theirs at most."""
    config = Qwen3Config(**BASE)
    params = random_params(config)
    params["token_table"] = table = params["token_table"].at[:, 3].set(40.0)
    release_onnx.write_onnx(tmp_path, config, params, "int8")
    stored = {one.name: one for one in onnx.load(tmp_path / "onnx/model_quantized.onnx").graph.initializer}
    name = release_onnx.hf.TOP_NAMES["token_table"]
    bytes_vup, scale_vu1 = (onnx.numpy_helper.to_array(stored[key]) for key in (name, f"{name}.scale"))
    parts_vup = np.asarray(table).reshape(bytes_vup.shape)
    assert bytes_vup.shape == (config.vocab_size, config.width // 16, 16), "32 does not divide a width of 48"
    step_vu1 = np.abs(parts_vup).max(axis=2, keepdims=True) / 127
    assert (np.abs(bytes_vup * scale_vu1 - parts_vup) <= 0.501 * step_vu1).all()


def test_a_matrix_close_to_the_identity_is_not_rounded(tmp_path):
    """One scale for each of its rows would set what is beside the ones to zero."""
    config = Qwen3Config(**BASE)
    params = random_params(config)
    value = np.zeros_like(params["layers"]["value"]).reshape(config.layers, config.width, -1)
    value[:, np.arange(value.shape[2]), np.arange(value.shape[2])] = 1.0
    params["layers"]["value"] = value.reshape(params["layers"]["value"].shape) + params["layers"]["value"] * 0.05
    save_for_transformers(tmp_path, config, params)
    texts = sequences(config)
    release_onnx.write_onnx(tmp_path, config, params, "int8")
    found = run(tmp_path / "onnx/model_quantized.onnx", texts, "left")[1]
    assert (found * oracle(tmp_path, texts)).sum(axis=1).min() > 0.995
    model = onnx.load(tmp_path / "onnx/model_quantized.onnx")
    whole = {one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    matrices = {name.rpartition(".layers.")[2] for name in whole if "proj.weight" in name and ".scale" not in name}
    assert {name.split(".")[-2] for name in matrices} == {"v_proj"}


def test_products_of_int8_fit_into_16_bits_two_at_a_time(case):
    """As processors without VNNI add them, and saturate."""
    model = onnx.load(case[0] / "onnx/model_quantized.onnx")
    multiplied = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    weights = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name in multiplied]
    assert weights and all(weight.dtype == np.int8 for weight in weights)
    assert max(np.abs(weight.astype(int)).max() for weight in weights) * 255 * 2 < 2**15


def test_the_graph_is_valid_and_has_the_names_that_other_tools_look_for(case):
    model = onnx.load(case[0] / "onnx/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [one.name for one in model.graph.input] == ["input_ids", "attention_mask"]
    assert [one.name for one in model.graph.output] == ["last_hidden_state", "sentence_embedding"]
    assert {(one.domain, one.version) for one in model.opset_import} == {("", release_onnx.OPSET)}
