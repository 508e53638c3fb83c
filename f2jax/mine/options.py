"""The options of `f2jax mine`: which rows, which vectors, which documents are hard negatives."""

import math
from dataclasses import dataclass
from typing import Literal

from f2jax.data.record import KINDS
from f2jax.errors import UserError, check_choices
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class MiningInput:
    """Which rows get negatives, from which documents.

    Raises:
        UserError: a value is out of range.
    """

    input: tuple[str, ...]  # files, globs, folders or built-in sets of rows
    corpus: str | None = None  # further documents for every set: .txt (a text per line), or rows with a field 'text'
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not say their kind
    only: tuple[str, ...] = KINDS  # the kinds of rows to mine for; other rows stay as they are
    ratings: str | None = None  # file of query, document and score, by a reranker or a teacher
    max_rating: float = 0.5  # a pair with this score or more there is no negative, whether mined or brought
    # of the negatives that rows bring, so many come first, before mined ones: half of --keep gives a second round, by a
    # newer model, the other half; 0: none; off: all
    own: int | None = None

    def __post_init__(self):
        if self.own is not None and self.own < 0:
            raise UserError(f"own={self.own} should be at least 0.")
        if not math.isfinite(self.max_rating):
            raise UserError(f"max_rating={self.max_rating} should be a number.")


@dataclass(frozen=True)
class MiningVectorOptions:
    """Vectors, by a model or from .npy files of floats with a row for each text.

    Queries are each distinct query of the input once, in order of first appearance, with the row's own instruction
    before it. Documents are each distinct positive likewise, then the texts of --corpus. The --list options write these
    and mine nothing.
    """

    model: str | None = None  # folder, hub id, gs:// path, workdir (RUN, RUN@STEP or RUN@best), or the built-in mini
    dtype: Dtype = "float32"  # type of weights and matmuls
    prompt_name: str | None = None  # the model's prompt for queries; None: query, where it has that
    batch_size: int = 1024  # maximum number of texts in a device batch
    query_embeddings: str | None = None  # .npy, instead of --model
    document_embeddings: str | None = None  # .npy, instead of --model
    list_queries: str | None = None  # .jsonl file for the queries to embed, in order
    list_documents: str | None = None  # .jsonl file for the documents to embed, in order


@dataclass(frozen=True)
class MiningOptions:
    """What a hard negative is; scores are cosines.

    Raises:
        UserError: a value is out of range.
    """

    top: int = 100  # number of nearest documents considered, right answers not counted
    skip: int = 5  # of those that pass, leave out this many of the nearest: often right answers that nobody marked
    max_score: float | None = 0.8  # a negative scores below this; None: no such limit
    relative: float | None = 0.95  # and below this share of the score of the query's worst right answer; None: no limit
    keep: int = 24  # negatives of a row
    fewer: Literal["drop", "random"] = "drop"  # a row with fewer: drop it, or draw the rest at random
    seed: int = 0  # seed of the random draw

    def __post_init__(self):
        check_choices(self)
        for name, least in (("skip", 0), ("keep", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} should be at least {least}.")
        if self.top < self.skip + self.keep:
            raise UserError(f"top={self.top} should be at least skip + keep = {self.skip + self.keep}.")
        for name in ("max_score", "relative"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name}={value} should be a number from 0 on.")
