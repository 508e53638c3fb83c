"""Packs the sequences of a batch into rows of fixed length with segment ids, which avoids padding to the longest one.

`shapes.RowRules` chooses the rows. The position of a sequence depends on the number of parts (devices with rows of
their own), but not on the number of hosts. Each host fills only the rows of its own devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from f2jax.data.dataset import RowTexts
from f2jax.data.shapes import RowRules, best_fit
from f2jax.errors import UserError

PACKED = ("tokens_bt", "segments_bt", "positions_bt")  # the arrays of packed rows
SHARED = (*PACKED, "teacher_se")  # the arrays of which each process holds a share


@dataclass(frozen=True)
class RowShare:
    """The rows of a batch that this process holds: the parts `own` of `parts` equal parts, one per device."""

    parts: int = 1
    own: tuple[int, ...] = (0,)

    def rows(self, count: int) -> np.ndarray:
        """Returns the numbers of this process's rows among `count`, a multiple of `parts`."""
        return np.arange(count).reshape(self.parts, -1)[list(self.own)].ravel()


WHOLE = RowShare()


@dataclass(frozen=True)
class Packed:
    """The packed rows of a `RowShare`, and the position of each sequence's end token."""

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

    A process holds its share of the packed rows, and of a teacher's vectors, and all of the other arrays.
    """

    kind: str  # routes the loss
    rows: int  # packed rows of all processes
    tokens: int  # that are encoded, of all processes, padding included
    useful_tokens: int  # of all processes
    squared_tokens: int  # of all processes: the sum of the squares of the lengths of all distinct texts
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
    teacher_se: np.ndarray | None = None  # a cached teacher's vectors, float32 or bfloat16; 0 for an absent sequence,
    # and for some more at the end, so that each part has as many
    score_bk: np.ndarray | None = None  # float32 [B, 1 + J], a reranker's of the positive and the negatives; NaN: none
    chunk_mask_c: np.ndarray | None = None  # bool; which chunks have rows; row r stands in chunk r % C; None: no chunks

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays for the devices, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def program(self) -> tuple:
        """A key that is equal for batches that run the same compiled step."""
        return (self.kind, self.rows, *(value.shape for value in self.arrays().values()))


def pack(
    sequences: Sequence[np.ndarray | None],
    row_length: int,
    pad_id: int,
    row_count: Callable[[int], int] = lambda rows: rows,
    share: RowShare = WHOLE,
) -> Packed:
    """Packs sequences by best fit, longest first; the result is deterministic.

    Equal sequences share a segment, because an embedding depends only on its tokens, and data sets repeat documents.

    Args:
        sequences: int32 token ids; None stands for an absent sequence, which takes no tokens.
        row_length: T.
        row_count: rounds the number of rows up.
        share: the rows to fill.

    Raises:
        UserError: a sequence is empty or longer than a row.
    """
    u_s, unique, lengths_u = distinct(sequences)
    _check_lengths(lengths_u, row_length)
    row_u, start_u, segment_u, rows = best_fit(lengths_u, row_length)
    shape = row_count(max(rows, 1)), row_length
    return _fill(
        u_s, lengths_u, (row_u, start_u, segment_u), shape, pad_id, share, lambda own_u: [unique[u] for u in own_u]
    )


def _fill(
    u_s: np.ndarray,
    lengths_u: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    pad_id: int,
    share: RowShare,
    tokens: Callable[[np.ndarray], Sequence[np.ndarray]],
) -> Packed:
    """Writes the distinct sequences to their `places`: (row, first column, segment number)."""
    row_u, start_u, segment_u = places
    count, row_length = shape
    own_rows = share.rows(count)
    filled = np.full(count, -1)  # the number of each row among this process's
    filled[own_rows] = np.arange(len(own_rows))
    own_u = np.flatnonzero(filled[row_u] >= 0)
    lengths = lengths_u[own_u]
    positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.repeat(filled[row_u[own_u]], lengths), np.repeat(start_u[own_u], lengths) + positions
    tokens_bt = np.full((len(own_rows), row_length), pad_id, np.int32)
    segments_bt, positions_bt = np.zeros_like(tokens_bt), np.zeros_like(tokens_bt)
    tokens_bt[at] = np.concatenate([np.zeros(0, np.int32), *tokens(own_u)])
    segments_bt[at] = np.repeat(segment_u[own_u], lengths)
    positions_bt[at] = positions
    end_u = start_u + lengths_u - 1
    row_s, col_s = (np.append(x, 0).astype(np.int32)[u_s] for x in (row_u, end_u))  # -1, absent, finds the 0
    return Packed(count, tokens_bt, segments_bt, positions_bt, row_s, col_s, int(lengths_u.sum()))


def _check_lengths(lengths_u: np.ndarray, row_length: int) -> None:
    for length in lengths_u[(lengths_u < 1) | (lengths_u > row_length)].tolist():
        raise UserError(
            f"A sequence has {length} tokens; a row takes 1 to {row_length}: raise row_length or lower max_length."
        )


def distinct(sequences: Sequence[np.ndarray | None]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Returns the number u of each sequence (-1 for an absent one), the distinct sequences, and their lengths."""
    numbers: dict[bytes, int] = {}
    u_s = np.array([-1 if x is None else numbers.setdefault(x.tobytes(), len(numbers)) for x in sequences], np.int32)
    unique = [np.frombuffer(ids, np.int32) for ids in numbers]
    return u_s, unique, np.array([len(ids) for ids in unique], np.int64)


