"""Duplicates: the keys that group rows, and which row of a group stays, regardless of the order of rows.

Exact duplicates have the same query, positive and kind. Near duplicates have overlapping sets of letter n-grams
(Jaccard) in both their queries and their positives: two questions about one passage are distinct rows. The overlap is
estimated by MinHash (Broder 1997), and only rows that agree in a complete band of values are compared (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, 3.4). A band contains values of the query and of the positive, so that
rows with the same query and different positives are not grouped. No comparison is quadratic (`small_groups`).

The rows of a corpus go through these steps (`f2jax/prepare/duplicates.py`): group by `exact_key` and keep the smallest
`rank` of each group; then group by `band_keys` and drop `near_duplicates(group)`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from f2jax.data.record import Record, stable_id
from f2jax.prepare.curate.options import CurationOptions
from f2jax.prepare.curate.words import split_words

_SEED = 1  # seed of MinHash, which all sketches of a corpus must share
MAX_NEGATIVES = (1 << 16) - 1  # largest number of negatives that ranks distinguish
LARGEST_GROUP = 1024  # largest number of rows to compare pair by pair
_BLOCK = 256  # rows of smaller rank to compare a row with at once
_FIELDS = tuple(field.name for field in fields(Record) if field.name != "scores")


class Sketch(NamedTuple):
    """The values by which near duplicates are found: about 1 kB with 128 permutations."""

    rank: int  # rank of the record; the smallest stays
    id: int  # id of the record, unique among those that are compared
    values: bytes  # uint32 MinHash values of the query, then of the positive


def record_id(record: Record) -> int:
    """Returns a 63-bit hash of a complete row."""
    scores = [record.scores] if record.scores else []  # without scores, the hash is that of earlier versions
    return stable_id(json.dumps([*(getattr(record, name) for name in _FIELDS), *scores]))


def rank(record: Record) -> int:
    """Returns a number below 2^63, smallest for the duplicate that stays: most negatives, then smallest id."""
    return (MAX_NEGATIVES - min(len(record.negatives), MAX_NEGATIVES)) << 47 | record_id(record) >> 16


def exact_key(record: Record) -> int:
    """Returns a key that exact duplicates share: same query and positive, except for white space, and same kind."""
    squeezed = (" ".join(text.split()) for text in (record.query, record.positive))
    return stable_id(json.dumps([record.kind, *squeezed]))


def shingles(text: str, length: int) -> set[str]:
    """Returns the n-grams of `length` letters in a text; a shorter text, or one without letters, is a single piece."""
    text = " ".join(split_words(text)) or text
    return {text[i : i + length] for i in range(max(1, len(text) - length + 1))}


def minhash_values(record: Record, options: CurationOptions) -> bytes:
    """Returns the MinHash values of a record's query, then of its positive, as `Sketch` has them."""
    import rensa

    values = []
    for text in (record.query, record.positive):
        minhash = rensa.RMinHash(options.permutations, _SEED)
        minhash.update(list(shingles(text, options.shingle)))
        values += minhash.digest()
    return np.array(values, "<u4").tobytes()


def band_keys(values: bytes, options: CurationOptions) -> list[int]:
    """Returns the keys of the groups in which a row may find its near duplicates, one for each band."""
    values_2hb = np.frombuffer(values, "<u4").reshape(2, -1, options.band)
    return [stable_id(f"{h} {values_2hb[:, h].tobytes().hex()}") for h in range(values_2hb.shape[1])]


def near_duplicates(group: Iterable[Sketch], options: CurationOptions) -> Iterator[int]:
    """Yields the ids of rows to drop from a group: those similar to a row of smaller rank, whether or not that stays.

    Each decision is about a pair, so it does not depend on the order of rows or on other groups, and the best row of a
    chain of near duplicates always stays. A group of more than `LARGEST_GROUP` rows is split first.
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
    """Splits rows, in order, into groups of at most `LARGEST_GROUP`, or of rows whose values are all the same.

    Thus a row is compared with few others, or is like the first. Rows that agree in one more value of the query and of
    the positive stay together, so most similar rows do; the others may be grouped in another band.
    """
    if len(rows) <= LARGEST_GROUP or permutation == values_r2p.shape[-1]:
        yield rows
        return
    query_r, positive_r = values_r2p[rows, :, permutation].T.astype(np.uint64)
    keys_r = query_r << np.uint64(32) | positive_r
    order = np.argsort(keys_r, kind="stable")
    for part in np.split(rows[order], np.flatnonzero(np.diff(keys_r[order])) + 1):
        yield from small_groups(values_r2p, part, permutation + 1)
