"""Rows → what `mine` works on: distinct queries and documents, and which of these are right for which."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from f2jax.data.instructions import add_instruction
from f2jax.data.record import KINDS, Record, stable_id
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError, did_you_mean
from f2jax.mine.negatives import Answers


@dataclass(frozen=True)
class MiningRows:
    """The rows of the input. Each distinct text has a number, in the order in which the texts first come."""

    records: list[Record]
    queries: list[str]  # with the row's own instruction before it, where it has one
    documents: list[str]  # the positives, then the corpus
    query_r: list[int]  # number of each row's query; -1: the row is of a kind that is not mined
    positive_r: list[int]
    corpus: list[int]  # numbers of the documents of the corpus
    skipped: Counter  # rows that could not be read, by reason


def read_rows(
    sources: Iterable[str], corpus: Iterable[str] = (), kinds: Sequence[str] = (), only: Sequence[str] = KINDS
) -> MiningRows:
    """Rows of files, globs, folders and built-in sets.

    Args:
        corpus: texts that are documents of every set.
        kinds: `SOURCE=KIND` patterns for files whose rows do not say their kind.
        only: the kinds to mine for; the texts of other rows are neither queries nor documents.

    Raises:
        UserError: an input cannot be read, a kind is unknown, or no row is to be mined.
    """
    unknown = next((kind for kind in only if kind not in KINDS), None)
    if unknown is not None:
        raise UserError(f"There is no kind '{unknown}'{did_you_mean(unknown, KINDS)}")
    skipped: Counter = Counter()
    queries, documents = _Numbers(), _Numbers()
    records, query_r, positive_r = [], [], []
    for record in chain.from_iterable(open_source(spec, "train", skipped, kinds, bare=True) for spec in sources):
        record, mined = _encodable(record), record.kind in only
        records.append(record)
        query_r.append(queries[add_instruction(record.query, record.instruction)] if mined else -1)
        positive_r.append(documents[record.positive] if mined else -1)
    if not queries:
        raise UserError(f"No row of the input is of the kind {' or '.join(only)}; choose others.")
    extra = [documents[SURROGATES.sub("\ufffd", text)] for text in corpus if text.strip()]
    return MiningRows(records, list(queries), list(documents), query_r, positive_r, extra, skipped)


class _Numbers(dict):
    """value → its number, given when it is first asked for."""

    def __missing__(self, value) -> int:
        self[value] = len(self)
        return self[value]


def _encodable(record: Record) -> Record:
    """The record without halves of UTF-16 pairs, which neither tokenizers nor parquet take."""
    texts = (record.query, record.positive, *record.negatives)
    if not any(map(SURROGATES.search, texts)):
        return record
    query, positive, *negatives = (SURROGATES.sub("\ufffd", text) for text in texts)
    return dataclasses.replace(record, query=query, positive=positive, negatives=tuple(negatives))


@dataclass(frozen=True)
class Group:
    """Rows that are mined together. Within it queries and documents have numbers of their own, from 0."""

    rows: list[int]
    query_r: np.ndarray  # the group's number of each row's query
    queries: np.ndarray  # numbers in `Rows.queries`
    documents: np.ndarray  # numbers in `Rows.documents`, ascending
    answers: Answers
    ids: list[int]  # stable id of each query


def group_rows(rows: MiningRows, across_sources: bool = False) -> list[Group]:
    """A group for each source and kind, or for each kind. What is right for a query is right in every group."""
    right: dict[int, set[int]] = defaultdict(set)
    members: dict[tuple, list[int]] = defaultdict(list)
    for row, (query, positive) in enumerate(zip(rows.query_r, rows.positive_r, strict=True)):
        if query >= 0:
            record = rows.records[row]
            right[query].add(positive)
            members[record.kind, None if across_sources else record.source].append(row)
    numbers = {text: number for number, text in enumerate(rows.documents)}
    return [_group(rows, some, right, numbers) for some in members.values()]


def _group(rows: MiningRows, members: list[int], right: dict[int, set[int]], numbers: dict[str, int]) -> Group:
    documents = np.unique([rows.positive_r[row] for row in members] + rows.corpus)
    place = {number: i for i, number in enumerate(documents.tolist())}
    queries, labels = _Numbers(), _Numbers()
    query_r, own = [], {}
    query_labels: dict[int, set[int]] = defaultdict(set)
    document_labels: dict[int, set[int]] = defaultdict(set)
    for row in members:
        record, query = rows.records[row], queries[rows.query_r[row]]
        query_r.append(query)
        own[query] = place.get(numbers.get(record.query), -1)
        if record.label is not None:
            label = labels[record.source, record.label]
            query_labels[query].add(label)
            document_labels[place[rows.positive_r[row]]].add(label)
    answers = Answers(
        [[place[number] for number in right[query] if number in place] for query in queries],
        np.array([own[i] for i in range(len(queries))]),
        [sorted(query_labels[i]) for i in range(len(queries))],
        [sorted(document_labels[i]) for i in range(len(documents))],
    )
    ids = [stable_id(rows.queries[query]) for query in queries]
    return Group(members, np.array(query_r), np.array(list(queries)), documents, answers, ids)
