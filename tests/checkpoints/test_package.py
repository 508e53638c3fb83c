"""The files of a released package, without PyTorch: each known fault of released embedding models has a test."""

import errno
import json
import shutil

import jax
import numpy as np
import pytest
import tokenizers

from f2jax import Embedder
from f2jax.checkpoints import hf, package, settings
from f2jax.checkpoints.package import ModelSettings, read_settings
from f2jax.cli import main
from f2jax.errors import UserError
from f2jax.model.sizes import size
from tests import tiny_model

FILES = {
    "model.safetensors", "tokenizer.json", "README.md", "tokenizer_config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json", "config.json", "modules.json",
    "model_meta.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(embedder, tmp_path_factory):
    path = tmp_path_factory.mktemp("package")
    embedder.save_pretrained(path)
    return path


def read(folder, name):
    return json.loads((folder / name).read_text())


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# What the files say


def test_the_package_holds_these_files_and_no_others(folder):
    assert files_in(folder) == FILES
    assert (folder / "2_Normalize").is_dir()


def test_the_modules_are_transformer_pooling_and_normalize(folder):
    modules = read(folder, "modules.json")
    assert [(module["path"], module["type"].split(".")[-1]) for module in modules] == [
        ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "shape", [{}, {"width": 48, "heads": 2, "layers": 3, "max_length": 256}], ids=["tiny", "other"]
)
def test_pooling_dimension_layer_types_and_lengths_are_the_true_ones(embedder, tmp_path, shape):
    """Released models had the dimension of another size, and the layer types of the model they were pruned from."""
    architecture = size("tiny", **shape)
    params = tiny_model.random_params(architecture)
    package.write_package(tmp_path, architecture, params, embedder.tokenizer, ModelSettings(max_length=77))
    pooling = read(tmp_path, "1_Pooling/config.json")
    assert pooling.pop("word_embedding_dimension") == architecture.width
    assert pooling.pop("include_prompt") is True
    assert [name for name, used in pooling.items() if used] == ["pooling_mode_lasttoken"]
    config = read(tmp_path, "config.json")
    assert config["layer_types"] == ["full_attention"] * architecture.layers
    assert config["max_position_embeddings"] == architecture.max_length
    assert config["architectures"] == ["Qwen3Model"] and config["dtype"] == "float32"
    assert read(tmp_path, "sentence_bert_config.json")["max_seq_length"] == 77
    assert read(tmp_path, "tokenizer_config.json")["model_max_length"] == 77
    assert settings.config_from_hf(config) == architecture


def test_prompts_matryoshka_dimensions_and_similarity_are_declared(folder):
    """Serving tools shorten vectors only where `config.json` declares Matryoshka."""
    config, card = read(folder, "config.json"), read(folder, "config_sentence_transformers.json")
    assert config["is_matryoshka"] is True
    assert config["matryoshka_dimensions"] == card["matryoshka_dimensions"] == [64, 32, 16, 8]
    assert card["prompts"] == tiny_model.PROMPTS
    assert card["similarity_fn_name"] == "cosine" and card["default_prompt_name"] is None


def test_a_model_of_one_dimension_is_not_declared_matryoshka(embedder, tmp_path):
    package.write_package(
        tmp_path, embedder.architecture, embedder.params, embedder.tokenizer, ModelSettings(77, {}, (64,))
    )
    assert read(tmp_path, "config.json")["is_matryoshka"] is False
    assert read_settings(str(tmp_path), embedder.architecture) == ModelSettings(77, {}, (64,))


def test_the_tokenizer_file_appends_the_end_token_by_itself(embedder, folder):
    """transformers 5 trusts `tokenizer.json` alone; without its post-processor the wrong token is pooled."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in tiny_model.TEXTS:
        assert backend.encode(text).ids == embedder.tokenizer.encode([text], 10_000)[0].tolist()
    end, config = embedder.tokenizer.eos_id, read(folder, "config.json")
    assert (config["eos_token_id"], config["pad_token_id"]) == (end, embedder.tokenizer.pad_id)
    names = read(folder, "tokenizer_config.json")
    assert (names["eos_token"], names["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    backend.enable_truncation(max_length=10)
    assert len(backend.encode(tiny_model.TEXTS[-1]).ids) == 10
    assert backend.encode(tiny_model.TEXTS[-1]).ids[-1] == end


def test_the_readme_says_what_a_user_must_know(folder):
    text = (folder / "README.md").read_text()
    for fact in ("96 tokens", "8, 16, 32, 64", f"{size('tiny').parameters:,}", "- `query`:", "library_name"):
        assert fact in text


def test_the_card_is_read_back_as_it_was(embedder, folder):
    assert read_settings(str(folder), embedder.architecture) == embedder.settings


def test_the_weights_are_read_back_bit_for_bit_in_their_type(embedder, tmp_path):
    half = jax.tree.map(lambda x: x.astype("bfloat16"), embedder.params)
    package.write_package(tmp_path, embedder.architecture, half, embedder.tokenizer, embedder.settings)
    assert read(tmp_path, "config.json")["dtype"] == "bfloat16"
    _, found = hf.load_hf(tmp_path, "bfloat16")
    same = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), half, found)
    assert jax.tree.all(same)


def test_a_folder_without_our_metadata_has_a_card_too(embedder, folder, tmp_path):
    """A plain transformers folder: no prompts, one dimension, the length of its positions."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = read(folder, "config.json")
    del config["matryoshka_dimensions"], config["is_matryoshka"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_settings(str(tmp_path), embedder.architecture) == ModelSettings(
        max_length=512, prompts={}, matryoshka_dims=(64,)
    )


# Writing


def test_a_package_can_be_written_over_an_old_one(embedder, tmp_path):
    old = size("tiny", layers=4)
    package.write_package(
        tmp_path, old, tiny_model.random_params(old), embedder.tokenizer, ModelSettings(500, {"old": "Old: "})
    )
    embedder.save_pretrained(tmp_path)
    assert files_in(tmp_path) == FILES
    again = Embedder.from_pretrained(tmp_path)
    assert again.settings == embedder.settings
    np.testing.assert_array_equal(again.encode(tiny_model.TEXTS), embedder.encode(tiny_model.TEXTS))


def test_a_model_is_not_written_over_the_folder_that_it_was_loaded_from(embedder, tmp_path, monkeypatch):
    """Cut off in the middle, the only copy would be gone; a part of it, as here, would replace the whole."""
    monkeypatch.chdir(tmp_path)
    embedder.save_pretrained("model")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    loaded = Embedder.from_pretrained("model", truncate_layers=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pytest.raises(UserError, match="model holds a model that goes into the package; choose another folder"):
        loaded.save_pretrained("../model")
    loaded.save_pretrained("model")
    monkeypatch.chdir(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def crash_at(monkeypatch, name):
    """The machine is lost when the file `name` is due."""
    write_whole = package.files.write_atomically

    def stop(path, content):
        if str(path).endswith(name):
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(package.files, "write_atomically", stop)


@pytest.mark.parametrize("name", sorted(FILES - {"model.safetensors"}))
@pytest.mark.parametrize("over_old", [False, True], ids=["new", "over_an_old_one"])
def test_a_crash_leaves_no_package_that_looks_whole(embedder, tmp_path, monkeypatch, name, over_old):
    if over_old:
        embedder.save_pretrained(tmp_path)
    crash_at(monkeypatch, name)
    with pytest.raises(KeyboardInterrupt):
        embedder.save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists(), "without it sentence-transformers sees no package"
    if name == "modules.json":
        assert files_in(tmp_path) == FILES - {"modules.json"}, "it comes last"
    else:
        with pytest.raises(UserError, match=r"config\.json"):
            Embedder.from_pretrained(tmp_path)


def test_a_tokenizer_that_cannot_be_converted_leaves_the_old_package_whole(embedder, tmp_path, monkeypatch):
    embedder.save_pretrained(tmp_path)

    def refuse(self):
        raise UserError("This SentencePiece model cannot be written as tokenizer.json.")

    monkeypatch.setattr(type(embedder.tokenizer), "to_hf_json", refuse)
    with pytest.raises(UserError, match=r"cannot be written as tokenizer\.json"):
        package.write_package(tmp_path, embedder.architecture, embedder.params, embedder.tokenizer, ModelSettings(9))
    monkeypatch.undo()
    assert Embedder.from_pretrained(tmp_path).settings == embedder.settings


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(embedder, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/folder"):
        with pytest.raises(
            UserError, match=r"^\S+ cannot be written \((File exists|Not a directory)\); check the path\.$"
        ):
            embedder.save_pretrained(folder)
    (tmp_path / "taken/model.safetensors.part").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^\S+/model\.safetensors cannot be written \(.*directory.*\); check the path"):
        embedder.save_pretrained(tmp_path / "taken")


def test_a_disk_that_fills_up_leaves_no_half_of_a_file(embedder, tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hf.np, "ascontiguousarray", full)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written .*No space left on device"):
        embedder.save_pretrained(tmp_path)
    assert not files_in(tmp_path)


def test_a_training_workdir_is_not_overwritten(embedder, tmp_path):
    tiny_model.write_workdir(tmp_path / "run", embedder)
    before = files_in(tmp_path / "run")
    with pytest.raises(UserError, match="run is a training workdir; choose another folder for the package"):
        embedder.save_pretrained(tmp_path / "run")
    with pytest.raises(UserError, match="run holds a model that goes into the package; choose another folder"):
        Embedder.from_pretrained(tmp_path / "run").save_pretrained(tmp_path / "run")
    assert files_in(tmp_path / "run") == before


@pytest.mark.parametrize("pooling", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}])
def test_a_folder_that_pools_in_another_way_is_refused(embedder, tmp_path, pooling):
    embedder.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 64} | pooling))
    with pytest.raises(UserError, match="only pooling of the last token is supported"):
        read_settings(str(tmp_path), embedder.architecture)


