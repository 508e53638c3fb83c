"""Readers: one module for each origin, each yields `Record`s. To add one, write `read(...)` and name it here."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.sources import beir, cldr, hub, jsonl, parquet, stdlib
from f2jax.errors import UserError, nearest

BUILT_IN = {**{f"cldr:{task}": task for task in cldr.TASKS}, "stdlib:code": None}
READERS = {".jsonl": jsonl.read, ".jsonl.gz": jsonl.read, ".parquet": parquet.read}


def open_source(
    spec: str, split: str, skipped: Counter, kinds: Iterable[str] = (), bare: bool = False
) -> Iterator[Record]:
    """Records of a source: a built-in set (`cldr:translation`), a file, a glob, a folder, local or gs://, a data set of
    the hub (`hub:org/name`), or a folder of queries, corpus and judgements (`beir:FOLDER`).

    Args:
        split: train or test; files have train alone.
        skipped: counts the rows that were left out, by reason.
        kinds: `SOURCE=KIND` patterns for files whose rows do not say their kind, as the released ones do not.
        bare: take rows of every kind without negatives, to mine for; else retrieval's alone.

    Raises:
        UserError: there is no such set or file.
    """
    if spec == "stdlib:code":
        return stdlib.read(split)
    if spec in BUILT_IN:
        return cldr.read(BUILT_IN[spec], split)
    if spec.startswith(("cldr:", "stdlib:")):
        raise UserError(f"There is no built-in set '{spec}'{nearest(spec, BUILT_IN)}")
    if spec.startswith("beir:"):
        return beir.read(spec.removeprefix("beir:"), split, skipped)
    if split != "train":
        raise UserError(f"The source {spec} has no split '{split}'; files have train alone.")
    return chain.from_iterable(_reader(path)(path, skipped, kinds, bare) for path in expand(spec))


def is_one(spec: str) -> bool:
    """Is a source one thing, where others are as many as they have files?"""
    return spec.startswith(("cldr:", "stdlib:", "beir:"))


def expand(spec: str) -> list[str]:
    """The files that a path, a glob, a folder or a data set of the hub stands for, sorted.

    Raises:
        UserError: there are none.
    """
    if spec.startswith("hub:"):
        return list(hub.fetch(spec, tuple(READERS)).values())
    filesystem, path = files.filesystem(spec)
    with files.explained(spec):
        if filesystem.isdir(path):
            found = [name for name in filesystem.find(path) if name.endswith(tuple(READERS))]
        elif filesystem.exists(path):
            found = [path]
        else:
            found = filesystem.glob(path) if any(c in path for c in "*?[") else []
    if not found:
        files.check_bucket(spec)
        known = f" Built-in sets are {', '.join(BUILT_IN)}." if "/" not in spec else ""
        raise UserError(f"There is no data file {spec}; check data.sources.{known}")
    return [filesystem.unstrip_protocol(name).removeprefix("file://") for name in sorted(found)]


def _reader(path: str):
    for ending, read in READERS.items():
        if path.endswith(ending):
            return read
    raise UserError(f"{path} is of no known kind; data files end in {', '.join(READERS)}.")
