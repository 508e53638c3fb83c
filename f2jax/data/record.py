"""The one record that every source yields and every later stage understands."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

Kind = Literal["retrieval", "clustering", "classification", "texts"]
KINDS: tuple[str, ...] = get_args(Kind)
NEED_NEGATIVES = ("clustering", "classification")


def as_kind(name: object) -> Kind | None:
    """The kind of this name; None if there is none."""
    return cast(Kind, name) if name in KINDS else None


def stable_id(text: str) -> int:
    """A 63-bit hash of a text, equal on every machine and in every run.

    >>> stable_id("Kenya") == stable_id("Kenya")
    True
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def in_share(document_id: int, share: float, purpose: str, seed: int) -> bool:
    """Returns whether a hash puts a document into a pseudo-random `share` of all, in any order and on any machine."""
    return stable_id(f"{purpose} {seed} {document_id}") < share * 2**63


@dataclass(frozen=True, slots=True)
class Record:
    """One training row.

    The kind routes the loss (recipe 2.4): `retrieval` has hard and in-batch negatives, `clustering` and
    `classification` only the row's own negatives. Rows with the same label are not mined as each other's negatives, and
    with `loss.label_mask` not used as such in a batch. A row of `texts` is its query alone, for a teacher that says
    what it means; its positive is "".
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    kind: Kind = "retrieval"
    language: str = "und"  # of the query: ISO 639-3 or BCP 47, `code:<name>` for a programming language
    source: str = ""
    label: str | None = None
    instruction: str | None = None  # task sentence of the query; None: the config decides by source and kind
    symmetric: bool = False  # STS, bitext, paraphrase: documents carry the instruction on a share of the rows
    positive_language: str = ""  # of the positive and the negatives; "": that of the query
    scores: tuple[float, ...] = ()  # a reranker's of the positive, then of the negatives; NaN: not that one; (): none

    @property
    def query_id(self) -> int:
        return stable_id(self.query)

    @property
    def documents(self) -> tuple[str, ...]:
        """The positive, then the negatives."""
        return () if self.kind == "texts" else (self.positive, *self.negatives)

    @property
    def split_id(self) -> int:
        """What decides whether the row is held out: its query, or the pair, if its texts may change places."""
        return min(self.query_id, self.positive_id) if self.symmetric and self.documents else self.query_id

    @property
    def positive_id(self) -> int:
        return stable_id(self.positive)

    def with_negatives(self, places: Iterable[int]) -> "Record":
        """The record with these of its negatives alone, and their scores."""
        places = list(places)
        scores = self.scores and (self.scores[0], *(self.scores[1 + place] for place in places))
        return replace(self, negatives=tuple(self.negatives[place] for place in places), scores=scores)

    @property
    def negative_ids(self) -> tuple[int, ...]:
        return tuple(stable_id(text) for text in self.negatives)
