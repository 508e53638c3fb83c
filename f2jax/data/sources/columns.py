"""Recognises columns by their usual names, and by them the type of data in a file.

A file of pairs may call its texts anchor and positive, question and answer, or sentence1 and sentence2. A file with
scores or labels is read as labelled data (`labelled.TASKS`). Users give other names by `query=Frage`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from f2jax.data.skip_list import SkipList
from f2jax.data.sources.tables import ChooseColumns, FileRow, read_rows
from f2jax.errors import UserError, did_you_mean

QUERIES = ("query", "anchor", "question")
POSITIVES = ("positive", "passage", "answer", "response")
SENTENCES = ("sentence1", "sentence2")
SCORES = ("score", "similarity_score")
TEXTS = ("text", "sentence", "utterance")
LOOKED_AT = 1_000  # rows from which columns are determined, because lines of JSON may have different ones
LABELS = ("label_text", "label_name", "label", "intent", "category")
# The names that can be used in `query=Frage`.
NAMES = (
    *("query", "positive", "negative", "negatives", "text", "label", *SENTENCES, "score", "premise", "hypothesis"),
    *("kind", "language", "source", "instruction", "title", "scores"),
)


def parse_columns(items: Iterable[str]) -> dict[str, str]:
    """Returns {name: column} for `NAME=COLUMN` items.

    >>> parse_columns(["query=Frage", "positive=Antwort"])
    {'query': 'Frage', 'positive': 'Antwort'}

    Raises:
        UserError: an item has another form, a name is unknown, or one occurs twice.
    """
    columns: dict[str, str] = {}
    for item in items:
        name, _, column = item.partition("=")
        if not column:
            raise UserError(f"'{item}' among the columns should be NAME=COLUMN, such as query=question.")
        if name not in NAMES:
            raise UserError(f"There is no column name '{name}'{did_you_mean(name, NAMES)}")
        if name in columns or column in columns.values():
            raise UserError(f"'{item}' among the columns names {name} or {column} a second time; leave one.")
        columns[name] = column
    return columns


def read_named(path: str, skipped: SkipList, choose: ChooseColumns, columns: Mapping[str, str]) -> Iterator[FileRow]:
    """Reads a file with renamed columns; if a name is given to another column, the column with that name is not read.

    Args:
        columns: {name: column}.

    Raises:
        UserError: the file has no such column, or cannot be read.
    """
    names = {column: name for name, column in columns.items()}

    def is_read(column: str) -> bool:
        return column in names or column not in columns

    def chosen(present: list[str]) -> list[str]:
        if missing := [column for column in names if column not in present]:
            raise UserError(
                f"{path} has no column {missing[0]}{did_you_mean(missing[0], present)} It has {', '.join(present)}."
            )
        visible = [names.get(column, column) for column in present if is_read(column)]
        return [columns.get(name, name) for name in choose(visible)]

    for row in read_rows(path, skipped, chosen):
        yield {names.get(column, column): value for column, value in row.items() if is_read(column)}


def recognise(path: str, columns: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Returns the type of data in a file ("" for pairs, or one of `labelled.TASKS`), and {name: column} to read it.

    Args:
        columns: {name: column} given by the user.

    Raises:
        UserError: two columns could be the positive, pairs have a label that could be a score or a relation, only
            later rows have a score or a label, or a given column does not exist.
    """
    first: list[str] = []

    def note(names: list[str]) -> list[str]:
        first.extend(names)
        return []  # rows of lines of JSON have all columns nevertheless; those of other files have the same ones

    rows = islice(read_named(path, SkipList(), note, columns), LOOKED_AT)
    every = list(dict.fromkeys(name for row in rows for name in row))
    task, names = _recognise(path, first, columns)
    if set(every) > set(first) and _recognise(path, every, columns)[0] != task:
        raise UserError(f"{path} has rows with a score or label, but its first row has none; give it one, or null.")
    return task, names


def _recognise(path: str, present: Sequence[str], columns: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    query = _first(QUERIES, present)
    positives = [name for name in POSITIVES if name in present]
    if query and positives:
        if len(positives) > 1 and positives[0] not in ("positive", "passage"):
            raise UserError(
                f"{path} has {' and '.join(positives)}: rename the one that is right for the query to positive (or in "
                "training name it by data.columns, positive=COLUMN)."
            )
        return "", _renamed({"query": query, "positive": positives[0]}, columns)
    labelled = _first(LABELS, present)
    if set(SENTENCES) <= set(present):
        if _first(SCORES, present):
            return "sts", dict(columns)
        if labelled:
            raise UserError(
                f"{path} has pairs of sentences with a {labelled}; say what it is: sts:{path}#{','.join(SENTENCES)},"
                f"{labelled} for a score, nli: for a relation."
            )
        return "", _renamed(dict(zip(("query", "positive"), SENTENCES, strict=True)), columns)
    if labelled and {"premise", "hypothesis"} <= set(present):
        return "nli", dict(columns)
    if labelled and _first(TEXTS, present) and not query:
        return "clustering", dict(columns)
    return "", dict(columns)


def _renamed(found: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Returns `columns`, and those of `found` that need another name; a passage keeps its name."""
    return {name: column for name, column in found.items() if column not in (name, "passage")} | dict(columns)


def _first(names: Iterable[str], present: Collection[str]) -> str | None:
    return next((name for name in names if name in present), None)
