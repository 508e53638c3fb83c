"""The metadata server of Google Cloud, played by a local one, announces that the machine will go."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from f2jax.parallel import maintenance


@pytest.fixture
def server():
    """Answers as Google's does; what it says can be changed."""
    said = dict(maintenance.QUIET)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("Metadata-Flavor") == "Google" and self.path.startswith("/computeMetadata/v1/")
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(said[self.path.rsplit("/", 1)[1]].encode() if known else b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("localhost", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"localhost:{running.server_port}", said
        running.shutdown()


@pytest.mark.parametrize("key, value", [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")])
def test_it_is_noticed_once_it_is_announced(server, key, value):
    address, said = server
    noticed = threading.Event()
    assert not maintenance.is_maintenance_announced(address)
    watch = maintenance.MaintenanceWatch(noticed.set, address, seconds=0.01)
    said[key] = value
    assert noticed.wait(600)
    watch.end()


def test_without_a_metadata_server_nothing_is_announced():
    assert not maintenance.is_maintenance_announced("localhost:1")


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nNON"])
def test_an_answer_that_is_cut_off_or_no_answer_at_all_does_not_end_the_watch(answer):
    with socket.create_server(("localhost", 0)) as server:

        def answer_both():
            for _ in maintenance.QUIET:
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=answer_both, daemon=True).start()
        assert not maintenance.is_maintenance_announced(f"localhost:{server.getsockname()[1]}")
