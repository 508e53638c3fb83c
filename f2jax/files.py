"""Access to files in local folders, on `gs://…`, and in repositories of the Hugging Face hub.

Remote paths are opened with fsspec, and gs:// with gcsfs. Besides the errors that they document, all functions here
raise `Restart` after a transient failure of the network, a server or a disk.
"""

import errno
import json
import logging
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import fsspec

from f2jax.errors import Restart, UserError, is_disk_full, is_transient, short_reason

BUILT_IN_MODELS = Path(__file__).parent / "models"  # the models that come with f2jax, each in its folder
HUB_PATTERNS = ["*.json", "*.json.gz", "*.safetensors", "*.model", "*/config.json"]  # no pickle, no code


# Listings of buckets are not cached, because other processes write there, and TensorStore does not go through gcsfs.
fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)


def is_remote(path: str | Path) -> bool:
    """Returns whether a path has a protocol, such as gs://."""
    return "://" in str(path)


def join(folder: str | Path, name: str) -> str:
    """Returns the path of the file `name` in a local or remote folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def filesystem(path: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system of a path, and its name there.

    Raises:
        UserError: the path's protocol is unknown, its library is not installed, or the path contains a NUL character.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} contains a NUL character; give another path.")
    try:
        return fsspec.core.url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise UserError(f"{path} cannot be opened ({error}); give a local path or a gs:// one.") from error


@contextmanager
def quiet_logger(library: str, level: int = logging.CRITICAL) -> Iterator[None]:
    """Hides what a library logs below `level` inside the block, without changing its logger's level and handlers."""

    def is_severe(record: logging.LogRecord) -> bool:
        return record.levelno >= level

    logger = logging.getLogger(library)
    logger.addFilter(is_severe)
    try:
        yield
    finally:
        logger.removeFilter(is_severe)


@contextmanager
def clear_errors(path: str | Path, verb: str = "opened") -> Iterator[None]:
    """Turns errors about `path` inside the block into one sentence that says what to change.

    >>> with clear_errors("runs/vectors.npy", "written"):
    ...     np.save("runs/vectors.npy", vectors_ie)

    Raises:
        Restart: a transient failure of the network, a server or a disk.
        UserError: the path does not exist, or cannot be used.
    """
    try:
        with quiet_logger("gcsfs"):  # gcsfs logs a traceback for every error that it raises
            yield
    except (Restart, UserError):
        raise
    except FileNotFoundError as error:
        check_bucket(path)
        raise UserError(f"There is no file {path}; check the path.") from error
    except Exception as error:
        if not is_remote(path) and not isinstance(error, OSError):  # for gs:// each library has its own classes
            raise
        if is_transient(error):
            raise Restart(
                f"{path} cannot be {verb} just now ({short_reason(error)}); run the same command again."
            ) from error
        raise UserError(_refused(path, verb, error)) from error


def check_bucket(path: str | Path) -> None:
    """Raises UserError if `path` is on gs:// and its bucket does not exist."""
    bucket = "/".join(str(path).split("/")[:3])
    if bucket.startswith("gs://") and not exists(bucket):
        raise UserError(f"There is no bucket {bucket}; check its name, or create it.")


def _refused(path: str | Path, verb: str, error: Exception) -> str:
    if getattr(error, "code", None) == 401 or type(error).__module__.startswith("google.auth"):
        advice = "log in with `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
    elif getattr(error, "errno", None) == errno.EMFILE:
        advice = "raise the limit with `ulimit -n`"
    elif isinstance(error, OSError) and str(error).startswith("Forbidden"):
        advice = "ask the owner of the bucket for permission"
    else:
        advice = "check the path and the connection" if is_remote(path) else "check the path"
    return f"{path} cannot be {verb} ({short_reason(error)}); {advice}."


