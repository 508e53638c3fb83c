"""The same two passes in a store: it finds what `Search` finds, and takes updates and filters."""

import json
import re

import numpy as np
import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.search import qdrant
from f2jax.search.files import SearchTexts
from f2jax.search.two_pass import Search, SearchOptions
from tests import tiny
from tests.search.test_two_pass import vectors

pytest.importorskip("qdrant_client", reason="the store is an extra")

OPTIONS = SearchOptions(k=5, dims=16, candidates=20)


@pytest.fixture
def client():
    with qdrant.open_store(":memory:") as client:
        yield client


def test_a_store_finds_what_our_search_finds(client):
    q, d = vectors(9, 0), vectors(300, 1)
    assert qdrant.fill_store(client, SearchTexts(d, [f"text {i}" for i in range(300)]), OPTIONS.dims) == 300
    found, known = qdrant.search_store(client, q, OPTIONS)
    wanted = Search(d, OPTIONS)(q)
    np.testing.assert_array_equal(found.numbers_qk, wanted.numbers_qk)
    np.testing.assert_allclose(found.scores_qk, wanted.scores_qk, atol=1e-5)
    assert known[found.numbers_qk[0, 0]] == {"text": f"text {found.numbers_qk[0, 0]}"}


def test_a_filter_holds_in_both_passes(client):
    from qdrant_client import models

    q, d = vectors(9, 0), vectors(100, 1)
    qdrant.fill_store(client, SearchTexts(d, places=[f"{i % 2}" for i in range(100)]), OPTIONS.dims)
    odd = models.Filter(must=[models.FieldCondition(key="place", match=models.MatchValue(value="1"))])
    found, _ = qdrant.search_store(client, q, OPTIONS, odd)
    np.testing.assert_array_equal(found.numbers_qk, Search(d[1::2], OPTIONS)(q).numbers_qk * 2 + 1)


def test_the_filter_in_the_docs_finds_the_passages_of_a_file(tmp_path, monkeypatch):
    q, d = vectors(2, 0), vectors(40, 1)
    monkeypatch.chdir(tmp_path)
    with qdrant.open_store("vectors.qdrant") as client:
        qdrant.fill_store(
            client, SearchTexts(d, places=[f"{('rivers', 'stones')[i % 2]}.md:{i}" for i in range(40)]), 64
        )
    (example,) = re.findall(r"```python\n(.*?)```", (tiny.ROOT / "docs/retrieval.md").read_text(), re.S)
    names = {"queries": q}
    exec(example, names)
    np.testing.assert_array_equal(names["found"].numbers_qk, Search(d[::2], SearchOptions())(q).numbers_qk * 2)


def test_a_document_that_comes_again_is_replaced(client):
    d = vectors(40, 1)
    qdrant.fill_store(client, SearchTexts(d), OPTIONS.dims)
    d[7] = vectors(1, 5)
    assert qdrant.fill_store(client, SearchTexts(d), OPTIONS.dims) == 40
    assert qdrant.search_store(client, d[7:8], OPTIONS)[0].numbers_qk[0, 0] == 7


def test_documents_of_an_earlier_larger_fill_go(client, monkeypatch):
    monkeypatch.setattr(qdrant, "PIECE", 8)
    d = vectors(40, 1)
    qdrant.fill_store(client, SearchTexts(d), OPTIONS.dims)
    assert qdrant.fill_store(client, SearchTexts(d[:11]), OPTIONS.dims) == 11
    found, _ = qdrant.search_store(client, d[30:40], OPTIONS)
    assert (found.numbers_qk < 11).all()


def test_fewer_documents_than_k_leave_places_empty(client):
    qdrant.fill_store(client, SearchTexts(vectors(3, 1)), OPTIONS.dims)
    found, _ = qdrant.search_store(client, vectors(1, 0), OPTIONS)
    assert (found.numbers_qk[0, 3:] == -1).all() and np.isneginf(found.scores_qk[0, 3:]).all()


def test_vectors_of_another_model_and_an_empty_store_are_refused(client):
    with pytest.raises(UserError, match="holds no documents"):
        qdrant.search_store(client, vectors(1, 0), OPTIONS)
    qdrant.fill_store(client, SearchTexts(vectors(3, 1)), OPTIONS.dims)
    with pytest.raises(UserError, match="searches by 16 of 96 dimensions, not 8 of 96"):
        qdrant.search_store(client, vectors(1, 0), SearchOptions(dims=8))
    with pytest.raises(UserError, match="There are no documents"):
        qdrant.fill_store(client, SearchTexts(vectors(0, 1)), 16)
    with pytest.raises(UserError, match="has vectors of 16 and 96 dimensions, not 16 and 48"):
        qdrant.fill_store(client, SearchTexts(vectors(3, 1, dim=48)), 16)


