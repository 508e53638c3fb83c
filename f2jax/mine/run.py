"""Files of rows → the same rows with hard negatives, in pieces that survive an interruption.

The texts of the input are in memory. Vectors and negatives are in `.npy` files, in a folder next to the output that is
deleted at the end.
"""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from f2jax import files
from f2jax.data.instructions import INSTRUCTED
from f2jax.data.record import Record
from f2jax.data.texts import read_texts
from f2jax.errors import UserError, did_you_mean
from f2jax.inference.embedder import Embedder
from f2jax.inference.top_k import SearchBlocks
from f2jax.inference.vectors import ResumableArray, embed_into, load_vectors, texts_digest
from f2jax.mine.negatives import BLOCKS, mine_negatives
from f2jax.mine.options import MiningInput, MiningOptions, MiningVectorOptions
from f2jax.mine.rows import MiningGroup, MiningRows, group_rows, read_mining_rows

ROW_GROUP = 4_096  # rows of the output
TYPES = {str(bool): pa.bool_(), str(tuple[str, ...]): pa.list_(pa.string())}
SCHEMA = pa.schema([(f.name, TYPES.get(str(f.type), pa.string())) for f in dataclasses.fields(Record)])


def read_mining_input(given: MiningInput) -> MiningRows:
    """Reads the rows; raises UserError if `read_mining_rows` does, or if the corpus cannot be read."""
    return read_mining_rows(given.input, read_texts(given.corpus) if given.corpus else (), given.kinds, given.only)


