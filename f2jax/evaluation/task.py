"""A retrieval task: which document belongs to which query."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, candidates, and for each query the numbers of the right candidates."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[set[int]]
    languages: list[str]  # of the queries
