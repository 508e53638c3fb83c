"""Duplicates: keys that group rows, and the row of each group that stays, in whatever order rows come.

Exact duplicates have the same query, positive and kind. Near duplicates have queries and positives whose sets of
letter n-grams overlap (Jaccard). Both must: two questions about one passage are two rows. MinHash estimates the
overlap (Broder 1997), and only rows that agree in a whole band of values are compared (Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, 3.4). A band holds values of the query and of the positive, so that rows with one query and
many positives do not meet. No group is compared quadratically (`small_groups`).

All rows of a corpus take these steps (`f2jax/prepare/duplicates.py`): group by `exact_key`, of each group the smallest
`rank` stays; then group by `band_keys`, and drop `near_duplicates(group)`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from f2jax.data.record import Record, stable_id
from f2jax.prepare.curate.options import CurationOptions
from f2jax.prepare.curate.words import split_words

_SEED = 1  # of MinHash: sketches of one corpus must share it
MAX_NEGATIVES = (1 << 16) - 1  # that a rank tells apart
LARGEST_GROUP = 1024  # rows that are compared pair by pair
_BLOCK = 256  # rows of smaller rank that a row is compared with at once
_FIELDS = tuple(field.name for field in fields(Record) if field.name != "scores")


class Sketch(NamedTuple):
    """The values by which near duplicates are found: about 1 kB with 128 permutations."""

    rank: int  # of the record: the smallest stays
    id: int  # of the record, among those that are compared
    values: bytes  # uint32 MinHash values of the query, then of the positive


def record_id(record: Record) -> int:
    """A 63-bit hash of a complete row."""
    scores = [record.scores] if record.scores else []  # rows without have the hash that they had before there were any
    return stable_id(json.dumps([*(getattr(record, name) for name in _FIELDS), *scores]))


def rank(record: Record) -> int:
    """A number below 2^63, smallest for the duplicate that stays: most negatives, then smallest id."""
    return (MAX_NEGATIVES - min(len(record.negatives), MAX_NEGATIVES)) << 47 | record_id(record) >> 16


def exact_key(record: Record) -> int:
    """A key that exact duplicates share: the same query and positive, apart from white space, and the same kind."""
    squeezed = (" ".join(text.split()) for text in (record.query, record.positive))
    return stable_id(json.dumps([record.kind, *squeezed]))


def shingles(text: str, length: int) -> set[str]:
    """The n-grams of `length` letters of a text; a shorter text, or one without letters, is a single piece."""
    text = " ".join(split_words(text)) or text
    return {text[i : i + length] for i in range(max(1, len(text) - length + 1))}


def sketch(record: Record, options: CurationOptions) -> Sketch:
    """The MinHash values of a record's query and positive."""
    import rensa

    values = []
    for text in (record.query, record.positive):
        minhash = rensa.RMinHash(options.permutations, _SEED)
        minhash.update(list(shingles(text, options.shingle)))
        values += minhash.digest()
    return Sketch(rank(record), record_id(record), np.array(values, "<u4").tobytes())


def band_keys(row: Sketch, options: CurationOptions) -> list[int]:
    """The keys of the groups in which a row may meet its near duplicates, one for each band."""
    values_2hb = np.frombuffer(row.values, "<u4").reshape(2, -1, options.band)
    return [stable_id(f"{h} {values_2hb[:, h].tobytes().hex()}") for h in range(values_2hb.shape[1])]


def near_duplicates(group: Iterable[Sketch], options: CurationOptions) -> Iterator[int]:
    """Yields the ids of the rows of a group to drop: those like a row of smaller rank, whether or not that one stays.

    Each decision is about a pair, so it depends neither on order nor on what other groups decide, and the best row of
    a chain of near duplicates always stays. A group of more than `LARGEST_GROUP` rows is parted first.
    """
    ranked = sorted(set(group))
    values_r2p = np.frombuffer(b"".join(row.values for row in ranked), "<u4").reshape(-1, 2, options.permutations)
    min_alike = options.near_duplicates * options.permutations
    for part in small_groups(values_r2p, np.arange(len(ranked))):
        values_of_part_r2p = values_r2p[part]
        for i, row in enumerate(part.tolist()):
            for start in range(0, i, _BLOCK):
                alike_r = (values_of_part_r2p[start : min(i, start + _BLOCK)] == values_of_part_r2p[i]).sum(-1).min(-1)
                if (alike_r >= min_alike).any():
                    yield ranked[row].id
                    break


def small_groups(values_r2p: np.ndarray, rows: np.ndarray, permutation: int = 0) -> Iterator[np.ndarray]:
    """Parts rows, in their order, into groups of at most `LARGEST_GROUP`, or of rows whose values are all the same.

    A row of such a group is compared with few others, or is alike the first. Rows that agree in one more value of the
    query and of the positive stay together, so of those that are alike most do; the others may meet in another band.
    """
    if len(rows) <= LARGEST_GROUP or permutation == values_r2p.shape[-1]:
        yield rows
        return
    query_r, positive_r = values_r2p[rows, :, permutation].T.astype(np.uint64)
    keys_r = query_r << np.uint64(32) | positive_r
    order = np.argsort(keys_r, kind="stable")
    for part in np.split(rows[order], np.flatnonzero(np.diff(keys_r[order])) + 1):
        yield from small_groups(values_r2p, part, permutation + 1)
