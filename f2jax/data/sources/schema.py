"""Converts rows of files, with any schema of columns, to records.

Released F2LLM files have `query, passage, negative_1 … negative_24`. Files with lists have `query, positive,
negatives`, and may have `kind`, `language`, `source` and `label` (recipe 3.1). Files of triplets have `query, positive,
negative`. All of them may have `scores`. `columns.py` knows other names for these columns. Missing fields get their
defaults; rows with a field that cannot be read are left out and counted. Kind, language and symmetry of a released file
are known from its name.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import PurePosixPath

import numpy as np

from f2jax.data.instructions import split_instruction
from f2jax.data.record import KINDS, NEED_NEGATIVES, Kind, Record, as_kind
from f2jax.data.released import find_released
from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources.tables import FileRow, as_name, is_missing, without_compression
from f2jax.errors import UserError

NUMBERED_NEGATIVE = re.compile(r"negative(?:_(\d+))?$")
SAYS_NOTHING = ("train", "test", "dev", "valid", "validation", "data", "default", "part")
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_PART = re.compile(r"(_part\d+|-\d+-of-\d+)+$")
_HUB = "datasets--"  # prefix of a data set's folder in the hub's cache
_OPTIONAL = {"negatives", "scores", "kind", "language", "lang", "positive_language"}
_OPTIONAL |= {"source", "label", "instruction", "symmetric"}
_LARGEST_SCORE = float(np.finfo(np.float32).max)
_TEXT_FIELDS = ("text", "passage", "content", "document")  # of a negative that is an object


class BadField(Exception):
    """A field cannot be read; the message is the reason for leaving out the row."""


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Defaults for what the rows of a file do not state themselves."""

    source: str
    kind: Kind | None = "retrieval"  # None: each row has to say it
    language: str = "und"
    symmetric: bool = False

    @classmethod
    def of(cls, path: str, kinds: Iterable[str] = (), columns: Collection[str] = ()) -> "Defaults":
        """Returns a file's defaults: `source_of` gives the source, and the first matching item of `kinds` the kind.

        For a file with the columns of the released corpus, `find_released` gives what is known from its name. If that
        is nothing, a single negative means classification, as in that corpus, and several leave the kind open.

        >>> Defaults.of("corpus/massive_intent_part2.parquet", ["massive_*=clustering"]).kind
        'clustering'

        Args:
            columns: of the file.

        Raises:
            UserError: an item of `kinds` is not of the form `SOURCE=KIND`.
        """
        source = source_of(path)
        kind = given_kind(source, kinds)
        if "passage" not in columns or "positive" in columns:
            return cls(source, kind or "retrieval")
        if known := find_released(source):
            return cls(source, kind or known.kind, known.language, known.symmetric)
        negatives = sum(name.startswith("negative_") for name in columns)
        if kind or not negatives:
            return cls(source, kind or "retrieval")
        if negatives > 1:
            return cls(source, None)
        if "kind" not in columns:
            say_once(
                f"{source} is no source of the released corpus: rows with negative_1 alone are taken for "
                f"classification; add {source}=retrieval to the kinds if they are retrieval."
            )
        return cls(source, "classification")


def given_kind(source: str, kinds: Iterable[str]) -> Kind | None:
    """Returns the kind of the first `SOURCE=KIND` pattern that matches a source.

    Raises:
        UserError: an item has another form.
    """
    for item in kinds:
        pattern, _, name = item.rpartition("=")
        kind = as_kind(name)
        if not pattern or kind is None:
            raise UserError(f"'{item}' among the kinds should be SOURCE=KIND, with a kind of {', '.join(KINDS)}.")
        if fnmatchcase(source, pattern):
            return kind
    return None


