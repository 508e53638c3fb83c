"""Reads BEIR folders: `corpus`, `queries` and the judgements `qrels/SPLIT`, in files of any format.

A single file `qrels` is used for all splits. Only judged documents are held in memory.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from f2jax.data.instructions import split_instruction
from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources.paths import files_inside, is_hidden
from f2jax.data.sources.schema import BadField, as_text, name_in, usable
from f2jax.data.sources.tables import ENDINGS, FileRow, as_id, as_number, is_missing, read_rows
from f2jax.errors import UserError

OTHER_NAMES = {"id": "_id", "query_id": "query-id", "corpus_id": "corpus-id"}  # of columns

Scores = dict[str, dict[str, float]]  # of the documents of a query, by id
Texts = dict[str, tuple[str, str]]  # text and language, by id


class Collection(NamedTuple):
    """The content of a BEIR folder, by ids."""

    queries: dict[str, str]  # those that are judged
    documents: dict[str, str]  # title and text
    scores: Scores


def read_collection(folder: str, split: str, skipped: SkipList) -> Collection:
    """Returns the content of a BEIR folder with all documents, for retrieval.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    scores, queries, documents = _read(folder, split, skipped, only_judged=False)
    return Collection(
        {number: text for number, (text, _) in queries.items()},
        {number: text for number, (text, _) in documents.items()},
        scores,
    )


def read_beir(folder: str, split: str, skipped: SkipList) -> Iterator[Record]:
    """Yields a record for each query and each of its relevant documents, which are judged above 0.

    Documents judged 0 or below are the query's negatives. A query with several relevant documents has its id as label,
    so that `mine` and `loss.label_mask` do not use these as each other's negatives. The text of a document is its title
    followed by its text.

    Args:
        folder: local or remote, or `hub:org/name`.
        skipped: counts the rows that are left out, by reason.

    Raises:
        UserError: a file is missing or cannot be read, or no query has a relevant document.
    """
    scores_by_query, queries, documents = _read(folder, split, skipped, only_judged=True)
    source, good = PurePosixPath(folder.rstrip("/")).name, False
    for number, scores in scores_by_query.items():
        if number not in queries:
            skipped.at(folder, {"query": number})
            skipped.skip("judged query is missing")
            continue
        for document in scores:
            if document not in documents:
                skipped.at(folder, {"query": number, "document": document})
                skipped.skip("judged document is missing")
        right = [document for document, score in scores.items() if score > 0 and document in documents]
        wrong = [document for document, score in scores.items() if score <= 0 and document in documents]
        text, language = queries[number]
        instruction, query = split_instruction(text)
        negatives = tuple(documents[document][0] for document in wrong)
        label = number if len(right) > 1 else None
        for document in right:
            positive = documents[document][0]
            record = Record(query, positive, negatives, "retrieval", language, source, label, instruction)
            if usable_record := usable(record, skipped):
                good = True
                yield usable_record
    if not good:
        raise UserError(f"{folder} has no query with a right document; check that its ids are those of its qrels.")


def _read(folder: str, split: str, skipped: SkipList, only_judged: bool) -> tuple[Scores, Texts, Texts]:
    """Returns the judgements of a split, the judged queries, and either the judged documents or all of them."""
    paths = _files(folder)
    scores = _judgements(_of_split(paths, folder, split), skipped)
    queries = _texts(_of(paths, folder, "queries"), set(scores), "query", skipped)
    judged = {document for of_query in scores.values() for document in of_query} if only_judged else None
    return scores, queries, _texts(_of(paths, folder, "corpus"), judged, "document", skipped)


def beir_files(folder: str) -> list[str]:
    """Returns all data files in the folder; raises UserError if there are none."""
    return list(_files(folder).values())


def _files(folder: str) -> dict[str, str]:
    """Returns {path inside the folder: path} for its data files."""
    paths, is_folder, _ = files_inside(folder, ENDINGS)
    if not is_folder:
        raise UserError(f"There is no BEIR folder {folder}; check the path.")
    return {name: paths[name] for name in sorted(paths) if name.endswith(ENDINGS) and not is_hidden(name)}


def _of(files_by_name: dict[str, str], folder: str, name: str) -> list[str]:
    """Returns the files of a part: `name.…`, `name-…` or `name/…`."""
    paths = [path for inside, path in files_by_name.items() if re.match(rf"{re.escape(name)}[./-]", inside)]
    if not paths:
        raise UserError(f"{folder} has no {name} file; a BEIR folder holds corpus, queries and qrels.")
    return paths


def _of_split(files_by_name: dict[str, str], folder: str, split: str) -> list[str]:
    splits = sorted({re.split(r"[./-]", inside)[1] for inside in files_by_name if inside.startswith("qrels/")})
    if splits and split not in splits:
        raise UserError(f"{folder} has no judgements for the split '{split}'; it has {', '.join(splits)}.")
    return _of(files_by_name, folder, f"qrels/{split}" if splits else "qrels")


def _judgements(paths: list[str], skipped: SkipList) -> Scores:
    """Returns {query id: {document id: score}} in the order of the files."""
    judgements: Scores = {}
    for row in _rows(paths, ("query-id", "corpus-id", "score"), skipped):
        query, document = as_id(row.get("query-id")), as_id(row.get("corpus-id"))
        if query is None or document is None:
            skipped.skip("judgement without an id")
            continue
        try:
            score = as_number(row.get("score"))
        except ValueError:
            skipped.skip("judgement without a number")
            continue
        scores = judgements.setdefault(query, {})
        if document in scores:
            skipped.skip("judgement repeated")
        scores.setdefault(document, score)
    return judgements


def _texts(paths: list[str], wanted: set[str] | None, kind: str, skipped: SkipList) -> Texts:
    """Returns {id: (text, language)} for the wanted rows (None: all); the first row with an id counts."""
    texts: Texts = {}
    for row in _rows(paths, ("_id", "text"), skipped):
        number = as_id(row.get("_id"))
        if number is None:
            skipped.skip(f"{kind} without an id")
            continue
        if wanted is not None and number not in wanted:
            continue
        if number in texts:
            skipped.skip(f"{kind} id repeated")
            continue
        parts = [part for part in (row.get("title"), row.get("text")) if not is_missing(part)]
        try:
            text = " ".join(as_text(part, kind) for part in parts or [None])
            texts[number] = (text.strip(), name_in(row, "language") or "und")
        except BadField as reason:
            skipped.skip(str(reason))
    return texts


def _rows(paths: list[str], needed: tuple[str, ...], skipped: SkipList) -> Iterator[FileRow]:
    """Yields the rows of files that have the needed columns, under the names of BEIR."""
    for path in paths:
        for row in read_rows(path, skipped, partial(_columns, path, needed)):
            yield {OTHER_NAMES.get(name, name): value for name, value in row.items()} | row


def _columns(path: str, needed: tuple[str, ...], present: list[str]) -> list[str]:
    names = {name: OTHER_NAMES.get(name, name) for name in present}
    if missing := [name for name in needed if name not in names.values()]:
        raise UserError(f"{path} has no column {missing[0]}; it has {', '.join(present)}: rename one.")
    return [name for name, usual in names.items() if usual in (*needed, "title", "language")]
