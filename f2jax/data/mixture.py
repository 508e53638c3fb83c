"""Which data sets a run trains on, how often, and which rows a step takes.

The rows are computed from (seed, step) and never stored, in memory that grows only with the number of data sets. A
resume needs nothing but the step number.

Each step takes its rows from one data set, and every row comes once per epoch. A weight multiplies the batches of a
data set: 2 brings every row twice per epoch, 0.5 once in two epochs. Two orders of the batches in an epoch (`DRAWS`):

- permuted: a pseudo-random permutation of all of them, so what is left of each data set decides how often it comes;
- proportional: each step draws among the data sets that are not used up, in proportion to the batches that they have at
  the start of the epoch, as the reference does (recipe 2.3).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from f2jax.data.record import KINDS
from f2jax.errors import UserError, did_you_mean

NEGATIVES = {"retrieval": 7, "clustering": 9, "classification": 1}  # as in the reference (recipe 2.2)
ROUNDS = 4  # rounds of the Feistel network
DRAWS = ("permuted", "proportional")  # orders of the batches in an epoch


@dataclass(frozen=True)
class DatasetSpec:
    """What the mixture needs to know about a data set."""

    name: str
    kind: str
    rows: int
    max_negatives: int
    weight: float = 1.0  # how often its batches come


@dataclass(frozen=True)
class BatchPlan:
    """The rows of a step."""

    epoch: int
    dataset: int  # number of the data set
    rows: np.ndarray  # int64 row numbers: batch_size, or fewer in a data set's last batch
    columns: np.ndarray  # an order of all negative columns, shared by the rows
    negatives: int  # negative slots of each row


class Mixture:
    """Plans of all steps. `mixture.plan(step)` is a pure function.

    Args:
        specs: the data sets.
        batch_size: rows of a step.
        negatives: slots by kind (default 0); a data set with fewer negatives has fewer slots.
        draw: one of `DRAWS`.

    Raises:
        UserError: no data sets, an empty one, an unknown kind or draw, a weight of 0, or a batch size below 1.
    """

    def __init__(
        self,
        specs: Sequence[DatasetSpec],
        batch_size: int,
        negatives: Mapping[str, int] = NEGATIVES,
        seed: int = 0,
        draw: str = "permuted",
    ):
        if not specs:
            raise UserError("The mixture has no data sets; check data.sources.")
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} should be at least 1.")
        for spec in specs:
            if spec.rows < 1:
                raise UserError(f"The data set {spec.name} has no training rows; remove it or lower validation_share.")
            if spec.kind not in KINDS:
                raise UserError(
                    f"The data set {spec.name} is of unknown kind '{spec.kind}'{did_you_mean(spec.kind, KINDS)}"
                )
            if not 0 < spec.weight < float("inf"):
                raise UserError(f"The data set {spec.name} has weight {spec.weight}; give one above 0, or exclude it.")
        if draw not in DRAWS:
            raise UserError(f"data.draw={draw} is unknown{did_you_mean(draw, DRAWS)}")
        self.specs, self.batch_size, self.seed, self.draw = tuple(specs), batch_size, seed, draw
        self.negatives = [min(negatives.get(spec.kind, 0), spec.max_negatives) for spec in specs]  # by data set
        self._full = [-(-spec.rows // batch_size) for spec in specs]  # batches that hold every row once
        self._drawn = [max(1, round(n * spec.weight)) for n, spec in zip(self._full, specs, strict=True)]  # per epoch
        self._ends = np.cumsum(self._drawn)
        self._order: tuple[int, np.ndarray] = (
            -1,
            np.zeros(0, np.int64),
        )  # epoch, its `_proportional`

    @property
    def steps_per_epoch(self) -> int:
        return int(self._ends[-1])

    def plan(self, step: int) -> BatchPlan:
        """The rows of step 0, 1, …"""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self.draw == "permuted":
            number = int(permute(position, self.steps_per_epoch, _key(self.seed, epoch)))
        else:
            if self._order[0] != epoch:
                self._order = epoch, self._proportional(epoch)
            number = int(self._order[1][position])
        dataset = int(np.searchsorted(self._ends, number, side="right"))
        spec = self.specs[dataset]
        drawn = self._drawn[dataset]
        before = epoch * drawn + number - int(self._ends[dataset] - drawn)  # batches of this data set, in all epochs
        columns = np.arange(spec.max_negatives)  # of a classification row the hardest wrong label comes first
        if spec.kind != "classification":
            columns = np.argsort(_random_bits(spec.max_negatives, _key(self.seed, step, "columns")), kind="stable")
        return BatchPlan(epoch, dataset, self.rows(dataset, before), columns, self.negatives[dataset])

    def rows(self, dataset: int, batch: int) -> np.ndarray:
        """Returns the row numbers of a data set's batch, counted over all epochs."""
        times, batch = divmod(batch, self._full[dataset])
        start, count = batch * self.batch_size, self.specs[dataset].rows
        index = np.arange(start, min(start + self.batch_size, count))
        return permute(index, count, _key(self.seed, times, dataset))

    def slots(self) -> dict[str, int]:
        """The negative slots of a batch of each kind, which are those of its data set with the most."""
        slots: dict[str, int] = {}
        for spec, negatives in zip(self.specs, self.negatives, strict=True):
            slots[spec.kind] = max(negatives, slots.get(spec.kind, 0))
        return slots

    def _proportional(self, epoch: int) -> np.ndarray:
        """The batches of an epoch in order; those of all data sets are numbered one after the other.

        The times between the batches of a data set are exponential, with its batches as the rate. So the next batch of
        all is from a data set that is not used up with a probability in proportion to its rate.
        """
        drawn = np.array(self._drawn)
        uniform = (_random_bits(self.steps_per_epoch, _key(self.seed, epoch, "draw")) >> np.uint64(11)) / 2.0**53
        waits = -np.log1p(-uniform) / np.repeat(drawn, drawn)
        times = np.concatenate([np.cumsum(part) for part in np.split(waits, self._ends[:-1])])
        return np.argsort(times, kind="stable")

    def table(self) -> list[dict]:
        """A row for each data set: name, kind, rows, weight, batches per epoch and their share."""
        return [
            {"name": s.name, "kind": s.kind, "rows": s.rows, "weight": s.weight}
            | {"batches": count, "share": count / self.steps_per_epoch}
            for s, count in zip(self.specs, self._drawn, strict=True)
        ]


