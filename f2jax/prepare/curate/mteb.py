"""The test sets of MTEB's tasks on this machine: data sets of the organization `mteb` in the hub's cache.

`f2jax evaluate` and mteb download them there. From retrieval tasks, only judged queries are used, but not documents:
these are pages of Wikipedia and similar texts, which may well be training data.
"""

from collections.abc import Iterator
from pathlib import Path

from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources.paths import HELD_OUT, path_words, some_of
from f2jax.data.sources.tables import ENDINGS, FileRow, as_id, read_rows
from f2jax.errors import UserError

ID, JUDGED = "_id", "query-id"  # columns with the id of a query, in queries and in judgements


def test_files() -> list[str]:
    """Returns the files of test and validation splits, and all files of queries."""
    return [str(path) for folder in _cached() for paths in _files(folder) for path in paths]


def test_rows(columns: tuple[str, ...]) -> Iterator[FileRow]:
    """Yields the rows of the tests with these columns; logs the data sets, and what cannot be read or has no text.

    Files that cannot be read are left out, because other programs use the cache too.
    """
    folders, bad = _cached(), SkipList()
    if names := {folder.parts[-3].split("--", 2)[2] for folder in folders}:
        say_once(f"mteb: the tests of {some_of(list(names))}, which are in the hub's cache, are looked for.")
    else:
        say_once("mteb: no data set of MTEB is in the hub's cache, so none of its tests is looked for.")

    def choose(present: list[str]) -> list[str]:
        return [name for name in present if name in (*columns, ID, JUDGED)]

    def rows_of(paths: list[Path]) -> Iterator[FileRow]:
        for path in paths:
            try:
                yield from read_rows(str(path), bad, choose)
            except UserError as error:
                say_once(f"mteb: the texts of {path} are not looked for: {error}")

    for folder in folders:
        judged, has_text, (tests, queries) = set[str | None](), False, _files(folder)
        for row in rows_of(tests):
            judged.add(as_id(row.get(JUDGED)))
            has_text |= any(row.get(name) for name in columns)
            yield row
        judged.discard(None)
        for row in rows_of(queries):
            if not judged or as_id(row.get(ID)) in judged:
                has_text |= any(row.get(name) for name in columns)
                yield row
        if not has_text:
            say_once(f"mteb: {folder} holds no text of a test, so none of its tests is looked for.")
    for reason, count in bad.items():
        say_once(f"mteb: {count:,} rows of its tests are not looked for: {reason}.")


def _cached() -> list[Path]:
    """Returns the folders of all revisions of all data sets."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return sorted(Path(HF_HUB_CACHE).glob("datasets--mteb--*/snapshots/*"))


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns files of test and validation splits, and of queries without a split; links without a blob are skipped."""
    tests, queries = [], []
    for path in sorted(folder.rglob("*")):
        words = path_words(str(path.relative_to(folder)))
        if not path.name.endswith(ENDINGS) or "corpus" in words or not path.is_file():
            continue
        if words & HELD_OUT:
            tests.append(path)
        elif "queries" in words and "train" not in words:
            queries.append(path)
    return tests, queries
