"""Reads an input, and stores a few numbers for each row that passes curation, and counts.

From the numbers it is decided which rows are duplicates and which ones a cap keeps, again whenever other inputs change.
Texts are not stored: those of the kept rows are read a second time.
"""

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from f2jax import files
from f2jax.data.record import Record, stable_id
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import is_single_input, open_source
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions, CurationReport, Outcome, curate_record, dedup
from f2jax.prepare.curate.decontaminate import Index
from f2jax.prepare.options import Key, PrepareOptions

TEXT_BYTES = 500  # of a text in memory, besides its bytes; with its instruction more than on disk
NUMBERS = np.dtype([("part", "<u4"), *((name, "<u8") for name in ("documents", "query", "hash", "exact", "rank"))])
SUMMARY, SKIPPED, STAY = "survey.json", "skipped.jsonl", "stay"  # STAY: a byte for each row that the source gives


@dataclass(frozen=True)
class InputFolder:
    """The folder of an input that has been read."""

    spec: str
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def listing(self) -> Path:
        """Skipped rows as lines of JSON; duplicates are not among them."""
        return self.path(SKIPPED)

    def summary(self) -> "InputSummary":
        fields = files.read_json_object(self.path(SUMMARY), {"parts": list[list]})
        return InputSummary(**fields | {"parts": [tuple(key) for key in fields["parts"]]})

    def rows(self) -> np.ndarray:
        """The numbers of each record, of dtype `NUMBERS`."""
        return _map_array(self.path("rows"), NUMBERS)

    def band(self, number: int) -> np.ndarray:
        """The key of each record in one band of the sketches."""
        return _map_array(self.path(_band_name(number)), np.dtype("<u8"))

    def sketches(self, options: CurationOptions) -> np.ndarray:
        """What near duplicates are found by: uint32 [rows, 2 * permutations]."""
        return _map_array(self.path("sketches"), np.dtype("<u4")).reshape(-1, 2 * options.permutations)

    def is_whole(self) -> bool:
        """Returns whether all files are there that the summary, which was written last, names."""
        try:
            paths = {self.path(name): size for name, size in self.summary().sizes.items()}
        except (UserError, TypeError, KeyError):  # missing, damaged, or of an earlier version
            return False
        return all(path.exists() and path.stat().st_size == size for path, size in paths.items())

    def is_complete(self, listing: bool) -> bool:
        """Returns whether all files are there, in the format of this version.

        Args:
            listing: the list of skipped rows is needed too.
        """
        if not self.is_whole():
            return False
        summary = self.summary()
        here = summary.sizes.keys() >= {STAY, *[SKIPPED] * listing}
        return here and summary.sizes.get("rows") == summary.rows * NUMBERS.itemsize


@dataclass(frozen=True)
class InputSummary:
    """A summary of the content of an input."""

    rows: int  # that stay
    parts: list[Key]  # its data sets; `NUMBERS.part` numbers them
    skipped: dict[str, int]  # reason → rows
    noted: dict[str, int]  # what curation did or noticed → rows
    languages: dict[str, int]  # identified language of the query → rows
    sizes: dict[str, int]  # bytes of each file of the input


def _band_name(number: int) -> str:
    return f"band-{number:03d}"


def bytes_of_row(options: PrepareOptions) -> int:
    """The bytes that a kept row takes on disk permanently."""
    curate = options.curate
    near = 8 * curate.permutations + 8 * curate.permutations // curate.band if curate and curate.near_duplicates else 0
    return 1 + NUMBERS.itemsize + near


