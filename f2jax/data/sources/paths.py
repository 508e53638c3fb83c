"""Finds the files of a path, a glob, a folder or a data set of the hub.

Hidden files, and files of test and validation splits, are left out of folders, globs and data sets. The latter are
listed in a warning, like all other files in a folder that are not read.
"""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath

from f2jax import files
from f2jax.data.skip_list import say_once
from f2jax.data.sources import hub
from f2jax.data.sources.tables import KNOWN, KNOWN_TABLES, TABLES
from f2jax.errors import UserError

HELD_OUT = {"test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"}  # as the hub names splits
ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}  # written by `datasets`
DOCUMENTATION = {"README", "LICENSE", "LICENCE"}  # files that need no warning
WILD = re.compile(r"[*?\[]")  # by which a path is a glob
_NAMED = 5  # most files that a message lists


def find_files(
    spec: str, endings: tuple[str, ...] = TABLES, all_splits: bool = False, ignored: Sequence[str] = ()
) -> list[str]:
    """Returns the files of a source, sorted.

    Args:
        spec: a path, a glob or a folder, local or on gs://, or `hub:org/name`.
        endings: endings of the files to take from a folder or a data set.
        all_splits: include files of test and validation splits.
        ignored: patterns of file names to leave out.

    Raises:
        UserError: there are no files, or only those of test and validation splits.
    """
    paths, is_folder, pattern = files_inside(spec, endings, ignored)
    visible = {inside: path for inside, path in paths.items() if not is_hidden(inside)}
    left_out = [name for name in visible if any(fnmatchcase(PurePosixPath(name).name, p) for p in ignored)]
    for name in left_out:
        del visible[name]
    data = [
        name
        for name in visible
        if not is_folder or (name.endswith(endings) and PurePosixPath(name).name not in ABOUT_DATA)
    ]
    unwanted = set() if all_splits else HELD_OUT - path_words(pattern)
    held_out = [name for name in data if path_words(name) & unwanted]
    chosen = sorted(visible[name] for name in set(data) - set(held_out))
    if held_out:
        names = some_of(held_out)
        if not chosen:
            raise UserError(f"{spec} holds only test or validation files ({names}); name a file to read it.")
        say_once(f"{spec}: read without its test and validation files ({names}); name a file to read it.")
    if left_out and not chosen:
        raise UserError(f"{spec} holds only files that are left out ({some_of(left_out)}); name others.")
    if left_out:
        say_once(f"{spec}: left out are {some_of(left_out)}.")
    others = sorted(name for name in set(visible) - set(data) if PurePosixPath(name).stem not in DOCUMENTATION)
    if not chosen and others:
        known = KNOWN_TABLES if endings == TABLES else KNOWN
        raise UserError(f"{spec} holds no data file but {some_of(others)}; data files end in {known}.")
    if not chosen:
        files.check_bucket(spec)
        raise UserError(f"There is no data file {spec}; check the path.")
    if others:
        say_once(f"{spec}: not read, since these are no data files: {some_of(others)}.")
    return chosen


def may_match_inside(pattern: str, folder: Path) -> bool:
    """Returns whether a glob could match a local folder, or any file in it; `**` stands for any folders.

    >>> [may_match_inside(pattern, Path("/data/new")) for pattern in ("/data/*/*.csv", "/data/**/*.csv", "/data/*.csv")]
    [True, True, False]
    """
    parts = PurePosixPath(pattern).parts
    fixed = list(takewhile(lambda part: not WILD.search(part), parts))
    globs, root = parts[len(fixed) :], Path(*fixed).resolve()
    if not globs or not folder.is_relative_to(root):
        return False
    below, above_any = folder.relative_to(root).parts, list(takewhile(lambda part: part != "**", globs))
    return ("**" in globs or len(below) <= len(globs)) and all(map(fnmatchcase, below, above_any))


def is_hidden(inside: str) -> bool:
    """Returns whether a path inside a folder belongs to the operating system or an editor.

    >>> is_hidden(".ipynb_checkpoints/train.jsonl"), is_hidden("__MACOSX/._train.jsonl"), is_hidden("a/train.jsonl")
    (True, True, False)
    """
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(inside).parts)


def path_words(inside: str) -> set[str]:
    """Returns the words in a path, among which the hub looks for the name of a split.

    >>> sorted(path_words("data/test-00000-of-00001.parquet"))
    ['data', 'of', 'parquet', 'test']
    """
    return set(re.findall(r"[a-z]+", inside.lower()))


def files_inside(spec: str, endings: tuple[str, ...], ignored: Sequence[str] = ()) -> tuple[dict[str, str], bool, str]:
    """Returns {path below a root: path}, whether `spec` is a folder and not files, and its pattern below the root.

    The root of `a/*/x*.jsonl` is `a`, that of a folder is the folder, and that of a file is its folder.
    """
    if not spec.strip():
        raise UserError("The name of an input is blank; name a file or a folder, . for this one.")
    if spec.startswith("hub:"):
        return hub.fetch_dataset(spec, endings, ignored), not spec.endswith(endings), "".join(spec.split("/", 2)[2:])
    filesystem, path = files.filesystem(spec)
    with files.clear_errors(spec):
        if filesystem.isdir(path):
            _check_listed(spec, path)
            names, root, is_folder = filesystem.find(path), path, True
        elif filesystem.exists(path):
            names, root, is_folder = [path], path, False
        else:
            wild = WILD.search(path)
            root = path[: wild.start()].rpartition("/")[0] if wild else path
            if "**" in path:
                _check_listed(spec, root)
            names, is_folder = filesystem.glob(path) if wild else [], False
    start = len(root.rstrip("/")) + 1
    paths = {name[start:]: filesystem.unstrip_protocol(name).removeprefix("file://") for name in names}
    return paths, is_folder, path[start:]


def _check_listed(spec: str, root: str) -> None:
    """Raises OSError if a folder in a local one cannot be listed; fsspec leaves out its files in silence."""
    if files.is_remote(spec):
        return

    for _ in walk_folder(root):
        pass


def walk_folder(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder in a local one, but for hidden ones, with the names of its files that are not hidden.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, inner, names in os.walk(root, onerror=refuse):
        inner[:] = [name for name in inner if not is_hidden(name)]
        yield folder, [name for name in names if not is_hidden(name)]


def some_of(names: list[str]) -> str:
    """Returns the first few names in order, and how many more there are, for a message."""
    shown = sorted(names)[:_NAMED]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
