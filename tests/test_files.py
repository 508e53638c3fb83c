"""Paths, local and remote: what is there is opened, what is not is named in one clear line."""

import errno
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
from http.client import IncompleteRead
from unittest.mock import Mock

import aiohttp
import fsspec
import google.auth.exceptions
import httpx
import huggingface_hub
import pytest
import requests
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from f2jax import errors, files
from f2jax.data.sources import hub
from f2jax.errors import Restart, UserError
from tests import tiny


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A folder with a file `x.json`, here or far away."""
    folder = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    filesystem, name = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(f"{name}/sub", exist_ok=True)
    filesystem.pipe(f"{name}/x.json", '{"name": "кошка"}'.encode())
    return folder


@pytest.mark.parametrize(
    "folder,expected",
    [
        ("a", "a/x"),
        ("a/", "a/x"),
        ("/a/b", "/a/b/x"),
        ("gs://bucket", "gs://bucket/x"),
        ("gs://bucket/a/", "gs://bucket/a/x"),
    ],
)
def test_join(folder, expected):
    assert files.join(folder, "x") == expected


def test_a_path_with_a_protocol_is_remote(tmp_path):
    assert files.is_remote("gs://bucket/x") and files.is_remote("memory://x")
    assert not files.is_remote("org/name") and not files.is_remote(tmp_path)


def test_files_and_folders_exist_or_do_not(root):
    assert files.exists(files.join(root, "x.json")) and files.exists(root)
    assert not files.exists(files.join(root, "y.json")) and not files.exists(files.join(root, "no/folder"))


def test_a_file_opens_as_bytes_and_reads_as_json(root):
    with files.open_file(files.join(root, "x.json")) as file:
        assert file.read() == '{"name": "кошка"}'.encode()
    assert files.read_json(files.join(root, "x.json")) == {"name": "кошка"}


@pytest.mark.parametrize("read", [files.open_file, files.read_json])
@pytest.mark.parametrize(
    "name,word",
    [
        ("y.json", r"There is no file .*y\.json; check the path"),
        ("no/folder/y.json", r"There is no file .*y\.json; check the path"),
        ("sub", "sub cannot be opened .*; check the path"),
        ("x.json/y.json", r"x\.json/y\.json cannot be opened .*; check the path"),
    ],
)
def test_what_is_no_file_is_named(root, read, name, word):
    with pytest.raises(UserError, match=word):
        read(files.join(root, name))


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"{} {}"])
def test_broken_json_is_named(root, content):
    filesystem, name = fsspec.core.url_to_fs(files.join(root, "broken.json"))
    filesystem.pipe(name, content)
    with pytest.raises(UserError, match=r"broken\.json is not valid JSON .*; restore it"):
        files.read_json(files.join(root, "broken.json"))


@pytest.mark.parametrize("call", [files.exists, files.open_file, files.read_json])
def test_an_unknown_protocol_is_named(call):
    with pytest.raises(UserError, match=r"nowhere://x cannot be opened .*give a local path or a gs:// one"):
        call("nowhere://x")


@pytest.mark.parametrize("content", ["text: кошка\n", b"\0\xff"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, content):
    path = tmp_path / "x"
    files.write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, "another")
    assert path.read_bytes() != b"another"
    assert os.listdir(tmp_path) == ["x"], "nothing is left beside it"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_fails_for_a_moment_asks_for_a_restart(number):
    with (
        pytest.raises(Restart, match=rf"^x cannot be written just now \({os.strerror(number)}\); run the same command"),
        files.clear_errors("x", "written"),
    ):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "number,advice",
    [
        *((number, "check the path") for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EISDIR)),
        (errno.EMFILE, "raise the limit with `ulimit -n`"),
    ],
)
def test_what_does_not_go_by_is_for_the_user(number, advice):
    reason = os.strerror(number)
    with (
        pytest.raises(UserError, match=rf"^x cannot be written \({reason}\); {advice}\.$"),
        files.clear_errors("x", "written"),
    ):
        raise OSError(number, reason)


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def while_handling(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


def answered(status: int) -> Exception:
    """What the Hugging Face hub's client raises."""
    return HfHubHTTPError("no", response=httpx.Response(status, request=httpx.Request("GET", "https://hub")))


