"""Several processes that encode as one: the first runs the program, and the others encode what it encodes.

Code that uses an `Embedder` thus runs on all hosts of a pod without knowing about them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from f2jax.parallel import hosts

END = -1  # sent in place of a number of texts


def follow_first(embedder, job: Callable[[], Any]) -> Any:
    """Returns the result of `job` in the first process; the others help it encode until it is done, and get None.

    All processes call this with the same model, which is on the devices of all of them.

    Raises:
        Restart: another process has ended.
    """
    if jax.process_count() == 1:
        return job()
    with hosts.leave_on_error(all_stop=False):
        embedder.fingerprint  # noqa: B018 (all compute it together, once)
        if hosts.is_first():
            result = job()
            _broadcast(END, 0, 0)
            return result
        while (call := _receive()) is not None:
            embedder.encode_tokens(*call)
    return None


def share_text(text: str) -> str:
    """Returns the text of the first process, on all of them."""
    content = np.frombuffer(text.encode(), np.uint8)
    length = hosts.broadcast(len(content))
    sent = content if hosts.is_first() else np.zeros(length, np.uint8)
    return np.asarray(broadcast_one_to_all(sent)).astype(np.uint8).tobytes().decode()


def call_on_all(sequences: Sequence[np.ndarray], batch_size: int) -> None:
    """Sends what the first process is about to encode to the others; does nothing in those."""
    if jax.process_count() == 1 or not hosts.is_first():
        return
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    _broadcast(len(sequences), int(lengths.sum()), batch_size)
    if len(sequences):
        broadcast_one_to_all(lengths)
        broadcast_one_to_all(np.concatenate(sequences).astype(np.int32))


def _broadcast(*numbers: int) -> None:
    broadcast_one_to_all(np.array(numbers, np.int32))


def _receive() -> tuple[list[np.ndarray], int] | None:
    """Returns the token sequences and batch size that `call_on_all` sends; None at the end."""
    count, tokens, batch_size = (int(n) for n in broadcast_one_to_all(np.zeros(3, np.int32)))
    if count == END:
        return None
    if not count:
        return [], batch_size
    lengths = np.asarray(broadcast_one_to_all(np.zeros(count, np.int32)))
    ids = np.asarray(broadcast_one_to_all(np.zeros(tokens, np.int32)))
    return np.split(ids, np.cumsum(lengths)[:-1]), batch_size
