"""gs:// paths: what is there is read, by range where asked, what is written is whole, and each failure is one line."""

import re
import subprocess
import sys

import fsspec
import pytest

from f2jax import files
from f2jax.errors import Restart, UserError
from tests import tiny

TEXT = '{"name": "кошка"}'


@pytest.mark.parametrize("name", ["x.json", "a/b/x.json", "ключ +%#&?/x y.json"])
def test_what_is_written_is_read_again(bucket, name):
    path = files.join(bucket, name)
    assert not files.exists(path)
    files.write_atomically(path, TEXT)
    assert files.exists(path) and files.exists(path.rsplit("/", 1)[0]) and files.exists(bucket)
    assert files.file_size(path) == len(TEXT.encode())
    assert files.read_json(path) == {"name": "кошка"}
    files.write_atomically(path, "{}")
    assert files.read_json(path) == {}
    files.remove_file(path)
    files.remove_file(path)
    assert not files.exists(path)


@pytest.mark.parametrize("size", [0, 1, 2**18, 6 * 2**20 + 1], ids=["empty", "one", "simple", "resumable"])
def test_bytes_of_any_size_are_kept(bucket, size):
    content = bytes(i * i % 251 for i in range(997)) * (size // 997 + 1)
    content = content[:size]
    with files.atomic_path(f"{bucket}/x") as part:
        part.write_bytes(content)
    with files.open_file(f"{bucket}/x") as file:
        assert file.read() == content


def test_a_range_is_read_and_not_one_byte_more(bucket, downloads):
    content = bytes(range(256)) * 4_000
    files.write_atomically(f"{bucket}/a/x", content)
    assert files.read_range(f"{bucket}/a/x", 1_000, 1_010) == content[1_000:1_010]
    assert downloads == [("a/x", 10)]


def test_a_file_whose_writing_fails_is_not_there(bucket):
    files.write_atomically(f"{bucket}/x", "old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(f"{bucket}/x") as part:
        part.write_text("half of the ne")
        raise ZeroDivisionError
    assert files.read_range(f"{bucket}/x", 0, 99) == b"old"


def test_what_another_process_writes_is_seen_at_once(bucket):
    """Listings are not remembered: neither ours nor those of other users of fsspec, such as Orbax."""
    other = fsspec.filesystem("gs")
    assert not files.exists(f"{bucket}/a/x") and not other.exists(f"{bucket}/a/x")
    files.write_atomically(f"{bucket}/a/y", "")
    assert other.ls(f"{bucket}/a") == [f"{bucket[5:]}/a/y"]
    stranger = fsspec.filesystem("gs", skip_instance_cache=True)
    stranger.pipe(f"{bucket}/a/x", b"")
    assert files.exists(f"{bucket}/a/x") and other.exists(f"{bucket}/a/x")
    assert len(other.ls(f"{bucket}/a")) == 2


READS = [files.open_file, files.read_json, files.file_size, lambda path: files.read_range(path, 0, 9)]
WRITES = [lambda path: files.write_atomically(path, TEXT)]


@pytest.mark.parametrize("call", READS)
def test_a_missing_object_is_named(bucket, call):
    with pytest.raises(UserError, match=rf"^There is no file {bucket}/no/x\.json; check the path\.$"):
        call(f"{bucket}/no/x.json")


@pytest.mark.parametrize("call", READS + WRITES)
def test_a_missing_bucket_is_named(server, call):
    with pytest.raises(UserError, match=r"^There is no bucket gs://no-bucket; check its name, or create it\.$"):
        call("gs://no-bucket/a/x.json")


@pytest.mark.parametrize("call", [*READS, *WRITES, files.exists])
def test_without_a_login_it_says_how_to_log_in(server, refusing, call, caplog):
    refusing(401, "Anonymous caller does not have storage.objects.get access")
    with pytest.raises(UserError) as error:
        call("gs://private/x.json")
    assert "\n" not in str(error.value) and str(error.value).startswith("gs://private/x.json cannot be")
    assert "(Anonymous caller does not have" in str(error.value)
    assert "gcloud auth application-default login" in str(error.value)
    assert not caplog.records, "gcsfs logs nothing beside it"


@pytest.mark.parametrize("call,verb", [(call, "opened") for call in READS] + [(call, "written") for call in WRITES])
def test_without_the_right_it_says_whom_to_ask(server, refusing, call, verb):
    refusing(403, "someone@example.com does not have storage.objects.get access")
    with pytest.raises(UserError) as error:
        call("gs://private/x.json")
    assert str(error.value) == (
        f"gs://private/x.json cannot be {verb} (someone@example.com does not have storage.objects.get access); "
        "ask the owner of the bucket for permission."
    )


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("call", [*READS, *WRITES, files.exists])
def test_what_goes_by_asks_for_a_restart(server, refusing, call, status):
    refusing(status, "Try again later")
    with pytest.raises(Restart, match=r"^gs://b/x\.json cannot be \w+ just now \(.+\); run the same command again\.$"):
        call("gs://b/x.json")


def test_a_server_that_is_gone_asks_for_a_restart(server, refusing, monkeypatch):
    refusing(503, "Try again later")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(Restart, match="gs://b/x cannot be opened just now"):
        files.read_bytes("gs://b/x")


def test_a_read_that_breaks_off_asks_for_a_restart(bucket, refusing):
    """The file is open already, and more than what was fetched with it is wanted."""
    rows = b"one line\n" * 2**21
    files.write_atomically(f"{bucket}/x.txt", rows)
    with files.open_file(f"{bucket}/x.txt") as file, pytest.raises(Restart), files.clear_errors(f"{bucket}/x.txt"):
        refusing(503, "Try again later")
        file.read()


def test_other_failures_are_one_line_with_their_reason(server, refusing):
    refusing(418, "I am a teapot\nshort and stout")
    with pytest.raises(UserError, match=r"^gs://b/x cannot be opened \(.*stout.*\); check the path and the connection"):
        files.read_json("gs://b/x")


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder that is there"])
def test_a_workload_on_gke_copies_a_corpus_into_the_folder_that_it_names(bucket, server, tmp_path, there):
    """By the line of launch/gke.sh: the base image has no gcloud."""
    (code,) = re.findall(r"^copy='(.+)'$", (tiny.ROOT / "launch/gke.sh").read_text(), re.M)
    content = {"corpus.json": b"{}", "train/rows-0.bin": b"123", "tokenizer/tokenizer.model": b""}
    for name, data in content.items():
        files.write_atomically(f"{bucket}/corpus/{name}", data)
    folder = tmp_path / "data"
    if there:
        folder.mkdir()
    command = [sys.executable, "-c", code, f"{bucket}/corpus/", f"{folder}/"]
    subprocess.run(command, env=server.environment, check=True)
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")} == content
