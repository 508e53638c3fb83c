"""Sequences of a batch → rows of fixed length with segment ids, so that no token is spent on padding to the longest.

`shapes.RowRules` chooses the rows. The place of a sequence depends on the number of parts, one for each device that has
rows of its own, and not on the hosts; each host fills only the rows of its own devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from f2jax.data.shapes import RowRules, best_fit
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
    """A packed training batch of one data set. Its sequences are [queries][positives][negatives, row by row], or of
    the kind `texts` the queries alone.

    A process holds its share of the packed rows, and all of the other arrays.
    """

    kind: str  # routes the loss
    rows: int  # packed rows of all processes
    tokens: int  # that are encoded, of all processes, padding included
    useful_tokens: int  # of all processes
    tokens_bt: np.ndarray
    segments_bt: np.ndarray
    positions_bt: np.ndarray
    row_s: np.ndarray  # S = batch_size * texts_of_row(kind, negatives)
    col_s: np.ndarray
    row_mask_b: np.ndarray  # bool; False: no row, in the last batch of an epoch
    negative_mask_bj: np.ndarray  # bool; False: no negative, in a row that has fewer
    label_b: np.ndarray  # int32 number of the label inside this batch, -1: none
    positive_b: np.ndarray  # int32 number of the positive document, or else of the query, inside this batch
    negative_bj: np.ndarray  # int32 numbers of the negative documents, in the same numbering
    teacher_se: np.ndarray | None = None  # a cached teacher's vectors, float32 or bfloat16; 0 for an absent sequence
    chunk_mask_c: np.ndarray | None = None  # bool; which chunks have rows; row r stands in chunk r % C; None: no chunks

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, which go to the devices."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def program(self) -> tuple:
        """A key: batches with equal ones run the same compiled step."""
        return (self.kind, self.rows, *(value.shape for value in self.arrays().values()))


def pack(
    sequences: Sequence[np.ndarray | None],
    row_length: int,
    pad_id: int,
    row_count: Callable[[int], int] = lambda rows: rows,
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
    _check_lengths(sequences, row_length)
    u_s, unique, lengths_u = distinct(sequences)
    row_u, start_u, segment_u, rows = best_fit(lengths_u, row_length)
    places = row_u, start_u, segment_u
    return _fill(u_s, unique, places, (row_count(max(rows, 1)), row_length), pad_id, share)


def _fill(
    u_s: np.ndarray,
    unique: list[np.ndarray],
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    pad_id: int,
    share: RowShare,
) -> Packed:
    """Writes the distinct sequences to their `places`: row, first column and segment number of each."""
    row_u, start_u, segment_u = places
    count, row_length = shape
    own_rows = share.rows(count)
    filled = np.full(count, -1)  # the number of each row among this process's
    filled[own_rows] = np.arange(len(own_rows))
    tokens_bt = np.full((len(own_rows), row_length), pad_id, np.int32)
    segments_bt, positions_bt = np.zeros_like(tokens_bt), np.zeros_like(tokens_bt)
    counting = np.arange(row_length, dtype=np.int32)
    lengths_u = np.array([len(ids) for ids in unique], np.int64)
    for ids, row, start, segment in zip(
        unique, filled[row_u].tolist(), start_u.tolist(), segment_u.tolist(), strict=True
    ):
        if row >= 0:
            stop = start + len(ids)
            tokens_bt[row, start:stop] = ids
            segments_bt[row, start:stop] = segment
            positions_bt[row, start:stop] = counting[: len(ids)]
    end_u = (start_u + lengths_u - 1).astype(np.int32)
    row_s, col_s = (np.append(x, np.int32(0)).astype(np.int32)[u_s] for x in (row_u, end_u))  # -1, absent, finds the 0
    return Packed(count, tokens_bt, segments_bt, positions_bt, row_s, col_s, int(lengths_u.sum()))


def _check_lengths(sequences: Sequence[np.ndarray | None], row_length: int) -> None:
    for s, ids in enumerate(sequences):
        if ids is not None and not 1 <= len(ids) <= row_length:
            raise UserError(
                f"Sequence {s} has {len(ids)} tokens; a row takes 1 to {row_length}: "
                "raise row_length or lower max_length."
            )


def distinct(sequences: Sequence[np.ndarray | None]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """(number u of each sequence, -1 for an absent one; distinct sequences; their lengths)."""
    numbers: dict[bytes, int] = {}
    u_s = np.array([-1 if x is None else numbers.setdefault(x.tobytes(), len(numbers)) for x in sequences], np.int32)
    unique = [np.frombuffer(ids, np.int32) for ids in numbers]
    return u_s, unique, np.array([len(ids) for ids in unique], np.int64)


def texts_of_row(kind: str, negatives: int) -> int:
    """The sequences of a row: its query, and its documents if it has any.

    >>> texts_of_row("retrieval", 7)
    9
    """
    return 1 if kind == "texts" else 2 + negatives


def assemble(
    rows: Sequence,
    negatives: int,
    *,
    kind: str,
    batch_size: int,
    rules: RowRules,
    pad_id: int,
    share: RowShare = WHOLE,
) -> Batch:
    """Packs rows of one data set into a batch.

    Args:
        rows: 1 to `batch_size` of them.
        negatives: negative slots of a row, at least the most negatives that a row has.
        rules: choose the packed rows.
        share: the packed rows to fill.

    Raises:
        UserError: a sequence is empty or longer than a row.
    """
    missing = [None] * (batch_size - len(rows))
    paired = kind != "texts"
    sequences = [row.query for row in rows] + missing
    if paired:
        sequences += [row.positive for row in rows] + missing
    negative_mask_bj = np.zeros((batch_size, negatives), bool)
    negative_ids_bj = np.zeros((batch_size, negatives), np.int64)
    for b, row in enumerate(rows):
        count = len(row.negatives)
        sequences += row.negatives + [None] * (negatives - count)
        negative_mask_bj[b, :count] = True
        negative_ids_bj[b, :count] = row.negative_ids
    sequences += [None] * (len(missing) * negatives)

    _check_lengths(sequences, rules.row_length)
    u_s, unique, lengths_u = distinct(sequences)
    placement = rules.place(lengths_u, share.parts, kind)
    places = placement.row_u, placement.start_u, placement.segment_u
    packed = _fill(u_s, unique, places, (placement.rows, placement.shape.length), pad_id, share)
    slots = placement.shape.slots
    present_s = u_s >= 0
    teacher_se = None
    if rows[0].vectors is not None:
        teacher_se = np.zeros((len(sequences), rows[0].vectors.shape[1]), rows[0].vectors.dtype)
        roles = (slice(0, 1), slice(1, 2), slice(2, None))
        teacher_se[present_s] = np.concatenate([row.vectors[role] for role in roles for row in rows])
    positive_ids_b = np.zeros(batch_size, np.int64)
    if paired:
        positive_ids_b[: len(rows)] = [row.positive_id for row in rows]
    else:
        positive_ids_b[:] = u_s
    documents = np.concatenate([positive_ids_b, negative_ids_bj.ravel()])
    numbers = np.unique(documents, return_inverse=True)[1].astype(np.int32)  # devices have no 63-bit integers
    labels = np.array([-1] + [row.label_id for row in rows] + [-1] * len(missing), np.int64)
    return Batch(
        kind=kind,
        rows=packed.rows,
        tokens=placement.tokens,
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
        chunk_mask_c=np.arange(slots) < placement.chunks if slots > 1 else None,
    )