def exists(path: str | Path) -> bool:
    """Returns whether there is a file or a folder at `path`.

    Raises:
        UserError: this cannot be determined, for example without permission to read the bucket.
    """
    store, name = filesystem(path)
    with clear_errors(path):
        try:
            store.info(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def open_file(path: str | Path, mode: str = "rb"):
    """Opens a local or remote file.

    Raises:
        UserError: it is missing, a folder, or not readable.
    """
    store, name = filesystem(path)
    with clear_errors(path):
        return store.open(name, mode)


def read_bytes(path: str | Path) -> bytes:
    """Returns the content of a file.

    Raises:
        UserError: it is missing, a folder, or not readable.
    """
    with clear_errors(path), open_file(path) as file:
        return file.read()


def file_size(path: str | Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
        UserError: it is missing or not readable.
    """
    store, name = filesystem(path)
    with clear_errors(path):
        return store.size(name)


def read_range(path: str | Path, start: int, stop: int) -> bytes:
    """Returns the bytes from `start` to `stop` of a file, without transferring others.

    Raises:
        UserError: it is missing or not readable.
    """
    store, name = filesystem(path)
    with clear_errors(path):
        return store.cat_file(name, start, stop)


def list_names(folder: str | Path) -> list[str]:
    """Returns the names of the files and folders in a folder.

    Raises:
        UserError: it is missing or not readable.
    """
    store, name = filesystem(folder)
    with clear_errors(folder):
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in store.ls(name, detail=False)]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a local path to write to; after the block, the file appears at `path` atomically.

    If the block fails or the process is killed, `path` stays as it was.

    Raises:
        UserError: `path` cannot be written, or the disk became full in the block.
    """
    if is_remote(path):
        store, name = filesystem(path)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            with _clear_disk_full(part):
                yield part
            with clear_errors(path, "written"):
                store.put_file(str(part), name)
    else:
        part = Path(f"{path}.part")
        with clear_errors(path, "written"):
            part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _clear_disk_full(path):
                yield part
            with clear_errors(path, "written"):
                part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


@contextmanager
def _clear_disk_full(path: str | Path) -> Iterator[None]:
    """Turns the error of a full disk, for which each library has a class of its own, into a UserError."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error) and not isinstance(error, UserError):
            message = f"{path} cannot be written: the disk is full; make room there, and run the same command again."
            raise UserError(message) from error
        raise


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file atomically: a killed process leaves either the old file or the complete new one.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_path(path) as part, clear_errors(path, "written"):
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def append_to_object(path: str | Path, content: bytes, size: int) -> None:
    """Appends to an object of `size` bytes on gs:// by composition, without sending the old content again.

    Raises:
        UserError: it cannot be written.
        Restart: a transient failure, or the object does not have the expected size afterwards.
    """
    store, name = filesystem(path)
    part = f"{name}.part"
    with clear_errors(path, "written"):
        store.pipe_file(part, content)
        try:
            store.merge(name, [name, part])
        finally:
            store.rm_file(part)
        if (found := store.size(name)) != size + len(content):  # for example after a lost response
            raise Restart(f"{path} has {found} bytes instead of {size + len(content)}; run the same command again.")


@dataclass(frozen=True)
class Mirror:
    """A local copy of a remote folder, for libraries that only write to local folders."""

    folder: Path
    remote: str | None  # None: `folder` is not a copy
    saved: dict[str, int] = field(default_factory=dict)  # name → time of the last change, in nanoseconds

    def save(self, part: str) -> None:
        """Copies new and changed files in the subfolder `part` to the remote folder.

        Raises:
            UserError: it cannot be written.
        """
        if self.remote:
            for path in sorted(path for path in (self.folder / part).rglob("*") if path.is_file()):
                name, changed = str(path.relative_to(self.folder)), path.stat().st_mtime_ns
                if self.saved.get(name) != changed:
                    write_atomically(join(self.remote, name), path.read_bytes())
                    self.saved[name] = changed


@contextmanager
def mirrored(folder: str | Path, part: str) -> Iterator[Mirror]:
    """Yields the mirror of a folder: for a remote one, a temporary folder with a copy of its subfolder `part`.

    Raises:
        UserError: it cannot be read.
    """
    if not is_remote(folder):
        yield Mirror(Path(folder), None)
        return
    store, top = filesystem(folder)
    with tempfile.TemporaryDirectory() as local:
        mirror = Mirror(Path(local), str(folder))
        with clear_errors(folder):
            for name in store.find(join(top, part)):
                path = mirror.folder / name.removeprefix(top).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(name, str(path))
                mirror.saved[str(path.relative_to(mirror.folder))] = path.stat().st_mtime_ns
        yield mirror


def remove_file(path: str | Path) -> None:
    """Deletes a file if it exists.

    Raises:
        UserError: it cannot be deleted.
    """
    if exists(path):
        store, name = filesystem(path)
        with clear_errors(path, "deleted"):
            store.rm_file(name)


def move_folder(folder: str | Path, target: str | Path) -> None:
    """Moves a folder on the same disk or in the same bucket; on gs://, all files are copied before any is deleted.

    Raises:
        UserError: it cannot be read, written or deleted.
    """
    store, name = filesystem(folder)
    with clear_errors(folder, "moved"):
        if not is_remote(folder):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(folder).replace(target)
            return
        paths = sorted(store.find(name), key=lambda path: path.count("/"))  # markers at the top go first
        for path in paths:
            store.cp_file(path, f"{filesystem(target)[1]}/{path.removeprefix(name).lstrip('/')}")
        for path in paths:
            store.rm_file(path)


def read_json(path: str | Path):
    """Returns the content of a JSON file of any shape; `read_json_object` also checks the shape.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes | str, origin: str | Path):
    """Parses JSON; the error message names `origin` as its file.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not valid JSON ({error}); restore it from its origin.") from error


def read_json_object(path: str | Path, required: Mapping = {}, optional: Mapping = {}) -> dict:
    """Returns the object in a JSON file after checking its shape with `check_object`.

    Raises:
        UserError: the file is missing, is not JSON, or has another shape.
    """
    return check_object(read_json(path), path, required, optional)


def check_object(value, origin: str | Path, required: Mapping = {}, optional: Mapping = {}) -> dict:
    """Returns parsed JSON if it is an object whose fields have the given types; fields without a type may be anything.

    >>> check_object({"width": 64}, "model.json", required={"width": int}, optional={"prompts": dict[str, str]})
    {'width': 64}

    Args:
        origin: name of the object in error messages, such as its file.
        required: types of the required fields: `int`, `float`, `str`, `bool`, `list`, `dict`, `object`, `list[...]`,
            `dict[str, ...]` or a union of them.
        optional: types of the optional fields.

    Raises:
        UserError: it is not an object, a required field is missing, or a field has the wrong type.
    """
    if not isinstance(value, dict):
        raise UserError(f"{origin} holds {_json_name(type(value))} instead of an object; restore it from its origin.")
    if missing := [name for name in required if name not in value]:
        raise UserError(f"{origin} lacks {', '.join(map(repr, missing))}; restore it from its origin.")
    for name, kind in {**optional, **required}.items():
        if name in value and not _has_type(value[name], kind):
            raise UserError(f"{origin} has a '{name}' that is not {_json_name(kind)}; restore it from its origin.")
    return value


def _has_type(value, kind) -> bool:
    """Returns whether parsed JSON has the type `kind`; an int counts as a float, a bool does not count as a number."""
    args = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_has_type(value, option) for option in args)
    if args:
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, typing.get_origin(kind)) and all(_has_type(item, args[-1]) for item in items)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _json_name(kind, plural: bool = False) -> str:
    """Returns what JSON calls a type, with an article or in the plural.

    >>> _json_name(dict[str, int] | None)
    'an object of whole numbers or null'
    """
    args = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return " or ".join(_json_name(option, plural) for option in args)
    if args:
        return f"{_json_name(typing.get_origin(kind), plural)} of {_json_name(args[-1], plural=True)}"
    nouns = {dict: "object", list: "list", str: "string", bool: "boolean", int: "whole number", types.NoneType: "null"}
    noun = nouns.get(kind, "number")
    if plural:
        return f"{noun}s"
    return noun if noun == "null" else f"{'an' if noun == 'object' else 'a'} {noun}"


def built_in_models() -> list[str]:
    """Returns the names of the models that come with f2jax."""
    return [path.parent.name for path in BUILT_IN_MODELS.glob("*/config.json")]


def resolve_model(name: str | Path, revision: str | None = None) -> str:
    """Returns the folder of a model: a local or gs:// folder, a model that comes with f2jax, or a downloaded hub model.

    A local folder takes precedence over a built-in model or a hub repository with the same name.

    Args:
        revision: branch, tag or commit of the repository; None: its main branch.

    Raises:
        Restart: the hub failed temporarily.
        UserError: there is no model with that name, or a folder is given with a revision.
    """
    text = str(name)
    path = Path(text).expanduser()
    if revision and (is_remote(text) or path.is_dir() or text in built_in_models()):
        raise UserError(f"{text} is a folder, which has no revision '{revision}'; leave it out, or give a hub id.")
    if is_remote(text):
        return text
    if path.is_dir():
        return str(_snapshot(path))
    if path.exists():
        raise UserError(f"{text} is a file; give the folder that holds the model's config.json and safetensors.")
    if text in built_in_models():
        return str(BUILT_IN_MODELS / text)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError(
            f"There is no model folder {text}; give a folder, a gs:// path, a hub id like org/name, or a model that "
            f"comes with f2jax ({', '.join(built_in_models())})."
        )
    from huggingface_hub import snapshot_download

    with clear_hub_errors(f"{text} is no folder here and"):
        return snapshot_download(text, revision=revision, allow_patterns=HUB_PATTERNS)


def _snapshot(folder: Path) -> Path:
    """Returns the snapshot inside a folder of the hub's cache (`models--org--name`), or else the folder itself.

    Raises:
        UserError: there are several snapshots, and none is called main.
    """
    snapshots = sorted(folder.glob("snapshots/*/"))
    if not snapshots or (folder / "config.json").exists():
        return folder
    main = folder / "refs/main"
    if main.is_file() and (found := folder / "snapshots" / main.read_text().strip()) in snapshots:
        return found
    if len(snapshots) > 1:
        names = ", ".join(path.name for path in snapshots)
        raise UserError(f"{folder} is a folder of the hub's cache with the snapshots {names}; give one of them.")
    return snapshots[0]


@contextmanager
def clear_hub_errors(what: str, doing: str = "fetched from") -> Iterator[None]:
    """Turns errors of the Hugging Face hub's client inside the block into one sentence that says what to change.

    Args:
        what: the subject of the sentence, which is fetched.
        doing: what is done with it, as a participle and a preposition for the hub.

    Raises:
        Restart: the hub failed temporarily.
        UserError: the hub does not have it, or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except Exception as error:
        failed, name = f"{what} could not be {doing} the Hugging Face hub", type(error).__name__
        if is_transient(error):
            raise Restart(f"{failed} just now ({name}); run the same command again.") from error
        if not isinstance(error, (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)):
            raise
        raise UserError(f"{failed} ({name}); check the name and the connection.") from error
