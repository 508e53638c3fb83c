"""Reads scores of a reranker or a teacher; pairs with high scores are false negatives."""

from array import array

import numpy as np

from f2jax.data.instructions import split_instruction
from f2jax.data.record import stable_id
from f2jax.data.skip_list import NoneSkipped
from f2jax.data.sources.tables import read_rows
from f2jax.errors import UserError
from f2jax.mine.negatives import pair_keys

COLUMNS = ("query", "document", "score")


def read_false_pairs(path: str, limit: float) -> np.ndarray:
    """Returns the `pair_keys` of pairs with a score of at least `limit`, distinct and ascending, at 8 bytes each.

    Args:
        path: rows of query, document and score, in any format of `data.sources.tables`. Instructions before queries are
            removed.

    Raises:
        UserError: the file cannot be read, or a row is not a pair with a score.
    """
    keys, bad = (array("Q"), array("Q")), NoneSkipped()
    for row in read_rows(path, bad, lambda present: _choose(path, present)):
        query, document, score = (row.get(name) for name in COLUMNS)
        try:
            is_false = float(score) >= limit  # type: ignore[arg-type]  # what is no number is an error
            ids = stable_id(split_instruction(query)[1]), stable_id(document)  # type: ignore[arg-type]
        except (TypeError, ValueError, AttributeError):
            bad.skip("row without query, document and score")
        if is_false:
            keys[0].append(ids[0])
            keys[1].append(ids[1])
    return np.unique(pair_keys(*(np.frombuffer(some, np.uint64) for some in keys)))


def _choose(path: str, present: list[str]) -> list[str]:
    if missing := [name for name in COLUMNS if name not in present]:
        raise UserError(f"{path} has no column {missing[0]}; it has {', '.join(present)}: rename one.")
    return list(COLUMNS)