def select(names: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[int]:
    """Returns the indices of the names that match a pattern of `include` (default: all) and none of `exclude`.

    >>> select(["nli", "nli-de", "code"], include=["nli*"], exclude=["*-de"])
    [0]

    Raises:
        UserError: a pattern matches no name, or no name is left.
    """
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            _check(pattern, names, f"data.{option}")
    chosen = [
        i
        for i, name in enumerate(names)
        if (not include or any(fnmatchcase(name, pattern) for pattern in include))
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    ]
    if not chosen:
        raise UserError("data.include and data.exclude leave no data set; loosen one of them.")
    return chosen


def named_number(item: str) -> tuple[str, float]:
    """Returns the name and the number of NAME=NUMBER; the number is 0 if it is not finite and above 0."""
    name, _, text = item.rpartition("=")
    try:
        number = float(text)
    except ValueError:
        return name, 0.0
    return name, number if 0 < number < float("inf") else 0.0


def pattern_weights(names: Sequence[str], weights: Sequence[str]) -> list[float]:
    """Returns the factor of each name, which is the product of all `PATTERN=FACTOR` that match it.

    Raises:
        UserError: an item is not a `PATTERN=FACTOR` with a factor above 0, or matches no name.
    """
    factors = [1.0] * len(names)
    for item in weights:
        pattern, factor = named_number(item)
        if not pattern or not factor:
            raise UserError(f"'{item}' in data.weights should be PATTERN=FACTOR, with a factor above 0.")
        _check(pattern, names, "data.weights")
        factors = [f * factor if fnmatchcase(n, pattern) else f for f, n in zip(factors, names, strict=True)]
    return factors


def language_weights(languages: Sequence[Mapping[str, int]], temperature: float) -> list[float]:
    """Returns factors that change the share p of each language to p^(1/temperature), scaled to sum to 1.

    A data set's factor is the mean over its rows, so the total stays the same. Languages within a data set keep their
    shares.

    Args:
        languages: rows by language for each data set.
        temperature: larger values bring the shares closer together; 1 changes nothing; 0: off.

    Raises:
        UserError: the temperature is negative.
    """
    if temperature < 0:
        raise UserError(f"data.language_temperature={temperature} should be 0 (off) or above.")
    if not temperature:
        return [1.0] * len(languages)
    counts: Counter[str] = Counter()
    for rows in languages:
        counts.update(rows)
    total = sum(counts.values())
    scaled = {name: (count / total) ** (1 / temperature) for name, count in counts.items()}
    norm = sum(scaled.values())
    factor = {name: scaled[name] / norm * total / counts[name] for name in counts}
    return [sum(n * factor[name] for name, n in rows.items()) / max(sum(rows.values()), 1) for rows in languages]


def _check(pattern: str, names: Sequence[str], where: str) -> None:
    if not any(fnmatchcase(name, pattern) for name in names):
        raise UserError(f"No data set is named '{pattern}' ({where}){did_you_mean(pattern, names)}")


def permute(index, size: int, key: int) -> np.ndarray:
    """Returns the image of `index` under a pseudo-random permutation of 0 … size-1 that `key` selects.

    This is a balanced Feistel network on the next even power of two, applied again until the value is in range (cycle
    walking, Black & Rogaway 2002). Nothing is stored, so even in a permutation of 10^12 every index costs the same.

    >>> sorted(permute(np.arange(5), 5, key=1).tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(_key(key, round_)) for round_ in range(ROUNDS)]
    out = np.atleast_1d(np.asarray(index, np.uint64)).copy()
    outside = np.ones(out.shape, bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (mix_bits(right ^ round_key) & mask)
        out[outside] = (left << half) | right
        outside &= out >= size
    return out.astype(np.int64).reshape(np.shape(index))


def _random_bits(count: int, key: int) -> np.ndarray:
    """Returns `count` pseudo-random uint64 values for a key (splitmix64)."""
    with np.errstate(over="ignore"):
        return mix_bits(np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def mix_bits(x):
    """Applies the finalizer of splitmix64 to a uint64 or an array: every input bit affects every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _key(*parts: int | str) -> int:
    """Returns a 64-bit key for numbers and words, by chaining `mix_bits`."""
    key = np.uint64(0x9E3779B97F4A7C15)
    for part in parts:
        number = int.from_bytes(part.encode(), "little") if isinstance(part, str) else part
        with np.errstate(over="ignore"):
            key = mix_bits(key + np.uint64(number % (1 << 64)) + np.uint64(0x9E3779B97F4A7C15))
    return int(key)
