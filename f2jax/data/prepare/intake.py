"""Records on their way into a corpus: what decides its content, and one way to read an input."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from f2jax.data.dataset import Instructions
from f2jax.data.record import Record
from f2jax.data.sources import open_source


class Outcome(NamedTuple):
    """What became of a record."""

    record: Record | None  # None: left out
    reason: str | None = None  # why it was
    notes: tuple[str, ...] = ()  # what was changed, and what was noticed


class Curate(Protocol):
    """A step for each record: a frozen dataclass, so that the card can show it and workers can get it.

    Its result has the fields of `Outcome`, and is a function of the record alone.
    """

    def __call__(self, record: Record) -> Outcome: ...


@dataclass(frozen=True)
class Options:
    """What decides the content of a corpus, besides the inputs and the tokenizer."""

    max_length: int = 1024  # tokens of a text, end token included
    instructions: Instructions = field(default_factory=Instructions)
    validation_share: float = 0.01  # of each data set's queries
    seed: int = 0
    cap: int = 0  # rows of a data set at most; 0: all
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not say it
    curate: Curate | None = None  # applied to each record


def read(spec: str, options: Options, skipped: Counter, noted: Counter) -> Iterator[Record]:
    """The records of an input that stay.

    Args:
        skipped: counts those that do not, by reason.
        noted: counts what curation did and noticed.

    Raises:
        UserError: the input cannot be read.
    """
    for record in open_source(spec, "train", skipped, options.kinds):
        outcome = options.curate(record) if options.curate else Outcome(record)
        noted.update(outcome.notes)
        if outcome.record is None:
            skipped[outcome.reason] += 1
        else:
            yield outcome.record
