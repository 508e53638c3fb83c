"""The record that all sources yield and all later stages use."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

Kind = Literal["retrieval", "clustering", "classification", "texts"]
KINDS: tuple[str, ...] = get_args(Kind)
NEED_NEGATIVES = ("clustering", "classification")


def as_kind(name: object) -> Kind | None:
    """Returns the name as a kind, or None if there is no such kind."""
    return cast(Kind, name) if name in KINDS else None


def stable_id(text: str) -> int:
    """Returns a 63-bit hash of a text, which is the same on every machine and in every run.

    >>> stable_id("Kenya") == stable_id("Kenya")
    True
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def in_share(document_id: int, share: float, purpose: str, seed: int) -> bool:
    """Returns whether a document is in a pseudo-random `share`, decided by a hash alone."""
    return stable_id(f"{purpose} {seed} {document_id}") < share * 2**63


@dataclass(frozen=True, slots=True)
class Record:
    """A training row.

    The kind decides the loss (recipe 2.4): `retrieval` uses hard and in-batch negatives, `clustering` and
    `classification` only the row's own negatives. Rows with the same label are not mined as each other's negatives, and
    are not used as such within a batch if `loss.label_mask` is on. A row of `texts` has only a query, for distillation;
    its positive is "".
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    kind: Kind = "retrieval"
    language: str = "und"  # of the query: ISO 639-3, BCP 47, or `code:<name>` for a programming language
    source: str = ""
    label: str | None = None
    instruction: str | None = None  # of the query; None: the config decides by source and kind
    symmetric: bool = False  # STS, bitext, paraphrase: a share of the documents gets the instruction too
    positive_language: str = ""  # of the positive and the negatives; "": that of the query
    scores: tuple[float, ...] = ()  # a reranker's, for the positive and then the negatives; NaN: missing; (): none

    @property
    def query_id(self) -> int:
        return stable_id(self.query)

    @property
    def documents(self) -> tuple[str, ...]:
        """The positive and then the negatives."""
        return () if self.kind == "texts" else (self.positive, *self.negatives)

    @property
    def split_id(self) -> int:
        """The id that decides whether the row is held out: of its query, or for a symmetric row, of the pair."""
        return min(self.query_id, self.positive_id) if self.symmetric and self.documents else self.query_id

    @property
    def positive_id(self) -> int:
        return stable_id(self.positive)

    def with_negatives(self, places: Iterable[int]) -> "Record":
        """Returns the record with only these of its negatives and their scores."""
        places = list(places)
        scores = self.scores and (self.scores[0], *(self.scores[1 + place] for place in places))
        return replace(self, negatives=tuple(self.negatives[place] for place in places), scores=scores)

    @property
    def negative_ids(self) -> tuple[int, ...]:
        return tuple(stable_id(text) for text in self.negatives)