def _map_array(path: Path, dtype: np.dtype) -> np.ndarray:
    """Returns the entries of a file, read on demand."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


class RowNumbers(NamedTuple):
    """The numbers that decide whether and where a row is kept that passed the steps for single records."""

    documents: int  # bytes of its documents in memory
    query: int  # bytes of its query in memory
    hash: int  # `row_hash`
    exact: int  # key that exact duplicates share; 0: they are not looked for
    rank: int  # of duplicates the smallest stays
    sketch: bytes  # MinHash values; b"": near duplicates are not looked for
    bands: Sequence[int]  # keys that near duplicates may share


def numbers_of(record: Record, options: PrepareOptions) -> RowNumbers:
    """Returns the numbers of a row."""
    curate = options.curate
    exact, rank = (dedup.exact_key(record), dedup.rank(record)) if curate and curate.exact_duplicates else (0, 0)
    values = dedup.minhash_values(record, curate) if curate and curate.near_duplicates else b""
    bands = dedup.band_keys(values, curate) if curate and values else []
    sizes = _bytes_of(record.documents), _bytes_of([record.query])
    return RowNumbers(*sizes, row_hash(record, options.seed), exact, rank, values, bands)


def _bytes_of(texts: Iterable[str]) -> int:
    """Returns the bytes that texts take in memory, as `spill` encodes them."""
    return sum(TEXT_BYTES + len(text.encode("utf-8", "surrogatepass")) for text in texts)


def row_hash(record: Record, seed: int) -> int:
    """Returns a hash of the row and the seed, which decides which rows a cap keeps, independently of their order."""
    return stable_id("\n".join([f"cap {seed}", record.query, *record.documents]))


def read_input(target: InputFolder, options: PrepareOptions, listing: bool, index: Path | None = None) -> None:
    """Reads an input and fills its folder, which appears only when it is complete.

    Args:
        listing: list the rows that are skipped.
        index: folder of the index of the evaluation texts; None: there are none.

    Raises:
        UserError: the input cannot be read.
    """
    part = InputFolder(target.spec, target.folder.with_name(f"{target.folder.name}.{uuid.uuid4().hex}.part"))
    part.folder.mkdir(parents=True)
    try:
        _read(part, options, listing, Index.open(index) if index else None)
        shutil.rmtree(target.folder, ignore_errors=True)
        part.folder.rename(target.folder)
    finally:
        shutil.rmtree(part.folder, ignore_errors=True)  # it is there only if something failed


def _read(part: InputFolder, options: PrepareOptions, listing: bool, index: Index | None) -> None:
    with ExitStack() as stack:
        skipped = SkipList(stack.enter_context(open(part.listing, "w")) if listing else None)
        report, writer = CurationReport(skipped=skipped), stack.enter_context(_Writer(part, options))
        for record, where in open_records(part.spec, options, skipped):
            outcome = curated(record, options, index)
            report.add(outcome, record, where)
            writer.add(outcome.record)
    counts = dict(report.skipped), dict(report.noted), dict(report.languages)
    sizes = {path.name: path.stat().st_size for path in part.folder.iterdir()}
    summary = InputSummary(report.kept, list(writer.parts), *counts, sizes)
    part.path(SUMMARY).write_text(json.dumps(asdict(summary)))  # an error if the folder is gone, which a new one hides


def open_records(spec: str, options: PrepareOptions, skipped: SkipList) -> Iterator[tuple[Record, str]]:
    """Yields the records of an input with their places."""
    for record in open_source(spec, "train", skipped, options.kinds):
        yield record, spec if is_single_input(spec) else skipped.where


def curated(record: Record, options: PrepareOptions, index: Index | None) -> Outcome:
    """Returns the result of the steps for single records, if there are any."""
    return curate_record(record, options.curate, index) if options.curate else Outcome(record, None, (), None)


def read_again(
    source: InputFolder, chosen: np.ndarray, options: PrepareOptions, index: Path | None
) -> Iterator[tuple[int, Record, str]]:
    """Yields (number, record, place) of the rows, among those that stayed, that a mask chooses; curates no others.

    Raises:
        UserError: the input has changed since it was read.
    """
    hashes, found = source.rows()["hash"], Index.open(index) if index else None
    numbers = np.flatnonzero(chosen)
    places = np.flatnonzero(_map_array(source.path(STAY), np.dtype(bool)))[numbers]
    records, following = open_records(source.spec, options, SkipList()), 0
    for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
        skipped, following = place - following, place + 1
        record, where = next(islice(records, skipped, None), (None, ""))
        kept = None if record is None else curated(record, options, found).record
        if kept is None or row_hash(kept, options.seed) != hashes[number]:
            raise UserError(f"{source.spec} has changed since it was read first; run the same command again.")
        yield number, kept, where


class _Writer(ExitStack):
    """A writer of the numbers of records."""

    def __init__(self, target: InputFolder, options: PrepareOptions):
        super().__init__()
        self.parts: dict[Key, int] = {}
        self._options, curate = options, options.curate
        bands = curate.permutations // curate.band if curate and curate.near_duplicates else 0
        names = (STAY, "rows", *["sketches"] * bool(bands), *map(_band_name, range(bands)))
        self._stay, self._rows, *self._near = (self.enter_context(target.path(name).open("wb")) for name in names)

    def add(self, record: Record | None) -> None:
        """Adds the result of curation for a record; None means that it is left out."""
        self._stay.write(b"\1" if record else b"\0")
        if not record:
            return
        part = self.parts.setdefault((record.source, record.kind), len(self.parts))
        found = numbers_of(record, self._options)
        self._rows.write(np.array((part, *found[:5]), NUMBERS).tobytes())
        if self._near:
            near = found.sketch, *(key.to_bytes(8, "little") for key in found.bands)
            for file, content in zip(self._near, near, strict=True):
                file.write(content)
