"""Finds training texts that share a complete text or 13 consecutive words with an evaluation set.

Only letters and digits are compared. GPT-3 was checked with 13 words (Brown et al. 2020, appendix C). In scripts
without spaces, characters count as parts of words (`stretches.py`), and a stretch has the weight of 13 words: 26
ideographs or 52 Thai letters. 13 Thai letters are only three words, which unrelated texts share ("of the United
States").
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from f2jax import files
from f2jax.data.instructions import split_instruction
from f2jax.data.skip_list import NoneSkipped, SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.paths import find_files
from f2jax.data.sources.tables import ENDINGS, FileRow, read_rows
from f2jax.errors import UserError
from f2jax.prepare.curate import mteb
from f2jax.prepare.curate.stretches import hash_texts

TEXT_COLUMNS = ("text", "query", "positive", "passage", "negatives", "question", "sentence1", "sentence2", "sentences")
BATCH_CHARACTERS = 1 << 20  # characters of evaluation texts to hash at once
REMEMBERED = 1 << 21  # texts without a hit that a process remembers, at 8 bytes each
ABOUT = "about.json"  # file in the folder of an index
MTEB = "mteb"  # evaluation set of all tests of MTEB on this machine
BUILT_IN = {"cldr-names": ("cldr:translation", ("query",)), "stdlib-code": ("stdlib:code", ("query", "positive"))}


class Hit(NamedTuple):
    """Where a text was found."""

    evaluation_set: str
    how: str  # "whole" or "13-gram"


@dataclass(frozen=True, eq=False)
class Index:
    """The content of evaluation sets as sorted hashes, with at most 14 bytes per distinct text or stretch.

    Processes share the memory of a saved index. Texts without a hit are remembered, so that a negative of many rows is
    only looked up once.
    """

    names: tuple[str, ...]
    ngram: int
    fewest_letters: int
    whole: "_Owners"
    stretches: "_Owners"
    _clean: np.ndarray = field(default_factory=lambda: np.zeros(REMEMBERED, np.int64), repr=False)

    @classmethod
    def build(cls, sets: Mapping[str, Iterable[str]], ngram: int = 13, fewest_letters: int = 12) -> "Index":
        """Builds an index of the texts of named sets."""
        whole: list[tuple[int, np.ndarray]] = []
        stretches: list[tuple[int, np.ndarray]] = []
        for number, texts in enumerate(sets.values()):
            for some in _batches(texts):
                found = hash_texts(some, ngram)
                whole.append((number, np.unique(found.whole_x[found.letters_x >= fewest_letters])))
                stretches.append((number, np.unique(found.stretches)))
        return cls(tuple(sets), ngram, fewest_letters, _Owners.of(whole), _Owners.of(stretches))

    def save(self, folder: Path) -> None:
        """Writes the index to a new folder."""
        folder.mkdir(parents=True)
        about = {"names": self.names, "ngram": self.ngram, "fewest_letters": self.fewest_letters}
        (folder / ABOUT).write_text(json.dumps(about))
        self.whole.save(folder, "whole")
        self.stretches.save(folder, "stretches")

    @classmethod
    @lru_cache(maxsize=1)
    def open(cls, folder: Path) -> "Index":
        """Opens an index that was saved to a folder; its files are mapped into memory."""
        about = files.read_json_object(folder / ABOUT)
        whole, stretches = (_Owners.open(folder, name) for name in ("whole", "stretches"))
        return cls(tuple(about["names"]), about["ngram"], about["fewest_letters"], whole, stretches)

    def find(self, text: str) -> Hit | None:
        """Returns the first set, in the order of `names`, that contains the text or a stretch of it, or None."""
        return self.find_all([text])[0]

    def find_all(self, texts: Sequence[str]) -> list[Hit | None]:
        """Returns the result of `find` for each text."""
        hits: list[Hit | None] = [None] * len(texts)
        keys_x = np.fromiter(map(hash, texts), np.int64, len(texts))
        unknown = np.flatnonzero(self._clean[keys_x % REMEMBERED] != keys_x)
        found = hash_texts([texts[x] for x in unknown.tolist()], self.ngram)
        number, owner = self.stretches.find(found.stretches)
        order = np.argsort(-owner)  # the first of several sets comes last, and stays
        for x, first in zip(unknown[found.text[number[order]]].tolist(), owner[order].tolist(), strict=True):
            hits[x] = Hit(self.names[first], f"{self.ngram}-gram")
        number, owner = self.whole.find(found.whole_x)
        long = found.letters_x[number] >= self.fewest_letters
        for x, first in zip(unknown[number[long]].tolist(), owner[long].tolist(), strict=True):
            hits[x] = Hit(self.names[first], "whole")
        clean_x = keys_x[[hit is None for hit in hits]]
        self._clean[clean_x % REMEMBERED] = clean_x
        return hits


@dataclass(frozen=True, eq=False)
class _Owners:
    """Sorted hashes, each with the number of the first set that contains it.

    For each possible prefix of a hash, a bit says whether any hash starts with it. Most lookups end at these bits,
    which are likely to be in the cache of the processor.
    """

    hashes: np.ndarray  # uint64
    owners: np.ndarray  # int32
    bits: np.ndarray  # uint8

    @classmethod
    def of(cls, parts: Sequence[tuple[int, np.ndarray]]) -> "_Owners":
        """Builds them from (number of a set, hashes), in ascending order of the numbers."""
        numbers = [np.full(len(hashes), number, np.int32) for number, hashes in parts]
        hashes, first = np.unique(np.concatenate([hashes for _, hashes in parts]), return_index=True)
        bits = np.zeros(8 << len(hashes).bit_length(), bool)
        bits[_beginnings(hashes, len(bits))] = True
        return cls(hashes, np.concatenate(numbers)[first], np.packbits(bits, bitorder="little"))

    def save(self, folder: Path, name: str) -> None:
        for part in fields(self):
            np.save(folder / f"{name}-{part.name}.npy", getattr(self, part.name))

    @classmethod
    def open(cls, folder: Path, name: str) -> "_Owners":
        paths = (folder / f"{name}-{part.name}.npy" for part in fields(cls))
        return cls(*(np.asarray(np.load(path, mmap_mode="r")) for path in paths))

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the indices of the given hashes that are stored, and their owners."""
        begin = _beginnings(hashes, 8 * len(self.bits))
        likely = np.flatnonzero(self.bits[begin >> 3] >> (begin & 7).astype(np.uint8) & 1)
        if not len(self.hashes):
            return likely, self.owners
        places = np.minimum(np.searchsorted(self.hashes, hashes[likely]), len(self.hashes) - 1)
        found = self.hashes[places] == hashes[likely]
        return likely[found], self.owners[places[found]]


