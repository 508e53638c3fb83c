"""Rows → what `mine` works on: distinct queries and documents, and the right documents of each query."""

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
    """The rows of the input. Each distinct text has a number, in order of first appearance."""

    records: list[Record]
    queries: list[str]  # after the row's own instruction, if it has one
    documents: list[str]  # the positives, then the corpus
    query_numbers: list[int]  # of each row; -1: the row is of a kind that is not mined
    positive_numbers: list[int]  # of each row
    corpus: list[int]  # numbers of the documents of the corpus
    skipped: Counter  # rows that could not be read, by reason


def read_mining_rows(
    sources: Iterable[str], corpus: Iterable[str] = (), kinds: Sequence[str] = (), only: Sequence[str] = KINDS
) -> MiningRows:
    """Reads rows of files, globs, folders and built-in sets.

    Args:
        corpus: texts that are documents for every set.
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
    records: list[Record] = []
    query_numbers: list[int] = []
    positive_numbers: list[int] = []
    for record in chain.from_iterable(open_source(spec, "train", skipped, kinds, bare=True) for spec in sources):
        record, mined = _encodable(record), record.kind in only and record.kind != "texts"
        records.append(record)
        query_numbers.append(queries[add_instruction(record.query, record.instruction)] if mined else -1)
        positive_numbers.append(documents[record.positive] if mined else -1)
    if not queries:
        raise UserError(f"No row of the input is of the kind {' or '.join(only)}; choose others.")
    corpus_numbers = [documents[SURROGATES.sub("\ufffd", text)] for text in corpus if text.strip()]
    return MiningRows(records, list(queries), list(documents), query_numbers, positive_numbers, corpus_numbers, skipped)


class _Numbers(dict):
    """Numbers values from 0 as they are first looked up."""

    def __missing__(self, value) -> int:
        self[value] = len(self)
        return self[value]


def _encodable(record: Record) -> Record:
    """Returns the record without halves of UTF-16 pairs, which neither tokenizers nor parquet accept."""
    texts = (record.query, record.positive, *record.negatives)
    if not any(map(SURROGATES.search, texts)):
        return record
    query, positive, *negatives = (SURROGATES.sub("\ufffd", text) for text in texts)
    return dataclasses.replace(record, query=query, positive=positive, negatives=tuple(negatives))


@dataclass(frozen=True)
class MiningGroup:
    """Rows that are mined together, with their own numbering of queries and documents from 0."""

    rows: list[int]
    query_numbers: np.ndarray  # of each row, within the group
    queries: np.ndarray  # numbers in `MiningRows.queries`
    documents: np.ndarray  # numbers in `MiningRows.documents`, ascending
    answers: Answers
    ids: list[int]  # stable ids of the queries


def group_rows(rows: MiningRows, across_sources: bool = False) -> list[MiningGroup]:
    """Returns a group for each source and kind, or for each kind. Right answers hold in every group."""
    right: dict[int, set[int]] = defaultdict(set)
    members: dict[tuple, list[int]] = defaultdict(list)
    for row, (query, positive) in enumerate(zip(rows.query_numbers, rows.positive_numbers, strict=True)):
        if query >= 0:
            record = rows.records[row]
            right[query].add(positive)
            members[record.kind, None if across_sources else record.source].append(row)
    numbers = {text: number for number, text in enumerate(rows.documents)}
    return [_make_group(rows, group, right, numbers) for group in members.values()]


def _make_group(
    rows: MiningRows, members: list[int], right: dict[int, set[int]], numbers: dict[str, int]
) -> MiningGroup:
    documents = np.unique([rows.positive_numbers[row] for row in members] + rows.corpus)
    place = {number: i for i, number in enumerate(documents.tolist())}
    queries, labels = _Numbers(), _Numbers()
    query_numbers: list[int] = []
    same_text: dict[int, int] = {}  # the document with the text of the query
    query_labels: dict[int, set[int]] = defaultdict(set)
    document_labels: dict[int, set[int]] = defaultdict(set)
    for row in members:
        record, query = rows.records[row], queries[rows.query_numbers[row]]
        query_numbers.append(query)
        same_text[query] = place.get(numbers.get(record.query), -1)
        if record.label is not None:
            label = labels[record.source, record.label]
            query_labels[query].add(label)
            document_labels[place[rows.positive_numbers[row]]].add(label)
    answers = Answers(
        [[place[number] for number in right[query] if number in place] for query in queries],
        np.array([same_text[i] for i in range(len(queries))]),
        [sorted(query_labels[i]) for i in range(len(queries))],
        [sorted(document_labels[i]) for i in range(len(documents))],
    )
    ids = [stable_id(rows.queries[query]) for query in queries]
    return MiningGroup(members, np.array(query_numbers), np.array(list(queries)), documents, answers, ids)
