"""A corpus on gs:// is copied to this host: what a run selects, once, whole, and in few words where it cannot be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from f2jax import files
from f2jax.cli import main
from f2jax.data import loader as loader_lib
from f2jax.data import local_copy
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.skip_list import SkipList
from f2jax.data.teacher_vectors import TeacherVectors, TeacherVectorsInfo, begin, pieces, read_info
from f2jax.errors import Restart, UserError
from f2jax.plan.lengths import rows_of_lengths
from tests import tiny
from tests.data import corpora

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a corpus of three data sets, and vectors for it. Read only."""
    folder = tmp_path_factory.mktemp("made")
    corpora.make(folder)
    begin(folder / "vectors", TeacherVectorsInfo("made up", 3, "float32"))
    for piece in pieces(folder / "vectors", PreparedCorpus(folder / "corpus")):
        piece.write(np.random.default_rng(piece.first).normal(size=(piece.stop - piece.start, 3)), "float32")
    return folder


@pytest.fixture
def remote(made, bucket, tmp_path, monkeypatch) -> str:
    """The same on gs://, and an empty folder for its copy."""
    monkeypatch.setenv(local_copy.CACHE, str(tmp_path / "cache"))
    for name in ("corpus", "vectors"):
        upload(made / name, f"{bucket}/data/{name}")
    return f"{bucket}/data"


