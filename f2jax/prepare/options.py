"""The options that determine the content of a corpus, besides the inputs and the tokenizer."""

from dataclasses import dataclass, field, replace

from f2jax.data.instructions import Instructions
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions as Curation

Key = tuple[str, str]  # (source, kind): one data set
STAGE_2_CAP = 80_000  # rows of a data set in the second stage of the reference


@dataclass(frozen=True)
class PrepareOptions:
    """Rows of the corpus.

    Raises:
        UserError: a value is out of range.
    """

    # select what the reference trains on in a stage, from the released corpus. 1: the seven sources of stage 1, with
    # --no-instructions; 2: all sources, with --cap 80000; both with --identify-language. 0: no selection
    stage: int = 0
    max_length: int = 1024  # longest text, in tokens, with the end token
    instructions: Instructions = field(default_factory=Instructions)
    own_spaces: bool = False  # with --train-vocab, make spaces pieces of their own, which leaves more room for words
    validation_share: float = 0.01  # share of the queries of each data set to hold out
    seed: int = 0  # seed for the cap, the held-out share and the instructions
    cap: int = 0  # largest number of rows in a data set, chosen by the seed; 0: all
    keep_texts: bool = True  # store the original texts too, which f2jax cache-teacher needs for other tools
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not state their kind
    curate: Curation | None = None  # None: rows stay as they are

    def __post_init__(self):
        if self.stage not in (0, 1, 2):
            raise UserError(f"--stage {self.stage} should be 1 or 2.")
        for option, value, least in (("max-length", self.max_length, 2), ("seed", self.seed, 0), ("cap", self.cap, 0)):
            if value < least:
                raise UserError(f"--{option} {value} should be at least {least}.")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"--validation-share {self.validation_share} should be from 0 to below 1.")
        if not 0 <= self.instructions.symmetric_share <= 1:
            raise UserError(f"--symmetric-share {self.instructions.symmetric_share} should be from 0 to 1.")

    def of_stage(self) -> "PrepareOptions":
        """Returns the options with the settings of the stage (recipe 2.1): instructions, cap and languages."""
        if not self.stage:
            return self
        return replace(
            self,
            instructions=replace(self.instructions, enabled=self.instructions.enabled and self.stage == 2),
            cap=self.cap or (STAGE_2_CAP if self.stage == 2 else 0),
            curate=self.curate and replace(self.curate, identify_language=True),
        )