def source_of(path: str) -> str:
    """Returns the source of a file: its name without the number of a part or shard.

    A name without meaning, such as `train-00000-of-00005`, is replaced by that of the folder, or in the hub's cache, by
    that of the data set and its subset.

    >>> source_of("corpus/massive_intent_part2.parquet"), source_of("nli/train-00000-of-00005.parquet")
    ('massive_intent', 'nli')
    >>> source_of("hub/datasets--org--squad/snapshots/0a1b/plain/train-00000-of-00001.parquet")
    'squad-plain'
    """
    file = PurePosixPath(without_compression(path))
    name = _PART.sub("", file.stem)
    if name not in SAYS_NOTHING:
        return name
    folders = [folder for folder in file.parts[:-1] if folder not in SAYS_NOTHING]
    start = max((i for i, folder in enumerate(folders) if folder.startswith(_HUB)), default=None)
    if start is not None:  # datasets--ORG--NAME/snapshots/REVISION/SUBSET
        return "-".join([folders[start].split("--")[-1], *folders[start + 3 :]])
    folder = folders[-1].strip("/:") if folders else ""
    return folder or name


def columns(path: str, kinds: Iterable[str], present: Iterable[str]) -> list[str]:
    """Returns the columns to read from a file, and lists the others once. Rows of single texts need no positive.

    Raises:
        UserError: a required column is missing.
    """
    present = list(present)
    passage = next((name for name in ("positive", "passage") if name in present), None)
    found = f"it has {', '.join(present) or 'none'}: rename one (or, to train or evaluate, name it in finetune:…, "
    found += "data.columns or --columns: query=COLUMN)"
    if "query" not in present:
        file = PurePosixPath(path)
        is_beir = file.name.split(".")[0] in ("corpus", "queries", "qrels")
        hint = f". A folder of corpus, queries and qrels is named beir:{file.parent}" if is_beir else ""
        raise UserError(f"{path} has no column query; {found}{hint}.")
    if passage is None and "kind" not in present and Defaults.of(path, kinds, present).kind != "texts":
        raise UserError(
            f"{path} has no column positive (or passage); {found}, or add {source_of(path)}=texts to the kinds if it "
            "has texts alone."
        )
    chosen = {"query", passage, *_OPTIONAL}
    read = [name for name in present if name in chosen or NUMBERED_NEGATIVE.match(name)]
    if unread := sorted(set(present) - set(read)):
        say_once(f"{path}: columns that are not read: {', '.join(unread)}.", tuple(unread))
    return read


def to_record(row: FileRow, defaults: Defaults, skipped: SkipList, bare: bool = False) -> Record | None:
    """Returns the record of a row, or None if it cannot be used, which is counted; `bare` as in `open_source`.

    Raises:
        UserError: the row must state its kind and does not.
    """
    try:
        instruction, query = split_instruction(as_text(row.get("query"), "query"))
        kind = _kind(row.get("kind"), defaults)
        record = Record(
            query=query,
            positive="" if kind == "texts" else as_text(row.get("positive", row.get("passage")), "positive"),
            **_negatives_and_scores(row) if kind != "texts" else {},
            kind=kind,
            language=name_in(row, "language") or name_in(row, "lang") or defaults.language,
            source=name_in(row, "source") or defaults.source,
            label=name_in(row, "label"),
            instruction=instruction or _instruction(row.get("instruction")),
            symmetric=defaults.symmetric if is_missing(row.get("symmetric")) else _symmetric(row["symmetric"]),
            positive_language=name_in(row, "positive_language") or "",
        )
    except BadField as reason:
        skipped.skip(str(reason))
        return None
    return usable(record, skipped, bare)


def usable(record: Record, skipped: SkipList, bare: bool = False) -> Record | None:
    """Returns the record without negatives equal to its positive, or None if a row that needs negatives has none left,
    unless `bare`.
    """
    others = [place for place, text in enumerate(record.negatives) if text.strip() != record.positive.strip()]
    if len(others) < len(record.negatives):
        record = record.with_negatives(others)
    if not record.query.strip():
        skipped.skip("empty query")
    elif record.kind in NEED_NEGATIVES and not others and not bare:
        skipped.skip(f"{record.kind} without negatives")
    else:
        return record
    return None


def as_text(value: object, name: str) -> str:
    """Returns the text of a field; raises BadField if there is none."""
    if is_missing(value):
        raise BadField(f"empty {name}")
    if not isinstance(value, str):
        raise BadField(f"{name} is not a text")
    return value


