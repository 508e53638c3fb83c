"""The data card: an entry for each data set with its counts, and a table of them."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from f2jax import __version__, files
from f2jax.data.corpus import VERSION, files_of
from f2jax.data.corpus_index import SPLITS
from f2jax.errors import UserError
from f2jax.prepare.options import Key, PrepareOptions

FINISHED = "finished"  # folder in a corpus
LANGUAGES = 10  # that are printed


def entry_path(corpus: Path, folder: str) -> Path:
    """Returns the file with the entry of a data set, which marks it as complete."""
    return corpus / FINISHED / f"{folder}.json"


def is_finished(corpus: Path, folder: str, fingerprint: str) -> bool:
    """Returns whether a data set is complete, and was made from the same inputs with the same options."""
    try:
        entry = files.read_json_object(entry_path(corpus, folder))
        return entry["fingerprint"] == fingerprint and entry["bytes"] == shard_sizes(corpus, entry)
    except (UserError, KeyError, TypeError):  # missing, damaged, or of an earlier version
        return False


def shard_sizes(corpus: str | Path, entry: dict) -> dict[str, list[int]]:
    """Returns the size in bytes of each file of a data set, 0 for missing ones."""
    paths = {part: [Path(corpus, name) for name in names] for part, names in files_of(entry, texts=True).items()}
    return {part: [path.stat().st_size if path.exists() else 0 for path in found] for part, found in paths.items()}


def new_entry(name: str, key: Key, folder: str, shards: dict[str, dict[str, list[int]]]) -> dict:
    """Returns the entry of a data set, given the number of records in its files by kind and split."""
    rows = {split: shards.get("rows", {}).get(split, []) for split in SPLITS}
    stored = {"documents": shards["documents"]["train"], "rows": rows, "texts": shards.get("texts")}
    return {"name": name, "source": key[0], "kind": key[1], "folder": folder, "shards": stored}


def empty_corpus(skipped: Mapping[str, int]) -> UserError:
    """Returns the error for a corpus without rows."""
    reasons = "; ".join(f"{number:,} x {reason}" for reason, number in skipped.items())
    return UserError(f"No row is left ({reasons}); change the options that leave them out, or the inputs.")


def sum_counts(parts: Iterable[Sequence[Mapping[str, int]]]) -> list[Counter[str]]:
    """Returns the sums of counts: rows skipped by reason, rows by note, and rows by identified language."""
    sums = [Counter[str](), Counter[str](), Counter[str]()]
    for part in parts:
        for total, some in zip(sums, part, strict=True):
            total.update(some)
    return sums


def counts_of(card: dict) -> tuple[dict[str, int], ...]:
    """Returns the counts of a card in the form for `sum_counts`."""
    return card["skipped"], card["noted"], {code: found["rows"] for code, found in card["identified"].items()}


def for_card(skipped: Counter[str], noted: Counter[str], languages: Counter[str]) -> dict[str, dict]:
    """Returns the counts in the form of the card, with the share of each language."""
    return {
        "skipped": dict(sorted((+skipped).items())),
        "noted": dict(sorted(noted.items())),
        "identified": {
            code: {"rows": rows, "share": rows / languages.total()} for code, rows in sorted(languages.items())
        },
    }


def new_card(
    tokenizer: str, options: PrepareOptions, counts: dict, entries: Sequence[dict], licences: Mapping[str, str]
) -> dict:
    """Returns the card of a corpus.

    Args:
        tokenizer: fingerprint of the tokenizer.
        counts: numbers of skipped and noted rows, and of languages.
        licences: {name or pattern: licence}.
    """

    def licence(name: str) -> str | None:
        return next((text for pattern, text in licences.items() if fnmatchcase(name, pattern)), None)

    return {
        "version": VERSION,
        "f2jax": __version__,
        "tokenizer": tokenizer,
        "options": dataclasses.asdict(options),
        **counts,
        "datasets": [entry | {"licence": licence(entry["name"])} for entry in entries],
    }


def table(card: dict) -> str:
    """Returns the data card as text: a line for each data set, skipped and noted rows, and languages."""
    titles = ("rows", "held out", "documents", "negatives", "languages")
    lines = [f"{'data set':<28} {'kind':<14}" + "".join(f" {title:>10}" for title in titles)]
    for d in card["datasets"]:
        rows, negatives = d["rows"], d["max_negatives"]["train"]
        counts = (rows["train"], rows["validation"], d["documents"], negatives, len(d["languages"]))
        lines.append(f"{d['name']:<28} {d['kind']:<14}" + "".join(f" {count:>10,}" for count in counts))
    lines += [
        f"{sum(scored.values()):,} rows of {d['name']} have scores of a reranker."
        for d in card["datasets"]
        if any((scored := d.get("scored", {})).values())
    ]
    lines += [
        f"{d['queries_in_both_splits']:,} held-out queries of {d['name']} are in training rows too, beside other texts."
        for d in card["datasets"]
        if d["queries_in_both_splits"]
    ]
    lines += [f"Skipped {count:,} row{'s' * (count > 1)}: {reason}." for reason, count in card["skipped"].items()]
    lines += [f"In {count:,} row{'s' * (count > 1)}: {note}." for note, count in card["noted"].items()]
    if card["identified"]:
        ranked = sorted(card["identified"].items(), key=lambda item: -item[1]["rows"])
        shares = ", ".join(f"{code} {language['share']:.1%}" for code, language in ranked[:LANGUAGES])
        lines.append(f"Queries were identified as {shares}{', …' if len(ranked) > LANGUAGES else ''}.")
    return "\n".join(lines)
