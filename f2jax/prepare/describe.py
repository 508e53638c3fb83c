"""Reads a finished data set, and writes its index (`data.corpus_index`) and its entry for the data card."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from f2jax import files
from f2jax.data.corpus import (
    READ_TOGETHER,
    PreparedCorpus,
    Reader,
    Shards,
    parse_document,
    parse_row,
    parse_scores,
    row_details,
    shards_of,
)
from f2jax.data.corpus_index import (
    INDEXED_DOCUMENT,
    INDEXED_ROW,
    NUMBER,
    SCORE,
    SPLITS,
    has_index,
    index_folder,
)
from f2jax.data.dataset import text_key
from f2jax.errors import UserError
from f2jax.locks import exclusive
from f2jax.prepare.data_card import shard_sizes
from f2jax.prepare.workers import run_in_processes

PERCENTILES = (50, 90, 99, 100)


def describe(folder: str | Path, entry: dict) -> dict:
    """Writes the index of a data set; returns its rows, documents, languages, lengths in tokens, bytes, and a hash of
    all records in order.

    The index gets its final name, which is the hash, once it is complete; an index of other content is deleted.
    """
    reader, digest = Reader(), hashlib.blake2b(digest_size=16)
    part = index_folder(folder, entry | {"content": "part"})
    shutil.rmtree(part.parent, ignore_errors=True)
    part.mkdir(parents=True)
    held_out = {row_details(raw)[0] for raw in shards_of(folder, entry, "validation").read_all(reader)}
    in_both, languages = set[int](), Counter[str]()
    query_lengths, document_lengths = Counter[int](), Counter[int]()
    max_negatives, scored = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        start = 0
        with (
            _npy(part / f"{split}.npy", INDEXED_ROW) as add,
            _npy(part / f"{split}-documents.npy", NUMBER) as add_numbers,
            _npy(part / f"{split}-scores.npy", SCORE) as add_scores,
        ):
            for some in _pieces(shards_of(folder, entry, split), reader, digest):
                rows = list(map(parse_row, some))
                counts = [len(documents) for _, documents, _ in rows]
                starts = accumulate(counts, initial=start)
                add(
                    [
                        (text_key(query.tobytes()), label, first, len(query), count)
                        for (query, _, label), first, count in zip(rows, starts, counts, strict=False)
                    ]
                )
                add_numbers(np.concatenate([documents for _, documents, _ in rows]))
                scores = list(map(parse_scores, some))
                scored[split] += sum(len(found) > 0 for found in scores)
                absent = (np.full(count, np.nan) for count in counts)
                add_scores(np.concatenate([a if len(a) else b for a, b in zip(scores, absent, strict=True)]))
                start += sum(counts)
                query_lengths.update(len(query) for query, *_ in rows)
                max_negatives[split] = max(max_negatives[split], *(count - 1 for count in counts))
                if split == "train":
                    details = list(map(row_details, some))
                    languages.update(language for _, language, _ in details)
                    in_both.update(held_out.intersection(number for number, *_ in details))
    with _npy(part / "documents.npy", INDEXED_DOCUMENT) as add:
        for some in _pieces(shards_of(folder, entry, "documents"), reader, digest):
            documents = list(map(parse_document, some))
            add([(text_key(tokens.tobytes()), number, len(tokens)) for number, tokens in documents])
            document_lengths.update(len(tokens) for _, tokens in documents)
    for path in part.glob("*-scores.npy") if not any(scored.values()) else ():
        path.unlink()
    content = digest.hexdigest()
    part.rename(index_folder(folder, entry | {"content": content}))
    return {
        "rows": {split: sum(entry["shards"]["rows"][split]) for split in SPLITS},
        "queries_in_both_splits": len(in_both),
        "documents": sum(entry["shards"]["documents"]),
        "max_negatives": max_negatives,
        "scored": scored,  # rows with scores of a reranker
        "languages": dict(sorted(languages.items())),  # of the training rows
        "tokens": {"query": percentiles(query_lengths), "document": percentiles(document_lengths)},
        "content": content,
        "bytes": shard_sizes(folder, entry),
    }


def percentiles(lengths: Counter[int]) -> dict[str, int]:
    """Returns {"p50": …} of lengths, given the number of texts with each length."""
    ordered = sorted(lengths.items())
    below = np.cumsum([0, *(count for _, count in ordered)])[1:]
    places = [np.searchsorted(below, lengths.total() * p / 100) for p in PERCENTILES]
    return {f"p{p}": ordered[place][0] if ordered else 0 for p, place in zip(PERCENTILES, places, strict=True)}


def add_index(folder: str | Path, jobs: int = 1) -> dict:
    """Writes the missing indexes of a corpus's data sets from their records; returns the card.

    Raises:
        UserError: there is no complete corpus, it is remote, or another process writes there.
    """
    if files.is_remote(folder):
        raise UserError(f"{folder}: an index is written to a local or mounted folder; copy the corpus there and back.")
    corpus = PreparedCorpus(folder)
    with exclusive(corpus.folder.resolve(), "prepare"):
        write_missing(corpus.folder, corpus.card["datasets"], jobs)
    return corpus.card


def write_missing(folder: str | Path, entries: Iterable[dict], jobs: int) -> None:
    """Writes the missing indexes of these data sets in up to `jobs` processes.

    Raises:
        UserError: the records of a data set do not match its entry in the card.
    """
    lacking = [entry for entry in entries if not has_index(folder, entry)]
    for entry, found in zip(lacking, run_in_processes(partial(describe, folder), lacking, jobs), strict=True):
        if found["content"] != entry["content"]:
            raise UserError(f"The records of {entry['name']} in {folder} have changed; prepare the corpus again.")


def _pieces(shards: Shards, reader: Reader, digest: Any) -> Iterator[list[bytes]]:
    """Yields all records in order in lists, since one that is parsed takes many times its place in an array; each and
    its length is added to the digest.
    """
    records = iter(shards.read_all(reader))
    while some := list(islice(records, READ_TOGETHER)):
        for raw in some:
            digest.update(len(raw).to_bytes(8, "little") + raw)
        yield some


@contextmanager
def _npy(path: Path, dtype: np.dtype) -> Iterator[Callable[[Any], None]]:
    """Yields a function that appends to an array [N] in a new .npy file."""
    length = 0

    def write_head() -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, shape)

    def add(piece: Any) -> None:
        nonlocal length
        array = np.array(piece, dtype)
        length += len(array)
        file.write(array.tobytes())

    with path.open("wb") as file:
        write_head()
        yield add
        file.seek(0)
        write_head()  # as long as before, since NumPy leaves room for the length to grow
