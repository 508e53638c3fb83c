"""Downloads the data files of Hugging Face data sets, without running any code of the repository."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from f2jax import files
from f2jax.data.sources.tables import KNOWN
from f2jax.errors import UserError

_SPEC = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<pattern>.+))?$")


def fetch_dataset(spec: str, endings: tuple[str, ...], ignored: Sequence[str] = ()) -> dict[str, str]:
    """Returns {path in the repository: local path} for the data files of a spec, sorted; they stay in the hub's cache.

    Args:
        spec: `hub:org/name` or `hub:org/name@revision`, optionally followed by `/PATTERN` for a file or a folder.
        endings: endings of data files.
        ignored: patterns of file names not to download.

    Raises:
        Restart: the hub temporarily cannot be reached.
        UserError: the spec is malformed, there are no such files, or they cannot be fetched.
    """
    parts = _SPEC.match(spec)
    if not parts:
        raise UserError(
            f"{spec} does not name a data set of the hub; write hub:org/name or hub:org/name@revision/PATTERN."
        )
    from huggingface_hub import snapshot_download

    patterns = _patterns((parts["pattern"] or "").rstrip("/"), endings)
    with files.clear_hub_errors(spec):
        folder = snapshot_download(
            parts["name"],
            repo_type="dataset",
            revision=parts["revision"],
            allow_patterns=patterns,
            ignore_patterns=[f"{folders}{name}" for name in ignored for folders in ("", "*/")],
        )
    inside = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    chosen = {path: str(Path(folder, path)) for path in inside if any(fnmatchcase(path, p) for p in patterns)}
    if not chosen:
        raise UserError(f"{spec} holds no data file; they end in {KNOWN}.")
    return chosen


def _patterns(chosen: str, endings: tuple[str, ...]) -> list[str]:
    """Returns patterns for the data files of a file, a folder or a pattern; a star matches folders too."""
    if not chosen:
        return [f"*{ending}" for ending in endings]
    if chosen.endswith(endings):
        return [chosen]
    return [f"{chosen}{rest}{ending}" for rest in ("", "/*") for ending in endings]