@pytest.mark.parametrize("pooling", [{"pooling_mode": "lasttoken"}, {"pooling_mode_lasttoken": True}])
def test_either_spelling_of_last_token_pooling_is_read(embedder, tmp_path, pooling):
    embedder.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_cls_token": False} | pooling))
    assert read_settings(str(tmp_path), embedder.architecture) == embedder.settings


def test_a_folder_with_a_module_that_is_not_built_is_refused(embedder, tmp_path):
    """A Dense layer would be left out without a word."""
    embedder.save_pretrained(tmp_path)
    modules = read(tmp_path, "modules.json")
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    message = r"has a module sentence_transformers\.models\.Dense in modules\.json; only Transformer, Pooling"
    with pytest.raises(UserError, match=message):
        read_settings(str(tmp_path), embedder.architecture)


def test_a_default_prompt_that_the_folder_lacks_is_refused(embedder, tmp_path):
    embedder.save_pretrained(tmp_path)
    declared = read(tmp_path, "config_sentence_transformers.json") | {"default_prompt_name": "qurey"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(declared))
    with pytest.raises(UserError, match="has no prompt of the name 'qurey', its default"):
        read_settings(str(tmp_path), embedder.architecture)


@pytest.mark.parametrize("command", [["export", "--model"], ["prune", "--model"], ["merge"]], ids=" ".join)
def test_a_package_is_not_written_over_a_model_that_goes_into_it(folder, tmp_path, capsys, command):
    folder = shutil.copytree(folder, tmp_path / "model")
    (folder / "golden").mkdir()  # as export leaves it: without it nobody would know whose package it is
    (tmp_path / "link").symlink_to(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([*command, str(folder), "--output", str(tmp_path / "link")]) == 1
    assert "link holds a model that goes into the package; choose another folder" in capsys.readouterr().err
    record = {folder, folder / ".f2jax.json"}  # of what f2jax writes there
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path not in record}
    assert after == {path: time for path, time in before.items() if path not in record}


def test_a_remote_package_is_told_from_its_models_by_its_address():
    package.check_output("gs://bucket/new", ["gs://bucket/old", "new"])
    with pytest.raises(UserError, match="gs://bucket/old/ holds a model"):
        package.check_output("gs://bucket/old/", ["new", "gs://bucket/old"])
