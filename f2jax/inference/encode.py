"""Token sequences → embeddings: length-sorted, packed into few static shapes, returned in the order given."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from f2jax.data.packing import pack
from f2jax.model.qwen3 import Qwen3, pool

SHORTEST_ROW = 64  # rows are this long or a larger power of two
TOKENS = 8_192  # of one device batch


def make_embed(model: Qwen3) -> Callable:
    """A jitted function (params, tokens, segments, positions, row_s, col_s) → float32 [S, D], not normalized."""

    @jax.jit
    def embed(params, tokens_bt, segments_bt, positions_bt, row_s, col_s):
        hidden_btd = model.apply({"params": params}, tokens_bt, segments_bt, positions_bt)
        return pool(hidden_btd, row_s, col_s).astype("float32")

    return embed


def encode(
    embed: Callable,
    params,
    sequences: Sequence[np.ndarray],
    width: int,
    pad_id: int,
    max_sequences: int = 1_024,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Raw embeddings, float32 [S, D], of token sequences (each ends with the end token).

    Args:
        embed: from `make_embed`.
        max_sequences: texts of one device batch at most.
        progress: is told after each batch how many more texts are done.
    """
    out_sd = np.empty((len(sequences), width), np.float32)
    waiting: list[tuple[np.ndarray, jax.Array]] = []

    def collect():
        chunk, result = waiting.pop(0)
        out_sd[chunk] = np.asarray(result)[: len(chunk)]
        progress(len(chunk))

    for chunk, row_length in _chunks([len(s) for s in sequences], max_sequences):
        packed = pack([sequences[i] for i in chunk], row_length, pad_id, row_count=_power_of_two)
        slots = _power_of_two(len(chunk))
        row_s = np.pad(packed.row_s, (0, slots - len(chunk)))
        col_s = np.pad(packed.col_s, (0, slots - len(chunk)))
        result = embed(params, packed.tokens_bt, packed.segments_bt, packed.positions_bt, row_s, col_s)
        waiting.append((chunk, result))
        if len(waiting) > 1:  # one batch is packed while the one before it runs
            collect()
    while waiting:
        collect()
    return out_sd


def _chunks(lengths: list[int], max_sequences: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices, row length) of the device batches, longest texts first; rows as long as their longest text needs."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        row_length = max(SHORTEST_ROW, _power_of_two(lengths[order[start]]))
        budget = max(TOKENS, row_length) * 15 // 16  # the rest is what packing cannot fill
        stop, used = start, 0
        while stop < len(order) and stop - start < max_sequences:
            used += lengths[order[stop]]
            if used > budget and stop > start:
                break
            stop += 1
        yield order[start:stop], row_length
        start = stop


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
