"""One input, read once: its records that stay, on disk; a few numbers of each; and counts of what was found and done.

Texts are needed until the corpus is whole. The numbers remain: from them it is decided again which rows are duplicates
and which ones a cap keeps, when other inputs change.
"""

import json
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.record import Record, stable_id
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import is_single_input, open_source
from f2jax.prepare.curate import CurationReport, Outcome, curate_record, dedup
from f2jax.prepare.options import Key, PrepareOptions
from f2jax.prepare.runs import RunWriter
from f2jax.prepare.scratch import RecordWriter

DOCUMENT_BYTES = 500  # of a document in memory, besides its text
ROW = np.dtype([("part", "<u4"), ("bytes", "<u8"), ("hash", "<u8")])  # data set; its documents in memory; for the cap


@dataclass(frozen=True)
class InputResult:
    """Where an input lies once it has been read."""

    spec: str
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def records(self) -> Path:
        return self.path("records.arrow")

    @property
    def listing(self) -> Path:
        """Skipped rows as lines of JSON; duplicates are not among them."""
        return self.path("skipped.jsonl")

    def survey(self) -> "InputSurvey":
        return InputSurvey.load(self.path("survey.json"))

    def rows(self) -> np.ndarray:
        """The numbers of each record, of dtype `ROW`."""
        return mapped(self.path("rows"), ROW)


@dataclass(frozen=True)
class InputSurvey:
    """What an input holds."""

    rows: int  # that stay
    parts: list[Key]  # its data sets; `ROW.part` numbers them
    skipped: dict[str, int]  # reason → rows
    noted: dict[str, int]  # what curation did or noticed → rows
    languages: dict[str, int]  # that queries were found to be in → rows

    @classmethod
    def load(cls, path: Path) -> "InputSurvey":
        found = files.read_json(path)
        return cls(**found | {"parts": [tuple(key) for key in found["parts"]]})


def mapped(path: Path, kind: np.dtype) -> np.ndarray:
    """A file of entries of one kind; it is read where it is used."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)


def sketch_type(permutations: int) -> np.dtype:
    """What near duplicates are found by, of one record."""
    return np.dtype([("rank", "<u8"), ("values", "<u4", (2 * permutations,))])


def row_hash(record: Record, seed: int) -> int:
    """Decides which rows a cap keeps: a function of the row and the seed, so that no order matters."""
    return stable_id("\n".join([f"cap {seed}", record.query, record.positive, *record.negatives]))


def read_input(taken: InputResult, options: PrepareOptions, listing: bool) -> None:
    """Read an input and fill its folder, which is there whole or not at all.

    Args:
        listing: list the rows that are skipped.

    Raises:
        UserError: the input cannot be read.
    """
    part = InputResult(taken.spec, taken.folder.with_name(f"{taken.folder.name}.{uuid.uuid4().hex}.part"))
    part.folder.mkdir(parents=True)
    try:
        _read(part, options, listing)
        shutil.rmtree(taken.folder, ignore_errors=True)
        part.folder.rename(taken.folder)
    finally:
        shutil.rmtree(part.folder, ignore_errors=True)  # it is there where something failed


def _read(part: InputResult, options: PrepareOptions, listing: bool) -> None:
    with ExitStack() as stack:
        skipped = SkipList(listing=stack.enter_context(open(part.listing, "w")) if listing else None)
        report, writer = CurationReport(skipped=skipped), stack.enter_context(_Writer(part, options))
        for record in open_source(part.spec, "train", skipped, options.kinds):
            where = part.spec if is_single_input(part.spec) else skipped.row[0]
            outcome = curate_record(record, options.curate) if options.curate else Outcome(record, None, (), None)
            report.add(outcome, record, where)
            if outcome.record is not None:
                writer.add(outcome.record, where)
    survey = InputSurvey(report.kept, list(writer.parts), dict(skipped), dict(report.noted), dict(report.languages))
    files.write_atomically(part.path("survey.json"), json.dumps(asdict(survey)))


class _Writer(ExitStack):
    """Writes records and their numbers."""

    def __init__(self, taken: InputResult, options: PrepareOptions):
        super().__init__()
        self.parts: dict[Key, int] = {}
        self._count, self._options, self._near = 0, options, None
        self._records = self.enter_context(RecordWriter(taken.records))
        self._rows = self.enter_context(taken.path("rows").open("wb"))
        curate = options.curate
        self._exact = curate and curate.exact_duplicates and self.enter_context(RunWriter(taken.path("exact"), 3))
        if curate and curate.near_duplicates:
            self._near = self.enter_context(RunWriter(taken.path("near"), 2))
            self._sketches = self.enter_context(taken.path("sketches").open("wb"))
            self._sketch_type = sketch_type(curate.permutations)

    def add(self, record: Record, where: str) -> None:
        part = self.parts.setdefault((record.source, record.kind), len(self.parts))
        size = sum(DOCUMENT_BYTES + len(text) for text in (record.positive, *record.negatives))
        self._records.add(record, where)
        self._rows.write(np.array((part, size, row_hash(record, self._options.seed)), ROW).tobytes())
        if self._exact:
            self._exact.add(dedup.exact_key(record), dedup.rank(record), self._count)
        if self._near:
            made = dedup.sketch(record, self._options.curate)
            values = np.frombuffer(made.values, "<u4")
            self._sketches.write(np.array((made.rank, values), self._sketch_type).tobytes())
            for key in dedup.band_keys(made, self._options.curate):
                self._near.add(key, self._count)
        self._count += 1
