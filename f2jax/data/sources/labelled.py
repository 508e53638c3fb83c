"""Reads files of labelled data by the functions in `convert.py`, with an entry in `TASKS` for each.

Rows with a column `language` or `lang` are converted language by language. Parts of the same source are converted
together, and so are files with one label each. The labels and texts of a source are held in memory.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from posixpath import commonpath
from typing import Any, NamedTuple

from f2jax.data.record import NEED_NEGATIVES, Kind, Record
from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources import convert
from f2jax.data.sources.columns import read_named
from f2jax.data.sources.schema import BadField, as_text, name_in, source_of
from f2jax.data.sources.tables import as_name, as_number, is_missing
from f2jax.errors import UserError

_TEXT = ("text", "sentence", "query", "utterance", "content")
_LABEL = ("label_text", "label_name", "label", "labels", "intent", "class", "topic", "category")
_FIRST, _SECOND = ("sentence1", "text1", "query"), ("sentence2", "text2", "positive", "passage")
_LANGUAGE = ("language", "lang")
RELATIONS = {"0": "entailment", "1": "neutral", "2": "contradiction"}  # the numbers of SNLI, MNLI and XNLI on the hub
NO_NAMES: Mapping[str, str] = {}
SCALES = (1, 5, 10, 100)  # possible highest scores, for texts that are equal in meaning

Values = tuple[Any, ...]  # of the task's columns in a row


class LabelledTask(NamedTuple):
    kind: Kind  # of the records
    convert: Callable[..., Iterator[Record]]
    columns: tuple[tuple[str, ...], ...]  # the names that each column may have
    read: Callable[[object], object]  # the value of the last column; ValueError where it is none
    prepare: Callable[[str, list[Values]], list[Values]]  # all rows of a source, in the form that `convert` takes


def _named_labels(spec: str, rows: list[Values]) -> list[Values]:
    """Returns the rows unchanged, with a warning if labels are numbers, which have no meaning for a model."""
    if rows and all(label.lstrip("-").isdigit() for _, label in rows):
        say_once(f"{spec}: the labels are numbers, not names; name a column of names by PATH#TEXT,NAME if it has one.")
    return rows


def _named_relations(spec: str, rows: list[Values]) -> list[Values]:
    """Returns the rows with relations as words."""
    if any(relation in RELATIONS for *_, relation in rows):
        meaning = ", ".join(f"{number} {word}" for number, word in RELATIONS.items())
        say_once(f"{spec}: relations are numbers without names, read as in SNLI ({meaning}); else name words by #.")
    return [(*texts, RELATIONS.get(relation, relation.lower())) for *texts, relation in rows]


def _scores_of_five(spec: str, rows: list[Values]) -> list[Values]:
    """Returns the rows with scores rescaled to 0 … 5 from the smallest of `SCALES` that contains all of them."""
    highest = max((score for *_, score in rows), default=5)
    scale = next((scale for scale in SCALES if highest <= scale), None)
    if scale is None:
        raise UserError(f"{spec} has scores up to {highest:g}; bring them to a scale of 0 to 1, 5, 10 or 100.")
    if scale != 5:
        say_once(f"{spec}: scores go up to {highest:g}, so pairs of {scale * 4 / 5:g} and more are taken for alike.")
    return [(*texts, score * 5 / scale) for *texts, score in rows]


TASKS = {
    "clustering": LabelledTask("clustering", convert.clustering, (_TEXT, _LABEL), as_name, _named_labels),
    "classification": LabelledTask("classification", convert.classification, (_TEXT, _LABEL), as_name, _named_labels),
    "sts": LabelledTask(
        "retrieval", convert.sts, (_FIRST, _SECOND, ("score", "similarity_score", "label")), as_number, _scores_of_five
    ),
    "nli": LabelledTask(
        "retrieval",
        convert.nli,
        (("premise", *_FIRST), ("hypothesis", *_SECOND), ("label_text", "relation", "gold_label", "label")),
        as_name,
        _named_relations,
    ),
}


def read_labelled(
    name: str, paths: Sequence[str], columns: Sequence[str], skipped: SkipList, named: Mapping[str, str] = NO_NAMES
) -> Iterator[Record]:
    """Yields the records of files of labelled rows, in any format.

    Args:
        name: one of `TASKS`.
        columns: names of the task's columns in its order; (): the usual names.
        skipped: counts the rows that cannot be used, by reason.
        named: {usual name: column} for columns with other names.

    Raises:
        UserError: a file cannot be read or lacks a column, or the files give no record.
    """
    task, good = TASKS[name], False
    for source, rows in read_values(name, paths, columns, skipped, named).items():
        prepared = task.prepare(f"{name}:{source}", [values for _, values in rows])
        by_language: dict[str, list[Values]] = defaultdict(list)
        for (language, _), values in zip(rows, prepared, strict=True):
            by_language[language].append(values)
        for language, values_of_rows in by_language.items():
            for record in task.convert(values_of_rows, source, language):
                good = True
                yield record
    if not good:
        raise UserError(
            f"{name}:{paths[0]} gives no row; check its columns, and that it has more than one label (of files of one "
            f"label each, name the folder, {name}:FOLDER)."
        )


def read_values(
    name: str, paths: Sequence[str], columns: Sequence[str], skipped: SkipList, named: Mapping[str, str] = NO_NAMES
) -> dict[str, list[tuple[str, Values]]]:
    """Returns (language, values of the task's columns) for each usable row, by source; see `read_labelled`.

    Raises:
        UserError: a file cannot be read or lacks a column.
    """
    task = TASKS[name]
    if columns and len(columns) != len(task.columns):
        wanted = ", ".join(names[0] for names in task.columns)
        raise UserError(f"{name}: takes {len(task.columns)} columns behind #, for {wanted}; got {', '.join(columns)}.")
    column_names: tuple[tuple[str, ...], ...] = tuple((column,) for column in columns)
    column_names = column_names or tuple(tuple(n for n in names if n in named) or names for names in task.columns)
    rows_by_source: dict[str, list[tuple[str, Values]]] = defaultdict(list)
    for path in paths:
        rows_by_source[source_of(path)] += _rows(path, column_names, task, skipped, named)
    if name in NEED_NEGATIVES and len(rows_by_source) > 1:
        labels = [{values[-1] for _, values in rows} for rows in rows_by_source.values()]
        if all(len(found) == 1 for found in labels) and len(set.union(*labels)) > 1:
            return {source_of(f"{commonpath(paths)}/data"): list(chain.from_iterable(rows_by_source.values()))}
    return rows_by_source


def _rows(
    path: str,
    column_names: Iterable[tuple[str, ...]],
    task: LabelledTask,
    skipped: SkipList,
    named: Mapping[str, str],
) -> Iterator[tuple[str, Values]]:
    """Yields (language, values of the task's columns) for each usable row of a file."""
    chosen: list[str] = []
    for row in read_named(path, skipped, partial(_choose, path, column_names, chosen), named):
        *texts, last = (row.get(name) for name in chosen)
        try:
            values = *(as_text(text, "text") for text in texts), _value(task, last)
            language = next(filter(None, (name_in(row, name) for name in _LANGUAGE)), "und")
        except BadField as reason:
            skipped.skip(str(reason))
            continue
        yield language, values


def _value(task: LabelledTask, field: object) -> object:
    with suppress(ValueError):
        if not is_missing(field):
            return task.read(field)
    raise BadField("no label or score")


def _choose(path: str, column_names: Iterable[tuple[str, ...]], chosen: list[str], present: list[str]) -> list[str]:
    """Returns the columns to read, and appends those of the task to `chosen` in its order."""
    for names in column_names:
        column = next((name for name in names if name in present and name not in chosen), None)
        if column is None:
            raise UserError(
                f"{path} has no column {' or '.join(names)}; it has {', '.join(present)}: name the right ones by "
                "PATH#COLUMN,COLUMN."
            )
        chosen.append(column)
    return [*chosen, *(name for name in _LANGUAGE if name in present)]
