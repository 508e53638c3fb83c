"""Properties of the sources of the released F2LLM-v2 corpus, by file name (recipe 2.1, 3.1 and 3.3).

The files only contain texts. The loss, symmetry and language of a row follow from the name of its file, according to
`released.json`, where `{query}` and `{passage}` in a name stand for a language.
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
    """A source of the released corpus, or its part in one language."""

    name: str  # name of the file, without the numbers of parts and shards
    kind: Kind  # determines the loss of its rows
    task: str  # what its pairs are, as grouped in the paper
    language: str = "und"  # language of the queries: ISO 639-3, or `code:<name>`; und: rows differ, or it is unknown
    symmetric: bool = False  # query and passage may swap places: bitext, paraphrase, similarity
    stage_1: bool = False  # one of the seven sources of the first stage
    overlaps_mteb: bool = False  # tasks of MTEB are made from it


def find_released(name: str) -> ReleasedSource | None:
    """Returns the properties of a source of the released corpus, or None for any other source.

    >>> find_released("unpc_ar2en").language
    'ara'

    Args:
        name: name of a file, without its ending and the numbers of parts and shards.
    """
    for pattern, fields in _table():
        if match := pattern.fullmatch(name):
            language = _languages().get(match.groupdict().get("query", ""), fields.get("language", "und"))
            return ReleasedSource(name, **{**fields, "language": language})
    return None


def sources_that_overlap() -> tuple[str, ...]:
    """Returns patterns of sources from which tasks of MTEB are made; they also match others with the same prefix.

    >>> sources_that_overlap()
    ('mkqa_*', 'sib200*')
    """
    rows = files.read_json(TABLE)["sources"]
    return tuple(f"{row['files'].partition('{')[0]}*" for row in rows if row.get("overlaps_mteb"))


def files_after_stage_1() -> list[str]:
    """Returns patterns of the file names, with any ending, of all sources except those of the first stage."""
    names = [row["files"] for row in files.read_json(TABLE)["sources"] if not row.get("stage_1")]
    names = [re.sub(r"\{\w+\}", "*", name) for name in names]
    return [f"{name}{rest}" for name in names for rest in (".*", "_part*.*")]


@cache
def _languages() -> dict[str, str]:
    """Returns the language of a record for each code or name in file names; ISO 639-3 codes stand for themselves."""
    languages = files.read_json(TABLE)["languages"]
    return languages | {code: code for code in languages.values()}


@cache
def _table() -> list[tuple[re.Pattern, dict]]:
    """Returns the pattern of each source's file names and its fields; fixed names come before those with a language."""
    rows = files.read_json(TABLE)["sources"]
    rows = sorted(rows, key=lambda row: "{" in row["files"] or "*" in row["files"])
    code = "|".join(map(re.escape, sorted(_languages(), key=len, reverse=True)))
    return [(_pattern(row["files"], code), {k: v for k, v in row.items() if k != "files"}) for row in rows]


def _pattern(names: str, code: str) -> re.Pattern:
    pattern = re.escape(names).replace(r"\*", ".+")
    for role in ("query", "passage"):
        pattern = pattern.replace(rf"\{{{role}\}}", f"(?P<{role}>{code})")
    return re.compile(pattern)
