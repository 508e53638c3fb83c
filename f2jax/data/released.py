"""What is known of the sources of the released F2LLM-v2 corpus, by the name of a file (recipe 2.1, 3.1 and 3.3).

The files hold texts alone: which loss a row takes, whether its task is symmetric and which language it is in follow
from the name of its file. `released.json` says so; `{query}` and `{passage}` in a name there stand for a language.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from f2jax import files
from f2jax.data.record import Kind

TABLE = Path(__file__).with_name("released.json")


@dataclass(frozen=True)
class ReleasedSource:
    """One source of the released corpus, or its part in one language."""

    name: str  # of the file, without the numbers of parts and shards
    kind: Kind  # which loss its rows take
    task: str  # what its pairs are, as the paper groups them
    language: str = "und"  # of the queries: ISO 639-3, or `code:<name>`; und: rows differ, or it is not known
    symmetric: bool = False  # query and passage may change places: bitext, paraphrase, similarity
    stage_1: bool = False  # one of the seven sources of the first stage
    overlaps_mteb: bool = False  # tasks of MTEB are made of it


def find_released(name: str) -> ReleasedSource | None:
    """Returns what is known of a source of the released corpus; None for any other.

    >>> find_released("unpc_ar2en").language
    'ara'

    Args:
        name: of a file, without ending and without the numbers of parts and shards.
    """
    for pattern, fields in _table():
        if match := pattern.fullmatch(name):
            language = _languages().get(match.groupdict().get("query", ""), fields.get("language", "und"))
            return ReleasedSource(name, **{**fields, "language": language})
    return None


def sources_that_overlap() -> tuple[str, ...]:
    """Patterns of the sources that tasks of MTEB are made of, and of others whose names begin alike.

    >>> sources_that_overlap()
    ('mkqa_*', 'sib200*')
    """
    rows = files.read_json(TABLE)["sources"]
    return tuple(f"{row['files'].partition('{')[0]}*" for row in rows if row.get("overlaps_mteb"))


def files_after_stage_1() -> list[str]:
    """Patterns of the names of files, with any ending, of all sources but those of the first stage."""
    names = [row["files"] for row in files.read_json(TABLE)["sources"] if not row.get("stage_1")]
    names = [re.sub(r"\{\w+\}", "*", name) for name in names]
    return [f"{name}{rest}" for name in names for rest in (".*", "_part*.*")]


@cache
def _languages() -> dict[str, str]:
    """The language of a record by each code or name that file names have; an ISO 639-3 code stands for itself."""
    languages = files.read_json(TABLE)["languages"]
    return languages | {code: code for code in languages.values()}


@cache
def _table() -> list[tuple[re.Pattern, dict]]:
    """The pattern of each source's file names and its fields, fixed names before those with a language."""
    rows = files.read_json(TABLE)["sources"]
    rows = sorted(rows, key=lambda row: "{" in row["files"] or "*" in row["files"])
    code = "|".join(map(re.escape, sorted(_languages(), key=len, reverse=True)))
    return [(_pattern(row["files"], code), {k: v for k, v in row.items() if k != "files"}) for row in rows]


def _pattern(names: str, code: str) -> re.Pattern:
    pattern = re.escape(names).replace(r"\*", ".+")
    for role in ("query", "passage"):
        pattern = pattern.replace(rf"\{{{role}\}}", f"(?P<{role}>{code})")
    return re.compile(pattern)
