"""Adds hard negatives to files of rows, in pieces that survive an interruption; writes a file for each source.

Texts, vectors and negatives are kept in a folder inside the output that is deleted at the end. If there are several
hosts, which must all see that folder, the first one reads, all encode, and each one mines every n-th block of queries
and writes every n-th input.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.instructions import INSTRUCTED
from f2jax.data.skip_list import say_once
from f2jax.data.sources import check_apart, list_inputs
from f2jax.data.sources.tables import ENDINGS
from f2jax.errors import UserError
from f2jax.inference.arguments import named_prompt
from f2jax.inference.embedder import Embedder
from f2jax.inference.multihost import follow_first
from f2jax.inference.top_k import SearchBlocks
from f2jax.inference.vectors import embed_into, load_vectors, open_vectors
from f2jax.mine.negatives import BLOCKS, mine_negatives
from f2jax.mine.options import MiningInput, MiningOptions, MiningVectorOptions
from f2jax.mine.ratings import read_false_pairs
from f2jax.mine.result import MinedBlocks, MiningSummary, ResultWriter
from f2jax.mine.rows import DOCUMENTS, QUERIES, MiningRows, make_group, read_mining_rows
from f2jax.parallel import hosts

WORK, DONE = ".partial", ".mined.json"  # in the output: unfinished work, and the list of complete files
WAIT_SECONDS = 7 * 24 * 3_600  # to wait for the slowest host; if one dies, the others stop at once


def mine_folder(
    given: MiningInput,
    vectors: "ModelVectors | FileVectors",
    output: str,
    options: MiningOptions,
    across_sources: bool = False,
    blocks: SearchBlocks = BLOCKS,
) -> MiningSummary | None:
    """Writes the rows with their negatives as parquet, one file for each source of an input, in the input's order.

    A row's own negatives come first, and mined ones fill up to `options.keep`. Rows of kinds that are not mined stay as
    they are. A classification row that brings negatives is not dropped for having few: one is enough (recipe 3.1).
    The same call after an interruption continues after the last complete block, on however many hosts, and writes the
    same bytes. The files of an earlier call in the folder go when the new ones are complete. Returns None if the output
    has this result already. A folder may be called x.parquet, which other readers of Parquet take for one table.

    Args:
        across_sources: mine all sources of a kind together, not each against its own documents.

    Raises:
        UserError: the input cannot be read, changes or lies in the output, or this in a folder of the input, the output
            cannot be written or is not seen by all hosts, the vectors do not fit the rows or are not finite, unfinished
            vectors there belong to another call, or no row is left.
    """
    if (output.endswith(ENDINGS) and not output.endswith(".parquet")) or files.is_remote(output):
        raise UserError(f"{output} should be a local or mounted folder, in which each source gets a file.")
    work = Path(output) / WORK
    false_pairs = read_false_pairs(given.ratings, given.max_rating) if given.ratings else None
    try:
        with hosts.leave_on_error(all_stop=False):
            if hosts.is_first():
                check_apart(given.input, list_inputs(given.input), output)
                read_mining_rows(given, work / "rows", across_sources)
            _wait("the rows")
            if not work.exists():
                raise UserError(f"{output} is not the folder of the first host; give one that all hosts can see.")
            summary = _mine(given, vectors, output, options, blocks, false_pairs)  # which leaves no file of `work` open
            if hosts.is_first():
                _remove(work)
            return summary
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error


def _mine(
    given: MiningInput,
    vectors: "ModelVectors | FileVectors",
    output: str,
    options: MiningOptions,
    blocks: SearchBlocks,
    false_pairs: np.ndarray | None,
) -> MiningSummary | None:
    """Mines negatives for the rows, and publishes the result."""
    work = Path(output) / WORK
    rows = MiningRows.open(work / "rows")
    call = {
        "rows": rows.digests,
        "false pairs": None if false_pairs is None else hashlib.sha256(false_pairs.tobytes()).hexdigest(),
        "vectors": vectors.call,
        "options": dataclasses.asdict(options) | dataclasses.asdict(blocks),
    }
    mined = MinedBlocks(work / f"negatives-{_digest(call)}", rows, options.keep, blocks.queries)
    results = work / f"results-{_digest([call, given.own, rows.starts, rows.outputs])}"
    complete = _has_result(Path(output), results.name)
    _wait(f"{results.name}, complete: {complete}")
    if complete:
        return None
    writer = ResultWriter(rows, given, options, mined, false_pairs, results)
    _mine_missing(writer, *vectors.load(rows, work), blocks)
    _wait("the negatives")
    for number in range(jax.process_index(), len(rows.inputs), jax.process_count()):
        writer.write(number)
    _wait("the results")
    summary = MiningSummary.of(output, rows, mined, results)
    _wait("the summary")
    if not summary.written:
        advice = "lower --keep or --skip, or give --fewer random" if options.fewer == "drop" else "give --documents"
        raise UserError(f"No row is left: {summary.reason}; {advice}.")
    if hosts.is_first():
        _publish(results, Path(output))
    return summary


def _wait(reached: str) -> None:
    """Waits until all hosts have reached this point; raises UserError if they work on something else."""
    hosts.check_same_on_all_hosts({"mining": reached}, WAIT_SECONDS)


def _digest(call: object) -> str:
    return hashlib.sha256(json.dumps(call).encode()).hexdigest()[:32]


def _mine_missing(target: ResultWriter, queries: np.ndarray, documents: np.ndarray, blocks: SearchBlocks) -> None:
    """Mines this host's missing blocks."""
    rows, mined = target.rows, target.mined
    missing = [
        [n for n in mined.numbers(group) if n % jax.process_count() == jax.process_index() and not mined.has(n)]
        for group in range(len(rows.groups))
    ]
    with tqdm(total=sum(map(len, missing)), desc="mining", unit="block", disable=not hosts.is_first()) as bar:
        for number, todo in enumerate(missing):
            if not todo:
                continue
            group = make_group(rows, number, target.false_pairs)
            of_queries, of_documents = VectorsView(queries, group.queries), VectorsView(documents, group.documents)
            starts = [(n - mined.numbers(number)[0]) * blocks.queries for n in todo]
            found = mine_negatives(of_queries, of_documents, group.answers, target.options, group.ids, starts, blocks)
            for block, chosen in zip(todo, found, strict=True):
                documents_qj = np.where(chosen.documents_qj < 0, -1, group.documents[chosen.documents_qj])
                mined.write(block, documents_qj, chosen.counts)
                bar.update()