def texts_of_row(kind: str, negatives: int) -> int:
    """Returns the number of sequences in a row: its query and its documents.

    >>> texts_of_row("retrieval", 7)
    9
    """
    return 1 if kind == "texts" else 2 + negatives


def assemble(
    rows: RowTexts,
    negatives: int,
    *,
    kind: str,
    batch_size: int,
    rules: RowRules,
    pad_id: int,
    share: RowShare = WHOLE,
    scored: bool = False,
) -> Batch:
    """Packs rows of one data set into a batch; reads the tokens and vectors of this process's share alone.

    Args:
        rows: 1 to `batch_size` of them.
        negatives: negative slots of a row, at least the most negatives that a row has.
        rules: choose the packed rows.
        share: the packed rows to fill.
        scored: give a reranker's scores, NaN where there is none; rows of the kind `texts` have no documents to score.

    Raises:
        UserError: a sequence is longer than a row.
    """
    count = len(rows.label_b)

    def slots(x_bi: np.ndarray) -> np.ndarray:
        """Returns the values of all texts that a batch of this kind has room for, with 0 for absent ones."""
        all_bi = np.zeros((batch_size, texts_of_row(kind, negatives)), x_bi.dtype)
        width = min(x_bi.shape[1], all_bi.shape[1])
        all_bi[:count, :width] = x_bi[:, :width]
        return all_bi

    def by_role(x_bi: np.ndarray) -> np.ndarray:
        """[queries][positives][negatives, row by row]"""
        return np.concatenate([x_bi[:, 0], x_bi[:, 1:2].ravel(), x_bi[:, 2:].ravel()])

    length_bi = slots(rows.length_bi)
    id_bi = np.where(length_bi > 0, slots(rows.id_bi), 0)
    lengths_s, keys_s = by_role(length_bi), by_role(slots(rows.key_bi))
    places = np.indices(length_bi.shape)
    b_s, i_s = by_role(places[0]), by_role(places[1])
    present = np.flatnonzero(lengths_s)
    _, first, inverse = np.unique(keys_s[present], return_index=True, return_inverse=True)
    order = np.argsort(first)  # the distinct sequences are numbered as they come
    first_u = present[first[order]]
    u_s = np.full(len(lengths_s), -1)
    u_s[present] = np.argsort(order)[inverse]
    lengths_u = lengths_s[first_u]
    _check_lengths(lengths_u, rules.row_length)
    placement = rules.place(lengths_u, share.parts, kind)
    packed = _fill(
        u_s,
        lengths_u,
        (placement.row_u, placement.start_u, placement.segment_u),
        (placement.rows, placement.shape.length),
        pad_id,
        share,
        lambda own_u: rows.tokens(b_s[first_u[own_u]], i_s[first_u[own_u]]),
    )
    score_bk = None
    if scored and kind != "texts":
        score_bk = np.full((batch_size, 1 + negatives), np.nan, np.float32)
        if rows.score_bk is not None:
            width = min(rows.score_bk.shape[1], 1 + negatives)
            score_bk[:count, :width] = rows.score_bk[:, :width]
    documents = np.concatenate([u_s if kind == "texts" else id_bi[:, 1], id_bi[:, 2:].ravel()])
    numbers = np.unique(documents, return_inverse=True)[1].astype(np.int32)  # devices have no 63-bit integers
    labels = np.full(1 + batch_size, -1, np.int64)
    labels[1 : 1 + count] = rows.label_b
    return Batch(
        kind=kind,
        rows=packed.rows,
        tokens=placement.tokens,
        useful_tokens=packed.useful_tokens,
        squared_tokens=int(np.square(lengths_u).sum()),
        tokens_bt=packed.tokens_bt,
        segments_bt=packed.segments_bt,
        positions_bt=packed.positions_bt,
        row_s=packed.row_s,
        col_s=packed.col_s,
        row_mask_b=np.arange(batch_size) < count,
        negative_mask_bj=length_bi[:, 2:] > 0,
        label_b=np.unique(labels, return_inverse=True)[1][1:].astype(np.int32) - 1,
        positive_b=numbers[:batch_size],
        negative_bj=numbers[batch_size:].reshape(batch_size, negatives),
        teacher_se=_own_vectors(rows, lengths_s, b_s, i_s, share) if rows.vectors else None,
        score_bk=score_bk,
        chunk_mask_c=np.arange(placement.shape.slots) < placement.chunks if placement.shape.slots > 1 else None,
    )


def _own_vectors(
    rows: RowTexts, lengths_s: np.ndarray, b_s: np.ndarray, i_s: np.ndarray, share: RowShare
) -> np.ndarray:
    """Returns the vectors of this process's share of the sequences, equally many per part; 0 for absent ones."""
    assert rows.vectors is not None
    own = share.rows(-(-len(lengths_s) // share.parts) * share.parts)
    present = np.flatnonzero(np.append(lengths_s, np.zeros(share.parts, np.int64))[own])
    found_se = rows.vectors(b_s[own[present]], i_s[own[present]])
    vectors_se = np.zeros((len(own), found_se.shape[1]), found_se.dtype)
    vectors_se[present] = found_se
    return vectors_se
