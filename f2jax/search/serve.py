"""A search page for this machine: one HTML file that loads nothing else."""

import json
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from f2jax.errors import UserError
from f2jax.search.files import SearchTexts
from f2jax.search.two_pass import Search, SearchOptions

PAGE = Path(__file__).with_name("search.html")
HOSTS = ("localhost", "127.0.0.1")
MAX_FOUND = 100  # most documents in an answer
EXAMPLES, EXAMPLE_TEXTS, EXAMPLE_WORDS, EXAMPLE_CHARACTERS = 4, 200, 6, 40  # limits for the example queries
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class Page:
    """Answers the requests of the page.

    Args:
        documents: documents with texts.
        embedder: embeds the queries.
        options: options of the search; the slider starts at `dims`.

    Raises:
        UserError: an option does not fit the documents.
    """

    def __init__(self, documents: SearchTexts, embedder, options: SearchOptions):
        width = documents.vectors.shape[1]
        dims, self._texts = options.first_dims(width), documents.texts or []
        self.documents, self._embedder, self._options = documents, embedder, replace(options, dims=dims)
        self.most = min(MAX_FOUND, options.candidates)
        self._width = width if width in embedder.matryoshka_dims else None  # to which queries are truncated
        self.dims = sorted({*(dim for dim in embedder.matryoshka_dims if dim < width), dims, width})
        self._search = lru_cache(2)(self._make_search)  # only two, because each keeps the documents on the devices
        self._lock = threading.Lock()  # one query at a time
        self.find("", dims, options.k)  # compiles, so that the first query is fast

    def about(self) -> dict:
        """Returns the number of documents, the choices of the slider, example queries and the options."""
        names = ("k", "dims", "candidates", "precision")
        given = {name: getattr(self._options, name) for name in names}
        return {"documents": len(self._texts), "choices": self.dims, "examples": self.examples()} | given

    def examples(self) -> list[str]:
        """Returns the first words of a few texts, evenly spread; texts with markup, code or numbers are left out."""
        texts = _spread(self._texts, EXAMPLE_TEXTS)
        starts = (" ".join(text.split()[:EXAMPLE_WORDS])[:EXAMPLE_CHARACTERS] for text in texts)
        return _spread(list(dict.fromkeys(start for start in starts if _is_plain(start))), EXAMPLES)

    def find(self, query: str, dims: int, k: int) -> dict:
        """Returns the documents nearest to a query, and the milliseconds of its embedding and of both passes.

        Raises:
            UserError: `dims` is not a choice of the slider, or k is out of range.
        """
        if dims not in self.dims:
            raise UserError(f"dims={dims} is not one of {', '.join(map(str, self.dims))}.")
        if not 1 <= k <= self.most:
            raise UserError(f"k={k} should be from 1 to {self.most}.")
        with self._lock:
            start = time.perf_counter()
            q_qe = self._embedder.encode_query([query], show_progress_bar=False)[:, : self._width]
            embedded = time.perf_counter() - start
            result = self._search(dims)(q_qe)
        pairs = zip(result.scores_qk[0, :k].tolist(), result.numbers_qk[0, :k].tolist(), strict=True)
        places, texts = self.documents.places, self._texts
        return {
            "found": [
                {"score": score, "place": places[n] if places else f"{n + 1}", "text": texts[n]}
                for score, n in pairs
                if n >= 0
            ],
            "milliseconds": [round(1_000 * s, 2) for s in (embedded, result.first_pass, result.second_pass)],
        }

    def _make_search(self, dims: int) -> Search:
        return Search(self.documents.vectors, replace(self._options, k=self.most, dims=dims))


def _spread(items: Sequence[str], most: int) -> list[str]:
    """Returns at most `most` of the items, evenly spread."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _is_plain(text: str) -> bool:
    """Returns whether a text starts with a letter and consists of letters, marks, spaces and punctuation."""
    return text[:1].isalpha() and all(unicodedata.category(c)[0] in "LMZ" or c in ".,;:!?'’-–()" for c in text)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Ignores browsers that cancel a request, as they do while somebody types."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def make_server(page: Page, port: int) -> ThreadingHTTPServer:
    """Returns a server that only this machine can reach; port 0 means any free port.

    Raises:
        UserError: the port cannot be used.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            try:
                host, url = urlsplit(f"//{self.headers.get('Host', '')}").hostname, urlsplit(self.path)
            except ValueError:
                return self._answer(400, "text/plain", b"This is not an address.")
            if host not in HOSTS:  # a request from another site, by DNS rebinding
                return self._answer(403, "text/plain", b"Only for this machine.")
            if url.path == "/":
                return self._answer(200, "text/html", PAGE.read_bytes())
            if url.path == "/about":
                return self._json(200, page.about())
            if url.path == "/find":
                return self._find({name: values[-1] for name, values in parse_qs(url.query).items()})
            return self._answer(404, "text/plain", b"There is no such page.")

        def _find(self, query: dict[str, str]):
            options = page.about()
            try:
                dims, k = (int(query.get(name, options[name])) for name in ("dims", "k"))
                found = page.find(query.get("q", ""), dims, k)
            except (UserError, ValueError) as error:
                return self._json(400, {"error": str(error)})
            return self._json(200, found)

        def _json(self, status: int, content: dict):
            self._answer(status, "application/json", json.dumps(content).encode())

        def _answer(self, status: int, kind: str, content: bytes):
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            """Logs nothing, because queries are private."""

    try:
        return _Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"Port {port} cannot be used ({error}); choose another --port, or 0 for any.") from error


def serve(documents: SearchTexts, embedder, options: SearchOptions, port: int) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        UserError: the port cannot be used, or an option does not fit the documents.
    """
    with make_server(Page(documents, embedder, options), port) as server:
        print(f"{len(documents.texts or ()):,} texts: http://localhost:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended.")
