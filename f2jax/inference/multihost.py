"""Lets all processes of a job encode for a program that runs only in the first one.

Code that uses an `Embedder` can thus use all hosts of a pod without knowing about them. If each host holds all weights,
it tokenizes and encodes its share of the texts by itself; if the weights are spread over hosts, all encode all texts.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from f2jax.inference.encode import NotFiniteError
from f2jax.inference.truncation import Truncation
from f2jax.parallel import hosts

ROUND = 4_096  # texts per host between two exchanges
DIGITS = 2**30  # base in which a message's length is sent, because it may exceed an int32


def follow_first(embedder, job: Callable[[], Any]) -> Any:
    """Runs `job` in the first process and returns its result; the others help it encode, and return None.

    All processes call this with the same model.

    Raises:
        Restart: another process has died.
    """
    if jax.process_count() == 1:
        return job()
    with hosts.leave_on_error(all_stop=False):
        hosts.check_same_on_all_hosts({"model": embedder.fingerprint})
        if hosts.is_first():
            embedder.leads = True
            try:
                result = job()
            finally:
                embedder.leads = False
            _send(None)
            return result
        while (call := _receive()) is not None:
            _encode_round(embedder, *call)
    return None


def share_text(text: str) -> str:
    """Returns the first process's text in all processes."""
    if hosts.is_first():
        _send(text)
        return text
    return _receive()


def encode_on_all(
    embedder, texts: list[str], max_length: int | None, batch_size: int, progress: Callable[[int], None]
) -> np.ndarray:
    """Does what `embedder.encode_whole` does, on all processes in `follow_first`; only the first one calls this.

    Raises:
        NotFiniteError: a vector is not finite in any process.
    """
    out_sd = np.empty((len(texts), embedder.dim), np.float32)
    for start in range(0, len(texts), ROUND * jax.process_count()):
        piece = texts[start : start + ROUND * jax.process_count()]
        _send([piece, max_length, batch_size])
        try:
            out_sd[start : start + len(piece)] = _encode_round(embedder, piece, max_length, batch_size)
        except NotFiniteError as error:
            raise NotFiniteError(start + error.number) from error
        progress(len(piece))
    return out_sd


def _encode_round(embedder, texts: list[str], max_length: int | None, batch_size: int) -> np.ndarray:
    """Encodes this process's share of the texts; returns all vectors, float32 [s, d], and counts all truncations."""
    if embedder.spans_hosts:
        return embedder.encode_whole(texts, max_length, batch_size)
    by_length = np.argsort([-len(text) for text in texts], kind="stable")
    parts = [by_length[process :: jax.process_count()] for process in range(jax.process_count())]
    own, cut, wrong = parts[jax.process_index()], Truncation(), -1
    vectors_sd = np.zeros((len(parts[0]), embedder.dim), np.float32)
    before, embedder.truncation = embedder.truncation, cut
    try:
        vectors_sd[: len(own)] = embedder.encode_whole([texts[i] for i in own], max_length, batch_size)
    except NotFiniteError as error:
        wrong = int(own[error.number])  # raised below, once the other processes know about it
    finally:
        embedder.truncation = before
    facts = process_allgather(np.array([wrong, cut.texts, cut.tokens, cut.cut_texts, cut.lost_tokens], np.int32))
    if (facts[:, 0] >= 0).any():
        raise NotFiniteError(int(facts[:, 0].max()))
    for _, *counts in facts.tolist():
        embedder.truncation.add(Truncation(*counts))
    out_sd = np.empty((len(texts), embedder.dim), np.float32)
    for part, found_sd in zip(parts, process_allgather(vectors_sd), strict=True):
        out_sd[part] = found_sd[: len(part)]
    return out_sd


def _send(call: list | str | None) -> None:
    """Sends a message that `_receive` returns in the other processes."""
    content = np.frombuffer(json.dumps(call).encode(), np.uint8)
    broadcast_one_to_all(np.array(divmod(len(content), DIGITS), np.int32))
    broadcast_one_to_all(content)


def _receive() -> Any:
    high, low = broadcast_one_to_all(np.zeros(2, np.int32)).tolist()
    return json.loads(np.asarray(broadcast_one_to_all(np.zeros(high * DIGITS + low, np.uint8))).tobytes())