@pytest.mark.parametrize(
    "error, expected",
    [
        (ConnectionResetError(), True),
        (MemoryError(), True),
        (ValueError("UNAVAILABLE: no answer"), True),
        (RuntimeError("while reading: Input/output error"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (requests.exceptions.ProxyError(), True),
        (google.auth.exceptions.TransportError("no answer"), True),
        (with_cause(google.auth.exceptions.RefreshError(), google.auth.exceptions.TransportError()), True),
        (google.auth.exceptions.RefreshError("Token has been revoked"), False),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), False),
        (ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded"), False),
        (answered(503), True),
        (answered(404), False),
        (httpx.ReadTimeout("slow"), True),
        (httpx.ReadError("connection reset"), True),
        (httpx.RemoteProtocolError("peer closed connection"), True),
        (with_cause(httpx.ConnectError("no certificate"), ssl.SSLCertVerificationError()), False),
        (with_cause(ConnectionError("cannot reach the hub"), OfflineModeIsEnabled()), False),
        (ValueError("NOT_FOUND"), False),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
        *((OSError(number, os.strerror(number)), True) for number in (errno.ENETUNREACH, errno.EHOSTUNREACH)),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
        (IncompleteRead(b"half"), True),
        (while_handling(requests.exceptions.SSLError("no certificate"), ssl.SSLCertVerificationError()), False),
        (while_handling(OSError(errno.EACCES, "no"), TimeoutError()), False),
        (OSError("Forbidden: it is"), False),
    ],
    ids=repr,
)
def test_what_is_likely_to_go_by(error, expected):
    assert errors.is_transient(error) is expected


@pytest.mark.parametrize("level,kept", [(logging.CRITICAL, []), (logging.ERROR, ["error"])])
def test_a_library_is_quiet_inside_the_block_alone(caplog, level, kept):
    logger = logging.getLogger("some_library")
    with files.quiet_logger("some_library", level), files.quiet_logger("some_library", logging.ERROR):
        logger.warning("warning")
        logger.error("error")
    assert caplog.messages == kept
    logger.warning("after")
    assert caplog.messages == [*kept, "after"] and logger.level == logging.NOTSET


# Models by name


def test_a_folder_here_is_a_model_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    assert files.resolve_model(tmp_path) == str(tmp_path)
    assert files.resolve_model("org/name") == "org/name", "a folder comes before a hub id"
    assert files.resolve_model("~/org") == str(tmp_path / "org")


def test_a_remote_model_is_read_where_it_lies():
    assert files.resolve_model("gs://bucket/model") == "gs://bucket/model"


def test_a_model_that_comes_with_f2jax_is_found_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BUILT_IN_MODELS", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no model folder mini"):
        files.resolve_model("mini")
    folder = tmp_path / "package/mini"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert files.resolve_model("mini") == str(folder)
    (tmp_path / "mini").mkdir()
    assert files.resolve_model("mini") == "mini", "a folder comes before it, as before a hub id"


@pytest.mark.parametrize("name", ["nowhere", "./org/name", "../name", "/no/where", "~/nowhere", "a/b/c"])
def test_a_wrong_path_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"There is no model folder {name}; give a folder, a gs:// path, a hub id"):
        files.resolve_model(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is a file; give the folder"):
        files.resolve_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("error", [answered(503), httpx.ReadTimeout("slow"), httpx.ReadError("reset")], ids=repr)
@pytest.mark.parametrize("fetch", [files.resolve_model, lambda name: hub.fetch_dataset(f"hub:{name}", (".parquet",))])
def test_a_hub_that_fails_for_a_moment_asks_for_a_restart(tmp_path, monkeypatch, fetch, error):
    """Be it for a model or for a data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Mock(side_effect=error))
    with pytest.raises(Restart, match=r"org/name .*not be fetched from the Hugging Face hub just now \(.*\); run"):
        fetch("org/name")


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "no-such-org/no such model"])
def test_a_hub_id_that_cannot_be_fetched_is_one_clear_line(tmp_path, name):
    """In a process of its own: the hub's library reads its settings when it is imported."""
    program = f"from f2jax import files\ntry: files.resolve_model({name!r})\nexcept files.UserError as e: print(e)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=600)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{name} is no folder here and could not be fetched from the Hugging Face hub")


SHAPE = {"rows": int, "share": float, "names": list[str], "prompts": dict[str, str | None]}


@pytest.mark.parametrize(
    "content,complaint",
    [
        ([], "holds a list instead of an object"),
        ("x", "holds a string instead of an object"),
        (None, "holds null instead of an object"),
        ({"rows": 1}, "lacks 'share', 'names', 'prompts'"),
        ({"rows": 1.5}, "'rows' that is not a whole number"),
        ({"rows": True}, "'rows' that is not a whole number"),
        ({"share": "1"}, "'share' that is not a number"),
        ({"names": ["a", 1]}, "'names' that is not a list of strings"),
        ({"prompts": {"a": 1}}, "'prompts' that is not an object of strings or nulls"),
        ({"prompts": ["a"]}, "'prompts' that is not an object of"),
    ],
)
def test_json_of_another_shape_is_refused_in_one_sentence(tmp_path, content, complaint):
    right = {"rows": 1, "share": 0, "names": [], "prompts": {"query": "Q: ", "document": None}, "more": 1}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(right))
    assert files.read_json_object(path, SHAPE) == right
    whole = content if complaint.startswith(("holds", "lacks")) else right | content
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=re.escape(complaint)) as error:
        files.read_json_object(path, SHAPE)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff{}", b"[" * 200_000, b"nope"])
def test_what_is_not_json_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        files.read_json(tmp_path / "x.json")


def test_optional_fields_may_be_missing_but_not_of_another_type():
    assert files.check_object({}, "x", optional={"rows": int}) == {}
    with pytest.raises(UserError, match="'rows' that is not a whole number"):
        files.check_object({"rows": None}, "x", optional={"rows": int})
