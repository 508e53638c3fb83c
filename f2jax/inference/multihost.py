"""Several processes that encode as one: the first one works, and what it encodes, the others encode with it.

So whatever uses an `Embedder` runs on all hosts of a pod without knowing of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all

from f2jax.parallel import hosts

END = -1  # in the place of a number of texts


def follow_first(embedder, job: Callable[[], Any]) -> Any:
    """What `job` returns, in the first process; the others help it to encode until it is done, and get None.

    All processes call this with the same model, which lies on the devices of all of them.

    Raises:
        Restart: another process has ended.
    """
    if jax.process_count() == 1:
        return job()
    with hosts.leave_on_error(all_stop=False):
        embedder.fingerprint  # noqa: B018 (all compute it together)
        if hosts.is_first():
            found = job()
            _tell(END, 0, 0)
            return found
        while (call := _hear()) is not None:
            embedder.encode_tokens(*call)
    return None


def call_on_all(sequences: Sequence[np.ndarray], batch_size: int) -> None:
    """The first process tells the others what it is about to encode; nothing to do in the others."""
    if jax.process_count() == 1 or not hosts.is_first():
        return
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    _tell(len(sequences), int(lengths.sum()), batch_size)
    if len(sequences):
        broadcast_one_to_all(lengths)
        broadcast_one_to_all(np.concatenate(sequences).astype(np.int32))


def _tell(*numbers: int) -> None:
    broadcast_one_to_all(np.array(numbers, np.int32))


def _hear() -> tuple[list[np.ndarray], int] | None:
    """What `announce` tells: token sequences and the batch size; None at the end."""
    count, tokens, batch_size = (int(n) for n in broadcast_one_to_all(np.zeros(3, np.int32)))
    if count == END:
        return None
    if not count:
        return [], batch_size
    lengths = np.asarray(broadcast_one_to_all(np.zeros(count, np.int32)))
    ids = np.asarray(broadcast_one_to_all(np.zeros(tokens, np.int32)))
    return np.split(ids, np.cumsum(lengths)[:-1]), batch_size