def _read_done(output: Path) -> dict:
    """Returns the name of the last result, its `files`, and the `old` files of earlier results still to be deleted."""
    done = output / DONE
    return files.read_json_object(done, {"result": str, "files": list[str]}) if done.exists() else {}


def _has_result(output: Path, result: str) -> bool:
    facts = _read_done(output)
    is_whole = facts.get("result") == result and "old" not in facts
    return is_whole and all((output / name).exists() for name in facts["files"])


def _publish(results: Path, output: Path) -> None:
    """Moves the files of the result into the output, and then deletes those of earlier results; it can be repeated."""
    before, new = _read_done(output), sorted(path.name for path in results.glob("*.parquet"))
    old = before.get("files", []) + before.get("old", [])
    named = before["files"] if before.get("result") == results.name else new
    facts = {"result": results.name, "files": named}
    files.write_atomically(output / DONE, json.dumps(facts | {"old": old}, ensure_ascii=False))
    for name in new:
        (results / name).replace(output / name)
    for name in set(old) - set(named):
        (output / name).unlink(missing_ok=True)
    files.write_atomically(output / DONE, json.dumps(facts, ensure_ascii=False))


def _remove(work: Path) -> None:
    try:
        shutil.rmtree(work)
    except OSError as error:
        say_once(f"{work} cannot be deleted: {error.strerror or error}; delete it, the result is complete.")


