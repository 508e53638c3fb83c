"""Where things lie: a local path, `gs://…`, or the id of a Hugging Face hub repository."""

import json
from pathlib import Path

import fsspec

from f2jax.errors import UserError

HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*/config.json"]  # no pickle, no code


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def join(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}"


def filesystem(path: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that a path lies in, and its name there.

    Raises:
        UserError: the path's protocol is unknown, or its library is not installed.
    """
    try:
        return fsspec.core.url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise UserError(f"{path} cannot be opened ({error}); give a local path or a gs:// one.") from error


def exists(path: str | Path) -> bool:
    found, name = filesystem(path)
    return found.exists(name)


def open_file(path: str | Path, mode: str = "rb"):
    """Open a local or remote file.

    Raises:
        UserError: it is missing, a folder, or may not be read.
    """
    found, name = filesystem(path)
    try:
        return found.open(name, mode)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror or 'it is no file'}); check the path.") from error


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a local file that is there whole or not at all, even if the process is killed meanwhile."""
    part = Path(f"{path}.part")
    part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    part.replace(path)


def read_json(path: str | Path):
    """The content of a JSON file.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    with open_file(path) as file:
        try:
            return json.loads(file.read())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); restore it from its origin.") from error


def find_model(name: str | Path) -> str:
    """The folder that `name` stands for: a local folder, a gs:// folder, or a hub repository (then downloaded).

    Raises:
        UserError: nothing can be found under that name.
    """
    text = str(name)
    if is_remote(text):
        return text
    path = Path(text).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise UserError(f"{text} is a file; give the folder that the model lies in.")
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise UserError(f"There is no model folder {text}; give a folder, a gs:// path or a hub id like org/name.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(text, allow_patterns=HUB_PATTERNS)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{text} is no folder here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the connection."
        ) from error
