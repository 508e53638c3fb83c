"""Sequences of a batch → rows of fixed length with segment ids, so that no token is spent on padding to the longest.

The number of rows is rounded up to one of a few sizes: XLA compiles few programs, and little is wasted. The place of a
sequence is the same on any number of devices and hosts; each host fills only the rows of its own devices.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from f2jax.errors import UserError

PACKED = ("tokens_bt", "segments_bt", "positions_bt")  # the arrays of packed rows


@dataclass(frozen=True)
class RowShare:
    """The rows of a batch that this process holds: the parts numbered `own` of `parts` equal ones, one per device."""

    parts: int = 1
    own: tuple[int, ...] = (0,)

    def rows(self, count: int) -> np.ndarray:
        """The numbers of this process's rows among `count`, a multiple of `parts`."""
        return np.arange(count).reshape(self.parts, -1)[list(self.own)].ravel()


WHOLE = RowShare()


@dataclass(frozen=True)
class Packed:
    """Rows of T tokens, those of a `RowShare`, and the place of each sequence's end token."""

    rows: int  # of all processes
    tokens_bt: np.ndarray  # int32; the pad id where the segment is 0
    segments_bt: np.ndarray  # int32; 1 … in the order of the row, 0 is padding
    positions_bt: np.ndarray  # int32; from 0 in each segment
    row_s: np.ndarray  # int32; row of each sequence's end token among all rows, 0 for an absent sequence
    col_s: np.ndarray  # int32; its column
    useful_tokens: int  # tokens of all processes without padding


@dataclass(frozen=True)
class Batch:
    """A packed training batch of one data set. Its sequences are [queries][positives][negatives, row by row].

    A process holds its share of the packed rows, and all of the other arrays.
    """

    kind: str  # routes the loss
    rows: int  # packed rows of all processes
    useful_tokens: int  # of all processes
    tokens_bt: np.ndarray
    segments_bt: np.ndarray
    positions_bt: np.ndarray
    row_s: np.ndarray  # S = batch_size * (2 + negatives)
    col_s: np.ndarray
    row_mask_b: np.ndarray  # bool; False: no row, in the last batch of an epoch
    negative_mask_bj: np.ndarray  # bool; False: no negative, in a row that has fewer
    label_b: np.ndarray  # int32 number of the label inside this batch, -1: none
    positive_b: np.ndarray  # int32 number of the positive document inside this batch
    negative_bj: np.ndarray  # int32 numbers of the negative documents, in the same numbering
    teacher_se: np.ndarray | None = None  # a cached teacher's vectors, float32 or bfloat16; 0 for an absent sequence
    chunk_row_cm: np.ndarray | None = None  # see `Chunks`; None: all rows are encoded at once
    chunk_col_cm: np.ndarray | None = None
    place_s: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, which go to the devices."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def program(self) -> tuple:
        """A key: batches with equal ones run the same compiled step."""
        return (self.kind, self.rows, *(value.shape for value in self.arrays().values()))


