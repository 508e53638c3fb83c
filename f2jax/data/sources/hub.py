"""Data files of a Hugging Face data set: downloaded once; no code of the repository is run."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from f2jax import files
from f2jax.data.sources.tables import KNOWN
from f2jax.errors import UserError

_SPEC = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<pattern>.+))?$")


def fetch_dataset(spec: str, endings: tuple[str, ...], ignored: Sequence[str] = ()) -> dict[str, str]:
    """{path in the repository: local path} of the data files that a spec names, sorted; they stay in the hub's cache.

    Args:
        spec: `hub:org/name` or `hub:org/name@revision`; after it `/PATTERN` chooses a file, a folder or several.
        endings: of data files.
        ignored: patterns of the names of files that are not downloaded.

    Raises:
        Restart: the hub cannot be reached for the moment.
        UserError: the spec is malformed, or there are no such files, or they cannot be fetched.
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
    """Patterns of the data files that a file, a folder or a pattern stands for; a star matches folders too."""
    if not chosen:
        return [f"*{ending}" for ending in endings]
    if chosen.endswith(endings):
        return [chosen]
    return [f"{chosen}{rest}{ending}" for rest in ("", "/*") for ending in endings]
