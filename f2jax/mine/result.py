"""The output of `mine`: a file for each block of queries, and then the rows with negatives in a file per source."""

import dataclasses
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from f2jax import files
from f2jax.data.record import Record, stable_id
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.mine.negatives import is_member, pair_keys
from f2jax.mine.options import MiningInput, MiningOptions
from f2jax.mine.rows import MINED_ROW, GroupFacts, MiningRows, iter_records

REASONS = {
    "max_score": "near documents rejected: the score is not below max_score",
    "relative": "near documents rejected: the score is too close to that of the right answer",
    "rated": "near documents rejected: they are rated as right answers",
    "random": "negatives drawn at random",
}
BATCH = 1_024  # rows whose negatives are looked up together
ROW_GROUP, WAITING = 16 << 20, 64 << 20  # bytes of text of one source that are written together; of all that wait
TYPES = {str(bool): pa.bool_(), str(tuple[str, ...]): pa.list_(pa.string())}
_COLUMNS = [f for f in dataclasses.fields(Record) if f.name != "scores"]  # a reranker's: not of the new negatives
SCHEMA = pa.schema([(f.name, TYPES.get(str(f.type), pa.string())) for f in _COLUMNS])


@dataclass(frozen=True)
class MinedBlocks:
    """The negatives of all queries, in a folder with a file for each block; blocks are numbered over all groups."""

    folder: Path
    rows: MiningRows
    keep: int
    queries: int  # of a block

    @cached_property
    def _first_queries(self) -> np.ndarray:
        """[groups + 1]: of each group, among those of all groups."""
        return np.cumsum([0, *(group.queries for group in self.rows.groups)])

    @cached_property
    def _first_blocks(self) -> np.ndarray:
        """[groups + 1]"""
        return np.cumsum([0, *(-(-group.queries // self.queries) for group in self.rows.groups)])

    def numbers(self, group: int) -> range:
        """Returns the numbers of a group's blocks."""
        return range(*self._first_blocks[group : group + 2].tolist())

    def has(self, number: int) -> bool:
        return self._path(number).exists()

    def write(self, number: int, documents_qj: np.ndarray, counts: Counter) -> None:
        """Writes a block: numbers in `MiningRows.documents`, padded with -1, and the counts of `MinedBlock`."""
        content = io.BytesIO()
        np.savez(content, documents=documents_qj, counts=[counts[name] for name in REASONS])
        files.write_atomically(self._path(number), content.getvalue())

    def read(self, places: np.ndarray) -> np.ndarray:
        """Returns the documents [q, keep] of queries, numbered over all groups."""
        groups = np.searchsorted(self._first_queries, places, side="right") - 1
        block_q, place_q = np.divmod(places - self._first_queries[groups], self.queries)
        block_q += self._first_blocks[groups]
        documents_qj = np.empty((len(places), self.keep), np.int64)
        for block in np.unique(block_q):
            chosen = block_q == block
            with np.load(self._path(block)) as stored:
                documents_qj[chosen] = stored["documents"][place_q[chosen]]
        return documents_qj

    def counts(self) -> Counter:
        """Returns the sum of the counts of all blocks."""
        total = np.zeros(len(REASONS), np.int64)
        for number in range(self._first_blocks[-1]):
            with np.load(self._path(number)) as stored:
                total += stored["counts"]
        return Counter(dict(zip(REASONS, total.tolist(), strict=True)))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}.npz"


@dataclass
class MiningSummary:
    """Counts of what happened to the rows of one input, or of all."""

    output: str
    read: int = 0
    written: int = 0
    negatives: int = 0  # of all written rows
    brought: int = 0  # negatives that the rows brought themselves
    dropped: Counter = field(default_factory=Counter)  # rows, by reason
    skipped: Counter = field(default_factory=Counter)  # rows that could not be read, by reason
    counts: Counter = field(default_factory=Counter)  # of `MinedBlock`

    @classmethod
    def of(cls, output: str, rows: MiningRows, mined: MinedBlocks, results: Path) -> "MiningSummary":
        """Returns the sum of the counts that `ResultWriter.write` wrote for each input."""
        total = cls(output, rows.starts[-1], skipped=Counter(rows.skipped), counts=mined.counts())
        for number in range(len(rows.inputs)):
            part = files.read_json_object(_done_path(results, number))
            for name in ("written", "negatives", "brought"):
                setattr(total, name, getattr(total, name) + part[name])
            total.dropped.update(part["dropped"])
            total.counts.update(part["counts"])
        return total

    @property
    def reason(self) -> str:
        """Returns why most rows were dropped."""
        return self.dropped.most_common(1)[0][0]

    def __str__(self) -> str:
        mean = self.negatives / max(self.written, 1)
        lines = [f"{self.output}: {self.written:,} of {self.read:,} rows, {mean:.1f} negatives each"]
        lines += [f"{self.brought:,} negatives are those that the rows brought"] if self.brought else []
        lines += [f"{count:,} rows dropped: {reason}" for reason, count in self.dropped.most_common()]
        lines += [f"{count:,} rows not read: {reason}" for reason, count in self.skipped.most_common()]
        lines += [f"{self.counts[name]:,} {text}" for name, text in REASONS.items() if self.counts[name]]
        return "\n  ".join(lines)


def _done_path(results: Path, number: int) -> Path:
    """Returns the file that marks an input as complete, with its counts."""
    return results / f"{number:05d}.json"


@dataclass(frozen=True)
class ResultWriter:
    """Writes the kept rows of inputs with their negatives."""

    rows: MiningRows
    given: MiningInput
    options: MiningOptions
    mined: MinedBlocks
    false_pairs: np.ndarray | None
    folder: Path

    def write(self, number: int) -> None:
        """Writes an input, unless it is complete.

        Raises:
            UserError: the input has changed since it was first read.
        """
        if _done_path(self.folder, number).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        summary, keep = MiningSummary(""), self.options.keep
        with _SourceFiles(self.folder, self.rows.outputs[number]) as target:
            for record, mined_texts, group in self._with_mined(number):
                texts = brought = tuple(dict.fromkeys(record.negatives))
                if group is not None:
                    brought = self._without_false(record, brought[: self.given.own], summary.counts)
                    texts = tuple(dict.fromkeys([*brought, *mined_texts]))[: max(keep, len(brought))]
                    fixed = record.kind == "classification" and record.negatives
                    if not texts or (len(texts) < keep and self.options.fewer == "drop" and not fixed):
                        enough = group.documents > self.options.skip + keep
                        scarce = "documents pass the thresholds" if enough else "documents are in the set"
                        summary.dropped[f"fewer than {keep} negatives, too few {scarce}"] += 1
                        continue
                summary.written += 1
                summary.negatives += len(texts)
                summary.brought += len(brought)
                target.add(dataclasses.replace(record, negatives=texts))
            target.finish()
        files.write_atomically(_done_path(self.folder, number), json.dumps(vars(summary)))

    def _without_false(self, record: Record, texts: tuple[str, ...], counts: Counter) -> tuple[str, ...]:
        """Returns the texts that are not false negatives by `false_pairs`, and counts the others."""
        if self.false_pairs is None or not texts:
            return texts
        keys = pair_keys(np.array([record.query_id]), np.array([stable_id(text) for text in texts]))
        is_false = is_member(keys, self.false_pairs)
        counts["rated"] += int(is_false.sum())
        return tuple(text for text, false in zip(texts, is_false, strict=True) if not false)

    def _with_mined(self, number: int) -> Iterator[tuple[Record, list[str], GroupFacts | None]]:
        """Yields each row of an input with its mined negatives and its group, or None if it is not mined."""
        rows, (start, stop) = self.rows, self.rows.starts[number : number + 2]
        records = iter_records(rows.inputs[number], self.given.kinds, SkipList())
        places, details = rows.numbers("places"), np.memmap(rows.folder / "rows", MINED_ROW, "r")
        for first in range(start, stop, BATCH):
            last = min(first + BATCH, stop)
            batch = list(islice(records, last - first))
            more = last == stop and next(records, None)
            if more or [record.query_id for record in batch] != details["query"][first:last].tolist():
                raise UserError(
                    f"{rows.inputs[number]} has changed since it was read first; run the same command again."
                )
            place_r = np.array(places[first:last])
            of_mined = self.mined.read(place_r[place_r >= 0])
            numbers = np.unique(of_mined[of_mined >= 0])
            texts = dict(zip(numbers.tolist(), rows.documents[numbers], strict=True))
            chosen = iter(of_mined.tolist())
            for record, group in zip(batch, details["group"][first:last].tolist(), strict=True):
                negatives = [texts[n] for n in next(chosen) if n >= 0] if group >= 0 else []
                yield record, negatives, rows.groups[group] if group >= 0 else None


class _SourceFiles(ExitStack):
    """A context manager that writes records to a file for each source, with few in memory for any number of sources."""

    def __init__(self, folder: Path, names: dict[str, str]):
        super().__init__()
        self._folder, self._names = folder, names
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[Record]] = defaultdict(list)
        self._sizes: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        source = record.source
        self._waiting[source].append(record)
        self._sizes[source] += len(record.query) + len(record.positive) + sum(map(len, record.negatives))
        if self._sizes[source] > ROW_GROUP:
            self._flush(source)
        elif self._sizes.total() > WAITING:
            self._flush(max(self._sizes, key=self._sizes.__getitem__))

    def finish(self) -> None:
        for source in list(self._waiting):
            self._flush(source)

    def _flush(self, source: str) -> None:
        records = self._waiting.pop(source)
        del self._sizes[source]
        if source not in self._writers:
            part = self.enter_context(files.atomic_path(self._folder / self._names[source]))
            self._writers[source] = self.enter_context(pq.ParquetWriter(part, SCHEMA, compression="zstd"))
        columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
        self._writers[source].write_table(pa.table(columns, schema=SCHEMA))