def _negatives_and_scores(row: FileRow) -> dict[str, tuple]:
    """Returns the negatives, from the list `negatives` or the columns `negative` and `negative_1` … in numerical order,
    and the scores of the positive and the negatives, from the list `scores`.
    """
    listed = _list(row, "negatives")
    if listed is None:
        numbers = {name: int(match[1] or 0) for name in row if (match := NUMBERED_NEGATIVE.match(name))}
        listed = [row[name] for name in sorted(numbers, key=numbers.__getitem__)]
    texts = ["" if is_missing(negative) else _text_of(negative) for negative in listed]
    present = [place for place, text in enumerate(texts) if text.strip()]
    scores = [_score(value) for value in _list(row, "scores") or ()]
    if scores and len(scores) != 1 + len(texts):
        raise BadField(
            "scores are not one for the positive and one for each negative; rename a column with another meaning"
        )
    kept = scores and (scores[0], *(scores[1 + place] for place in present))
    return {"negatives": tuple(texts[place] for place in present), "scores": tuple(kept)}


def _list(row: FileRow, name: str) -> list | None:
    listed = row.get(name)
    if isinstance(listed, str) and listed.lstrip().startswith("["):  # a list in a table of texts
        try:
            listed = json.loads(listed)
        except ValueError as error:
            raise BadField(f"{name} are not a list") from error
    if is_missing(listed):
        return None
    if not isinstance(listed, list):
        raise BadField(f"{name} are not a list")
    return listed


def _score(value: object) -> float:
    """Returns a number, or NaN if it is missing."""
    if is_missing(value):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_SCORE:
        raise BadField("a score is not a number that float32 holds")
    return float(value)


def _text_of(negative: object) -> str:
    """Returns a text, or the text of an object such as `{"title": …, "text": …}`."""
    if isinstance(negative, dict):
        text = next((negative[name] for name in _TEXT_FIELDS if isinstance(negative.get(name), str)), None)
        title = negative.get("title")
        negative = f"{title} {text}" if text and isinstance(title, str) and title.strip() else text
    if not isinstance(negative, str):
        raise BadField("a negative is not a text")
    return negative


def _kind(value: object, defaults: Defaults) -> Kind:
    if is_missing(value):
        if defaults.kind is None:
            choices = " or ".join(f"{defaults.source}={kind}" for kind in ("retrieval", "clustering"))
            raise UserError(
                f"{defaults.source} is no source of the released corpus, and its rows do not say their kind; "
                f"add {choices} to the kinds (--kinds; in training data.kinds)."
            )
        return defaults.kind
    kind = as_kind(value)
    if kind is None:
        raise BadField(f"kind is not one of {', '.join(KINDS)}")
    return kind


def name_in(row: FileRow, column: str) -> str | None:
    """Returns `tables.as_name` of a field; raises BadField if it is not a name."""
    try:
        return as_name(row.get(column))
    except ValueError as error:
        raise BadField(f"{column} is neither a text nor a number") from error


def _instruction(value: object) -> str | None:
    return None if is_missing(value) else as_text(value, "instruction")


def _symmetric(value: object) -> bool:
    try:
        return TRUTH[str(as_name(value)).strip().lower()]
    except (KeyError, ValueError) as error:
        raise BadField("symmetric is neither true nor false") from error


def to_records(
    path: str, rows: Iterable[FileRow], skipped: SkipList, kinds: Iterable[str] = (), bare: bool = False
) -> Iterator[Record]:
    """Yields the usable rows of a file as records; `kinds` and `bare` as in `open_source`.

    Raises:
        UserError: no row is usable, or rows of an unknown source do not state their kind.
    """
    before, good = Counter(skipped), 0
    defaults = lru_cache(partial(Defaults.of, path, tuple(kinds)))
    for row in rows:
        record = to_record(row, defaults(columns=tuple(row)), skipped, bare)
        if record is not None:
            good += 1
            yield record
    if not good:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (skipped - before).items())
        raise UserError(f"{path} has no usable row ({reasons or 'it is empty'}); fix or remove it.")
