"""A BEIR folder → records: `corpus`, `queries` and the judgements `qrels/SPLIT`, as parquet, JSON lines or tables.

Also the form with a single file of judgements, `qrels`, which then stands for every split. Only documents that are
judged are held in memory.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import PurePosixPath

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.skip_list import located
from f2jax.data.sources import hub
from f2jax.data.sources.tables import ENDINGS, read_rows
from f2jax.errors import UserError

_ID = ("_id", "id")
_TEXT = ("text",)
_QUERY = ("query-id", "query_id")
_DOCUMENT = ("corpus-id", "corpus_id")
_SCORE = ("score",)
_OPTIONAL = ("title", "language")


def read_beir(folder: str, split: str, skipped: Counter) -> Iterator[Record]:
    """One record for each query and document that is right for it: judged above 0.

    Documents that are judged 0 or below are the query's negatives. A query with several right documents has its id as
    label, so that these are never each other's negatives. The text of a document is its title and text.

    Args:
        folder: local or remote, or `hub:org/name`.
        skipped: counts the rows that were left out, by reason.

    Raises:
        UserError: a file is missing or cannot be read, or no query has a right document.
    """
    found = _files(folder)
    scores_by_query = _judgements(_of_split(found, folder, split), skipped)
    queries = _texts(_of(found, folder, "queries"), set(scores_by_query), "query", skipped)
    wanted = {document for scores in scores_by_query.values() for document in scores}
    documents = _texts(_of(found, folder, "corpus"), wanted, "document", skipped)
    source, good = PurePosixPath(folder.rstrip("/")).name, False
    for number, scores in scores_by_query.items():
        if number not in queries:
            located(skipped, folder, {"query": number})
            skipped["judged query is missing"] += 1
            continue
        for document in scores:
            if document not in documents:
                located(skipped, folder, {"query": number, "document": document})
                skipped["judged document is missing"] += 1
        right = [document for document, score in scores.items() if score > 0 and document in documents]
        wrong = [document for document, score in scores.items() if score <= 0 and document in documents]
        query, language = queries[number]
        negatives = tuple(documents[document][0] for document in wrong)
        label = number if len(right) > 1 else None
        for document in right:
            good = True
            yield Record(query, documents[document][0], negatives, language=language, source=source, label=label)
    if not good:
        raise UserError(f"{folder} has no query with a right document; check that its ids are those of its qrels.")


def beir_files(folder: str) -> list[str]:
    """All data files of the folder; raises UserError where there is none."""
    return list(_files(folder).values())


def _files(folder: str) -> dict[str, str]:
    """Path inside the folder → path, of its data files."""
    if folder.startswith("hub:"):
        return hub.fetch_dataset(folder, ENDINGS)
    filesystem, root = files.filesystem(folder)
    if not filesystem.isdir(root):
        raise UserError(f"There is no BEIR folder {folder}; check the path.")
    paths = sorted(path for path in filesystem.find(root) if path.endswith(ENDINGS))
    start = len(root.rstrip("/")) + 1
    return {path[start:]: filesystem.unstrip_protocol(path).removeprefix("file://") for path in paths}


def _of(found: dict[str, str], folder: str, name: str) -> list[str]:
    """The files of one part, `name.…`, `name-…` or `name/…`."""
    paths = [path for inside, path in found.items() if re.match(rf"{re.escape(name)}[./-]", inside)]
    if not paths:
        raise UserError(f"{folder} has no {name} file; a BEIR folder holds corpus, queries and qrels.")
    return paths


def _of_split(found: dict[str, str], folder: str, split: str) -> list[str]:
    splits = sorted({re.split(r"[./-]", inside)[1] for inside in found if inside.startswith("qrels/")})
    if splits and split not in splits:
        raise UserError(f"{folder} has no judgements for the split '{split}'; it has {', '.join(splits)}.")
    return _of(found, folder, f"qrels/{split}" if splits else "qrels")


def _judgements(paths: list[str], skipped: Counter) -> dict[str, dict[str, float]]:
    """Query id → document id → score, in the order of the files."""
    found: dict[str, dict[str, float]] = {}
    for row in _rows(paths, (_QUERY, _DOCUMENT, _SCORE), skipped):
        query, document, score = (_value(row, names) for names in (_QUERY, _DOCUMENT, _SCORE))
        try:
            score = float(score)
        except (TypeError, ValueError, OverflowError):
            skipped["judgement without a number"] += 1
            continue
        scores = found.setdefault(str(query), {})
        if str(document) in scores:
            skipped["judgement repeated"] += 1
        scores.setdefault(str(document), score)
    return found


def _texts(paths: list[str], wanted: set[str], kind: str, skipped: Counter) -> dict[str, tuple[str, str]]:
    """Id → (text, language) of the wanted rows; of rows with one id the first."""
    found: dict[str, tuple[str, str]] = {}
    for row in _rows(paths, (_ID, _TEXT), skipped):
        number = str(_value(row, _ID))
        if number not in wanted:
            continue
        parts = (row.get("title"), row.get("text"))
        text = " ".join(part for part in parts if isinstance(part, str)).strip()
        if number in found:
            skipped[f"{kind} id repeated"] += 1
        elif not text:
            skipped[f"empty {kind}"] += 1
        else:
            found[number] = (text, str(row.get("language") or "und"))
    return found


def _rows(paths: list[str], needed: tuple[tuple[str, ...], ...], skipped: Counter) -> Iterator[dict]:
    """The rows of some files, which have the needed columns, each under one of its names."""
    for path in paths:
        yield from read_rows(path, skipped, partial(_columns, path, needed))


def _columns(path: str, needed: tuple[tuple[str, ...], ...], present: list[str]) -> list[str]:
    for names in needed:
        if not set(names) & set(present):
            raise UserError(f"{path} has no column {names[0]}; it has {', '.join(present)}: rename one.")
    return [name for name in present if name in (*chain(*needed), *_OPTIONAL)]


def _value(row: dict, names: tuple[str, ...]) -> object:
    return next((row[name] for name in names if name in row), None)