def round_up_rows(rows: int, steps_per_octave: int = 16, multiple: int = 1) -> int:
    """The smallest allowed number of rows ≥ `rows`.

    Allowed are multiples of `multiple`, at most `steps_per_octave` sizes in each doubling, so that less than
    1/steps_per_octave is wasted.

    >>> round_up_rows(1000, steps_per_octave=16)
    1024
    """
    units = -(-max(rows, 1) // multiple)
    octave = 1 << (units - 1).bit_length()  # the next power of two is always a size
    step = max(1, octave // 2 // steps_per_octave)
    return min(-(-units // step) * step, octave) * multiple


def pack(
    sequences: Sequence[np.ndarray | None],
    row_length: int,
    pad_id: int,
    row_count=round_up_rows,
    share: RowShare = WHOLE,
) -> Packed:
    """Packs sequences by best fit, longest first; the same input gives the same rows.

    Equal sequences share one segment: an embedding depends on its tokens alone, and data sets repeat their documents.

    Args:
        sequences: int32 token ids; None is an absent sequence, which takes no tokens.
        row_length: T.
        row_count: rounds the number of rows up.
        share: the rows to fill.

    Raises:
        UserError: a sequence is empty or longer than a row.
    """
    for s, ids in enumerate(sequences):
        if ids is not None and not 1 <= len(ids) <= row_length:
            raise UserError(
                f"Sequence {s} has {len(ids)} tokens; a row takes 1 to {row_length}: "
                "raise row_length or lower max_length."
            )
    u_s, unique, lengths = _distinct(sequences)
    order = np.argsort(-lengths, kind="stable")
    row_u, start_u, segment_u, rows = _best_fit(lengths, order, row_length)

    count = row_count(max(rows, 1))
    own_rows = share.rows(count)
    filled = np.full(count, -1)  # the number of each row among this process's
    filled[own_rows] = np.arange(len(own_rows))
    shape = (len(own_rows), row_length)
    tokens_bt = np.full(shape, pad_id, np.int32)
    segments_bt, positions_bt = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    counting = np.arange(row_length, dtype=np.int32)
    for u in order:
        row, start, stop = filled[row_u[u]], start_u[u], start_u[u] + lengths[u]
        if row < 0:
            continue
        tokens_bt[row, start:stop] = unique[u]
        segments_bt[row, start:stop] = segment_u[u]
        positions_bt[row, start:stop] = counting[: stop - start]
    end_u = (start_u + lengths - 1).astype(np.int32)
    row_s, col_s = (np.append(x, np.int32(0))[u_s] for x in (row_u, end_u))  # -1, absent, finds the 0
    return Packed(count, tokens_bt, segments_bt, positions_bt, row_s, col_s, int(lengths.sum()))


def _distinct(sequences: Sequence[np.ndarray | None]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """(number u of each sequence, -1 for an absent one; distinct sequences; their lengths)."""
    distinct: dict[bytes, int] = {}
    u_s = np.array([-1 if x is None else distinct.setdefault(x.tobytes(), len(distinct)) for x in sequences], np.int32)
    unique = [np.frombuffer(ids, np.int32) for ids in distinct]
    return u_s, unique, np.array([len(ids) for ids in unique], np.int64)


def _rows_of(sequences: Sequence[np.ndarray | None], row_length: int) -> int:
    """The number of rows that sequences fill."""
    lengths = _distinct(sequences)[-1]
    return _best_fit(lengths, np.argsort(-lengths, kind="stable"), row_length)[-1]


def _best_fit(lengths: np.ndarray, order: np.ndarray, row_length: int):
    """(row, first column, segment number) of each sequence in the fullest row that has room, and the number of rows."""
    row_s, start_s, segment_s = (np.zeros(len(lengths), np.int32) for _ in range(3))
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    segments: list[int] = []
    for s in order.tolist():
        length = int(lengths[s])
        place = bisect_left(room, (length, -1))
        if place == len(room):
            free, row = row_length, len(segments)
            segments.append(0)
        else:
            free, row = room.pop(place)
        segments[row] += 1
        row_s[s], start_s[s], segment_s[s] = row, row_length - free, segments[row]
        if free > length:
            insort(room, (free - length, row))
    return row_s, start_s, segment_s, len(segments)


@dataclass(frozen=True)
class Chunks:
    """The places of end tokens when the rows of a batch are encoded in C chunks, one after the other.

    Row r of a batch is row r // C of chunk r % C, so that each chunk has equally many rows of every device. M is the
    number of places for end tokens in a chunk.
    """

    chunk_row_cm: np.ndarray  # int32 [C, M]: row, inside its chunk, of each end token; 0 where a chunk has fewer than M
    chunk_col_cm: np.ndarray  # int32 [C, M]: its column
    place_s: np.ndarray  # int32 [S]: place of each sequence in the flattened [C, M]; any place for an absent one


def chunk(row_s: np.ndarray, col_s: np.ndarray, present_s: np.ndarray, chunks: int) -> Chunks:
    """Distributes the end tokens to `chunks`.

    M is a quarter above an even share, doubled until it holds the fullest chunk, so that nearly all batches run one
    program. Sequences that share a segment share a place.
    """
    ends = np.where(present_s[:, None], np.stack([row_s, col_s], 1), -1)
    ends_u, number_s = np.unique(np.concatenate([[[-1, -1]], ends]), axis=0, return_inverse=True)
    ends_u, number_s = ends_u[1:], number_s.ravel()[1:] - 1  # the first, of absent sequences, gets number -1
    chunk_u = ends_u[:, 0] % chunks
    order = np.argsort(chunk_u, kind="stable")
    counts = np.bincount(chunk_u, minlength=chunks)
    slot_u = np.zeros(len(ends_u), np.int64)
    slot_u[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = -(-5 * len(row_s) // (4 * chunks))
    while width < counts.max():
        width *= 2
    chunk_row_cm, chunk_col_cm = (np.zeros((chunks, width), np.int32) for _ in range(2))
    chunk_row_cm[chunk_u, slot_u] = ends_u[:, 0] // chunks
    chunk_col_cm[chunk_u, slot_u] = ends_u[:, 1]
    place_u = np.append(chunk_u * width + slot_u, 0).astype(np.int32)  # -1, absent, finds the 0
    return Chunks(chunk_row_cm, chunk_col_cm, place_u[number_s])


def assemble(
    rows: Sequence,
    negatives: int,
    *,
    kind: str,
    batch_size: int,
    row_length: int,
    pad_id: int,
    steps_per_octave: int = 16,
    share: RowShare = WHOLE,
    chunk_rows: int = 0,
    filler: Sequence = (),
) -> Batch:
    """Packs rows of one data set into a batch.

    Args:
        rows: 1 to `batch_size` of them.
        negatives: negative slots of a row, the most negatives that a row has.
        share: the packed rows to fill; their number is a multiple of its parts.
        chunk_rows: packed rows that a part encodes at once; 0: all.
        filler: rows that would make the last batch of a data set a full one. They are left out, but the batch gets as
            many packed rows as with them, and so runs the program of a full batch.
    """
    missing = [None] * (batch_size - len(rows))
    sequences = [row.query for row in rows] + missing + [row.positive for row in rows] + missing
    negative_mask_bj = np.zeros((batch_size, negatives), bool)
    negative_ids_bj = np.zeros((batch_size, negatives), np.int64)
    for b, row in enumerate(rows):
        count = len(row.negatives)
        sequences += row.negatives + [None] * (negatives - count)
        negative_mask_bj[b, :count] = True
        negative_ids_bj[b, :count] = row.negative_ids
    sequences += [None] * (len(missing) * negatives)

    def row_count(n: int) -> int:
        if filler:
            others = [ids for row in filler for ids in (row.query, row.positive, *row.negatives)]
            n = max(n, _rows_of([*sequences, *others], row_length))
        return round_up_rows(n, steps_per_octave, share.parts * max(chunk_rows, 1))

    packed = pack(sequences, row_length, pad_id, row_count, share)
    present_s = np.array([ids is not None for ids in sequences])
    chunks = {}
    if chunk_rows:
        chunks = vars(chunk(packed.row_s, packed.col_s, present_s, packed.rows // (share.parts * chunk_rows)))
    teacher_se = None
    if rows[0].vectors is not None:
        teacher_se = np.zeros((len(sequences), rows[0].vectors.shape[1]), rows[0].vectors.dtype)
        parts = [[row.vectors[0] for row in rows], [row.vectors[1] for row in rows], *(row.vectors[2:] for row in rows)]
        teacher_se[present_s] = np.concatenate([part for part in parts if len(part)])
    positive_ids_b = np.zeros(batch_size, np.int64)
    positive_ids_b[: len(rows)] = [row.positive_id for row in rows]
    documents = np.concatenate([positive_ids_b, negative_ids_bj.ravel()])
    numbers = np.unique(documents, return_inverse=True)[1].astype(np.int32)  # devices have no 63-bit integers
    labels = np.array([-1] + [row.label_id for row in rows] + [-1] * len(missing), np.int64)
    return Batch(
        kind=kind,
        rows=packed.rows,
        useful_tokens=packed.useful_tokens,
        tokens_bt=packed.tokens_bt,
        segments_bt=packed.segments_bt,
        positions_bt=packed.positions_bt,
        row_s=packed.row_s,
        col_s=packed.col_s,
        row_mask_b=np.arange(batch_size) < len(rows),
        negative_mask_bj=negative_mask_bj,
        label_b=np.unique(labels, return_inverse=True)[1][1:].astype(np.int32) - 1,
        positive_b=numbers[:batch_size],
        negative_bj=numbers[batch_size:].reshape(batch_size, negatives),
        teacher_se=teacher_se,
        **chunks,
    )
