"""The server as a client of OpenAI's API sees it."""

import base64
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.serve.openai import MOST_BYTES, Batcher, Service, make_api_server
from f2jax.serve.options import ServeOptions
from tests import tiny_model

TEXTS = tiny_model.TEXTS[:-1]
LONG = tiny_model.TEXTS[-1]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def address(embedder):
    with make_api_server(Service(embedder, "tiny", ServeOptions()), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def ask(url: str, content: dict | bytes | None = None) -> tuple[int, dict]:
    body = json.dumps(content).encode() if isinstance(content, dict) else content
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def vectors(answer: dict) -> np.ndarray:
    return np.array([entry["embedding"] for entry in answer["data"]], np.float32)


def test_texts_get_their_vectors_in_order_and_tokens_are_counted(embedder, address):
    status, answer = ask(f"{address}/embeddings", {"input": TEXTS, "model": "any", "user": "me"})
    assert status == 200 and answer["object"] == "list" and answer["model"] == "tiny"
    assert [entry["index"] for entry in answer["data"]] == list(range(len(TEXTS)))
    np.testing.assert_allclose(vectors(answer), embedder.encode(TEXTS), atol=1e-6)
    tokens = sum(len(ids) for ids in embedder.tokenizer.encode(TEXTS, 96))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_dimensions_prompts_one_text_and_base64_are_understood(embedder, address):
    request = {"input": TEXTS[0], "dimensions": 16, "prompt_name": "query", "encoding_format": "base64"}
    (entry,) = ask(f"{address}/embeddings", request)[1]["data"]
    found = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
    np.testing.assert_allclose(found, embedder.encode_query(TEXTS[0], truncate_dim=16), atol=1e-6)


def test_requests_at_once_get_each_their_own_vectors(embedder, address):
    batches = [[f"river {i} {j}" for j in range(2)] for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda texts: ask(f"{address}/embeddings", {"input": texts}), batches))
    for texts, (status, answer) in zip(batches, answers, strict=True):
        assert status == 200
        np.testing.assert_allclose(vectors(answer), embedder.encode(texts), atol=1e-5)


def test_what_waits_while_the_devices_work_is_one_batch():
    started, go, calls = threading.Event(), threading.Event(), []

    class Slow:
        dim = 2

        def encode(self, texts, **options):
            calls.append(sorted(texts))
            started.set()
            assert go.wait(60)
            return np.array([[ord(text), 1] for text in texts], np.float32)

    batcher = Batcher(Slow(), 100)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.encode, ["a"])
        assert started.wait(60)
        others = [pool.submit(batcher.encode, list(texts)) for texts in ("b", "cd", "e")]
        while batcher._waiting.qsize() < 3:
            time.sleep(0.01)
        go.set()
        assert [len(job.result()) for job in [first, *others]] == [1, 1, 2, 1]
        assert others[1].result().tolist() == [[ord("c"), 1], [ord("d"), 1]]
    assert calls == [["a"], ["b", "c", "d", "e"]]


def test_the_model_is_listed(address):
    assert ask(f"{address}/models")[1]["data"] == [{"id": "tiny", "object": "model", "owned_by": "f2jax"}]


@pytest.mark.parametrize("content,message", [
    ({"input": []}, "'input' should be a text, or a list of texts that is not empty."),
    ({"model": "tiny"}, "'input' should be a text, or a list of texts that is not empty."),
    ({"input": [[1, 2]]}, "'input' contains token ids, which belong to another tokenizer"),
    ({"input": "a", "dimensions": 65}, "dimensions=65 should be a whole number from 1 to 64."),
    ({"input": "a", "dimensions": True}, "dimensions=True should be a whole number from 1 to 64."),
    ({"input": "a", "encoding_format": "int8"}, "There is no encoding_format 'int8'; choose from base64, float"),
    ({"input": "a", "dimension": 8}, "There is no field 'dimension'; did you mean 'dimensions'?"),
    ({"input": "a", "prompt_name": "qurey"}, "The model has no prompt named 'qurey'; did you mean 'query'?"),
    ({"input": "a", "prompt_name": ["query"]}, "The model has no prompt named '['query']'"),
    ({"input": ["a", LONG]}, "Text number 1 has "),
    ({"input": ["a"] * 2049}, "A request may have 2,048 texts, not 2,049; send several."),
    (b"{", "The request is not JSON."),
    (b"[]", "The request should be a JSON object with the field 'input'."),
])  # fmt: skip
def test_a_mistake_is_one_sentence_in_the_shape_of_openai(address, content, message):
    status, answer = ask(f"{address}/embeddings", content)
    assert status == 400 and answer["error"]["message"].startswith(message)
    assert answer["error"]["type"] == "invalid_request_error"


