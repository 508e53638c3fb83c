"""What decides the content of a corpus, besides the inputs and the tokenizer."""

from dataclasses import dataclass, field

from f2jax.data.curate import Options as Curation
from f2jax.data.dataset import Instructions

Key = tuple[str, str]  # (source, kind): one data set


@dataclass(frozen=True)
class Options:
    max_length: int = 1024  # tokens of a text, end token included
    instructions: Instructions = field(default_factory=Instructions)
    validation_share: float = 0.01  # of each data set's queries
    seed: int = 0
    cap: int = 0  # rows of a data set at most; 0: all
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not say it
    curate: Curation | None = None  # None: rows stay as they are
