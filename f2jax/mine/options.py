"""The options of `f2jax mine`: the rows, the vectors, and which documents are hard negatives."""

import math
from dataclasses import dataclass, field
from typing import Literal

from f2jax.data.record import KINDS
from f2jax.errors import UserError, check_choices
from f2jax.inference.options import Dtype


@dataclass(frozen=True)
class MiningInput:
    """Rows, and the documents to mine from.

    Raises:
        UserError: a value is out of range.
    """

    input: tuple[str, ...]  # files, globs, folders or built-in sets with rows
    # more documents for every set: .txt (one text per line), or rows with a column 'text'
    corpus: str | None = field(default=None, metadata={"option": "documents", "formerly": "corpus"})
    kinds: tuple[str, ...] = ()  # SOURCE=KIND for files whose rows do not state their kind
    only: tuple[str, ...] = KINDS  # kinds of rows to mine for; other rows stay as they are
    ratings: str | None = None  # file with query, document and score, from a reranker or a teacher
    max_rating: float = 0.5  # a pair with this score or more in --ratings is never a negative
    # keep this many of the negatives that a row brings, and mine the rest, for a second round with a newer model; 0:
    # mine all of them; None: keep all that a row brings
    own: int | None = None

    def __post_init__(self):
        if self.own is not None and self.own < 0:
            raise UserError(f"own={self.own} should be at least 0.")
        if not math.isfinite(self.max_rating):
            raise UserError(f"max_rating={self.max_rating} should be a number.")


@dataclass(frozen=True)
class MiningVectorOptions:
    """Vectors: from a model, or from .npy files of floats with a row for each text.

    The queries are the distinct queries of the input in the order of their first appearance, each with its row's own
    instruction before it. The documents are the distinct positives in the same order, then the texts of --documents.
    """

    model: str | None = None  # a folder, hub id, gs:// path or workdir (RUN, RUN@STEP, RUN@best), or mini
    dtype: Dtype = "float32"  # precision of the weights and the computation
    prompt_name: str | None = None  # prompt of the model for queries; None: the prompt query, if it has one
    batch_size: int = 1024  # largest number of texts in a batch
    query_embeddings: str | None = None  # .npy file with the vectors of the queries, instead of --model
    document_embeddings: str | None = None  # .npy file with those of the documents, instead of --model
    list_queries: str | None = None  # only write the queries to embed to this .jsonl file, in order
    list_documents: str | None = None  # only write the documents to embed to this .jsonl file, in order


@dataclass(frozen=True)
class MiningOptions:
    """Hard negatives; scores are cosines.

    Raises:
        UserError: a value is out of range.
    """

    top: int = 100  # number of nearest documents to consider, besides the right answers
    skip: int = 5  # leave out this many of the nearest that pass, often unlabelled right answers
    max_score: float | None = 0.8  # a negative must score below this; None: no limit
    relative: float | None = 0.95  # and below this share of the score of the query's worst right answer; None: no limit
    keep: int = 24  # number of negatives for each row
    fewer: Literal["drop", "random"] = "drop"  # drop a row that finds fewer, or draw the rest at random
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
                raise UserError(f"{name}={value} should be 0 or more.")
