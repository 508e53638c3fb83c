"""Training texts that are in an evaluation set: the complete text, or 13 consecutive words, by letters and digits.

GPT-3 was checked with 13 words (Brown et al. 2020, appendix C). In scripts without spaces characters stand for parts
of words (`words.split_units`), and a stretch has as many units as weigh 13 words: 26 ideographs or 52 Thai letters. 13
Thai letters are only three words, which unrelated texts share ("of the United States").
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from f2jax.data.instructions import split_instruction
from f2jax.data.record import stable_id
from f2jax.data.sources import open_source
from f2jax.data.sources.paths import find_files
from f2jax.data.sources.tables import ENDINGS, read_rows
from f2jax.errors import UserError
from f2jax.prepare.curate.words import WEIGHT_OF_WORD, split_units

TEXT_COLUMNS = ("text", "query", "positive", "passage", "negatives", "question", "sentence1", "sentence2", "sentences")
BUILT_IN = {"cldr-names": ("cldr:translation", ("query",)), "stdlib-code": ("stdlib:code", ("query", "positive"))}


class Hit(NamedTuple):
    """Where a text was found."""

    evaluation_set: str
    how: str  # "whole" or "13-gram"


@dataclass(frozen=True, eq=False)
class Index:
    """The content of evaluation sets as sorted hashes: 12 bytes for each distinct text or stretch."""

    names: tuple[str, ...]
    ngram: int
    fewest_letters: int
    whole: "_Hashes"
    stretches: "_Hashes"

    @classmethod
    def build(cls, sets: Mapping[str, Iterable[str]], ngram: int = 13, fewest_letters: int = 12) -> "Index":
        """An index of the texts of each named set."""
        whole: dict[int, int] = {}
        stretches: dict[int, int] = {}
        for number, texts in enumerate(sets.values()):
            for text in texts:
                units = split_units(text)
                if _letters(units) >= fewest_letters:
                    whole.setdefault(_whole(units), number)
                for stretch in _stretches(units, ngram):
                    stretches.setdefault(stretch, number)
        return cls(tuple(sets), ngram, fewest_letters, _Hashes.of(whole), _Hashes.of(stretches))

    def find(self, text: str) -> Hit | None:
        """The first set, in the order of `names`, that holds the text or a stretch of it; None if there is none."""
        units = split_units(text)
        if _letters(units) >= self.fewest_letters:
            number = self.whole.first([_whole(units)])
            if number is not None:
                return Hit(self.names[number], "whole")
        number = self.stretches.first(_stretches(units, self.ngram))
        return None if number is None else Hit(self.names[number], f"{self.ngram}-gram")


@dataclass(frozen=True, eq=False)
class _Hashes:
    """Sorted hashes, each with the number of the first set that holds it."""

    hashes: np.ndarray
    owners: np.ndarray

    @classmethod
    def of(cls, owners: dict[int, int]) -> "_Hashes":
        hashes = np.fromiter(owners, np.int64, len(owners))
        order = np.argsort(hashes)
        return cls(hashes[order], np.fromiter(owners.values(), np.int32, len(owners))[order])

    def first(self, hashes: list[int]) -> int | None:
        """The smallest number of a set that holds one of the hashes; None if there is none."""
        if not hashes or not len(self.hashes):
            return None
        wanted = np.array(hashes, np.int64)
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        owners = self.owners[places[self.hashes[places] == wanted]]
        return int(owners.min()) if len(owners) else None


def _letters(units: list[tuple[str, int]]) -> int:
    """The number of letters of a text; an ideograph counts as two."""
    return sum(2 if weight == 2 else len(unit) for unit, weight in units)


def _whole(units: list[tuple[str, int]]) -> int:
    return stable_id("".join(unit for unit, _ in units))


def _stretches(units: list[tuple[str, int]], ngram: int) -> list[int]:
    """The hash of the shortest stretch from each unit on that weighs `ngram` words."""
    if not ngram:
        return []
    # Stretches are slices of one string: unit u starts at starts_u[u], and all units before it weigh sums_u[u].
    text = " ".join(unit for unit, _ in units)
    starts_u = np.cumsum([0, *(len(unit) + 1 for unit, _ in units)])
    sums_u = np.cumsum([0, *(weight for _, weight in units)])
    lasts_u = np.searchsorted(sums_u, sums_u + ngram * WEIGHT_OF_WORD)
    count = np.searchsorted(lasts_u, len(sums_u))  # after these too little text is left
    return [
        stable_id(text[start : end - 1]) for start, end in zip(starts_u[:count], starts_u[lasts_u[:count]], strict=True)
    ]


@lru_cache(maxsize=2)
def load_index(specs: tuple[str, ...], ngram: int, fewest_letters: int) -> Index:
    """The index of the evaluation sets that `CurationOptions.evaluation_sets` names, built once per process.

    A spec is the name of a built-in set, or PATH, NAME=PATH or NAME=PATH#COLUMN,COLUMN of a file, glob or folder, in
    any format of `data.sources.tables`. Without columns those of `TEXT_COLUMNS` are read.

    Raises:
        UserError: a set is missing, cannot be read, or holds no text.
    """
    sets = {}
    for spec in specs:
        name, texts = _open(spec)
        if name in sets:
            raise UserError(f"Two evaluation sets are called {name}; name one by NAME=PATH.")
        sets[name] = texts
    return Index.build(sets, ngram, fewest_letters)


def set_files(spec: str) -> list[str]:
    """The files of an evaluation set; none where it is built in.

    Raises:
        UserError: it is missing.
    """
    return [] if spec in BUILT_IN else find_files(_parse(spec)[1], ENDINGS, all_splits=True)


def _open(spec: str) -> tuple[str, Iterator[str]]:
    """(name, texts) of an evaluation set."""
    if spec in BUILT_IN:
        source, roles = BUILT_IN[spec]
        return spec, (getattr(record, role) for record in open_source(source, "test", Counter()) for role in roles)
    name, path, columns = _parse(spec)
    return name, _texts(path, columns)


def _parse(spec: str) -> tuple[str, str, tuple[str, ...]]:
    """(name, path, columns) of `NAME=PATH#COLUMN,…`."""
    name, _, rest = spec.partition("=")
    if not rest or "/" in name:  # an = further on belongs to the path
        name, rest = "", spec
    path, _, columns = rest.partition("#")
    name = name or PurePosixPath(path.rstrip("/")).name.split(".")[0]
    return name, path, tuple(filter(None, columns.split(",")))


def _texts(path: str, columns: tuple[str, ...]) -> Iterator[str]:
    """Yields all texts in the wanted columns of a set's files; a file without one, such as qrels, has none."""
    wanted, has_text = columns or TEXT_COLUMNS, False
    bad: Counter[str] = Counter()
    for file in find_files(path, ENDINGS, all_splits=True):
        for row in read_rows(file, bad, lambda present: [name for name in present if name in wanted]):
            for name in wanted:
                for text in _strings(row.get(name)):
                    has_text = True
                    yield split_instruction(text)[1]
        if bad:
            reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
            raise UserError(f"The evaluation file {file} has bad rows ({reasons}); fix it, or they are not checked.")
    if not has_text:
        raise UserError(f"The evaluation set {path} holds no text in {', '.join(wanted)}; name columns by PATH#COLUMN.")


def _strings(value: object) -> Iterator[str]:
    """Yields all texts in a field that are not blank; it may be a list of texts or of objects."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
