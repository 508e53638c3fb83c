"""What an input holds, found in a first pass over its records: rows by data set, and which ones a cap would keep.

Memory: at most `cap` numbers of 8 bytes for each data set of the input.
"""

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.prepare.intake import Options, read
from f2jax.data.record import Record, stable_id

DOCUMENT_BYTES = 500  # of a document in memory, besides its text
Key = tuple[str, str]  # (source, kind): one data set


@dataclass
class Part:
    """The rows that one input brings to one data set."""

    rows: int = 0
    bytes: int = 0  # that all their documents take in memory
    smallest: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))  # hashes of the rows a cap may keep


@dataclass
class Survey:
    parts: dict[Key, Part]
    skipped: dict[str, int]  # reason → rows
    noted: dict[str, int]  # what curation did or noticed → rows

    def save(self, path: Path) -> None:
        sets = [[*key, part.rows, part.bytes] for key, part in self.parts.items()]
        text = json.dumps({"sets": sets, "skipped": self.skipped, "noted": self.noted}).encode()
        content = io.BytesIO()
        hashes = {f"smallest_{i}": part.smallest for i, part in enumerate(self.parts.values())}
        np.savez(content, text=np.frombuffer(text, np.uint8), **hashes)
        files.write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Survey":
        with np.load(path, allow_pickle=False) as found:
            text = json.loads(found["text"].tobytes())
            parts = {
                (source, kind): Part(rows, size, found[f"smallest_{i}"])
                for i, (source, kind, rows, size) in enumerate(text["sets"])
            }
        return cls(parts, text["skipped"], text["noted"])


def row_hash(record: Record, seed: int) -> int:
    """Decides which rows a cap keeps: a function of the row and the seed, so that no order matters."""
    return stable_id("\n".join([f"cap {seed}", record.query, record.positive, *record.negatives]))


def survey(spec: str, options: Options) -> Survey:
    """Read an input once.

    Raises:
        UserError: the input cannot be read.
    """
    skipped, noted, cap = Counter(), Counter(), options.cap
    parts: dict[Key, Part] = {}
    hashes: dict[Key, list[int]] = {}
    for record in read(spec, options, skipped, noted):
        key = (record.source, record.kind)
        part = parts.setdefault(key, Part())
        part.rows += 1
        part.bytes += sum(DOCUMENT_BYTES + len(text) for text in (record.positive, *record.negatives))
        if cap:
            new = hashes.setdefault(key, [])
            new.append(row_hash(record, options.seed))
            if len(new) >= cap:
                part.smallest = _smallest(part.smallest, new, cap)
                new.clear()
    for key, new in hashes.items():
        parts[key].smallest = _smallest(parts[key].smallest, new, cap)
    return Survey(parts, dict(skipped), dict(noted))


def _smallest(old: np.ndarray, new: list[int], cap: int) -> np.ndarray:
    return np.sort(np.concatenate([old, np.array(new, np.uint64)]))[:cap]


def limit(parts: list[Part], cap: int) -> int:
    """The largest row hash that a cap keeps; equal rows stay or go together. -1: all rows stay."""
    if not cap or sum(part.rows for part in parts) <= cap:
        return -1
    return int(np.sort(np.concatenate([part.smallest for part in parts]))[cap - 1])
