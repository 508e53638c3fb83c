"""The data card: an entry for each data set, counted from what was written, whoever wrote it; and how it prints."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.corpus import Reader, Shards, parse_document, parse_row, row_details, shards_of

CHUNK = 4_096  # records that are read at once
PERCENTILES = (50, 90, 99, 100)
LANGUAGES = 10  # that are printed


def is_finished(folder: Path, key: str, fingerprint: str) -> bool:
    """Is the data set there, made of the same inputs by the same options?"""
    return (folder / f"{key}.json").exists() and read_data_card(folder, key)["fingerprint"] == fingerprint


def read_data_card(folder: Path, key: str) -> dict:
    return files.read_json(folder / f"{key}.json")


def write_data_card(folder: Path, key: str, entry: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / f"{key}.json", json.dumps(entry, ensure_ascii=False))


def forget(folder: Path, key: str) -> None:
    (folder / f"{key}.json").unlink(missing_ok=True)


def describe(corpus: Path, entry: dict, max_length: int) -> dict:
    """Rows, documents, languages, lengths in tokens, and a hash over all records in order."""
    reader, digest = Reader(), hashlib.blake2b(digest_size=16)
    languages: Counter = Counter()
    lengths = {"query": np.zeros(max_length + 1, np.int64), "document": np.zeros(max_length + 1, np.int64)}
    most = {}
    for split in ("train", "validation"):
        most[split] = 0
        for raw in records(shards_of(corpus, entry, split), reader, digest):
            query, documents, _ = parse_row(raw)
            lengths["query"][len(query)] += 1
            most[split] = max(most[split], len(documents) - 1)
            if split == "train":
                languages[row_details(raw)[1]] += 1
    for raw in records(shards_of(corpus, entry, "documents"), reader, digest):
        lengths["document"][len(parse_document(raw)[1])] += 1
    return {
        "rows": {split: sum(entry["shards"]["rows"][split]) for split in most},
        "documents": sum(entry["shards"]["documents"]),
        "max_negatives": most,
        "languages": dict(sorted(languages.items())),  # of the training rows
        "tokens": {name: percentiles(counts) for name, counts in lengths.items()},
        "content": digest.hexdigest(),
    }


def records(shards: Shards, reader: Reader, digest) -> Iterator[bytes]:
    """All records in order; each also goes into the digest, with its length."""
    total = sum(shards.lengths)
    for start in range(0, total, CHUNK):
        for raw in shards.read(np.arange(start, min(start + CHUNK, total)), reader):
            digest.update(len(raw).to_bytes(8, "little") + raw)
            yield raw


def percentiles(counts: np.ndarray) -> dict[str, int]:
    """{"p50": …} of lengths, from how often each length comes."""
    below = np.cumsum(counts)
    return {f"p{p}": int(np.searchsorted(below, below[-1] * p / 100)) for p in PERCENTILES}


def table(card: dict) -> str:
    """The data card in lines: a row for each data set, what was skipped and noted, and the languages found."""
    titles = ("rows", "held out", "documents", "negatives", "languages")
    lines = [f"{'data set':<28} {'kind':<14}" + "".join(f" {title:>10}" for title in titles)]
    for d in card["datasets"]:
        most = d["max_negatives"]["train"]
        counts = (d["rows"]["train"], d["rows"]["validation"], d["documents"], most, len(d["languages"]))
        lines.append(f"{d['name']:<28} {d['kind']:<14}" + "".join(f" {count:>10,}" for count in counts))
    lines += [f"Skipped {count:,} rows: {reason}." for reason, count in card["skipped"].items()]
    lines += [f"In {count:,} rows: {note}." for note, count in card["noted"].items()]
    if card["identified"]:
        ranked = sorted(card["identified"].items(), key=lambda found: -found[1]["rows"])
        shares = ", ".join(f"{code} {found['share']:.1%}" for code, found in ranked[:LANGUAGES])
        lines.append(f"Queries were identified as {shares}{', …' if len(ranked) > LANGUAGES else ''}.")
    return "\n".join(lines)