def upload(folder: Path, target: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fsspec.filesystem("gs").put_file(str(path), f"{target}/{path.relative_to(folder)}")


@pytest.fixture
def copied(server):
    """A function that returns the paths behind the bucket of what the server has sent since it was last asked."""
    mark = [server.mark()]

    def since() -> list[str]:
        sent = [request.url for request in server.requests(mark[0]) if "alt=media" in request.url]
        mark[0] = server.mark()
        return [url.partition("/o/")[2].partition("?")[0] for url in sent if "vectors.json" not in url]

    return since


def load(folder, tmp_path, **changes):
    """The data of a run on a corpus and its vectors."""
    changes = {"data.sources": f"('corpus:{folder}/corpus',)", "teacher.cache": f"{folder}/vectors"} | changes
    config = tiny.config(tmp_path, **changes)
    return loader_lib.load_data(config, "", "", 10_000, SkipList())


def same_rows(one, other) -> bool:
    """Whether two data sets have the same tokens and the same vectors."""
    found = []
    for data in (one, other):
        rows = data.rows(range(len(data)), range(data.max_negatives), data.max_negatives)
        places = np.nonzero(rows.length_bi)
        found.append((b"".join(ids.tobytes() for ids in rows.tokens(*places)), rows.vectors(*places).tobytes()))
    return found[0] == found[1] and len(found[0][0]) > 100


def test_a_run_copies_what_it_selects_and_trains_on_the_same_rows(made, remote, tmp_path, copied):
    copied()
    include = {"data.include": "('pairs',)"}
    tokenizer, ((training, held_out),) = load(remote, tmp_path, **include)
    expected, ((first, second),) = load(made, tmp_path, **include)
    assert tokenizer.fingerprint() == expected.fingerprint()
    assert training.is_indexed and training.fingerprint() == first.fingerprint()
    assert same_rows(training, first) and same_rows(held_out, second)
    sent = copied()
    ours = [name for name in sent if not name.startswith(("data/corpus/corpus.json", "data/corpus/tokenizer/"))]
    assert {name.split("/")[2] for name in ours} == {"rows", "documents", "index", "pairs"}, "the last one of vectors"
    assert all("/pairs/" in name for name in ours) and len(sent) == len({*sent})


def test_what_was_copied_is_not_copied_again_and_what_changed_is(remote, tmp_path, copied):
    load(remote, tmp_path)
    assert len(copied()) > 20
    load(remote, tmp_path)
    assert not copied()
    corpora.make(tmp_path, [corpora.write(tmp_path / "pairs.jsonl", corpora.rows(50, 9))])
    upload(tmp_path / "corpus", f"{remote}/corpus")
    ((training, _),) = PreparedCorpus(f"{remote}/corpus").splits()
    PreparedCorpus(f"{remote}/corpus").fetch()
    ((expected, _),) = PreparedCorpus(tmp_path / "corpus").splits()
    rows, others = (data.rows(range(len(data)), (), 0) for data in (training, expected))
    assert corpora.listed(rows)[3].query.tolist() == corpora.listed(others)[3].query.tolist()


HOLDER = """
import sys
from f2jax.data.corpus import PreparedCorpus

corpus = PreparedCorpus(sys.argv[1])
corpus.fetch()
print(corpus.folder, flush=True)
sys.stdin.read()
"""


def test_a_version_stays_while_a_process_uses_it_and_what_did_not_change_is_in_the_next(
    made, remote, server, tmp_path, copied
):
    environment = server.environment | {local_copy.CACHE: str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", HOLDER, f"{remote}/corpus"], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as holder:
        first = Path(holder.stdout.readline().strip())
        before = {path.relative_to(first): path.read_bytes() for path in first.rglob("*.array_record*")}
        assert len(before) > 5
        path = f"{remote}/corpus/corpus.json"
        fsspec.filesystem("gs").pipe_file(path, fsspec.filesystem("gs").cat_file(path) + b" ")
        copied()
        second = PreparedCorpus(f"{remote}/corpus")
        second.fetch()
        assert copied() == ["data/corpus/corpus.json"] and second.folder != first
        assert {name: (first / name).read_bytes() for name in before} == before
        assert {name: (second.folder / name).read_bytes() for name in before} == before
        holder.communicate()
    fsspec.filesystem("gs").pipe_file(path, fsspec.filesystem("gs").cat_file(path) + b" ")
    third = PreparedCorpus(f"{remote}/corpus").folder
    assert {path.name for path in third.parent.glob("@*")} == {second.folder.name, third.name}, "one is this process's"


def test_a_copy_from_before_there_were_versions_becomes_one(remote, tmp_path, copied):
    corpus = PreparedCorpus(f"{remote}/corpus")
    corpus.fetch()
    version, root = corpus.folder, corpus.folder.parent
    (row, *_) = (path.relative_to(version) for path in version.rglob("*.array_record*"))
    for name in os.listdir(version):
        (version / name).rename(root / name)
    version.rmdir()
    inside = root / "another copy"
    for path in (root / row, root / f"{row}-of-another-upload", root / "old/x", inside / ".lock", inside / "@1/x"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of an earlier upload")
    local_copy._in_use.clear()
    copied()
    again = PreparedCorpus(f"{remote}/corpus")
    again.fetch()
    assert copied() == [f"data/corpus/{row}"] and (again.folder / row).stat().st_size > 100
    assert sorted(os.listdir(root)) == [".lock", version.name, inside.name] and (inside / "@1/x").exists()


def test_an_interrupted_copy_goes_on(remote, monkeypatch, copied):
    monkeypatch.setattr(local_copy, "TOGETHER", 1)
    corpus = PreparedCorpus(f"{remote}/corpus")
    copy, begun = local_copy.LocalCopy._copy, []
    copied()

    def stop(self, name):
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(name)
        copy(self, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local_copy.LocalCopy, "_copy", stop)
        corpus.fetch()
    first = copied()
    corpus.fetch()
    rest = copied()
    assert len(first) == 3 and len(rest) > 10 and {*first}.isdisjoint(rest)
    assert not list(corpus.folder.rglob("*.part"))


@pytest.mark.parametrize("command", ["lengths", "texts"])
def test_commands_that_take_a_corpus_take_one_on_gs(made, remote, tmp_path, command):
    found = []
    for folder in (made, remote):
        if command == "lengths":
            found.append(rows_of_lengths(tiny.config(tmp_path), 1, f"{folder}/corpus"))
        else:
            output = tmp_path / f"{len(found)}.jsonl"
            assert main(["cache_teacher", "--corpus", f"{folder}/corpus", "--list-texts", str(output)]) == 0
            found.append(output.read_text())
    assert found[0] == found[1]


def damaged(*_) -> str:
    return "AAAAAA=="


@pytest.mark.parametrize(
    "change,message",
    [
        ("card", r"data/corpus holds no corpus\.json; copy there what f2jax prepare wrote"),
        ("missing", r"data/corpus lacks rows/.*; copy the complete folder there again"),
        ("size", r"data/corpus/rows/.* has 5 bytes instead of [\d,]+; copy the complete folder there again"),
        ("vectors", r"data/vectors/pairs/.* is missing: gs://.*/vectors does not hold the vectors of all texts"),
        ("room", r"needs 0\.0 GiB in .*/cache/.*, which has 0\.0 GiB free; make room there, or .* F2JAX_CACHE"),
        ("arrival", r"arrived damaged; run the same command again"),
        ("cache", r"cache/.* cannot be written \(Not a directory\); check the path"),
    ],
)
def test_what_cannot_be_copied_is_one_clear_error(remote, tmp_path, monkeypatch, change, message):
    store = fsspec.filesystem("gs")
    (rows, *_) = store.glob(f"{remote}/corpus/rows/pairs/*/*-train.array_record*")
    if change == "card":
        store.rm(f"{remote}/corpus/corpus.json")
    elif change == "missing":
        store.rm(rows)
    elif change == "size":
        store.pipe_file(rows, b"short")
    elif change == "vectors":
        store.rm(store.find(f"{remote}/vectors/pairs")[0])
    elif change == "room":
        monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    elif change == "arrival":
        monkeypatch.setattr(local_copy, "checksum", damaged)
    else:
        (tmp_path / "cache").write_text("a file")
    with pytest.raises(Restart if change == "arrival" else UserError, match=message):
        load(remote, tmp_path)
    assert not [path for path in (tmp_path / "cache").rglob("*.array_record*") if change != "size"]


def test_folders_elsewhere_and_names_outside_are_refused(remote, server):
    with pytest.raises(UserError, match=r"neither a local folder nor one on gs://; copy it to one of them"):
        PreparedCorpus("s3://bucket/corpus")
    with pytest.raises(UserError, match=r"There is no bucket gs://no-such-bucket|holds no corpus\.json"):
        PreparedCorpus("gs://no-such-bucket/corpus")
    copy = local_copy.LocalCopy(f"{remote}/corpus")
    copy._objects["../outside"] = copy._objects["corpus.json"]
    with pytest.raises(UserError, match=r"names the file \.\./outside, outside of the folder"):
        copy.fetch(["../outside"])


def test_the_checksum_is_that_of_the_bucket(bucket, tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 9_000)
    fsspec.filesystem("gs").put_file(str(tmp_path / "x"), f"{bucket}/x")
    assert local_copy.checksum(tmp_path / "x") == fsspec.filesystem("gs").info(f"{bucket}/x")["crc32c"]
    (tmp_path / "check").write_bytes(b"123456789")
    assert local_copy.checksum(tmp_path / "check") == "4waSgw=="  # 0xE3069283, the check value of CRC-32C


def test_vectors_on_gs_say_what_they_are(made, remote):
    assert read_info(f"{remote}/vectors") == read_info(made / "vectors")
    with pytest.raises(UserError, match=r"holds no vectors\.json"):
        read_info(files.join(remote, "corpus"))
    corpus = PreparedCorpus(f"{remote}/corpus")
    assert TeacherVectors(f"{remote}/vectors", corpus).card.width == 3
