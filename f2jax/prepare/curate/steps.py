"""The steps of curation, in order: source, text, language, evaluation sets; then duplicates.

`curate_record` is a function of one record, and what it needs besides it builds itself once a process: map it with any
runner, and add its outcomes up in a `Report`. `curate` does that and drops duplicates, in memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from f2jax.data.record import Record
from f2jax.data.skip_list import located
from f2jax.prepare.curate import dedup
from f2jax.prepare.curate.decontaminate import Index, load_index
from f2jax.prepare.curate.normalize import cut_text, normalize_text
from f2jax.prepare.curate.options import CurationOptions

EXACT, NEAR = "exact duplicate", "near duplicate"


class Outcome(NamedTuple):
    """What became of one record."""

    record: Record | None  # None: dropped
    reason: str | None  # why it was dropped
    notes: tuple[str, ...]  # what was changed, and what was noticed
    language: str | None  # ISO 639-3 code that the query was found to be in; None where nobody looked


@dataclass
class CurationReport:
    """Counts for the data card. Reports of parts add up to the report of the whole."""

    kept: int = 0
    skipped: Counter = field(default_factory=Counter)  # reason → rows; a `SkipList` lists them too
    noted: Counter = field(default_factory=Counter)  # note → rows that stay
    languages: Counter = field(default_factory=Counter)  # found ISO 639-3 code → rows that stay, duplicates included

    def add(self, outcome: Outcome, original: Record, where: str | None = None) -> None:
        """Count the outcome of a record, which comes from `where`; None: its source."""
        if outcome.record is None:
            self.drop(original, outcome.reason, where)
            return
        self.kept += 1
        self.noted.update(outcome.notes)
        if outcome.language is not None:
            self.languages[outcome.language] += 1

    def drop(self, record: Record, reason: str, where: str | None = None) -> None:
        """Count, and list, a record that is left out."""
        located(self.skipped, where or record.source, {"query": record.query, "positive": record.positive})
        self.skipped[reason] += 1

    def __add__(self, other: "CurationReport") -> "CurationReport":
        counters = (getattr(self, name) + getattr(other, name) for name in ("skipped", "noted", "languages"))
        return CurationReport(self.kept + other.kept, *counters)


def curate(records: Iterable[Record], options: CurationOptions, report: CurationReport) -> Iterator[Record]:
    """The records that stay, changed where a step says so. Which ones they are does not depend on the order.

    Without duplicates to drop they stream; else all are held in memory.

    Raises:
        UserError: an evaluation set cannot be read.
    """
    passed = _passed(records, options, report)
    if options.exact_duplicates:
        passed, dropped = dedup.drop_exact(passed)
        _drop_all(dropped, EXACT, report)
    if options.near_duplicates:
        passed, dropped = dedup.drop_near(passed, options)
        _drop_all(dropped, NEAR, report)
    yield from passed


def curate_record(record: Record, options: CurationOptions) -> Outcome:
    """All the steps that look at one record alone; a pure function, save that it loads what it needs once a process.

    Raises:
        UserError: an evaluation set cannot be read.
    """
    notes, found = [], None
    step = check_source(record, options)
    if isinstance(step, Record):
        step = clean(step, options, notes)
    if isinstance(step, Record) and options.identify_language:
        found, step = check_language(step, options, notes)
    if isinstance(step, Record) and options.evaluation_sets:
        index = load_index(options.evaluation_sets, options.ngram, options.fewest_letters)
        step = decontaminate(step, index, notes)
    if isinstance(step, Record):
        return Outcome(step, None, tuple(notes), found)
    return Outcome(None, step, (), found)


# Each step gives the record, or the reason why it cannot stay.


def check_source(record: Record, options: CurationOptions) -> Record | str:
    """Leave out the sources that overlap evaluation sets."""
    for pattern in options.excluded_sources:
        if fnmatchcase(record.source, pattern):
            return f"source {record.source} is among the excluded sources ({pattern})"
    return record


def clean(record: Record, options: CurationOptions, notes: list[str]) -> Record | str:
    """Normalize and cut the texts; leave out what cannot teach: empty texts, and the same text on both sides."""
    form, limit = options.unicode_form, options.max_characters
    texts = [record.query, record.positive, *record.negatives]
    names = {name: getattr(record, name) for name in ("language", "source", "label", "instruction")}
    if form:
        names = {name: text and normalize_text(text, form) for name, text in names.items()}
        normalized = [normalize_text(text, form) for text in texts]
        if normalized != texts:
            notes.append("text normalized")
        texts = normalized
    if limit and max(map(len, texts)) > limit:
        if options.too_long == "drop":
            return "text is too long"
        notes.append("text cut")
        texts = [cut_text(text, limit) for text in texts]
    query, positive, *negatives = texts
    for name, text in (("query", query), ("positive", positive)):
        if not text.strip():
            return f"empty {name}"
    if options.drop_trivial:
        if query == positive:
            return "query is its own positive"
        negatives = dict.fromkeys(text for text in negatives if text.strip() and text not in (query, positive))
        if len(negatives) < len(record.negatives):
            notes.append("empty, repeated or right negatives removed")
    return _with(record, negatives, query=query, positive=positive, **names)


def check_language(record: Record, options: CurationOptions, notes: list[str]) -> tuple[str | None, Record | str]:
    """(code that was found, step): set a language that is und, and compare one that is declared. Code is let be."""
    from f2jax.prepare.curate import language  # its libraries come with the `curate` extra

    if record.language.startswith("code:"):
        return None, record
    found = language.identify_language(record.query, options.language_confidence)
    if record.language == language.UNKNOWN and found not in (language.UNKNOWN, language.NO_LANGUAGE):
        notes.append("language set")
        return found, replace(record, language=found)
    if language.language_agrees(record.language, found) is False:
        if options.drop_other_language:
            return found, "query is in another language than declared"
        notes.append("query is in another language than declared")
    return found, record


def decontaminate(record: Record, index: Index, notes: list[str]) -> Record | str:
    """Drop a row whose query or positive stands in an evaluation set; of its negatives only those that do."""
    for name, text in (("query", record.query), ("positive", record.positive)):
        hit = index.find(text)
        if hit:
            return f"{name} is in evaluation set {hit.evaluation_set} ({hit.how})"
    negatives = [text for text in record.negatives if not index.find(text)]
    if len(negatives) == len(record.negatives):
        return record
    notes.append("negatives in evaluation sets removed")
    return _with(record, negatives)


def _with(record: Record, negatives: Iterable[str], **changes: str | None) -> Record | str:
    """The record with other negatives; all kinds but retrieval need some."""
    if record.kind != "retrieval" and not negatives:
        return f"{record.kind} without negatives"
    return replace(record, negatives=tuple(negatives), **changes)


def _passed(records: Iterable[Record], options: CurationOptions, report: CurationReport) -> Iterator[Record]:
    for record in records:
        outcome = curate_record(record, options)
        report.add(outcome, record)
        if outcome.record is not None:
            yield outcome.record


def _drop_all(dropped: list[Record], reason: str, report: CurationReport) -> None:
    report.kept -= len(dropped)
    for record in dropped:
        report.drop(record, reason)
