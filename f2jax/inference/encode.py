"""Encodes token sequences: packs them, the longest first, into few static shapes, and restores their order."""

from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from f2jax.data.packing import PACKED, WHOLE, Packed, RowShare, pack
from f2jax.data.shapes import best_fit, round_up
from f2jax.errors import UserError
from f2jax.parallel.mesh import process_share
from f2jax.parallel.sharding import shard_batch

SHORTEST_ROW = 64  # tokens of a row with many texts
LONGEST_ROW = 1_024  # tokens of a row with several texts; a longer text has a row to itself
MIN_FILL = 0.8  # share of a row that texts of the greatest length have to fill


@dataclass(frozen=True)
class BatchShape:
    """The batch shapes that suit a platform."""

    tokens: int  # tokens of a batch on each device
    lengths: int  # number of row lengths between a power of two and the next
    long_lengths: int = 1  # the same above `LONGEST_ROW`, where less padding saves more than another compilation costs
    shortest: int = SHORTEST_ROW  # tokens of the shortest row, for a single short text such as a query


BATCH_SHAPES = {
    # 2,048 tokens fit the cache; attention sees complete rows
    "cpu": BatchShape(tokens=2_048, lengths=4, long_lengths=8, shortest=16),
    "gpu": BatchShape(tokens=32_768, lengths=1),  # smaller batches would leave the GPU idle between them
    "tpu": BatchShape(tokens=8_192, lengths=1),  # kernels prefer powers of two, and compiling is slow
}


class NotFiniteError(UserError):
    """The vector of text `number` has NaN or infinite values."""

    def __init__(self, number: int, name: str = ""):
        self.number = number
        super().__init__(
            f"The model gives no finite vector for {name or f'text number {number}'}; its weights may be damaged, or "
            "exceed the range of their dtype."
        )


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
    """Returns embeddings, float32 [s, d], that are not normalized, of token sequences that end with the end token.

    Args:
        embed: from `program.make_embed`, with the same mesh.
        max_sequences: maximum number of texts in a batch on each device.
        progress: called after each batch with the number of its texts.
        mesh: devices that share the rows; all of their processes call this with the same sequences. None: one device.

    Raises:
        NotFiniteError: a vector is not finite.
    """
    out_sd = np.empty((len(sequences), width), np.float32)

    def collect(chunk: np.ndarray, packed: Packed, vectors_sd: np.ndarray) -> None:
        out_sd[chunk] = vectors_sd[: len(chunk)]
        progress(len(chunk))

    _run_batches(embed, params, sequences, pad_id, max_sequences, mesh, collect)
    _encode_alone(
        np.flatnonzero(~np.isfinite(out_sd).all(axis=1)).tolist(),
        out_sd,
        lambda i: encode_texts(embed, params, [sequences[i]], width, pad_id, mesh=mesh)[0],
    )
    return out_sd


def encode_all_tokens(
    embed: Callable,
    params,
    sequences: Sequence[np.ndarray],
    pad_id: int,
    max_sequences: int = 1_024,
    progress: Callable[[int], None] = lambda done: None,
    mesh: Mesh | None = None,
) -> list[np.ndarray]:
    """Returns the final hidden states, float32 [t, d], of each sequence; arguments as for `encode_texts`.

    Args:
        embed: from `program.make_embed` with `all_tokens`.

    Raises:
        NotFiniteError: a state is not finite.
    """
    out: list[np.ndarray] = [np.empty(0)] * len(sequences)

    def collect(chunk: np.ndarray, packed: Packed, hidden_btd: np.ndarray) -> None:
        for i, row, end in zip(chunk, packed.row_s, packed.col_s, strict=True):
            out[i] = hidden_btd[row, end + 1 - len(sequences[i]) : end + 1].copy()
        progress(len(chunk))

    _run_batches(embed, params, sequences, pad_id, max_sequences, mesh, collect)
    _encode_alone(
        [i for i, states_td in enumerate(out) if not np.isfinite(states_td).all()],
        out,
        lambda i: encode_all_tokens(embed, params, [sequences[i]], pad_id, mesh=mesh)[0],
    )
    return out


