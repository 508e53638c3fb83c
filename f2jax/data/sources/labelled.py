"""Files of labelled data → records, by the functions of `convert.py`: one entry of `TASKS` for each.

Rows are converted language by language where they have a column `language` or `lang`, file parts of one source
together. The labels of a source are held in memory with its texts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from f2jax.data.record import Record
from f2jax.data.sources import convert
from f2jax.data.sources.schema import source_of
from f2jax.data.sources.tables import read_rows
from f2jax.errors import UserError

_TEXT = ("text", "sentence", "query", "utterance", "content")
_LABEL = ("label_text", "label_name", "label", "labels", "intent", "class", "topic", "category")
_ONE, _OTHER = ("sentence1", "text1", "query"), ("sentence2", "text2", "positive", "passage")
_LANGUAGE = ("language", "lang")
RELATIONS = {"0": "entailment", "1": "neutral", "2": "contradiction"}  # the numbers of SNLI, MNLI and XNLI on the hub


class LabelledTask(NamedTuple):
    convert: Callable[..., Iterator[Record]]
    columns: tuple[tuple[str, ...], ...]  # the names that each column goes by
    last: Callable[[object], object]  # what the value of the last column means


def _relation(value: object) -> str:
    return RELATIONS.get(str(value), str(value))


TASKS = {
    "clustering": LabelledTask(convert.clustering, (_TEXT, _LABEL), str),
    "classification": LabelledTask(convert.classification, (_TEXT, _LABEL), str),
    "sts": LabelledTask(convert.sts, (_ONE, _OTHER, ("score", "similarity_score", "label")), float),
    "nli": LabelledTask(
        convert.nli,
        (("premise", *_ONE), ("hypothesis", *_OTHER), ("label_text", "relation", "gold_label", "label")),
        _relation,
    ),
}


def read_labelled(name: str, paths: Sequence[str], columns: Sequence[str], skipped: Counter) -> Iterator[Record]:
    """Records of files of labelled rows: parquet, JSON lines or tables with tabs.

    Args:
        name: one of `TASKS`.
        columns: names of the task's columns, in its order; (): those that it knows.
        skipped: counts the rows that cannot be used, by reason.

    Raises:
        UserError: a file cannot be read or lacks a column, or the files give no record.
    """
    task = TASKS[name]
    if columns and len(columns) != len(task.columns):
        wanted = ", ".join(names[0] for names in task.columns)
        raise UserError(f"{name}: takes {len(task.columns)} columns behind #, for {wanted}; got {', '.join(columns)}.")
    known = tuple((column,) for column in columns) or task.columns
    rows: dict[tuple[str, str], list[tuple]] = defaultdict(list)
    for path in paths:
        source = source_of(path)
        for language, values in _rows(path, known, task, skipped):
            rows[source, language].append(values)
    good = False
    for (source, language), found in rows.items():
        for record in task.convert(found, source, language):
            good = True
            yield record
    if not good:
        raise UserError(f"{name}:{paths[0]} gives no row; check its columns, and that it has more than one label.")


def _rows(
    path: str, known: Iterable[tuple[str, ...]], task: LabelledTask, skipped: Counter
) -> Iterator[tuple[str, tuple]]:
    """(language, values of the task's columns) of each good row of a file."""
    chosen: list[str] = []
    for row in read_rows(path, skipped, partial(_choose, path, known, chosen)):
        *texts, last = (row.get(name) for name in chosen)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            skipped["empty text"] += 1
            continue
        try:
            last = task.last(last) if last is not None else None
        except (TypeError, ValueError, OverflowError):
            last = None
        if last is None or last == "":
            skipped["no label or score"] += 1
            continue
        language = next((row[name] for name in _LANGUAGE if row.get(name)), "und")
        yield str(language), (*texts, last)


def _choose(path: str, known: Iterable[tuple[str, ...]], chosen: list[str], present: list[str]) -> list[str]:
    """The columns to read; those of the task go to `chosen`, in its order."""
    for names in known:
        found = next((name for name in names if name in present and name not in chosen), None)
        if found is None:
            raise UserError(
                f"{path} has no column {' or '.join(names)}; it has {', '.join(present)}: name the right ones by "
                "PATH#COLUMN,COLUMN."
            )
        chosen.append(found)
    return [*chosen, *(name for name in _LANGUAGE if name in present)]
