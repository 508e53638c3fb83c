"""Packages with matrices in int8: exact, the same wherever they are read, near the model, and for f2jax alone."""

import json
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from f2jax import Embedder, files
from f2jax.checkpoints import hf, int8, package
from f2jax.checkpoints.package import ModelSettings
from f2jax.cli import main
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, abstract_params, init_params
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings
from f2jax.release import export, verify
from tests import tiny_model
from tests.data.test_tokenizer import byte_level


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    """With fresh weights, which differ less than random ones of any size, as those of a trained model do."""
    made = tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))
    params = init_params(Qwen3(made.architecture), 3)
    return Embedder(made.architecture, params, made.tokenizer, made.settings)


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "package"
    export.export_package(embedder, folder, as_int8=True)
    return folder


# Rows


def rows_of_all_sizes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 40)) * 10.0 ** rng.uniform(-9, 9, (300, 1))).astype(np.float32)


def test_a_row_is_off_by_half_a_step_at_most():
    matrix = rows_of_all_sizes()
    numbers, scale = int8.quantize_rows(matrix)
    steps = scale.astype(np.float64)[:, None]
    assert numbers.dtype == np.int8 and scale.dtype == ml_dtypes.bfloat16
    assert (np.abs(numbers).max(axis=1) == 127).all(), "all of the 8 bits are used"
    assert (np.abs(numbers * steps - matrix) <= steps / 2 * (1 + 1e-6)).all()
    assert (np.abs(steps[:, 0] * 127 / np.abs(matrix).max(axis=1) - 1) <= 2**-8).all()


def test_products_are_exact():
    """Each as a fraction: the product of the whole number and the scale, to the last bit."""
    numbers, scale = int8.quantize_rows(rows_of_all_sizes())
    found = int8.dequantize_rows(numbers, scale)
    assert found.dtype == np.float32
    for i, j in zip(range(300), np.random.default_rng(1).integers(0, 40, 300), strict=True):
        assert Fraction(float(found[i, j])) == int(numbers[i, j]) * Fraction(float(scale[i]))


def test_what_was_read_is_written_as_it_was():
    first = int8.quantize_rows(rows_of_all_sizes())
    again = int8.quantize_rows(int8.dequantize_rows(*first))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))


def test_rows_of_zeros_and_of_tiny_numbers_stay_finite():
    matrix = np.float32([[0, 0], [1e-45, -1e-45], [1e-38, 1e-38], [-3e38, 1e38]])
    found = int8.dequantize_rows(*int8.quantize_rows(matrix))
    assert (found[:2] == 0).all() and np.isfinite(found).all()
    np.testing.assert_allclose(found[2:], matrix[2:], rtol=0.02)


# Files


def read_by_hand(folder) -> dict[str, np.ndarray]:
    """The weights as the safetensors library reads them, in float64."""
    stored = load_file(folder / "model.safetensors")
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(".scale")}
    assert {name for name, array in stored.items() if array.dtype == np.int8} == {
        name.removesuffix(".scale") for name in scales
    }
    return {
        name: array * scales[f"{name}.scale"].astype(np.float64)[:, None] if array.dtype == np.int8 else array
        for name, array in stored.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_gives_whole_numbers_times_scales(exported, dtype, sharded):
    shardings = param_shardings(abstract_params(size("tiny", vocab_size=512)), make_mesh()) if sharded else None
    _, params = hf.load_hf(exported, dtype, shardings)
    found, expected = dict(hf.hf_tensors(params)), read_by_hand(exported)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == array.astype(np.float32).astype(dtype).tobytes(), name


def test_matrices_are_int8_and_norms_are_whole(exported):
    stored = load_file(exported / "model.safetensors")
    assert {array.dtype for array in stored.values() if array.ndim == 2} == {np.dtype(np.int8)}
    assert {array.dtype for name, array in stored.items() if "norm" in name} == {np.dtype(np.float32)}


def test_a_remote_folder_gives_the_same_weights(exported):
    folder = f"memory://{exported.parent.name}"
    for name in ("config.json", "model.safetensors"):
        files.write_atomically(f"{folder}/{name}", (exported / name).read_bytes())
    same = jax.tree.map(lambda a, b: bool((a == b).all()), hf.load_hf(folder)[1], hf.load_hf(exported)[1])
    assert jax.tree.all(same)


def test_weights_are_read_one_by_one_too(exported):
    lazy = {path: weight.make() for path, weight in hf.open_hf_weights(exported)[1].items()}
    for path, value in hf.flax.traverse_util.flatten_dict(hf.load_hf(exported)[1]).items():
        np.testing.assert_array_equal(lazy[path], value)


def test_several_files_hold_the_same_as_one(embedder, exported, tmp_path):
    hf.save_hf(tmp_path, embedder.params, shard_bytes=20_000, as_int8=True)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    (tmp_path / "config.json").write_bytes((exported / "config.json").read_bytes())
    same = jax.tree.map(lambda a, b: bool((a == b).all()), hf.load_hf(tmp_path)[1], hf.load_hf(exported)[1])
    assert jax.tree.all(same)


NAME = "layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda stored: stored.pop(f"{NAME}.scale"), f"stores {NAME} in int8 without a scale for each row"),
        (lambda stored: stored.update({f"{NAME}.scale": np.float32([1])}), "without a scale for each row"),
        (lambda stored: stored.update({NAME: stored[NAME].astype(np.float32)}), rf"surplus: {NAME}\.scale"),
        (lambda stored: stored[f"{NAME}.scale"].fill(np.inf), rf"NaN or infinite in {NAME}\.scale"),
    ],
)
def test_scales_that_do_not_fit_are_refused(exported, tmp_path, change, message):
    stored = load_file(exported / "model.safetensors")
    change(stored)
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((exported / "config.json").read_bytes())
    with pytest.raises(UserError, match=message):
        hf.load_hf(tmp_path)