def check_batch_size(batch_size: int) -> None:
    """Raises UserError if the maximum number of texts in a batch is below 1."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} should be at least 1.")


def _run_batches(
    embed: Callable,
    params,
    sequences: Sequence[np.ndarray],
    pad_id: int,
    max_sequences: int,
    mesh: Mesh | None,
    collect: Callable[[np.ndarray, Packed, np.ndarray], None],
) -> None:
    """Encodes all batches, and calls `collect` for each with the indices of its texts, the batch and the result."""
    check_batch_size(max_sequences)
    share = RowShare(*process_share(mesh)) if mesh else WHOLE
    waiting: list[tuple[np.ndarray, Packed, jax.Array]] = []

    def collect_first() -> None:
        chunk, packed, result = waiting.pop(0)
        collect(chunk, packed, np.asarray(result))

    def row_count(rows: int) -> int:
        return share.parts * _power_of_two(-(-rows // share.parts))

    with jax.set_mesh(mesh) if mesh else nullcontext():
        for chunk, row_length in plan_batches([len(s) for s in sequences], max_sequences, share.parts):
            packed = pack([sequences[i] for i in chunk], row_length, pad_id, row_count, share)
            arrays = {name: getattr(packed, name) for name in (*PACKED, "row_s", "col_s")}
            slots = _power_of_two(len(chunk)) - len(chunk)
            arrays |= {name: np.pad(arrays[name], (0, slots)) for name in ("row_s", "col_s")}
            if mesh:
                arrays = shard_batch(arrays, mesh)
            waiting.append((chunk, packed, embed(params, *arrays.values())))
            if len(waiting) > 1:  # a batch is packed while the previous one runs
                collect_first()
        while waiting:
            collect_first()


def _encode_alone(
    numbers: Iterable[int], out: MutableSequence | np.ndarray, encode: Callable[[int], np.ndarray]
) -> None:
    """Encodes these texts again, each by itself: a NaN in one text spreads to the others in its row.

    Raises:
        NotFiniteError: a result is still not finite.
    """
    for i in numbers:
        if len(out) == 1:
            raise NotFiniteError(0)
        try:
            out[i] = encode(i)
        except NotFiniteError as error:
            raise NotFiniteError(i) from error


def plan_batches(lengths: list[int], max_sequences: int, parts: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (text indices, row length) of each batch, for `parts` devices that share the rows.

    A batch starts with the longest text that is left. Among the next texts, up to the maximum of a batch, it takes
    those that best fit places on its rows, so that shorter texts fill the gaps that longer ones leave.
    """
    lengths_s = np.maximum(lengths, 1)  # `pack` refuses empty sequences
    order = np.argsort(-lengths_s, kind="stable")
    shape = BATCH_SHAPES.get(jax.default_backend(), BATCH_SHAPES["tpu"])
    waiting, seen, left = order[:0], 0, int(lengths_s.sum())  # candidates, the longest first; texts seen; tokens left
    while left:
        more = order[seen : seen + parts * max_sequences - len(waiting)]
        waiting, seen = np.append(waiting, more), seen + len(more)
        row_length = _row_length(int(lengths_s[waiting[0]]), left // parts, shape)
        fit = shape.tokens // row_length
        if row_length > LONGEST_ROW:  # the time of attention grows with the square of the length
            fit = fit * LONGEST_ROW // row_length
        rows = parts * (_power_of_two(fit + 1) // 2 or 1)  # the largest power of two that fits
        taken = best_fit(lengths_s[waiting], row_length)[0] < rows
        chunk, waiting = waiting[taken], waiting[~taken]
        left -= int(lengths_s[chunk].sum())
        if not left:
            row_length = _last_row_length(lengths_s[chunk], row_length, shape, parts)
        yield chunk, row_length


def _row_length(longest: int, left: int, shape: BatchShape) -> int:
    """Returns the row length for texts of at most `longest` tokens, if `left` tokens remain for each device.

    It is the shortest length that such texts fill well, because attention is slower in longer rows; the last texts get
    still shorter rows.
    """
    floor = min(SHORTEST_ROW, max(_power_of_two(left), shape.shortest))
    shortest = round_up(max(longest, floor), shape.long_lengths if longest > LONGEST_ROW else shape.lengths)
    length = shortest
    while longest * (length // longest) < MIN_FILL * length:
        length = round_up(length + 1, shape.lengths)
        if length > min(LONGEST_ROW, _power_of_two(left)):
            return shortest
    return length


def _last_row_length(lengths: np.ndarray, row_length: int, shape: BatchShape, parts: int) -> int:
    """Returns the row length that suits the texts of the last batch, at least `row_length`.

    The number of rows is a power of two, so a few texts may fill hardly more than half of them; longer rows may waste
    less. They are chosen where that saves a sixth, and from two lengths in each doubling, since each shape is compiled.
    A token in a row of `LONGEST_ROW` counts twice as much as one in a very short row, because of attention.
    """

    def cost(length: int) -> int:
        rows = -(-best_fit(lengths, length)[3] // parts)
        return _power_of_two(rows) * length * (LONGEST_ROW + length)

    costs: dict[int, int] = {}
    longer = row_length
    while longer < min(LONGEST_ROW, int(lengths.sum()) // parts):
        longer = round_up(longer + 1, min(shape.lengths, 2))
        costs[longer] = cost(longer)
    if not costs:
        return row_length
    best = min(costs, key=costs.__getitem__)
    return best if costs[best] * 6 < cost(row_length) * 5 else row_length


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
