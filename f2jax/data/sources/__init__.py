"""Readers: one module for each origin, each yields `Record`s. To add one, write `read(...)` and name it here."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from f2jax import files
from f2jax.data.record import Record
from f2jax.data.sources import beir, cldr, hub, jsonl, labelled, parquet, stdlib
from f2jax.data.sources.tables import TABLES
from f2jax.errors import UserError, did_you_mean

BUILT_IN = {**{f"cldr:{task}": task for task in cldr.TASKS}, "stdlib:code": None}
READERS = {".jsonl": jsonl.read_jsonl, ".jsonl.gz": jsonl.read_jsonl, ".parquet": parquet.read_parquet}


def open_source(
    spec: str, split: str, skipped: Counter, kinds: Iterable[str] = (), bare: bool = False
) -> Iterator[Record]:
    """Records of a source: a built-in set (`cldr:translation`), a file, a glob, a folder, local or gs://, a data set of
    the hub (`hub:org/name`), a folder of queries, corpus and judgements (`beir:FOLDER`), or labelled data that becomes
    rows of a kind (`clustering:`, `classification:`, `sts:` or `nli:` before a file, glob or folder; behind it
    `#COLUMN,COLUMN` where its columns have other names than `labelled.TASKS` knows).

    Args:
        split: train or test; files have train alone.
        skipped: counts the rows that were left out, by reason.
        kinds: `SOURCE=KIND` patterns for files whose rows do not say their kind, as the released ones do not.
        bare: take rows of every kind without negatives, to mine for; else retrieval's alone.

    Raises:
        UserError: there is no such set or file.
    """
    origin, rest = _split(spec)
    if origin in ("cldr", "stdlib"):
        _check_built_in(spec)
        return stdlib.read_stdlib(split) if origin == "stdlib" else cldr.read_cldr(BUILT_IN[spec], split)
    if origin == "beir":
        return beir.read_beir(rest, split, skipped)
    if split != "train":
        raise UserError(f"The source {spec} has no split '{split}'; files have train alone.")
    if origin in labelled.TASKS:
        return labelled.read_labelled(origin, expand(_path(rest), TABLES), _columns(rest), skipped)
    return chain.from_iterable(_reader(path)(path, skipped, kinds, bare) for path in expand(spec))


def is_one(spec: str) -> bool:
    """Is a source one thing, where others are as many as they have files?"""
    return _split(spec)[0] in ("cldr", "stdlib", "beir", *labelled.TASKS)


def files_of(spec: str) -> list[str]:
    """The files whose content is that of a source; none where it is built in.

    Raises:
        UserError: there is no such set or file.
    """
    origin, rest = _split(spec)
    if origin in ("cldr", "stdlib"):
        _check_built_in(spec)
        return []
    if origin == "beir":
        return beir.beir_files(rest)
    return expand(_path(rest), TABLES) if origin in labelled.TASKS else expand(spec)


def _split(spec: str) -> tuple[str, str]:
    """("beir", FOLDER) of `beir:FOLDER`; ("", PATH) of a path."""
    origin, colon, rest = spec.partition(":")
    return (origin, rest) if colon else ("", spec)


def _check_built_in(spec: str) -> None:
    if spec not in BUILT_IN:
        raise UserError(f"There is no built-in set '{spec}'{did_you_mean(spec, BUILT_IN)}")


def _path(rest: str) -> str:
    return rest.partition("#")[0]


def _columns(rest: str) -> tuple[str, ...]:
    return tuple(filter(None, rest.partition("#")[2].split(",")))


def expand(spec: str, endings: tuple[str, ...] = tuple(READERS)) -> list[str]:
    """The files that a path, a glob, a folder or a data set of the hub stands for, sorted.

    Args:
        endings: of the files that a folder or a data set stands for.

    Raises:
        UserError: there are none.
    """
    if spec.startswith("hub:"):
        return list(hub.fetch_dataset(spec, endings).values())
    filesystem, path = files.filesystem(spec)
    with files.clear_errors(spec):
        if filesystem.isdir(path):
            found = [name for name in filesystem.find(path) if name.endswith(endings)]
        elif filesystem.exists(path):
            found = [path]
        else:
            found = filesystem.glob(path) if any(c in path for c in "*?[") else []
    if not found:
        files.check_bucket(spec)
        known = f" Built-in sets are {', '.join(BUILT_IN)}." if "/" not in spec else ""
        raise UserError(f"There is no data file {spec}; check the path.{known}")
    return [filesystem.unstrip_protocol(name).removeprefix("file://") for name in sorted(found)]


def _reader(path: str):
    for ending, read in READERS.items():
        if path.endswith(ending):
            return read
    raise UserError(f"{path} is of no known kind; data files end in {', '.join(READERS)}.")
