"""Scores on the held-out rows of a run: TF-IDF, and the model before and after training.

A query has to find its positive among all documents of its data set, including those of training rows. In clustering, a
text has to find another one with its label; in classification, its label.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from f2jax.data.dataset import dataset_names, is_held_out
from f2jax.data.mixture import select
from f2jax.data.record import Record, stable_id
from f2jax.evaluation.builtin import tfidf_vectors
from f2jax.tables import text_table

FIRST = 10  # documents per query that MRR considers
QUERIES, DOCUMENTS = 1_000, 20_000  # at most; a hash of the text decides which

Scorer = Callable[["HeldOut"], np.ndarray]  # similarities [q, c] of the queries to the documents


@dataclass(frozen=True)
class HeldOut:
    """The held-out queries of a data set, its documents, and the numbers of each query's right documents."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[set[int]]
    alike: bool  # symmetric: neither side is a query, and a text is not an answer to itself

    def metrics(self, similarity_qc: np.ndarray) -> tuple[float, float]:
        """Returns accuracy@1 and the mean reciprocal rank."""
        number = {text: i for i, text in enumerate(self.documents)}
        reciprocal = []
        for query, scores_c, right in zip(self.queries, similarity_qc, self.answers, strict=True):
            scores_c = scores_c.astype(np.float64)
            if self.alike and query in number:
                scores_c[number[query]] = -np.inf
            right_i = sorted(right)
            best = scores_c[right_i].max()
            rank = 1 + int((np.delete(scores_c, right_i) >= best).sum())  # a tie counts as a miss
            reciprocal.append(1 / rank if rank <= FIRST else 0.0)
        return float(np.mean([value == 1 for value in reciprocal])), float(np.mean(reciprocal))


def held_out_sets(
    records: Iterable[Record], share: float, seed: int, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[HeldOut], list[str]]:
    """Returns the held-out rows by data set, and the names of data sets that have no held-out row with an answer.

    Args:
        share, seed: as in the config of the run; they decide which rows are held out.
        include, exclude: as in the config of the run; they select the data sets (`mixture.select`).
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.source, record.kind].append(record)
    names, keys = dataset_names(groups), list(groups)
    found, empty = [], []
    for i in select([names[key] for key in keys], include, exclude):
        name, rows = names[keys[i]], groups[keys[i]]
        if rows[0].kind == "texts":
            continue
        queries = {record.query: None for record in rows if is_held_out(record.split_id, share, seed)}
        held = _held_out(name, rows, _some(queries, QUERIES))
        if held.queries:
            found.append(held)
        else:
            empty.append(name)
    return found, empty


def _held_out(name: str, rows: Sequence[Record], queries: list[str]) -> HeldOut:
    alike = rows[0].symmetric or rows[0].kind == "clustering"
    same: dict[str, set[str]] = defaultdict(set)  # query or label → right documents
    for record in rows:
        found = {record.positive} | ({record.query} if record.kind == "clustering" else set())
        same[f"query {record.query}"] |= found
        if record.label is not None and record.kind != "classification":
            same[f"label {record.label}"] |= found
    answers: dict[str, set[str]] = {}
    for record in rows:
        answers.setdefault(record.query, set()).update(same[f"query {record.query}"], same[f"label {record.label}"])
    wanted = {text for query in queries for text in answers[query]}
    everything = {text for record in rows for text in record.documents} | wanted
    documents = _some(everything, DOCUMENTS, wanted)
    number = {text: i for i, text in enumerate(documents)}
    right = [{number[text] for text in answers[query] if not (alike and text == query)} for query in queries]
    asked = [(query, numbers) for query, numbers in zip(queries, right, strict=True) if numbers]
    return HeldOut(name, [query for query, _ in asked], documents, [numbers for _, numbers in asked], alike)


def _some(texts: Iterable[str], count: int, kept: Iterable[str] = ()) -> list[str]:
    """Returns `count` of the texts, or all in `kept` if they are more: those first, the others chosen by a hash."""
    first = set(kept)
    order = sorted(texts, key=lambda text: (text not in first, stable_id(text), text))
    return order[: max(count, len(first))]


def tfidf(held: HeldOut) -> np.ndarray:
    """Scores by TF-IDF of character n-grams."""
    queries_qf, documents_cf = (tfidf_vectors(texts, held.documents) for texts in (held.queries, held.documents))
    return (queries_qf @ documents_cf.T).toarray()


def model_scorer(embedder) -> Scorer:
    """Returns a scorer for a model, which uses its prompts for queries and documents unless the set is symmetric."""

    def similarity(held: HeldOut) -> np.ndarray:
        if held.alike:
            return embedder.similarity(embedder.encode(held.queries), embedder.encode(held.documents))
        return embedder.similarity(embedder.encode_query(held.queries), embedder.encode_document(held.documents))

    return similarity


def comparison(sets: Sequence[HeldOut], scorers: Mapping[str, Scorer]) -> str:
    """Returns a table of each scorer's metrics on each set, and how large a difference may be chance."""
    rows = [("held-out rows", "queries", "documents", "", "accuracy@1", f"MRR@{FIRST}")]
    for held in sets:
        for count, (name, scorer) in enumerate(scorers.items()):
            accuracy, reciprocal = held.metrics(scorer(held))
            where = ("", "", "") if count else (held.name, f"{len(held.queries):,}", f"{len(held.documents):,}")
            rows.append((*where, name, f"{accuracy:.1%}", f"{reciprocal:.3f}"))
    fewest = min(len(held.queries) for held in sets)
    chance = 100 / np.sqrt(fewest)  # two standard errors of a share, at most
    return f"{text_table(rows)}\nOf {fewest:,} queries, a difference of up to {chance:.0f} points may be chance."
