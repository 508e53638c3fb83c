"""Embeddings over HTTP, compatible with OpenAI's API: `POST /v1/embeddings` and `GET /v1/models`.

https://platform.openai.com/docs/api-reference/embeddings
"""

import base64
import json
import queue
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from f2jax.errors import UserError, did_you_mean
from f2jax.inference.embedder import UNLIMITED, Embedder
from f2jax.inference.encode import check_batch_size
from f2jax.inference.vectors import scale_to_unit
from f2jax.serve.options import ServeOptions

MOST_TEXTS = 2_048  # in a request, as in OpenAI's API
MOST_BYTES = 2**23  # of a request, because all of its texts are tokenized before long ones are refused
MOST_DISCARDED = 2**28  # bytes of a larger request that are read after it has been refused
PART = 2**16  # bytes to read at a time
FORMATS = ("float", "base64")
FIELDS = ("input", "model", "dimensions", "encoding_format", "prompt_name", "user")


class Batcher:
    """Encodes texts for several threads; requests that arrive while a batch runs form the next batch."""

    def __init__(self, embedder: Embedder, batch_size: int):
        self._embedder, self._batch_size = embedder, batch_size
        self._waiting: queue.Queue[tuple[list[str], Future]] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns vectors, float32 [i, dim], that are not normalized.

        Raises:
            UserError: a vector is not finite.
        """
        future: Future = Future()
        self._waiting.put((texts, future))
        return future.result()

    def _work(self) -> None:
        while True:
            jobs = [self._waiting.get()]
            while sum(len(texts) for texts, _ in jobs) < self._batch_size and not self._waiting.empty():
                jobs.append(self._waiting.get())
            try:
                x_ie = self._encode([text for texts, _ in jobs for text in texts])
            except Exception:  # caused by one of the requests, so encode each by itself
                for texts, future in jobs:
                    self._finish(texts, future)
            else:
                starts = np.cumsum([len(texts) for texts, _ in jobs])[:-1]
                for (_, future), found in zip(jobs, np.split(x_ie, starts), strict=True):
                    future.set_result(found)

    def _finish(self, texts: list[str], future: Future) -> None:
        try:
            future.set_result(self._encode(texts))
        except Exception as error:  # raised again in the thread of the request
            future.set_exception(error)

    def _encode(self, texts: list[str]) -> np.ndarray:
        return self._embedder.encode(
            texts,
            prompt="",
            batch_size=self._batch_size,
            truncate_dim=self._embedder.dim,
            normalize_embeddings=False,
            show_progress_bar=False,
        )


class Service:
    """Answers requests, which are Python objects from JSON.

    Raises:
        UserError: the model has no prompt named `options.prompt_name`, or `options.batch_size` is below 1.
    """

    def __init__(self, embedder: Embedder, name: str, options: ServeOptions):
        self._embedder, self.name, self._options = embedder, name, options
        self._batcher = Batcher(embedder, options.batch_size)
        embedder.choose_prompt(None, options.prompt_name)
        check_batch_size(options.batch_size)

    def models(self) -> dict:
        """Returns the answer to `GET /v1/models`."""
        return {"object": "list", "data": [{"id": self.name, "object": "model", "owned_by": "f2jax"}]}

    def embeddings(self, request: Any) -> dict:
        """Returns the answer to `POST /v1/embeddings`.

        Raises:
            UserError: a field is unknown or has a wrong value, a text is longer than the model's limit, or a vector is
                not finite.
        """
        if not isinstance(request, dict):
            raise UserError("The request should be a JSON object with the field 'input'.")
        if unknown := sorted(set(request) - set(FIELDS)):
            raise UserError(f"There is no field '{unknown[0]}'{did_you_mean(unknown[0], FIELDS)}")
        dims = request.get("dimensions")
        dims = self._embedder.get_embedding_dimension() if dims is None else dims
        if type(dims) is not int or not 1 <= dims <= self._embedder.dim:
            raise UserError(f"dimensions={dims!r} should be a whole number from 1 to {self._embedder.dim}.")
        form = request.get("encoding_format") or "float"
        if form not in FORMATS:
            raise UserError(f"There is no encoding_format '{form}'{did_you_mean(str(form), FORMATS)}")
        prompt = self._embedder.choose_prompt(None, request.get("prompt_name") or self._options.prompt_name)
        texts = [prompt + text for text in _texts(request.get("input"))]
        counts = [len(ids) for ids in self._embedder.tokenizer.encode(texts, UNLIMITED)]
        limit = self._embedder.max_length
        if not self._options.cut and (long := [i for i, count in enumerate(counts) if count > limit]):
            raise UserError(
                f"Text number {long[0]} has {counts[long[0]]:,} tokens, and the model reads {limit:,}; split it, or "
                "start the server with --cut."
            )
        x_ie = scale_to_unit(self._batcher.encode(texts)[:, :dims])
        data = [{"object": "embedding", "index": i, "embedding": _number(x_e, form)} for i, x_e in enumerate(x_ie)]
        tokens = sum(min(count, limit) for count in counts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.name, "usage": usage}


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        if len(texts) > MOST_TEXTS:
            raise UserError(f"A request may have {MOST_TEXTS:,} texts, not {len(texts):,}; send several.")
        return texts
    if isinstance(texts, list) and texts and all(isinstance(text, int | list) for text in texts):
        raise UserError(
            "'input' contains token ids, which belong to another tokenizer; send texts (in LangChain's "
            "OpenAIEmbeddings, set check_embedding_ctx_length=False)."
        )
    raise UserError("'input' should be a text, or a list of texts that is not empty.")


def _number(x_e: np.ndarray, form: str) -> list[float] | str:
    return x_e.tolist() if form == "float" else base64.b64encode(x_e.astype("<f4").tobytes()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1_024  # connections that wait to be accepted; the kernel may allow fewer

    def handle_error(self, request, client_address):
        """Ignores clients that disconnect early."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def make_api_server(service: Service, host: str, port: int) -> ThreadingHTTPServer:
    """Returns a server; port 0 means any free port.

    Raises:
        UserError: the address cannot be used.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # otherwise the body waits 40 ms for the acknowledgement of the header
        timeout = 60  # seconds after which a silent client is disconnected

        def do_GET(self):
            if "Content-Length" in self.headers:  # a body that nobody reads would pass for the next request
                self.close_connection = True
            if self.path.rstrip("/") == "/v1/models":
                return self._answer(200, service.models())
            return self._fail(404, "There is GET /v1/models and POST /v1/embeddings.")

        def do_POST(self):
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdigit()) or int(length) > MOST_BYTES:
                self.close_connection = True
                self._fail(413, f"A request has a Content-Length of at most {MOST_BYTES:,} bytes.")
                return self._discard()
            body = self.rfile.read(int(length))
            if self.path.rstrip("/") != "/v1/embeddings":
                return self._fail(404, "There is GET /v1/models and POST /v1/embeddings.")
            try:
                request = json.loads(body)
            except (ValueError, RecursionError):
                return self._fail(400, "The request is not JSON.")
            try:
                answer = service.embeddings(request)
            except UserError as error:
                return self._fail(400, str(error))
            except Exception as error:
                traceback.print_exc()
                return self._fail(500, f"The model failed ({type(error).__name__}).")
            return self._answer(200, answer)

        def _discard(self):
            """Reads what a client still sends, because most read the answer only after that."""
            left, end = MOST_DISCARDED, time.monotonic() + self.timeout
            while left > 0 and time.monotonic() < end and (part := self.rfile.read1(PART)):
                left -= len(part)

        def _fail(self, status: int, message: str):
            kind = "server_error" if status == 500 else "invalid_request_error"
            error = {"message": message, "type": kind, "param": None, "code": None}
            self._answer(status, {"error": error})

        def _answer(self, status: int, content: dict):
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            """Logs nothing, because the texts are private."""

    try:
        return _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port} cannot be used ({error}); choose another --port, or 0 for any, or another --host."
        ) from error


def serve_api(embedder: Embedder, name: str, options: ServeOptions) -> None:
    """Serves until Ctrl-C.

    Raises:
        UserError: the address or an option cannot be used.
    """
    service = Service(embedder, name, options)
    with make_api_server(service, options.host, options.port) as server:
        dims, limit = embedder.get_embedding_dimension(), embedder.max_length
        print(f"{name}: {dims} dimensions, texts of up to {limit:,} tokens.")
        print(f"http://{options.host}:{server.server_port}/v1/embeddings (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended.")
