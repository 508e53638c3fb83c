"""What decides the content of a corpus, besides the inputs and the tokenizer."""

from dataclasses import dataclass, field

from f2jax.data.instructions import Instructions
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions as Curation

Key = tuple[str, str]  # (source, kind): one data set


@dataclass(frozen=True)
class PrepareOptions:
    """What a row of a corpus is, and which rows stay.

    Raises:
        UserError: a value is out of range.
    """

    max_length: int = 1024  # tokens of a text, end token included
    instructions: Instructions = field(default_factory=Instructions)
    validation_share: float = 0.01  # share of each data set's queries that is held out
    seed: int = 0  # seed of the cap, the held-out share and the instructions
    cap: int = 0  # maximum number of rows of a data set, sampled with the seed; 0: all
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not say it
    curate: Curation | None = None  # None: rows stay as they are

    def __post_init__(self):
        for option, value, least in (("max-length", self.max_length, 2), ("seed", self.seed, 0), ("cap", self.cap, 0)):
            if value < least:
                raise UserError(f"--{option} {value} should be at least {least}.")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"--validation-share {self.validation_share} should be from 0 to below 1.")
        if not 0 <= self.instructions.symmetric_share <= 1:
            raise UserError(f"--symmetric-share {self.instructions.symmetric_share} should be from 0 to 1.")
