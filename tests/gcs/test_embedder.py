"""An embedder from gs://: a released folder or a training workdir there gives the vectors of the same folder here."""

import io

import fsspec
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from f2jax import Embedder, cli, files
from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.checkpoints.orbax import Checkpoints, TrainState
from f2jax.commands import encode
from f2jax.errors import UserError
from f2jax.evaluation import builtin
from f2jax.evaluation.builtin import RetrievalTask
from f2jax.inference import encode_file, vectors
from tests import tiny, tiny_model


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


def write_workdir(run: str, embedder: Embedder, folder) -> None:
    """The embedder as the workdir of a run that ended after step 1, whose data lies in `folder`."""
    config = tiny.config(folder, **{"data.max_length": embedder.max_length})
    files.write_atomically(files.join(run, "config.json"), configs.to_json(config))
    workdir.write_architecture(run, embedder.architecture)
    embedder.tokenizer.save(files.join(run, "tokenizer"))
    with Checkpoints(run, config.checkpoint, 1) as checkpoints:
        checkpoints.save(TrainState(jnp.int32(1), embedder.params, None))


def test_a_released_folder_is_used_where_it_lies(embedder, tmp_path, bucket, downloads):
    embedder.save_pretrained(tmp_path / "release")
    fsspec.filesystem("gs").put(f"{tmp_path}/release/", f"{bucket}/release/", recursive=True)
    loaded = Embedder.from_pretrained(f"{bucket}/release")
    assert loaded.settings == embedder.settings
    np.testing.assert_array_equal(loaded.encode_query(tiny_model.TEXTS), embedder.encode_query(tiny_model.TEXTS))
    size_there = files.file_size(f"{bucket}/release/model.safetensors")
    assert sum(size for name, size in downloads if name.endswith(".safetensors")) == size_there, "each byte once"


def test_a_package_is_written_to_a_bucket_as_to_a_folder(embedder, tmp_path, bucket):
    embedder.save_pretrained(tmp_path / "release")
    embedder.save_pretrained(f"{bucket}/release")
    for path in (path for path in (tmp_path / "release").rglob("*") if path.is_file()):
        there = f"{bucket}/release/{path.relative_to(tmp_path / 'release')}"
        assert files.read_range(there, 0, files.file_size(there)) == path.read_bytes()
    np.testing.assert_array_equal(
        Embedder.from_pretrained(f"{bucket}/release").encode(tiny_model.TEXTS), embedder.encode(tiny_model.TEXTS)
    )
    with pytest.raises(UserError, match=r"^There is no bucket gs://no-bucket"):
        embedder.save_pretrained("gs://no-bucket/release")


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_a_file_of_texts_there_becomes_a_file_of_vectors_there(embedder, tmp_path, bucket, monkeypatch, ending):
    """In two pieces; the run that was stopped after the first goes on, and leaves nothing but the file."""
    monkeypatch.setattr(vectors, "PIECE", 5)
    texts = [text.replace("\n", " ") for text in tiny_model.TEXTS][:8]
    files.write_atomically(f"{bucket}/texts.txt", "\n".join(texts))
    embedder.save_pretrained(tmp_path / "model")
    arguments = ["--model", f"{tmp_path}/model", "--input", f"{bucket}/texts.txt", "--output", f"{bucket}/out{ending}"]
    write = encode_file._Pieces.write

    def stop_at_the_second(pieces, number, *content):
        if number == 1:
            raise KeyboardInterrupt
        write(pieces, number, *content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode_file._Pieces, "write", stop_at_the_second)
        encode.main(arguments)
    assert files.exists(f"{bucket}/out{ending}.partial/00000000.npy")
    encode.main(arguments)
    content = io.BytesIO(files.read_bytes(f"{bucket}/out{ending}"))
    found = np.load(content) if ending == ".npy" else np.stack(pq.read_table(content)["embedding"].to_numpy())
    np.testing.assert_allclose(found, embedder.encode(texts), atol=1e-6)
    assert sorted(files.list_names(bucket)) == sorted([".f2jax.json", "texts.txt", f"out{ending}"])
    encode.main(arguments)  # what it wrote itself, it may write again


def test_a_workdir_there_is_not_overwritten_by_a_package(embedder, tmp_path, bucket):
    write_workdir(f"{bucket}/run", embedder, tmp_path)
    with pytest.raises(UserError, match="run is a training workdir; choose another folder"):
        embedder.save_pretrained(f"{bucket}/run")


def test_a_workdir_is_used_where_it_lies_and_can_be_exported(embedder, tmp_path, bucket):
    write_workdir(f"{bucket}/run", embedder, tmp_path)
    expected = embedder.encode(tiny_model.TEXTS)
    np.testing.assert_array_equal(Embedder.from_pretrained(f"{bucket}/run").encode(tiny_model.TEXTS), expected)
    assert cli.main(["export", "--model", f"{bucket}/run", "--output", str(tmp_path / "release")]) == 0
    np.testing.assert_array_equal(Embedder.from_pretrained(tmp_path / "release").encode(tiny_model.TEXTS), expected)


def test_a_workdir_copied_to_a_bucket_is_still_one(embedder, tmp_path, bucket):
    write_workdir(str(tmp_path / "run"), embedder, tmp_path)
    fsspec.filesystem("gs").put(f"{tmp_path}/run/", f"{bucket}/copy/", recursive=True)
    loaded = Embedder.from_pretrained(f"{bucket}/copy")
    np.testing.assert_array_equal(loaded.encode(tiny_model.TEXTS), embedder.encode(tiny_model.TEXTS))


def test_a_model_there_is_evaluated(embedder, tmp_path, bucket, monkeypatch, capsys):
    write_workdir(f"{bucket}/run", embedder, tmp_path)
    task = RetrievalTask("cldr-names", ["red", "old tree"], ["a red", "an old tree", "stone"], [{0}, {1}], ["eng"] * 2)
    monkeypatch.setattr(builtin, "load_task", lambda name: task)
    options = ["--model", f"{bucket}/run", "--tasks", "cldr-names", "--output", f"{bucket}/scores"]
    assert cli.main(["evaluate", *options]) == 0
    assert "cldr-names" in capsys.readouterr().out
    assert files.read_json(f"{bucket}/scores/results.json")["tasks"]["cldr-names"]["queries"] == 2
    assert files.read_range(f"{bucket}/scores/dimensions.png", 1, 4) == b"PNG"


@pytest.mark.parametrize(
    "name,word",
    [
        ("gs://no-bucket/run", r"There is no bucket gs://no-bucket; check its name, or create it\."),
        ("BUCKET/nothing", r"There is no file gs://bucket-\d+/nothing/config\.json; check the path\."),
    ],
)
def test_what_is_not_there_is_named(bucket, name, word):
    with pytest.raises(UserError, match=f"^{word}$"):
        Embedder.from_pretrained(name.replace("BUCKET", bucket))


def test_a_workdir_whose_only_checkpoint_was_cut_off_has_none(embedder, tmp_path, bucket):
    write_workdir(f"{bucket}/run", embedder, tmp_path)
    fsspec.filesystem("gs").rm_file(f"{bucket}/run/checkpoints/1/commit_success.txt")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        Embedder.from_pretrained(f"{bucket}/run")
