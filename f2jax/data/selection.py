"""Which data sets a run trains on, and how often the batches of each come."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from f2jax.errors import UserError, did_you_mean


def select(names: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[int]:
    """Numbers of the names that fit a pattern of `include` (none given: all) and none of `exclude`.

    >>> select(["nli", "nli-de", "code"], include=["nli*"], exclude=["*-de"])
    [0]

    Raises:
        UserError: a pattern fits no name, or no name is left.
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


def pattern_weights(names: Sequence[str], weights: Sequence[str]) -> list[float]:
    """The factor of each name: the product of all `PATTERN=FACTOR` that fit it.

    Raises:
        UserError: an item is no `PATTERN=FACTOR` with a factor above 0, or fits no name.
    """
    factors = [1.0] * len(names)
    for item in weights:
        pattern, _, text = item.rpartition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = 0.0
        if not pattern or not 0 < factor < float("inf"):
            raise UserError(f"'{item}' in data.weights should be PATTERN=FACTOR, with a factor above 0.")
        _check(pattern, names, "data.weights")
        factors = [f * factor if fnmatchcase(n, pattern) else f for f, n in zip(factors, names, strict=True)]
    return factors


def language_weights(languages: Sequence[Mapping[str, int]], temperature: float) -> list[float]:
    """Factors that bring the share p of each language in all rows to p^(1/temperature), scaled to add up to 1.

    A data set's factor is the mean over its rows, so all rows together stay as many. The balance is one of data sets:
    inside of one, languages keep their shares.

    Args:
        languages: rows by language, of each data set.
        temperature: 1 changes nothing, larger ones come closer to equal shares; 0: off.

    Raises:
        UserError: the temperature is negative.
    """
    if temperature < 0:
        raise UserError(f"data.language_temperature={temperature} should be 0 (off) or above.")
    if not temperature:
        return [1.0] * len(languages)
    counts: Counter = Counter()
    for found in languages:
        counts.update(found)
    total = sum(counts.values())
    scaled = {name: (count / total) ** (1 / temperature) for name, count in counts.items()}
    norm = sum(scaled.values())
    factor = {name: scaled[name] / norm * total / counts[name] for name in counts}
    return [sum(n * factor[name] for name, n in found.items()) / max(sum(found.values()), 1) for found in languages]


def _check(pattern: str, names: Sequence[str], where: str) -> None:
    if not any(fnmatchcase(name, pattern) for name in names):
        raise UserError(f"No data set is named '{pattern}' ({where}){did_you_mean(pattern, names)}")
