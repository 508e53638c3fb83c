"""Reads rows for `mine` into files: distinct queries and documents, and the right documents of each query.

Texts and numbers stay on disk; in memory are the numbers of a group, or of `NUMBERED_TOGETHER` rows.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from f2jax import files
from f2jax.data.instructions import add_instruction
from f2jax.data.record import KINDS, Record, stable_id
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import list_inputs, open_source, say_unused
from f2jax.data.texts import iter_file_texts
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError, did_you_mean
from f2jax.mine.negatives import Answers, places_in
from f2jax.mine.options import MiningInput
from f2jax.mine.text_file import (
    TextFile,
    TextWriter,
    map_numbers,
    new_numbers,
    number_distinct,
    number_texts,
    places_by_range,
    slices,
)

# -1: not mined; id of the bare query; -1: none
MINED_ROW = np.dtype([("group", "<i4"), ("query", "<i8"), ("label", "<i8")])
QUERIES, DOCUMENTS, FACTS = "queries", "documents", "facts.json"


class GroupFacts(NamedTuple):
    """Rows that are mined together."""

    rows: int
    queries: int  # distinct ones
    documents: int


@dataclass(frozen=True)
class MiningRows:
    """The rows of the input, in a folder. Distinct texts are numbered in the order of their first occurrence.

    Queries include the row's own instruction, if any. Documents are the positives, followed by those of `--documents`.
    """

    folder: Path
    inputs: list[str]
    starts: list[int]  # number of the first row of each input, and of all rows
    outputs: list[dict[str, str]]  # {source: name of its file} of each input
    groups: list[GroupFacts]
    skipped: dict[str, int]  # rows that could not be read, by reason
    digests: dict[str, str]  # of rows, queries and documents

    @classmethod
    def open(cls, folder: Path) -> "MiningRows":
        """Opens what `read_mining_rows` wrote, on any host that can see the folder."""
        facts = files.read_json_object(folder / FACTS)
        return cls(folder, **facts | {"groups": [GroupFacts(*group) for group in facts["groups"]]})

    @cached_property
    def queries(self) -> TextFile:
        return TextFile(self.folder / QUERIES)

    @cached_property
    def documents(self) -> TextFile:
        return TextFile(self.folder / DOCUMENTS)

    def numbers(self, name: str) -> np.ndarray:
        """`places` of each row's query among those of all groups, -1 if it is not mined; or another array below."""
        return map_numbers(self.folder / name)


def iter_records(spec: str, kinds: tuple[str, ...], skipped: SkipList) -> Iterator[Record]:
    """Yields the rows of an input without unpaired surrogates, which neither tokenizers nor Parquet accept."""
    for record in open_source(spec, "train", skipped, kinds, bare=True):
        texts = (record.query, record.positive, *record.negatives)
        if any(map(SURROGATES.search, texts)):
            query, positive, *negatives = map(_encodable, texts)
            record = dataclasses.replace(record, query=query, positive=positive, negatives=tuple(negatives))
        yield record


def _encodable(text: str) -> str:
    return SURROGATES.sub("\ufffd", text)


def read_mining_rows(given: MiningInput, folder: Path, across_sources: bool = False) -> MiningRows:
    """Reads rows of files, globs, folders and built-in sets into a folder, which it empties first.

    The texts of kinds that are not mined are neither queries nor documents.

    Args:
        across_sources: rows of a kind are mined together, not only those of a source and kind.

    Raises:
        UserError: an input or `--documents` cannot be read, a kind is unknown, or there is no row to mine for.
    """
    unknown = next((kind for kind in given.only if kind not in KINDS), None)
    if unknown is not None:
        raise UserError(f"There is no kind '{unknown}'{did_you_mean(unknown, KINDS)}")
    inputs = list_inputs(given.input)
    say_unused(given.kinds, inputs)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return _read(given, folder, inputs, across_sources)
    except BaseException:
        shutil.rmtree(folder)
        with suppress(OSError):
            folder.parent.rmdir()
        raise


def _read(given: MiningInput, folder: Path, inputs: list[str], across_sources: bool) -> MiningRows:
    skipped, digest = SkipList(), hashlib.sha256()
    starts, outputs, groups, sizes, taken = [0], [], dict[tuple, int](), Counter[int](), Counter[str]()
    with (
        (folder / "rows").open("wb") as rows,
        TextWriter(folder / QUERIES) as queries,
        TextWriter(folder / DOCUMENTS) as documents,
    ):
        for spec in inputs:
            names: dict[str, str] = {}
            starts.append(starts[-1])
            for record in iter_records(spec, given.kinds, skipped):
                starts[-1] += 1
                digest.update(repr(record).encode())
                if record.source not in names:
                    names[record.source] = _file_name(record.source, taken)
                group, label = -1, -1
                if record.kind in given.only and record.kind != "texts":
                    key = record.kind, None if across_sources else record.source
                    group = groups.setdefault(key, len(groups))
                    sizes[group] += 1
                    label = -1 if record.label is None else stable_id(f"{record.source}\0{record.label}")
                    queries.add(add_instruction(record.query, record.instruction))
                    documents.add(record.positive)
                rows.write(np.array((group, record.query_id, label), MINED_ROW).tobytes())
            outputs.append(names)
        if not groups:
            raise UserError(f"No row of the input is of the kind {' or '.join(given.only)}; choose others.")
        for text in iter_file_texts(given.corpus) if given.corpus else ():
            if text.strip():
                documents.add(_encodable(text))
    digest.update(json.dumps(across_sources).encode())
    digests = {"rows": digest.hexdigest(), QUERIES: queries.digest, DOCUMENTS: documents.digest}
    facts = {"inputs": inputs, "starts": starts, "outputs": outputs, "skipped": dict(skipped), "digests": digests}
    number_texts(folder / QUERIES)
    number_texts(folder / DOCUMENTS)
    group_facts = _group_rows(folder, [sizes[group] for group in range(len(groups))])
    files.write_atomically(folder / FACTS, json.dumps(facts | {"groups": group_facts}))
    return MiningRows.open(folder)