def _beginnings(hashes: np.ndarray, count: int) -> np.ndarray:
    """Returns the first bits of hashes as numbers below `count`, a power of two."""
    return (hashes >> np.uint64(65 - count.bit_length())).astype(np.int64)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yields the texts in lists of about a million characters."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield some
            some, size = [], 0
    yield some


def build_index(specs: Sequence[str], ngram: int, fewest_letters: int) -> Index:
    """Builds the index of the evaluation sets in `CurationOptions.evaluation_sets`.

    A spec is the name of a built-in set, `mteb` for the tests of MTEB on this machine, or PATH, NAME=PATH or
    NAME=PATH#COLUMN,COLUMN for a file, glob or folder in any format of `data.sources.tables`. The default columns are
    `TEXT_COLUMNS`.

    Raises:
        UserError: a set is missing, cannot be read, or contains no text.
    """
    sets = {}
    for spec in specs:
        name, texts = _open(spec)
        if name in sets:
            raise UserError(f"Two evaluation sets are called {name}; name one by NAME=PATH.")
        sets[name] = texts
    return Index.build(sets, ngram, fewest_letters)


def set_files(spec: str) -> list[str]:
    """Returns the files of an evaluation set; empty for a built-in set.

    Raises:
        UserError: the set is missing.
    """
    if spec == MTEB:
        return mteb.test_files()
    return [] if spec in BUILT_IN else find_files(_parse(spec)[1], ENDINGS, all_splits=True)


def _open(spec: str) -> tuple[str, Iterator[str]]:
    """Returns the name and the texts of an evaluation set."""
    if spec in BUILT_IN:
        source, roles = BUILT_IN[spec]
        return spec, (getattr(record, role) for record in open_source(source, "test", SkipList()) for role in roles)
    if spec == MTEB:
        return spec, (text for row in mteb.test_rows(TEXT_COLUMNS) for text in _row_texts(row, TEXT_COLUMNS))
    name, path, columns = _parse(spec)
    return name, _texts(path, columns)


def _parse(spec: str) -> tuple[str, str, tuple[str, ...]]:
    """Splits `NAME=PATH#COLUMN,…` into (name, path, columns)."""
    name, _, rest = spec.partition("=")
    if not rest or "/" in name:  # a later = belongs to the path
        name, rest = "", spec
    path, _, columns = rest.partition("#")
    name = name or PurePosixPath(path.rstrip("/")).name.split(".")[0]
    return name, path, tuple(filter(None, columns.split(",")))


def _texts(path: str, columns: tuple[str, ...]) -> Iterator[str]:
    """Yields all texts in the wanted columns of a set's files; some files, such as qrels, may have no such column."""
    wanted, has_text = columns or TEXT_COLUMNS, False
    for file in find_files(path, ENDINGS, all_splits=True):
        for row in read_rows(file, NoneSkipped(), lambda present: [name for name in present if name in wanted]):
            for text in _row_texts(row, wanted):
                has_text = True
                yield text
    if not has_text:
        raise UserError(f"The evaluation set {path} holds no text in {', '.join(wanted)}; name columns by PATH#COLUMN.")


def _row_texts(row: FileRow, columns: Sequence[str]) -> Iterator[str]:
    """Yields the texts of a row, without instructions."""
    return (split_instruction(text)[1] for name in columns for text in _strings(row.get(name)))


def _strings(value: object) -> Iterator[str]:
    """Yields all texts in a field that are not blank; the field may be a list of texts or of objects."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
