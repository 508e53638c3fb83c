"""Writes the index of a prepared data set, which `data.corpus_index` describes."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from f2jax import files
from f2jax.data.corpus import READ_TOGETHER, PreparedCorpus, Reader, parse_document, parse_row, shards_of
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
    with _npy(part / "documents.npy", DOCUMENT) as add:
        for some in _pieces(shards_of(folder, entry, "documents").read_all(reader)):
            documents = map(parse_document, some)
            add([(text_key(tokens.tobytes()), number, len(tokens)) for number, tokens in documents])
    for split in SPLITS:
        start = 0
        with _npy(part / f"{split}.npy", ROW) as add, _npy(part / f"{split}-documents.npy", NUMBER) as add_numbers:
            for some in _pieces(shards_of(folder, entry, split).read_all(reader)):
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
                start += sum(counts)
    part.rename(path)


def _pieces(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The records in lists, since one that is parsed takes many times its place in an array."""
    records = iter(records)
    while some := list(islice(records, READ_TOGETHER)):
        yield some


@contextmanager
def _npy(path: Path, dtype: np.dtype) -> Iterator[Callable[[Any], None]]:
    """Gives a function that appends a piece to an array [N] in a new .npy file."""
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
