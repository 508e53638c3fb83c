"""The steps of curation, in order: source, text, language, evaluation sets, and then duplicates.

`curate_record` is a function of a single record: map it with any runner, and sum its outcomes in a `CurationReport`.
Duplicates are found over all records (`f2jax/prepare/duplicates.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from f2jax.data.record import NEED_NEGATIVES, Record
from f2jax.data.skip_list import SkipList
from f2jax.prepare.curate.decontaminate import Index
from f2jax.prepare.curate.normalize import cut_text, normalize_text
from f2jax.prepare.curate.options import CurationOptions

EXACT, NEAR = "exact duplicate", "near duplicate"


class _Dropped(Exception):
    """A step drops the record; the message is the reason."""


class Outcome(NamedTuple):
    """The result of curating a record."""

    record: Record | None  # None: dropped
    reason: str | None  # why it was dropped
    notes: tuple[str, ...]  # what was changed or noticed
    language: str | None  # identified language of the query, ISO 639-3; None: not identified


@dataclass
class CurationReport:
    """Counts for the data card."""

    kept: int = 0
    skipped: SkipList = field(default_factory=SkipList)  # reason → rows
    noted: Counter[str] = field(default_factory=Counter)  # note → kept rows
    languages: Counter[str] = field(default_factory=Counter)  # identified language → kept rows, including duplicates

    def add(self, outcome: Outcome, original: Record, where: str | None = None) -> None:
        """Counts the outcome of a record from `where` (None: its source)."""
        if outcome.record is None:
            self.drop(original, outcome.reason or "", where)
            return
        self.kept += 1
        self.noted.update(outcome.notes)
        if outcome.language is not None:
            self.languages[outcome.language] += 1

    def drop(self, record: Record, reason: str, where: str | None = None) -> None:
        """Counts and lists a record that is left out."""
        self.skipped.at(where or record.source, {"query": record.query, "positive": record.positive})
        self.skipped.skip(reason)


def curate_record(record: Record, options: CurationOptions, index: Index | None = None) -> Outcome:
    """Applies all steps that only need a single record.

    Args:
        index: index of the evaluation sets; None: there are none.
    """
    notes: list[str] = []
    identified = None
    try:
        check_source(record, options)
        record = clean(record, options, notes)
        if options.identify_language:
            identified, record = check_language(record, options, notes)
        if index:
            record = decontaminate(record, index, notes)
    except _Dropped as reason:
        return Outcome(None, str(reason), (), identified)
    return Outcome(record, None, tuple(notes), identified)


def check_source(record: Record, options: CurationOptions) -> None:
    """Drops records of the excluded sources, which overlap evaluation sets."""
    for pattern in options.excluded_sources:
        if fnmatchcase(record.source, pattern):
            raise _Dropped(f"source {record.source} is among the excluded sources ({pattern})")


def clean(record: Record, options: CurationOptions, notes: list[str]) -> Record:
    """Normalizes and cuts the texts; leaves out what cannot teach: empty texts, and the same text on both sides."""
    form, limit = options.unicode_form, options.max_characters
    texts = [record.query, record.positive, *record.negatives]
    if form:
        named: dict[str, Any] = {}
        for name in ("language", "source", "label", "instruction"):
            if text := getattr(record, name):
                named[name] = normalize_text(text, form)
        record = replace(record, **named)
        normalized = [normalize_text(text, form) for text in texts]
        if normalized != texts:
            notes.append("text normalized")
        texts = normalized
    if limit and max(map(len, texts)) > limit:
        if options.too_long == "drop":
            raise _Dropped("text is too long")
        notes.append("text cut")
        texts = [cut_text(text, limit) for text in texts]
    query, positive, *negatives = texts
    record = replace(record, query=query, positive=positive, negatives=tuple(negatives))
    for name, text in (("query", query), ("positive", positive)):
        if not text.strip() and (name == "query" or record.documents):
            raise _Dropped(f"empty {name}")
    if options.drop_trivial:
        if query == positive:
            raise _Dropped("query is its own positive")
        others = [text for text in negatives if text.strip() and text not in (query, positive)]
        kept = [negatives.index(text) for text in dict.fromkeys(others)]
        if len(kept) < len(negatives):
            notes.append("empty, repeated or right negatives removed")
        return _with_negatives(record, kept)
    return _with_negatives(record, range(len(negatives)))


def check_language(record: Record, options: CurationOptions, notes: list[str]) -> tuple[str | None, Record]:
    """Sets the language if it is und, else checks it, except for code; returns (identified language, result)."""
    from f2jax.prepare.curate import language  # its libraries come with the `curate` extra

    if record.language.startswith("code:"):
        return None, record
    identified = language.identify_language(record.query, options.language_confidence)
    if record.language == language.UNKNOWN and identified not in (language.UNKNOWN, language.NO_LANGUAGE):
        notes.append("language set")
        return identified, replace(record, language=identified)
    if language.language_agrees(record.language, identified) is False:
        if options.drop_other_language:
            raise _Dropped("query is in another language than declared")
        notes.append("query is in another language than declared")
    return identified, record


def decontaminate(record: Record, index: Index, notes: list[str]) -> Record:
    """Drops a row whose query or positive is in an evaluation set, and removes such negatives from other rows."""
    query, positive, *others = index.find_all([record.query, record.positive, *record.negatives])
    for name, hit in (("query", query), ("positive", positive)):
        if hit:
            raise _Dropped(f"{name} is in evaluation set {hit.evaluation_set} ({hit.how})")
    kept = [place for place, hit in enumerate(others) if not hit]
    if len(kept) == len(record.negatives):
        return record
    notes.append("negatives in evaluation sets removed")
    return _with_negatives(record, kept)


def _with_negatives(record: Record, places: Sequence[int]) -> Record:
    """Returns the record with only these negatives; drops it if its kind needs some and none is left."""
    if record.kind in NEED_NEGATIVES and not places:
        raise _Dropped(f"{record.kind} without negatives")
    return record.with_negatives(places)
