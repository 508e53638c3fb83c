"""The golden set of a package, and `f2jax verify` that embeds it again: what passes, what fails, what is said."""

import json
import shutil

import jax
import numpy as np
import pytest

from f2jax import Embedder
from f2jax.checkpoints import hf, package
from f2jax.cli import main
from f2jax.errors import UserError
from f2jax.release import export, golden, verify
from tests import tiny_model


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def exported(embedder, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "package"
    export.export_package(embedder, path)
    return path


@pytest.fixture
def folder(exported, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(exported, tmp_path / "package")


@pytest.fixture
def ours_alone(monkeypatch):
    """As on a machine without the other tools; they are held against the golden set in tests/parity."""
    monkeypatch.setattr(verify, "TOOLS", [tool for tool in verify.TOOLS if tool.name == "f2jax"])


def test_the_golden_vectors_are_those_of_the_model(embedder, folder):
    found = golden.read_golden(folder)
    np.testing.assert_allclose(found.vectors, embedder.encode(found.texts), atol=1e-6)
    assert f"{tiny_model.PROMPTS['query']}{golden.TEXTS[0]}" in found.texts
    lengths = [len(ids) for ids in embedder.tokenizer.encode(found.texts, 10_000)]
    assert min(lengths) == 1 and max(lengths) > embedder.max_length, "an empty text, and one that is truncated"


def test_golden_vectors_of_bfloat16_weights_are_computed_in_float32(folder, tmp_path):
    export.export_package(Embedder.from_pretrained(folder, "bfloat16"), tmp_path / "half")
    found, exact = golden.read_golden(tmp_path / "half"), Embedder.from_pretrained(tmp_path / "half", "float32")
    np.testing.assert_allclose(found.vectors, exact.encode(found.texts), atol=1e-6)


def test_a_sound_package_passes(folder, ours_alone, capsys):
    assert main(["verify", str(folder)]) == 0
    assert "f2jax  config.json  1.000000" in capsys.readouterr().out


def test_a_package_whose_weights_lie_in_several_files_is_verified_too(embedder, folder, ours_alone):
    hf.save_hf(folder, embedder.params, shard_bytes=2**14)
    assert not (folder / "model.safetensors").exists()
    (one,) = verify.verify_package(folder)
    assert one.worst == pytest.approx(1) and not one.failed


def test_a_package_that_no_tool_reads_does_not_pass(folder, ours_alone, capsys):
    (folder / "config.json").unlink()
    assert main(["verify", str(folder)]) == 1
    assert "No tool could read" in capsys.readouterr().err


def test_weights_that_changed_after_the_export_fail(embedder, folder, ours_alone, capsys):
    hf.save_hf(folder, jax.tree.map(lambda x: x + 0.1, embedder.params))
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr()
    assert (
        "FAILED" in said.out and "does not reproduce its golden vectors" in said.err and said.err.count("f2jax: ") == 1
    )


def broken(*args):
    raise RuntimeError("no such operator\nat line 3")


@pytest.mark.parametrize(
    "embed,note",
    [
        (lambda *args: np.ones((1, 64)), "vectors of shape"),
        (broken, "no such operator"),
        (lambda folder, form, texts: np.full((len(texts), 64), np.nan), ""),
        (lambda folder, form, texts: -golden.read_golden(folder).vectors, ""),
    ],
    ids=["shape", "error", "nan", "opposite"],
)
def test_a_tool_that_stops_or_gives_other_vectors_fails(folder, monkeypatch, embed, note):
    monkeypatch.setattr(verify, "TOOLS", [verify.Tool("other", ("numpy",), ("config.json",), embed)])
    (one,) = verify.verify_package(folder)
    assert one.failed and note in one.note and "\n" not in one.note


def test_vectors_of_any_length_are_compared_by_direction(folder, monkeypatch):
    tool = verify.Tool("other", ("numpy",), ("config.json",), lambda *args: 7 * golden.read_golden(folder).vectors)
    monkeypatch.setattr(verify, "TOOLS", [tool])
    (one,) = verify.verify_package(folder)
    assert not one.failed and one.worst == pytest.approx(1)


def test_what_is_not_there_is_said_and_is_no_failure(folder, monkeypatch):
    tools = [verify.Tool("other", ("no_such_package",), ("config.json", "onnx/model.onnx"), broken)]
    monkeypatch.setattr(verify, "TOOLS", tools)
    results = list(verify.verify_package(folder))
    assert [one.note for one in results] == ["not installed: no_such_package", "not in this package"]
    assert not any(one.failed for one in results)


def test_what_export_made_of_an_earlier_model_goes(embedder, folder):
    """Vectors and graphs of other weights beside new ones would be worse than none."""
    for name in package.EXPORTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    embedder.save_pretrained(folder)
    assert not [name for name in package.EXPORTED if (folder / name).exists()]


def spoil(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda folder: (folder / "golden/vectors.npy").unlink(), "has no golden set"),
        (spoil("golden/vectors.npy", b"no array"), "cannot be read"),
        (spoil("golden/vectors.npy", b""), "cannot be read"),
        (spoil("golden/texts.json", json.dumps(["one"]).encode()), "1 texts but not as many vectors"),
        (spoil("golden/texts.json", b"{"), "is not valid JSON"),
        (spoil("golden/texts.json", b'{"a": 1}'), "is not a list of texts"),
        (spoil("golden/texts.json", b"[1, 2]"), "is not a list of texts"),
    ],
)
def test_a_package_without_a_sound_golden_set_is_refused(folder, ours_alone, capsys, change, message):
    change(folder)
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "name,message", [("nowhere", "There is no folder nowhere"), ("gs://a/b", "copy it here first")]
)
def test_a_folder_that_other_tools_cannot_read_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        verify.verify_package(name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_not_exported_and_the_older_package_stays(embedder, folder, value):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    params = embedder.params | {"final_norm": embedder.params["final_norm"].at[3].set(value)}
    broken = Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings)
    for write in (lambda: export.export_package(broken, folder), lambda: broken.save_pretrained(folder)):
        with pytest.raises(UserError, match=r"NaN or infinite in norm\.weight"):
            write()
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_finite_weights_whose_vectors_overflow_are_not_exported(embedder, tmp_path):
    params = embedder.params | {"final_norm": np.full_like(embedder.params["final_norm"], 3e38)}
    broken = Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings)
    with pytest.raises(UserError, match="gives no finite vector"):
        export.export_package(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "formats,message",
    [(["onxn"], r"no format 'onxn'; did you mean 'onnx'\?"), (["onnx", "tflite"], "no format 'tflite'")],
)
def test_an_unknown_format_is_refused_before_anything_is_written(embedder, tmp_path, formats, message):
    with pytest.raises(UserError, match=message):
        export.export_package(embedder, tmp_path / "out", formats)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_transformers_js_is_asked_in_the_folder_whose_package_a_script_finds(folder, tmp_path, monkeypatch):
    """A stand-in for the package answers with the golden vectors, and says what it was asked in its version."""
    package_ = tmp_path / "node_modules" / verify.TRANSFORMERS_JS
    package_.mkdir(parents=True)
    (package_ / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    vectors = dict(zip(golden.read_golden(folder).texts, golden.read_golden(folder).vectors.tolist(), strict=True))
    (package_ / "index.js").write_text(f"""
        const vectors = {json.dumps(vectors)};
        export const env = {{ version: "4.0" }};
        export async function pipeline(task, name, {{ dtype }}) {{
          const whole = task === "feature-extraction" && dtype === "fp32" && !env.allowRemoteModels;
          const path = env.localModelPath + "/" + name;
          if (!whole || path !== {json.dumps(str(folder))}) throw new Error("asked otherwise");
          return async (texts, {{ pooling, normalize }}) =>
            ({{ tolist: () => pooling === "last_token" && normalize && texts.map((text) => vectors[text]) }});
        }}""")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.onnx").touch()
    monkeypatch.setattr(verify, "TOOLS", [tool for tool in verify.TOOLS if tool.name == "Transformers.js"])
    whole, rounded = verify.verify_package(folder)
    assert whole.note == f"not installed: {verify.TRANSFORMERS_JS}"
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    whole, rounded = verify.verify_package(folder)
    assert whole.worst == pytest.approx(1) and whole.note == "4.0; without 3 longer than it reads"
    assert rounded.note == "not in this package"


def test_weights_in_eight_bits_have_a_bound_of_their_own(folder, monkeypatch):
    """At a cosine of 0.995 the whole weights fail, and those in eight bits pass."""
    vectors = golden.read_golden(folder).vectors
    other = np.roll(vectors, 1, axis=1)
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    close = 0.995 * vectors + np.sqrt(1 - 0.995**2) * other / np.linalg.norm(other, axis=1, keepdims=True)
    (folder / "gguf").mkdir()
    for name in package.GGUF.values():
        (folder / name).touch()
    tool = verify.Tool("other", ("numpy",), tuple(package.GGUF.values()), lambda *args: close)
    monkeypatch.setattr(verify, "TOOLS", [tool])
    assert [one.failed for one in verify.verify_package(folder)] == [True, False]
