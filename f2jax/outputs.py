"""Makes sure that f2jax overwrites only its own outputs.

`.f2jax.json`, in the folder of an output, records what f2jax wrote there: the folder's `kind` if the whole folder is an
output, and `files` for single files, with their kind, size and modification time.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from f2jax import files
from f2jax.errors import UserError

RECORD = ".f2jax.json"
PACKAGE = "model package"
PACKAGE_FILES = ("golden",)


@contextmanager
def output_folder(
    folder: str | Path, kind: str, known_by: tuple[str, ...] = (), local_only: bool = False
) -> Iterator[None]:
    """Allows the block to write to `folder`, and records that the folder is an output of this kind.

    If the block fails before it has written anything, the folder is left as it was.

    Args:
        kind: description of the content, such as `model package`.
        known_by: names of files or folders that only f2jax writes, to recognise outputs of versions without a record.
        local_only: the block itself refuses remote folders before it writes.

    Raises:
        UserError: the folder contains something else, or cannot be written.
    """
    if local_only and files.is_remote(folder):
        yield
        return
    existed = files.exists(folder)
    if existed and _info(folder)["type"] == "file":
        raise UserError(f"{folder} is a file; name a folder.")
    names = _names(folder) if existed else []
    record = _read(folder)
    if record.get("kind") not in (None, kind):
        raise UserError(f"{folder} holds a {record['kind']} of f2jax, not a {kind}; choose another folder.")
    if names and "kind" not in record and not set(known_by) & set(names):
        shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise UserError(f"{folder} contains files that f2jax did not write ({shown}); choose a new or empty folder.")
    _write(folder, record | {"kind": kind})
    try:
        yield
    except BaseException:
        if not names and not _names(folder):
            _restore(folder, record, remove=not existed)
        raise


@contextmanager
def output_file(path: str | Path, kind: str, local_only: bool = False) -> Iterator[None]:
    """Allows the block to write `path`, and records it, so that f2jax may overwrite it unless somebody changes it.

    Args:
        local_only: the block itself refuses remote files before it writes.

    Raises:
        UserError: `path` is a folder, a file that f2jax did not write or that has changed since, or cannot be written.
    """
    if local_only and files.is_remote(path):
        yield
        return
    folder, _, name = str(path).rpartition("/")
    folder = folder or "."
    existed = files.exists(folder)
    record = _read(folder)
    entries: dict[str, Any] = record.get("files", {})
    stamp = _stamp(path)
    entry = entries.get(name, {"stamp": None})
    if stamp and (name not in entries or entry["stamp"] not in (stamp, "unfinished")):
        raise UserError(
            f"{path} exists, and was not written by f2jax or has changed since; delete it, or name another file."
        )
    _write(folder, record | {"files": entries | {name: {"kind": kind, "stamp": "unfinished"}}})
    try:
        yield
    finally:
        record = _read(folder)
        entries = record.get("files", {})
        if stamp := _stamp(path):
            _write(folder, record | {"files": entries | {name: {"kind": kind, "stamp": stamp}}})
        else:
            rest = {other: entry for other, entry in entries.items() if other != name}
            record = {key: value for key, value in record.items() if key != "files"}
            _restore(folder, record | ({"files": rest} if rest else {}), remove=not existed and not _names(folder))


def _names(folder: str | Path) -> list[str]:
    """Returns the names in a folder, except the record; on gs://, an empty folder lists itself, which is left out."""
    own = str(folder).rstrip("/").rpartition("/")[2] if files.is_remote(folder) else ""
    return [name for name in files.list_names(folder) if name not in (RECORD, own)]


def _read(folder: str | Path) -> dict[str, Any]:
    path = files.join(folder, RECORD)
    return files.read_json_object(path) if files.exists(path) else {}


def _write(folder: str | Path, record: dict[str, Any]) -> None:
    if record != _read(folder):
        files.write_atomically(files.join(folder, RECORD), json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def _restore(folder: str | Path, record: dict[str, Any], remove: bool) -> None:
    """Writes the record, or removes it if it is empty, and then removes the folder if `remove`."""
    if record:
        _write(folder, record)
        return
    files.remove_file(files.join(folder, RECORD))
    if remove and not files.is_remote(folder):
        with suppress(OSError):
            Path(folder).rmdir()


def _stamp(path: str | Path) -> str | None:
    """Returns size and modification time of a file, or None if there is no file.

    Raises:
        UserError: it is a folder.
    """
    if not files.exists(path):
        return None
    info = _info(path)
    if info["type"] == "directory":
        raise UserError(f"{path} is a folder; name a file.")
    return f"{info['size']} {info.get('mtime') or info.get('updated') or info.get('etag')}"


def _info(path: str | Path) -> dict[str, Any]:
    system, name = files.filesystem(path)
    with files.clear_errors(path):
        return system.info(name)
