"""Writes the index of a prepared data set, which `data.corpus_index` describes."""

import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.corpus import PreparedCorpus, Reader, parse_document, parse_row, shards_of
from f2jax.data.corpus_index import DOCUMENT, NUMBER, ROW, SPLITS, has_index, index_folder, text_key
from f2jax.errors import UserError
from f2jax.prepare.workers import exclusive, run_in_processes


def add_index(folder: str | Path, jobs: int = 1) -> dict:
    """Writes the index of each data set of a corpus that lacks it, from its records alone; returns the card.

    Raises:
        UserError: there is no complete corpus, it is remote, or another process writes there.
    """
    if files.is_remote(folder):
        raise UserError(f"{folder}: an index is written to a local or mounted folder; copy the corpus there and back.")
    corpus = PreparedCorpus(folder)
    with exclusive(corpus.folder.resolve()):
        write_missing(corpus.folder, corpus.card["datasets"], jobs)
    return corpus.card


def write_missing(folder: str | Path, entries: Iterable[dict], jobs: int) -> None:
    """Writes the index of each of some data sets that lacks it, in up to `jobs` processes."""
    for _ in run_in_processes(partial(write_index, folder), [e for e in entries if not has_index(folder, e)], jobs):
        pass


def write_index(folder: str | Path, entry: dict) -> None:
    """Writes the index of a data set, atomically, in the place of one of another content."""
    path, reader = index_folder(folder, entry), Reader()
    shutil.rmtree(path.parent, ignore_errors=True)
    part = path.with_name("part")
    part.mkdir(parents=True)
    documents = shards_of(folder, entry, "documents")
    found = np.fromiter(_documents(documents.read_all(reader)), DOCUMENT, sum(documents.lengths))
    np.save(part / "documents.npy", found)
    for split in SPLITS:
        rows, numbers = shards_of(folder, entry, split), [np.zeros(0, NUMBER)]
        found = np.fromiter(_rows(rows.read_all(reader), numbers), ROW, sum(rows.lengths))
        np.save(part / f"{split}.npy", found)
        np.save(part / f"{split}-documents.npy", np.concatenate(numbers))
    part.rename(path)


def _documents(records: Iterable[bytes]) -> Iterator[tuple]:
    """Yields a `DOCUMENT` for each record."""
    for raw in records:
        number, tokens = parse_document(raw)
        yield text_key(tokens.tobytes()), number, len(tokens)


def _rows(records: Iterable[bytes], numbers: list[np.ndarray]) -> Iterator[tuple]:
    """Yields a `ROW` for each record, and appends the numbers of its documents."""
    start = 0
    for raw in records:
        query, documents, label = parse_row(raw)
        numbers.append(documents.astype(NUMBER))
        yield text_key(query.tobytes()), label, start, len(query), len(documents)
        start += len(documents)