def test_documents_of_another_model_or_prompt_are_refused_and_so_are_queries_of_another_model(tmp_path):
    """All have the same sizes; the store remembers, also after it was closed."""
    place, d = str(tmp_path / "store"), vectors(30, 1)
    with qdrant.open_store(place) as client:
        qdrant.fill_store(client, SearchTexts(d, model="a", prompt="p: "), OPTIONS.dims)
    with qdrant.open_store(place) as client:
        for others in (SearchTexts(-d, model="b", prompt="p: "), SearchTexts(-d, model="a"), SearchTexts(-d)):
            with pytest.raises(UserError, match="holds documents of another model, or after another prompt"):
                qdrant.fill_store(client, others, OPTIONS.dims)
        with pytest.raises(UserError, match="embedded by another model than the queries; give its --model"):
            qdrant.search_store(client, d[:1], OPTIONS, model="b")
        for model in ("a", ""):
            assert qdrant.search_store(client, d[7:8], OPTIONS, model=model)[0].numbers_qk[0, 0] == 7
        assert qdrant.fill_store(client, SearchTexts(d, model="a", prompt="p: "), OPTIONS.dims) == 30


def test_a_vector_that_is_not_finite_is_named_and_spoils_no_other(client):
    d = vectors(30, 1)
    qdrant.fill_store(client, SearchTexts(d), OPTIONS.dims)
    damaged = d.copy()
    damaged[7, 40] = np.nan
    with pytest.raises(UserError, match="The vectors of the documents hold values that are not finite, first in row 7"):
        qdrant.fill_store(client, SearchTexts(damaged), OPTIONS.dims)
    found, _ = qdrant.search_store(client, d, OPTIONS)
    assert found.numbers_qk[:, 0].tolist() == list(range(30))


@pytest.mark.parametrize("kept", ["float32", "int8", "binary"])
@pytest.mark.parametrize("asked", ["float32", "int8", "binary"])
def test_a_server_is_filled_again_in_the_precision_that_it_has(client, kept, asked):
    qdrant.fill_store(client, SearchTexts(vectors(3, 1)), 16, kept)
    if asked == kept:
        return qdrant.check_precision_kept(client, True, asked)
    with pytest.raises(UserError, match=f"searches first in {kept}, not in {asked}; use another place"):
        qdrant.check_precision_kept(client, True, asked)


def test_a_folder_that_was_filled_in_another_precision_is_filled_again(client):
    qdrant.fill_store(client, SearchTexts(vectors(3, 1)), 16, "int8")  # which a folder ignores
    qdrant.check_precision_kept(client, False, "float32")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--dims", "97"), "dims=97 is out of range; the vectors have 1 to 96 dimensions"),
        (("--dims", "0"), "dims=0 is out of range"),
        (("--precision", "int4"), "precision='int4' is not a choice"),
        (("--precision", "int8"), "A store in a folder keeps float32; leave out --precision int8."),
        (("--approximate", "0.9"), "--approximate would change nothing with --store"),
        (("--recall-queries", "5"), "--recall-queries would change nothing with --store"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused_and_leaves_no_collection(capsys, tmp_path, options, message):
    np.save(tmp_path / "d.npy", vectors(5, 1))
    place = ["search", "--store", str(tmp_path / "store"), "--vectors", str(tmp_path / "d.npy")]
    assert cli.main([*place, *options]) == 1
    assert message in capsys.readouterr().err
    assert cli.main(place) == 0


def test_the_command_fills_a_folder_and_searches_it_later(capsys, tmp_path):
    q, d = vectors(4, 0), vectors(50, 1)
    for name, x in (("q", q), ("d", d)):
        np.save(tmp_path / f"{name}.npy", x)
    place = ["search", "--store", str(tmp_path / "store"), "--dims", "16", "--k", "5", "--candidates", "20"]
    assert cli.main([*place, "--vectors", str(tmp_path / "d.npy")]) == 0
    assert "50 documents, 16 dimensions first" in capsys.readouterr().out
    output = tmp_path / "r.jsonl"
    assert cli.main([*place, "--queries", str(tmp_path / "q.npy"), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [[x["document"] for x in row["found"]] for row in rows] == Search(d, OPTIONS)(q).numbers_qk.tolist()


def test_a_precision_is_refused_where_the_store_is_only_searched(capsys, tmp_path):
    np.save(tmp_path / "q.npy", vectors(4, 0))
    place = ["search", "--store", str(tmp_path / "store"), "--queries", str(tmp_path / "q.npy")]
    assert cli.main([*place, "--precision", "int8"]) == 1
    found = capsys.readouterr().err
    assert found == "f2jax: --precision is chosen when a store is filled; leave it out to search what is there.\n"
    assert not (tmp_path / "store").exists()
    assert cli.main(place) == 1 and "The store holds no documents" in capsys.readouterr().err


def test_a_place_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file"), "http://127.0.0.1:9"):
        with pytest.raises(UserError, match="cannot be opened"), qdrant.open_store(place):
            pass
