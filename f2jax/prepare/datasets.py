"""Decides which data sets a corpus gets, from which inputs, and which rows a cap keeps."""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from f2jax.data.corpus import VERSION
from f2jax.data.dataset import dataset_names
from f2jax.data.record import stable_id
from f2jax.errors import UserError
from f2jax.prepare.duplicates import OVER_CAP, STAYS
from f2jax.prepare.options import Key, PrepareOptions
from f2jax.prepare.read_inputs import InputFolder

MAKER = 2  # raised when data sets are made of rows in another way, so that they are made again
SHARD_BYTES = 128 << 20  # of a bucket of documents in memory, before equal ones are dropped


@dataclass(frozen=True)
class DatasetPlan:
    """The plan of a data set."""

    name: str
    source_kind: Key
    inputs: tuple[int, ...]  # numbers of the inputs that feed it
    key: str  # its name on disk
    buckets: int  # of its documents
    text_bytes: int  # of the texts of all rows, before equal ones are dropped
    tokenizer: str  # fingerprint of the tokenizer
    fingerprint: str  # of all that decides the content


def plan_datasets(
    inputs: Sequence[InputFolder], states: Sequence[np.ndarray], options: PrepareOptions, tokenizer: str
) -> list[DatasetPlan]:
    """Plans all data sets that have rows, in the order of their first rows, and marks rows as `OVER_CAP`.

    Args:
        states: state of each row of each input.

    Raises:
        UserError: two data sets would have the same name.
    """
    feeds: dict[Key, list[tuple[int, int]]] = {}
    for number, source in enumerate(inputs):
        keys = source.summary().parts
        columns, stays = source.rows()["part"], states[number] == STAYS
        counts = np.bincount(columns[stays], minlength=len(keys))
        for part, key in enumerate(keys):
            if counts[part]:
                feeds.setdefault(key, []).append((number, part))
    names = distinct_names(feeds)
    building = dataclasses.asdict(dataclasses.replace(options, curate=None, kinds=(), cap=0, stage=0))
    plans = []
    for key, fed in feeds.items():
        if options.cap:
            _mark_over_cap(inputs, states, fed, options.cap)
        document_size, query_size, decides = 0, 0, []
        for number, part in fed:
            rows = inputs[number].rows()
            mask = (rows["part"] == part) & (states[number] == STAYS)
            document_size += int(rows["documents"][mask].sum())
            query_size += int(rows["query"][mask].sum())
            decides.append((inputs[number].folder.name, settings_digest(mask=mask)))
        where = folder_name(names[key]), bucket_count(document_size), document_size + query_size
        fingerprint = settings_digest([VERSION, MAKER, key, decides, building, tokenizer])
        numbers = tuple(number for number, _ in fed)
        plans.append(DatasetPlan(names[key], key, numbers, *where, tokenizer, fingerprint))
    return plans


def distinct_names(keys: Iterable[Key]) -> dict[Key, str]:
    """Returns a name for each data set; raises UserError if two would have the same."""
    names = dataset_names(keys)
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise UserError(f"Two data sets would be called {twice[0]}; give one of them another source.")
    return names


def bucket_count(size: int) -> int:
    """Returns the number of buckets for a data set whose documents take this many bytes in memory."""
    return max(1, -(-size // SHARD_BYTES))


def _mark_over_cap(
    inputs: Sequence[InputFolder], states: Sequence[np.ndarray], fed: Sequence[tuple[int, int]], cap: int
) -> None:
    """Keeps the rows of a data set with the smallest hashes; equal rows are kept or dropped together."""

    def hashes() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for number, part in fed:
            rows = inputs[number].rows()
            places = np.flatnonzero((rows["part"] == part) & (states[number] == STAYS))
            yield number, places, rows["hash"][places]

    smallest = np.zeros(0, np.uint64)
    for _, _, row_hashes in hashes():
        smallest = np.sort(np.concatenate([smallest, row_hashes]))[: cap + 1]
    if len(smallest) > cap:
        for number, places, row_hashes in hashes():
            states[number][places[row_hashes > smallest[cap - 1]]] = OVER_CAP


def folder_name(name: str) -> str:
    """Returns a unique name that all file systems accept.

    >>> folder_name("nli")
    'nli'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80] or "_"
    return safe if safe == name else f"{safe}-{stable_id(name):x}"


def groups(plans: Sequence[DatasetPlan]) -> list[list[DatasetPlan]]:
    """Returns groups of data sets that share inputs, which are read once per group."""
    grouped: list[tuple[set[int], list[DatasetPlan]]] = []
    for plan in plans:
        apart = [group for group in grouped if group[0].isdisjoint(plan.inputs)]
        touching = [group for group in grouped if not group[0].isdisjoint(plan.inputs)]
        inputs = set(plan.inputs).union(*(group[0] for group in touching))
        grouped = [*apart, (inputs, [p for group in touching for p in group[1]] + [plan])]
    return [plans for _, plans in grouped]


def settings_digest(parts: object = None, mask: np.ndarray | None = None) -> str:
    """Returns a short hash of anything that JSON can represent, or of an array of booleans."""
    content = json.dumps(parts, ensure_ascii=True).encode() if mask is None else np.packbits(mask).tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
