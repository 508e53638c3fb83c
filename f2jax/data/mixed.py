"""Joins data sets of a kind into a single one, whose batches mix their rows (`data.mixed_batches`).

The recipe takes each batch from one data set, so that in-batch negatives are from the same task (recipe 2.3). A student
whose teacher gives the target of each text needs no negatives, and can learn from mixed batches.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from f2jax.data.dataset import AnyDataset, RowTexts
from f2jax.data.record import Kind
from f2jax.errors import UserError


class MixedDataset:
    """The concatenated rows of several data sets of one kind.

    >>> MixedDataset("retrieval", [nq, hotpotqa]).rows([0, len(nq)], columns=[], negatives=0)  # the first row of each
    """

    def __init__(self, kind: Kind, parts: Sequence[AnyDataset]):
        self.name, self.kind, self._parts = f"mixed-{kind}", kind, parts
        self.max_negatives = max(part.max_negatives for part in parts)
        self.languages = dict(sum((Counter(part.languages) for part in parts), Counter[str]()))
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def is_indexed(self) -> bool:
        return all(part.is_indexed for part in self._parts)

    @property
    def is_scored(self) -> bool:
        return any(part.is_scored for part in self._parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def fingerprint(self) -> str:
        """Returns a hash of the fingerprints of its parts, in order."""
        return hashlib.blake2b("\n".join(part.fingerprint() for part in self._parts).encode()).hexdigest()

    def rows(self, indices: Sequence[int], columns: Sequence[int], negatives: int) -> RowTexts:
        """Like `dataset.Dataset.rows`; `columns` is an order of the negative columns of the part with the most."""
        number_b = np.asarray(indices, np.int64)
        part_b = np.searchsorted(self._ends, number_b, side="right")
        found: list[tuple[np.ndarray, RowTexts]] = []  # (places in the batch, rows) of each part
        for number in np.unique(part_b).tolist():
            part, place_b = self._parts[number], np.flatnonzero(part_b == number)
            first = int(self._ends[number]) - len(part)
            own = [column for column in columns if column < part.max_negatives]
            found.append((place_b, part.rows((number_b[place_b] - first).tolist(), own, negatives)))
        return _join(found, len(number_b))


def drawn_datasets(datasets: Sequence[AnyDataset], config) -> Sequence[AnyDataset]:
    """Returns what batches are drawn from: the data sets or, with `data.mixed_batches`, one `MixedDataset` per kind.

    Raises:
        UserError: `data.language_temperature`, which weights data sets, is set as well.
    """
    if not config.data.mixed_batches:
        return datasets
    if config.data.language_temperature:
        raise UserError(
            "data.language_temperature weights data sets, which data.mixed_batches joins; set it to 0, or turn "
            "data.mixed_batches off."
        )
    kinds = dict.fromkeys(dataset.kind for dataset in datasets)
    return [MixedDataset(kind, [dataset for dataset in datasets if dataset.kind == kind]) for kind in kinds]


def _join(found: Sequence[tuple[np.ndarray, RowTexts]], count: int) -> RowTexts:
    """Returns the rows of all parts, each at its place in the batch."""
    width = max(rows.length_bi.shape[1] for _, rows in found)
    part_b, row_b = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for number, (place_b, _) in enumerate(found):
        part_b[place_b], row_b[place_b] = number, np.arange(len(place_b))

    def joined(name: str, absent, shape: tuple[int, ...]) -> np.ndarray:
        dtype = next(array.dtype for _, rows in found if (array := getattr(rows, name)) is not None)
        all_b = np.full((count, *shape), absent, dtype)
        for place_b, rows in found:
            if (own := getattr(rows, name)) is not None:
                all_b[np.ix_(place_b, *map(np.arange, own.shape[1:]))] = own
        return all_b

    def read(name: str, b_s: np.ndarray, i_s: np.ndarray) -> list[np.ndarray]:
        """Returns the results of a reader of the parts for texts, in their order."""
        values: list[np.ndarray] = [np.zeros(0)] * len(b_s)
        for number, (_, rows) in enumerate(found):
            own_s = np.flatnonzero(part_b[b_s] == number)
            if not len(own_s):
                continue
            for s, value in zip(own_s.tolist(), getattr(rows, name)(row_b[b_s[own_s]], i_s[own_s]), strict=True):
                values[s] = value
        return values

    def vectors(b_s: np.ndarray, i_s: np.ndarray) -> np.ndarray:
        first = found[0][1].vectors
        assert first is not None
        return np.array(read("vectors", b_s, i_s)) if len(b_s) else first(b_s, i_s)  # no texts: [0, E]

    is_scored = any(rows.score_bk is not None for _, rows in found)
    return RowTexts(
        joined("key_bi", 0, (width,)),
        joined("length_bi", 0, (width,)),
        joined("id_bi", 0, (width,)),
        joined("label_b", -1, ()),
        lambda b_s, i_s: read("tokens", b_s, i_s),
        vectors if found[0][1].vectors else None,
        joined("score_bk", np.nan, (width - 1,)) if is_scored else None,
    )