def _file_name(source: str, taken: Counter[str]) -> str:
    """Returns a file name for a source that all file systems accept; further inputs become numbered parts."""
    name = re.sub(r"[^\w.-]", "_", source)[:80].lstrip(".") or "rows"
    taken[name.lower()] += 1
    part = taken[name.lower()]
    return f"{name}.parquet" if part == 1 else f"{name}_part{part}.parquet"


def _group_rows(folder: Path, sizes: list[int]) -> list[GroupFacts]:
    """Writes the mined rows of each group, the position of each row's query, and the right documents.

    Memory holds the numbers of a group or of `NUMBERED_TOGETHER` rows.
    """
    group_of_row = np.memmap(folder / "rows", MINED_ROW, "r")["group"]
    queries, documents = TextFile(folder / QUERIES), TextFile(folder / DOCUMENTS)
    query_r, document_r = queries.number_of_each, documents.number_of_each
    mined, members = (new_numbers(folder / name, len(query_r)) for name in ("mined", "members"))
    places = new_numbers(folder / "places", len(group_of_row))
    places[:] = -1
    ends, count = np.cumsum([0, *sizes]), 0
    free = ends[:-1].copy()  # the next place of each group in `members`
    for start, groups in slices(group_of_row):
        rows = np.flatnonzero(groups >= 0)
        mined[count : count + len(rows)] = start + rows
        order = np.argsort(groups[rows], kind="stable")
        sizes_here = np.bincount(groups[rows], minlength=len(sizes))
        within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes_here) - sizes_here, sizes_here)
        members[np.repeat(free, sizes_here) + within] = count + order
        free, count = free + sizes_here, count + len(rows)
    corpus = np.unique(document_r[count:])
    corpus.tofile(folder / "corpus")
    facts, first_query = [], 0
    for begin, end in pairwise(ends):
        first, numbers = number_distinct(query_r[members[begin:end]])
        places[mined[members[begin:end]]] = first_query + numbers
        first_query += len(first)
        facts.append(GroupFacts(int(end - begin), len(first), len(np.union1d(document_r[members[begin:end]], corpus))))
    with (folder / "right").open("wb") as right:  # pairs of a query and a document in one number, ascending
        for some in places_by_range(query_r, len(queries)):
            right.write(np.unique(query_r[some] * len(documents) + document_r[some]).tobytes())
    return facts


@dataclass(frozen=True)
class MiningGroup:
    """Rows that are mined together, with queries and documents numbered from 0."""

    rows: np.ndarray  # numbers of all input rows
    queries: np.ndarray  # numbers in `MiningRows.queries`
    documents: np.ndarray  # numbers in `MiningRows.documents`, ascending
    answers: Answers
    ids: np.ndarray  # stable ids of the queries


def make_group(rows: MiningRows, number: int, false_pairs: np.ndarray | None = None) -> MiningGroup:
    """Returns a group. An answer that is right in any row of the input is right in all groups.

    Args:
        false_pairs: as in `Answers`.
    """
    start = sum(group.rows for group in rows.groups[:number])
    members = rows.numbers("members")[start : start + rows.groups[number].rows]
    row_of_each = rows.numbers("mined")[members]
    details = np.memmap(rows.folder / "rows", MINED_ROW, "r")[row_of_each]
    query_of_each = rows.queries.number_of_each[members]
    document_of_each = rows.documents.number_of_each[members]
    first, numbers = number_distinct(query_of_each)
    queries = query_of_each[first]
    documents = np.union1d(document_of_each, rows.numbers("corpus"))

    total, codes = len(rows.documents), rows.numbers("right")
    begin, end = np.searchsorted(codes, queries * total), np.searchsorted(codes, (queries + 1) * total)
    counts = end - begin
    query_r = np.repeat(np.arange(len(queries)), counts)
    place_r = np.arange(len(query_r)) - np.repeat(np.cumsum(counts) - counts, counts)
    right_r = places_in(documents, codes[np.repeat(begin, counts) + place_r] % total)

    bare_q = np.empty(len(queries), np.int64)
    bare_q[numbers] = details["query"]
    keys_c = rows.documents.keys(documents)
    by_key = np.argsort(keys_c)
    same_text_q = places_in(keys_c[by_key], bare_q)
    labelled = details["label"] >= 0
    labels = np.unique(details["label"], return_inverse=True)[1][labelled]
    query_labels, document_labels = (
        np.unique(np.stack([which[labelled], labels], 1), axis=0)
        for which in (numbers, np.searchsorted(documents, document_of_each))
    )
    answers = Answers(
        len(queries),
        len(documents),
        np.stack([query_r, right_r], 1)[right_r >= 0],
        np.where(same_text_q >= 0, by_key[same_text_q], -1),
        query_labels,
        document_labels,
        bare_q,
        keys_c,
        false_pairs,
    )
    return MiningGroup(row_of_each, queries, documents, answers, rows.queries.keys(queries))