def mine_file(
    given: MiningInput,
    vectors: "ModelVectors | FileVectors",
    output: str,
    options: MiningOptions,
    across_sources: bool = False,
    replace: bool = False,
    blocks: SearchBlocks = BLOCKS,
) -> "MiningSummary":
    """Writes the rows with their negatives, in order, as parquet that `f2jax.data.sources` reads.

    A row's own negatives come first, and mined ones fill up to `options.keep`. Rows of kinds that are not mined stay as
    they are. A classification row that brings negatives is never dropped: one wrong label is all it needs (recipe 3.1).
    The same call after an interruption continues after the last complete block and writes the same bytes.

    Args:
        across_sources: mine all sources of a kind together, not each against its own documents.
        replace: drop the rows' own negatives.

    Raises:
        UserError: the input cannot be read, the output cannot be written, the vectors do not fit the rows or are not
            finite, the unfinished work next to the output belongs to another call, or no row is left.
    """
    if Path(output).suffix != ".parquet" or files.is_remote(output):
        raise UserError(f"{output} should be a local path that ends in .parquet.")
    rows = read_mining_input(given)
    groups = group_rows(rows, across_sources)
    folder, complete = Path(f"{output}.partial"), Path(f"{output}.whole")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        queries, documents = vectors.load(rows, folder)
        negatives, counts = _mine_groups(rows, groups, queries, documents, vectors.call, options, blocks, folder)
        summary = MiningSummary(output, len(rows.records), skipped=rows.skipped, counts=counts)
        _write(complete, _add_negatives(rows, groups, negatives, options, replace, summary))
        if not summary.written:
            complete.unlink()
            (folder / NEGATIVES).unlink()  # other options may follow; the vectors stay
            raise UserError(f"No row is left: {summary.reason}; lower --keep or --skip, or give --fewer random.")
        complete.replace(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    shutil.rmtree(folder)
    return summary


def list_mining_texts(given: MiningInput, queries: str | None, documents: str | None) -> str:
    """Writes the texts for another tool to embed: one JSON object {"text": …} a line, in the order of `FileVectors`.

    Returns what was written, for the user.

    Raises:
        UserError: the input cannot be read or a file cannot be written.
    """
    targets = {"queries": queries, "documents": documents}
    paths = {kind: path for kind, path in targets.items() if path}
    for path in paths.values():
        if Path(path).suffix != ".jsonl":
            raise UserError(f"{path} should end in .jsonl; a text may hold line ends.")
    rows, lines = read_mining_input(given), []
    for kind, path in paths.items():
        texts = getattr(rows, kind)
        try:
            files.write_atomically(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
        lines.append(f"{path}: {len(texts):,} {kind}.")
    return "\n".join(lines)


# Vectors: by a model, or from files


def choose_vectors(options: MiningVectorOptions) -> "ModelVectors | FileVectors":
    """Returns where the vectors come from: a model, or two files.

    Raises:
        UserError: both or neither are named, or the model cannot be loaded.
    """
    queries, documents = options.query_embeddings, options.document_embeddings
    if options.model and not (queries or documents):
        embedder = Embedder.from_pretrained(options.model, options.dtype)
        return ModelVectors(embedder, options.prompt_name, options.batch_size)
    if options.model or not queries or not documents:
        raise UserError("Give either --model, or both --query-embeddings and --document-embeddings.")
    return FileVectors(queries, documents)


@dataclass(frozen=True)
class ModelVectors:
    """Vectors by an `Embedder`: queries with one of its prompts, documents with its prompt for those.

    A query that brings an instruction gets no prompt before it. Raises UserError for an unknown prompt.
    """

    embedder: Embedder
    prompt_name: str | None = None  # default: `query`, if the model has it
    batch_size: int = 1_024

    def __post_init__(self):
        if self.prompt_name is not None and self.prompt_name not in self.embedder.prompts:
            hint = did_you_mean(self.prompt_name, self.embedder.prompts)
            raise UserError(f"The model has no prompt named '{self.prompt_name}'{hint}")

    @property
    def prompt(self) -> str:
        return self.embedder.prompts.get(self.prompt_name or "query", "")

    @property
    def call(self) -> dict:
        """Returns what the vectors depend on besides the texts."""
        return {"model": self.embedder.vectors_key, "prompt": self.prompt}

    def load(self, rows: MiningRows, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 [q, e] and [c, e], in files of `folder`."""

        def queries(texts: list[str]) -> np.ndarray:
            texts = [text if INSTRUCTED.match(text) else self.prompt + text for text in texts]
            return self.embedder.encode(texts, prompt="", batch_size=self.batch_size, show_progress_bar=False)

        def documents(texts: list[str]) -> np.ndarray:
            return self.embedder.encode_document(texts, batch_size=self.batch_size, show_progress_bar=False)

        def embed(name: str, texts: list[str], encode: Callable) -> np.ndarray:
            return embed_into(folder / f"{name}.npy", texts, encode, self.call | {"texts": texts_digest(texts)}, name)

        return embed("queries", rows.queries, queries), embed("documents", rows.documents, documents)


@dataclass(frozen=True)
class FileVectors:
    """Vectors from .npy files, [q, e] and [c, e] of any float type, in the order of `MiningRows`."""

    queries: str
    documents: str

    @property
    def call(self) -> dict:
        """Returns what identifies the files."""
        stats = [Path(path).stat() for path in (self.queries, self.documents)]
        return {"files": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}

    def load(self, rows: MiningRows, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arrays of both files, which stay on disk; raises UserError if they do not fit the rows."""
        queries = load_vectors(self.queries, len(rows.queries), "queries")
        return queries, load_vectors(self.documents, len(rows.documents), "documents")


@dataclass(frozen=True)
class VectorsView:
    """Some rows of an array of vectors, read when they are needed."""

    vectors: np.ndarray
    numbers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.numbers), self.vectors.shape[1]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self.vectors[self.numbers[index]]


# Negatives: a file with a row for each query of each group

NEGATIVES = "negatives.npy"


def _mine_groups(
    rows: MiningRows,
    groups: list[MiningGroup],
    queries: np.ndarray,
    documents: np.ndarray,
    vectors_call: dict,
    options: MiningOptions,
    blocks: SearchBlocks,
    folder: Path,
) -> tuple[np.ndarray, Counter]:
    """Returns document numbers [queries of all groups, keep], -1 if there are no more, and counts of `MinedBlock`."""
    call = {
        "rows": hashlib.sha256("\0".join(map(repr, rows.records)).encode()).hexdigest(),
        "documents": texts_digest(rows.documents),
        "groups": len(groups),
        "vectors": vectors_call,
        "options": dataclasses.asdict(options) | dataclasses.asdict(blocks),
    }
    array = ResumableArray(folder / NEGATIVES, call)
    counts: Counter = Counter(array.facts.get("counts"))
    total = sum(len(group.queries) for group in groups)
    negatives = array.open(np.int32, (total, options.keep))
    with tqdm(total=total, initial=array.done, desc="mining", unit="query", unit_scale=True, dynamic_ncols=True) as bar:
        end = 0
        for group in groups:
            first, end = end, end + len(group.queries)
            if array.done >= end:
                continue
            of_queries, of_documents = VectorsView(queries, group.queries), VectorsView(documents, group.documents)
            start = array.done - first
            for mined in mine_negatives(of_queries, of_documents, group.answers, options, group.ids, start, blocks):
                counts.update(mined.counts)
                block_qj = np.where(mined.documents_qj < 0, -1, group.documents[mined.documents_qj])
                array.append(block_qj, counts=counts)
                bar.update(len(block_qj))
    return negatives, counts


# The result


@dataclass
class MiningSummary:
    """What became of the rows."""

    output: str
    read: int
    written: int = 0
    negatives: int = 0  # of all written rows
    brought: int = 0  # negatives that the rows brought themselves
    dropped: Counter = field(default_factory=Counter)  # rows, by reason
    skipped: Counter = field(default_factory=Counter)  # rows that could not be read, by reason
    counts: Counter = field(default_factory=Counter)  # of `MinedBlock`

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
        meaning = {
            "max_score": "near documents rejected: the score is not below max_score",
            "relative": "near documents rejected: the score is too close to that of the right answer",
            "random": "negatives drawn at random",
        }
        lines += [f"{self.counts[name]:,} {text}" for name, text in meaning.items() if self.counts[name]]
        return "\n  ".join(lines)


def _add_negatives(
    rows: MiningRows,
    groups: list[MiningGroup],
    negatives: np.ndarray,
    options: MiningOptions,
    replace: bool,
    summary: MiningSummary,
) -> Iterator[Record]:
    """Yields the rows that stay, with their negatives, and counts them in `summary`."""
    place = np.full(len(rows.records), -1)  # of the row's query in `negatives`
    enough = np.ones(len(rows.records), bool)  # documents in the row's group
    first = 0
    for group in groups:
        place[group.rows] = first + group.query_numbers
        enough[group.rows] = len(group.documents) > options.skip + options.keep
        first += len(group.queries)
    for row, record in enumerate(tqdm(rows.records, desc="writing", unit="row", unit_scale=True, dynamic_ncols=True)):
        brought = () if replace and place[row] >= 0 else tuple(dict.fromkeys(record.negatives))
        texts = brought
        if place[row] >= 0:
            mined = (rows.documents[number] for number in negatives[place[row]] if number >= 0)
            texts = tuple(dict.fromkeys([*brought, *mined]))[: max(options.keep, len(brought))]
            fixed = record.kind == "classification" and brought
            if not texts or (len(texts) < options.keep and options.fewer == "drop" and not fixed):
                scarce = "documents pass the thresholds" if enough[row] else "documents are in the set"
                summary.dropped[f"fewer than {options.keep} negatives, too few {scarce}"] += 1
                continue
        summary.written += 1
        summary.negatives += len(texts)
        summary.brought += len(brought)
        yield dataclasses.replace(record, negatives=texts)


def _write(path: Path, records: Iterator[Record]) -> None:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while piece := list(islice(records, ROW_GROUP)):
            columns = {name: [getattr(record, name) for record in piece] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, schema=SCHEMA))
