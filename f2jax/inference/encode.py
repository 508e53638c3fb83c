"""Token sequences → embeddings: length-sorted, packed into few static shapes, returned in the order given."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.data.packing import PACKED, WHOLE, RowShare, pack, round_up_rows
from f2jax.model.qwen3 import Qwen3, pool
from f2jax.parallel.mesh import process_share
from f2jax.parallel.sharding import shard_batch

SHORTEST_ROW = 64  # of many texts
LONGEST_ROW = 1_024  # of several texts; a longer text has a row of its own
FILL = 0.8  # of a row, at least, by texts as long as the longest


@dataclass(frozen=True)
class Shapes:
    """What suits a kind of device."""

    tokens: int  # of a batch, for each device
    steps: int  # row lengths in each doubling
    fewest: int = SHORTEST_ROW  # tokens of a row for a single text, such as a query


SHAPES = {
    "cpu": Shapes(tokens=2_048, steps=4, fewest=16),  # what the cache holds; attention sees whole rows
    "gpu": Shapes(tokens=32_768, steps=1),  # a small model is through with fewer before the next batch is there
    "tpu": Shapes(tokens=8_192, steps=1),  # kernels want powers of two, and each program takes long to compile
}


def make_embed(model: Qwen3, mesh: Mesh | None = None) -> Callable:
    """A jitted function (params, tokens, segments, positions, row_s, col_s) → float32 [S, D], not normalized.

    Args:
        mesh: the vectors are whole on each of its devices; None: one device.
    """

    @partial(jax.jit, out_shardings=mesh and NamedSharding(mesh, PartitionSpec()))
    def embed(params, tokens_bt, segments_bt, positions_bt, row_s, col_s):
        hidden_btd = model.apply({"params": params}, tokens_bt, segments_bt, positions_bt)
        return pool(hidden_btd, row_s, col_s).astype("float32")

    return embed


def encode_texts(
    embed: Callable,
    params,
    sequences: Sequence[np.ndarray],
    width: int,
    pad_id: int,
    max_sequences: int = 1_024,
    progress: Callable[[int], None] = lambda done: None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Raw embeddings, float32 [S, D], of token sequences (each ends with the end token).

    Args:
        embed: from `make_embed`, with the same mesh.
        max_sequences: texts of one device batch at most, for each device that shares the rows.
        progress: is told after each batch how many more texts are done.
        mesh: devices that share the rows; all its processes call this with the same sequences. None: one device.
    """
    out_sd = np.empty((len(sequences), width), np.float32)
    share = RowShare(*process_share(mesh)) if mesh else WHOLE
    waiting: list[tuple[np.ndarray, jax.Array]] = []

    def collect():
        chunk, result = waiting.pop(0)
        out_sd[chunk] = np.asarray(result)[: len(chunk)]
        progress(len(chunk))

    def row_count(rows: int) -> int:
        return share.parts * _power_of_two(-(-rows // share.parts))

    with jax.set_mesh(mesh) if mesh else nullcontext():
        for chunk, row_length in batches([len(s) for s in sequences], max_sequences, share.parts):
            packed = pack([sequences[i] for i in chunk], row_length, pad_id, row_count, share)
            arrays = {name: getattr(packed, name) for name in (*PACKED, "row_s", "col_s")}
            slots = _power_of_two(len(chunk)) - len(chunk)
            arrays |= {name: np.pad(arrays[name], (0, slots)) for name in ("row_s", "col_s")}
            if mesh:
                arrays = shard_batch(arrays, packed.rows, mesh)
            waiting.append((chunk, embed(params, *arrays.values())))
            if len(waiting) > 1:  # one batch is packed while the one before it runs
                collect()
        while waiting:
            collect()
    return out_sd


def batches(lengths: list[int], max_sequences: int, parts: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """(indices, row length) of the device batches, longest texts first, for so many devices that share their rows."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    shapes = SHAPES.get(jax.default_backend(), SHAPES["tpu"])
    start, left = 0, sum(lengths)
    while start < len(order):
        row_length = _row_length(lengths[order[start]], left // parts, shapes)
        fit = shapes.tokens // row_length
        if row_length > LONGEST_ROW:  # attention takes the square of it
            fit = fit * LONGEST_ROW // row_length
        rows = parts * (_power_of_two(fit + 1) // 2 or 1)  # the largest power of two that fits
        space, stop = 0, start
        while stop < len(order) and stop - start < parts * max_sequences:
            length = lengths[order[stop]]
            if length > space:  # packing, which looks back at other rows, needs no more of them
                rows, space = rows - 1, row_length
                if rows < 0:
                    break
            space, left, stop = space - length, left - length, stop + 1
        yield order[start:stop], row_length
        start = stop


def _row_length(longest: int, left: int, shapes: Shapes) -> int:
    """Tokens of a row for texts of at most `longest`, of which so many tokens are left for each device.

    The shortest row that such texts fill, since attention pays for a long row; a shorter one for the last few texts.
    """
    floor = min(SHORTEST_ROW, max(_power_of_two(left), shapes.fewest))
    shortest = round_up_rows(max(longest, floor), shapes.steps)
    found = shortest
    while longest * (found // longest) < FILL * found:
        found = round_up_rows(found + 1, shapes.steps)
        if found > min(LONGEST_ROW, _power_of_two(left)):
            return shortest
    return found


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
