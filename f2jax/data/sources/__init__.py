"""Readers of data sources: a module for each origin, which yields records. To add one, write it and list it here."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from f2jax import files
from f2jax.data.record import NEED_NEGATIVES, Record
from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources import beir, cldr, labelled, schema, stdlib
from f2jax.data.sources.columns import SENTENCES, parse_columns, read_named, recognise
from f2jax.data.sources.paths import find_files, may_match_inside
from f2jax.errors import UserError, did_you_mean

OF_FOLDERS = ("", "beir", *labelled.TASKS)  # what may be written before a local path; "": a path alone
BUILT_IN = (*(f"cldr:{task}" for task in cldr.TASKS), "stdlib:code")


def open_source(
    spec: str,
    split: str,
    skipped: SkipList,
    kinds: Iterable[str] = (),
    bare: bool = False,
    columns: Iterable[str] = (),
) -> Iterator[Record]:
    """Returns the records of a source.

    A source is a built-in set (`cldr:translation`), a file, a glob or a folder, local or on gs://, a data set of the
    hub (`hub:org/name`), a folder of queries, corpus and judgements (`beir:FOLDER`), or labelled data: a file, glob or
    folder after `clustering:`, `classification:`, `sts:` or `nli:`, followed by `#COLUMN,COLUMN` if its columns have
    names that `labelled.TASKS` does not know. Without such a prefix, files of labelled data are recognised by their
    columns (`columns.recognise`), and those in a folder are read together.

    Args:
        split: train or test; files only have train, without test files in folders (`paths.find_files`).
        skipped: counts the rows that are left out, by reason.
        kinds: `SOURCE=KIND` patterns for files whose rows do not state their kind, as in the released data; for texts
            with labels, whether to cluster or to classify them.
        bare: accept rows of all kinds without negatives, for mining; otherwise only those of retrieval.
        columns: `NAME=COLUMN` for columns whose names f2jax does not know, such as `query=Frage`.

    Raises:
        UserError: there is no such set or file, or columns are named for a source that has its own.
    """
    (origin, path, own_columns), named = _split(spec), parse_columns(columns)
    if named and origin in ("cldr", "stdlib", "beir"):
        raise UserError(f"{spec} names its own columns; leave out the ones that you gave, or read it by itself.")
    if origin in ("cldr", "stdlib"):
        task = _built_in(spec)
        if split not in ("train", "test"):
            raise UserError(f"There is no split '{split}'; splits are train and test.")
        return stdlib.read_stdlib(split) if origin == "stdlib" else cldr.read_cldr(task, split)
    if origin == "beir":
        return beir.read_beir(path, split, skipped)
    if split != "train":
        raise UserError(f"The source {spec} has no split '{split}'; files only have train.")
    if origin in labelled.TASKS:
        return labelled.read_labelled(origin, find_files(path), own_columns, skipped, named)
    return _read_files(expand(spec), skipped, kinds, bare, named)


def expand(spec: str, ignored: Sequence[str] = ()) -> list[str]:
    """Returns the files of a source of rows, sorted.

    Args:
        ignored: patterns of file names to leave out.

    Raises:
        UserError: there are none.
    """
    try:
        return find_files(spec, ignored=ignored)
    except UserError as error:
        if "/" in spec or not str(error).startswith("There is no data file"):
            raise
        raise UserError(f"{error} Built-in sets are {', '.join(BUILT_IN)}.") from error


def list_inputs(specs: Iterable[str], ignored: Sequence[str] = ()) -> list[str]:
    """Returns all inputs of sources in order, without repetitions; each is a source that is read as a whole.

    Of several spellings of a path, the first is returned.

    Raises:
        UserError: a source is missing.
    """
    inputs: dict[str, list[str]] = {}
    for name in (name for spec in specs for name in ([spec] if is_single_input(spec) else expand(spec, ignored))):
        inputs.setdefault(_in_full(name), []).append(name)
    for name, *others in inputs.values():
        if others:
            say_once(f"{name} is named more than once, and read once.")
    return [name for name, *_ in inputs.values()]


def _in_full(name: str) -> str:
    """Returns a name that all spellings of an input share: with the local path in full, without links to folders."""
    origin, path, columns = _split(name)
    if origin not in OF_FOLDERS or files.is_remote(path):
        return name
    return f"{origin}:{Path(path).parent.resolve() / Path(path).name}#{','.join(columns)}"


def check_apart(specs: Iterable[str], inputs: Iterable[str], output: str | Path) -> None:
    """Raises UserError if a local output would replace an input file, or would be read as an input the next time.

    Args:
        inputs: `list_inputs` of the sources.
    """
    output = Path(output).resolve()
    for path in (path for spec in inputs for path in source_files(spec) if not files.is_remote(path)):
        if Path(path).resolve().is_relative_to(output):
            raise UserError(
                f"The input {path} is inside the output {output}, which would replace it; choose another output."
            )
    for origin, path, _ in map(_split, specs):
        if origin not in OF_FOLDERS or files.is_remote(path):
            continue
        folder = Path(path).resolve()
        if folder.is_dir() and output.is_relative_to(folder):
            raise UserError(
                f"The output {output} is inside the input {folder}, and would be read with it the next time; choose a "
                "folder outside."
            )
        if not folder.exists() and may_match_inside(path, output):
            raise UserError(
                f"The input {path} may match files in the output {output}, which would be read with it the next time; "
                "choose a folder outside."
            )


def is_single_input(spec: str) -> bool:
    """Returns whether a source is a single input; other sources are as many inputs as they have files."""
    return _split(spec)[0] in ("cldr", "stdlib", "beir", *labelled.TASKS)


def source_files(spec: str) -> list[str]:
    """Returns the files that determine the content of a source; empty for a built-in set.

    Raises:
        UserError: there is no such set or file.
    """
    origin, path, _ = _split(spec)
    if origin in ("cldr", "stdlib"):
        _built_in(spec)
        return []
    if origin == "beir":
        return beir.beir_files(path)
    return find_files(path) if origin in labelled.TASKS else expand(spec)


def say_unused(kinds: Iterable[str], specs: Iterable[str]) -> None:
    """Says which `SOURCE=KIND` patterns match no file of the sources, since a mistyped one changes nothing.

    Raises:
        UserError: an item has another form, or a source is missing.
    """
    if not (kinds := tuple(kinds)):
        return
    schema.given_kind("", kinds)  # refuses other forms
    names = sorted({schema.source_of(path) for spec in specs for path in source_files(spec)})
    shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "") or "none"
    for item in kinds:
        if not fnmatch.filter(names, item.rpartition("=")[0]):
            say_once(f"'{item}' among the kinds matches no source of files; these are: {shown}.")


def _read_files(
    paths: Iterable[str], skipped: SkipList, kinds: Iterable[str], bare: bool, named: Mapping[str, str]
) -> Iterator[Record]:
    labelled_paths: dict[str, list[str]] = {}  # by task, which are read together
    for path in paths:
        task, names = recognise(path, named)
        if task:
            labelled_paths.setdefault(_chosen_task(task, path, kinds), []).append(path)
            continue
        rows = read_named(path, skipped, partial(schema.columns, path, kinds), names)
        if names.get("query") in SENTENCES and "query" not in named:  # neither of two sentences is a question
            rows = ({"symmetric": True} | row for row in rows)
        yield from schema.to_records(path, rows, skipped, kinds, bare)
    for task, together in labelled_paths.items():
        yield from labelled.read_labelled(task, together, (), skipped, named)


def _chosen_task(task: str, path: str, kinds: Iterable[str]) -> str:
    """Returns the task of a file of labelled data; for texts with labels, the kinds may choose it."""
    source = schema.source_of(path)
    kind = schema.given_kind(source, kinds)
    if kind is None or kind == labelled.TASKS[task].kind:
        return task
    if {task, kind} <= set(NEED_NEGATIVES):
        return kind
    raise UserError(f"{path} has rows of {task}, which {source}={kind} among the kinds does not fit; leave it out.")


def _split(spec: str) -> tuple[str, str, tuple[str, ...]]:
    """Splits `sts:PATH#COLUMN,…` into ("sts", PATH, (COLUMN, …)); returns ("", PATH, ()) for a path."""
    origin, colon, path = spec.partition(":")
    if origin not in labelled.TASKS:
        return (origin, path, ()) if colon else ("", spec, ())
    path, _, columns = path.partition("#")
    return origin, path, tuple(filter(None, columns.split(",")))


def _built_in(spec: str) -> str:
    """Returns the task of a built-in set, such as `translation` for `cldr:translation`."""
    if spec not in BUILT_IN:
        raise UserError(f"There is no built-in set '{spec}'{did_you_mean(spec, BUILT_IN)}")
    return spec.partition(":")[2]