def list_mining_texts(given: MiningInput, queries: str | None, documents: str | None) -> str:
    """Writes the texts to embed with another tool, a JSON object {"text": …} per line in the order of `FileVectors`.

    Returns a summary for the user.

    Raises:
        UserError: the input cannot be read or a file cannot be written.
    """
    targets = {"queries": queries, "documents": documents}
    paths = {kind: path for kind, path in targets.items() if path}
    for path in paths.values():
        if Path(path).suffix != ".jsonl":
            raise UserError(f"{path} should end in .jsonl, because a text may contain line breaks.")
    lines = []
    with TemporaryDirectory() as folder:
        rows = read_mining_rows(given, Path(folder) / "rows")
        for kind, path in paths.items():
            texts: Sequence[str] = getattr(rows, kind)
            with (
                files.atomic_path(path) as part,
                files.clear_errors(path, "written"),
                part.open("w", encoding="utf-8") as file,
            ):
                file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            lines.append(f"{path}: {len(texts):,} {kind}.")
    return "\n".join(lines)


# Vectors: from a model, or from files


def choose_vectors(options: MiningVectorOptions) -> "ModelVectors | FileVectors":
    """Returns the source of the vectors: a model, or two files.

    Raises:
        UserError: both or neither are given, or the model cannot be loaded.
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
    """Vectors from an `Embedder`, with its prompts for queries and documents.

    A query with its own instruction gets no prompt. Raises UserError for an unknown prompt.
    """

    embedder: Embedder
    prompt_name: str | None = None  # default: `query`, if the model has it
    batch_size: int = 1_024

    def __post_init__(self):
        named_prompt(self.embedder.prompts, self.prompt_name or "query")

    @property
    def prompt(self) -> str:
        return named_prompt(self.embedder.prompts, self.prompt_name or "query")

    @property
    def call(self) -> dict:
        """Returns everything that the vectors depend on besides the texts."""
        return {"model": self.embedder.vectors_key, "prompt": self.prompt}

    def load(self, rows: MiningRows, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns vectors, float32 [q, e] and [c, e], in files in `folder`; all hosts encode."""

        def queries(texts: list[str]) -> np.ndarray:
            texts = [text if INSTRUCTED.match(text) else self.prompt + text for text in texts]
            return self.embedder.encode(texts, prompt="", batch_size=self.batch_size, show_progress_bar=False)

        def documents(texts: list[str]) -> np.ndarray:
            return self.embedder.encode_document(texts, batch_size=self.batch_size, show_progress_bar=False)

        def embed_all() -> None:
            for name, texts, encode in ((QUERIES, rows.queries, queries), (DOCUMENTS, rows.documents, documents)):
                embed_into(folder / f"{name}.npy", texts, encode, self.call | {"texts": rows.digests[name]}, name)

        follow_first(self.embedder, embed_all)
        _wait("the vectors")
        return open_vectors(folder / f"{QUERIES}.npy"), open_vectors(folder / f"{DOCUMENTS}.npy")


@dataclass(frozen=True)
class FileVectors:
    """Vectors from .npy files, [q, e] and [c, e] of any float type, in the order of `MiningRows`."""

    queries: str
    documents: str

    @property
    def call(self) -> dict:
        """Returns what identifies the files."""
        stamps = []
        for path in (self.queries, self.documents):
            with files.clear_errors(path, "read"):
                stat = Path(path).stat()
            stamps.append([stat.st_size, stat.st_mtime_ns])
        return {"files": stamps}

    def load(self, rows: MiningRows, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the arrays of both files, which stay on disk; raises UserError if they do not match the rows."""
        queries = load_vectors(self.queries, len(rows.queries), "queries")
        return queries, load_vectors(self.documents, len(rows.documents), "documents")


@dataclass(frozen=True)
class VectorsView:
    """Some rows of an array of vectors, read on demand."""

    vectors: np.ndarray
    numbers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.numbers), self.vectors.shape[1]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self.vectors[self.numbers[index]]