def test_int8_that_config_json_does_not_declare_is_refused(exported, tmp_path):
    config = json.loads((exported / "config.json").read_text()) | {"model_type": "qwen3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="as I8; convert it to one of F32, F16, BF16"):
        hf.load_hf(tmp_path)


# Packages


def test_the_vectors_are_near_those_of_the_model(embedder, exported):
    found, expected = Embedder.from_pretrained(exported).encode(tiny_model.TEXTS), embedder.encode(tiny_model.TEXTS)
    cosine_i = (found * expected).sum(axis=1)
    assert cosine_i.min() > 0.999 and not (found == expected).all()


def test_a_package_is_known_before_it_is_written(embedder, exported):
    """So that the scores of the package can stand in its own card."""
    loaded, rounded = Embedder.from_pretrained(exported), export.rounded(embedder)
    assert loaded.fingerprint == rounded.fingerprint != embedder.fingerprint
    assert loaded.settings == embedder.settings


def test_a_package_written_again_has_the_same_bytes(exported, tmp_path):
    export.export_package(Embedder.from_pretrained(exported), tmp_path / "again", as_int8=True)
    for name in ("model.safetensors", "tokenizer.model", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes()


def test_it_becomes_a_package_for_every_tool_with_the_same_vectors(exported, tmp_path):
    ours = Embedder.from_pretrained(exported)
    ours.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    np.testing.assert_array_equal(Embedder.from_pretrained(tmp_path).encode(["a river"]), ours.encode(["a river"]))


@pytest.mark.parametrize("first", [False, True])
def test_one_kind_of_package_replaces_the_other(embedder, tmp_path, first):
    for as_int8 in (first, not first):
        package.write_package(
            tmp_path, embedder.architecture, embedder.params, embedder.tokenizer, embedder.settings, as_int8=as_int8
        )
    kept = {path.name for path in tmp_path.glob("tokenizer.*")}
    assert kept == ({"tokenizer.json"} if first else {"tokenizer.model"}), "the first one found would be read"


def test_another_tokenizer_is_kept_compressed(tmp_path):
    (tmp_path / "tokenizer.json").write_text(byte_level(), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    architecture = size("tiny", vocab_size=tokenizer.vocab_size)
    params = init_params(Qwen3(architecture), 0)
    package.write_package(tmp_path / "p", architecture, params, tokenizer, ModelSettings(50), as_int8=True)
    assert {path.name for path in (tmp_path / "p").glob("tokenizer.*")} == {"tokenizer.json.gz"}
    assert load_tokenizer(tmp_path / "p").fingerprint() == tokenizer.fingerprint()


def test_bfloat16_weights_are_rounded_from_there(embedder, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), embedder.params)
    hf.save_hf(tmp_path, half, as_int8=True)
    expected = {name: array.astype(np.float32) for name, array in hf.hf_tensors(half)}
    for name, array in read_by_hand(tmp_path).items():
        np.testing.assert_allclose(array, expected[name], atol=np.abs(expected[name]).max() / 250)


# The command, and other tools


def test_export_writes_one_and_verify_reads_it_by_f2jax_alone(embedder, tmp_path, capsys):
    embedder.save_pretrained(tmp_path / "model")
    command = ["export", "--model", f"{tmp_path}/model", "--output", f"{tmp_path}/small", "--weights", "int8"]
    assert main(command) == 0
    assert "64 dimensions, int8." in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "small")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^f2jax +config\.json +1\.000000", printed, re.MULTILINE)
    for tool in ("transformers", "sentence-transformers"):
        assert any(line.startswith(tool) and "weights in int8, for f2jax alone" in line for line in printed.split("\n"))
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("model", "small")}
    assert sizes["small"] < 0.3 * sizes["model"]


def test_further_formats_are_refused_before_anything_is_written(embedder, tmp_path):
    with pytest.raises(UserError, match=r"with int8 weights has no other formats; export it without onnx and gguf\."):
        export.export_package(embedder, tmp_path / "out", ["onnx", "gguf"], as_int8=True)
    assert not (tmp_path / "out").exists()


def test_the_card_says_who_reads_it(exported):
    card = (exported / "README.md").read_text()
    assert "Only f2jax reads them" in card and "f2jax export --model this/folder" in card
    assert "SentenceTransformer(" not in card and "vllm" not in card


def test_scores_of_the_package_come_into_its_card(embedder, exported, tmp_path):
    embedder.save_pretrained(tmp_path / "model")
    scores = {"revision": Embedder.from_pretrained(exported).fingerprint, "tasks": {"names": {"dims": {"64": 0.5}}}}
    (tmp_path / "results.json").write_text(json.dumps(scores))
    command = ["export", "--model", f"{tmp_path}/model", "--output", f"{tmp_path}/p", "--scores", str(tmp_path)]
    assert main([*command, "--weights", "int8"]) == 0
    assert "| names | 50.0% |" in (tmp_path / "p/README.md").read_text()
    assert main([*command[:-3], f"{tmp_path}/whole", *command[-2:]]) == 1, "they are not those of the whole model"


def test_verify_hands_it_to_no_other_tool(exported, monkeypatch):
    def read(*args):
        raise AssertionError

    monkeypatch.setattr(verify, "TOOLS", [verify.Tool("other", ("numpy",), ("config.json",), read)])
    (one,) = verify.verify_package(exported)
    assert one.worst is None and not one.failed and one.note == "weights in int8, for f2jax alone"