def test_other_addresses_and_too_large_requests_are_refused(address):
    assert ask(f"{address}/chat", {"input": "a"})[0] == 404
    request = urllib.request.Request(f"{address}/embeddings", b"", {"Content-Length": str(MOST_BYTES + 1)})
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)


def test_a_client_that_sends_a_large_request_to_its_end_reads_why_it_is_refused(address):
    """http.client reads the answer only once it has sent all."""
    status, answer = ask(f"{address}/embeddings", {"input": "a" * (4 * MOST_BYTES)})
    assert status == 413 and "8,388,608 bytes" in answer["error"]["message"]


def test_the_body_of_a_get_does_not_pass_for_the_next_request(address):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=20)
    for _ in range(2):
        connection.request("GET", "/v1/models", body=b"{}")
        with connection.getresponse() as answer:
            assert answer.status == 200 and json.load(answer)["object"] == "list"
    connection.close()


def test_longer_texts_are_cut_where_the_server_is_told_to(embedder):
    answer = Service(embedder, "tiny", ServeOptions(cut=True)).embeddings({"input": LONG})
    np.testing.assert_allclose(vectors(answer)[0], embedder.encode(LONG), atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 96


def test_one_bad_request_spoils_no_other(embedder):
    """A vector that is not finite is an error of the request with its text alone."""
    import jax.numpy as jnp

    from f2jax import Embedder

    token = embedder.tokenizer.encode(["zebra"], 96)[0][0]
    damaged = embedder.params | {"token_table": embedder.params["token_table"].at[token].set(jnp.nan)}
    service = Service(
        Embedder(embedder.architecture, damaged, embedder.tokenizer, embedder.settings), "tiny", ServeOptions()
    )
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(service.embeddings, {"input": text}) for text in ["red", "zebra"] * 8]
    for number, job in enumerate(jobs):
        if number % 2:
            with pytest.raises(UserError, match="no finite vector for the text 'zebra'"):
                job.result()
        else:
            np.testing.assert_allclose(vectors(job.result())[0], embedder.encode("red"), atol=1e-5)


def test_a_model_without_a_prompt_for_queries_is_asked_as_any_other(embedder):
    plain = embedder.with_weights(embedder.params)
    plain.settings = replace(embedder.settings, prompts={})
    answer = Service(plain, "tiny", ServeOptions()).embeddings({"input": "a", "prompt_name": "query"})
    np.testing.assert_allclose(vectors(answer)[0], plain.encode("a"), atol=1e-6)


def test_an_unknown_prompt_a_batch_of_nothing_and_a_port_in_use_are_refused(embedder, address):
    with pytest.raises(UserError, match="batch_size=0 should be at least 1"):
        Service(embedder, "tiny", ServeOptions(batch_size=0))
    with pytest.raises(UserError, match="no prompt named 'x'"):
        Service(embedder, "tiny", ServeOptions(prompt_name="x"))
    with pytest.raises(UserError, match="choose another --port, or 0 for any"):
        make_api_server(
            Service(embedder, "tiny", ServeOptions()), "127.0.0.1", int(address.split(":")[2].split("/")[0])
        )


def test_a_burst_of_connections_waits_and_is_not_refused(embedder):
    with make_api_server(Service(embedder, "tiny", ServeOptions()), "127.0.0.1", 0) as server, ExitStack() as stack:
        for _ in range(64):  # none is accepted yet
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=2))


def test_a_model_that_fails_is_said_to_have_failed(embedder, monkeypatch, capsys):
    service = Service(embedder, "tiny", ServeOptions())
    monkeypatch.setattr(service, "embeddings", lambda request: 1 / 0)
    with make_api_server(service, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, answer = ask(f"http://127.0.0.1:{server.server_port}/v1/embeddings", {"input": "a"})
        server.shutdown()
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "ZeroDivisionError" in answer["error"]["message"] and "Traceback" in capsys.readouterr().err
