"""What is found of held-out rows: worked out by hand, and by another way of counting."""

import numpy as np
import pytest

from f2jax.data.dataset import is_held_out
from f2jax.data.record import Record
from f2jax.evaluation import held_out
from f2jax.evaluation.held_out import HeldOut, held_out_sets

SHARE, SEED = 0.5, 3


def test_metrics_are_those_of_the_first_right_document():
    held = HeldOut("x", ["a", "b", "c"], ["p", "q", "r"], [{0}, {2}, {0, 1}], alike=False)
    similarity_qc = np.array([[0.9, 0.1, 0.2], [0.9, 0.5, 0.3], [0.1, 0.3, 0.9]])
    accuracy, reciprocal = held.metrics(similarity_qc)
    assert (accuracy, reciprocal) == (pytest.approx(1 / 3), pytest.approx((1 + 1 / 3 + 1 / 2) / 3))


def test_a_right_document_beyond_the_tenth_counts_nothing():
    held = HeldOut("x", ["a"], [f"d{i}" for i in range(20)], [{0}], alike=False)
    for before, expected in ((9, 1 / 10), (10, 0.0)):
        assert held.metrics(np.array([[0.5] + [0.9] * before + [0.1] * (19 - before)])) == (0.0, expected)


def test_a_text_is_no_answer_to_itself_where_both_sides_are_alike():
    similarity_qc = np.array([[1.0, 0.4, 0.6]])
    for alike, accuracy in ((True, 0.0), (False, 0.0)):
        assert HeldOut("x", ["a"], ["a", "b", "c"], [{1}], alike).metrics(similarity_qc)[0] == accuracy
    assert HeldOut("x", ["a"], ["a", "b", "c"], [{1}], True).metrics(similarity_qc)[1] == 1 / 2
    assert HeldOut("x", ["a"], ["a", "b", "c"], [{1}], False).metrics(similarity_qc)[1] == 1 / 3


def test_queries_are_the_rows_that_training_leaves_out_and_documents_are_those_of_all():
    rows = [Record(f"q{i}", f"d{i}", (f"n{i}",), source="faq") for i in range(40)]
    rows.append(Record("q1", "other", source="faq"))
    (held,), empty = held_out_sets(rows, SHARE, SEED)
    assert sorted(held.queries) == sorted({r.query for r in rows if is_held_out(r.query_id, SHARE, SEED)})
    assert 5 < len(held.queries) < 35 and not empty
    assert set(held.documents) == {text for row in rows for text in row.documents}
    for query, right in zip(held.queries, held.answers, strict=True):
        assert {held.documents[i] for i in right} == {row.positive for row in rows if row.query == query}


def test_rows_of_a_label_answer_each_other_and_those_to_classify_have_their_label_alone():
    texts = [Record(f"t{i}", f"t{(i + 2) % 20}", ("x",), "clustering", source="s", label=str(i % 2)) for i in range(20)]
    classes = [Record(f"t{i}", f"class {i % 2}", (), "classification", source="c", label=str(i % 2)) for i in range(20)]
    (clusters, labels), _ = held_out_sets([*texts, *classes], SHARE, SEED)
    for query, right in zip(clusters.queries, clusters.answers, strict=True):
        number = int(query[1:])
        assert {clusters.documents[i] for i in right} == {f"t{i}" for i in range(20) if i % 2 == number % 2} - {query}
    assert [{labels.documents[i] for i in right} for right in labels.answers] == [
        {f"class {int(query[1:]) % 2}"} for query in labels.queries
    ]
    assert clusters.alike and not labels.alike


def test_a_set_without_held_out_rows_is_named():
    assert held_out_sets([Record("q", "d", source="faq")], 0.0, SEED) == ([], ["faq"])


def test_a_set_whose_held_out_rows_answer_themselves_alone_has_none():
    rows = [Record(f"t{i}", f"t{i}", source="faq", symmetric=True) for i in range(20)]
    assert held_out_sets(rows, SHARE, SEED) == ([], ["faq"])


def test_sets_are_those_that_the_run_includes_under_the_names_that_it_gives_them():
    rows = [Record(f"q{i}", f"d{i}", source=source) for i in range(20) for source in ("faq", "mails")]
    rows.append(Record("a text", "", kind="texts", source="faq"))
    (held,), empty = held_out_sets(rows, SHARE, SEED, include=["faq-*"], exclude=["*-texts"])
    assert held.name == "faq-retrieval" and not empty
    (held,), _ = held_out_sets(rows, SHARE, SEED, exclude=["faq*"])
    assert held.name == "mails"


def test_documents_are_limited_but_never_by_a_right_one(monkeypatch):
    monkeypatch.setattr(held_out, "DOCUMENTS", 8)
    monkeypatch.setattr(held_out, "QUERIES", 4)
    (held,), _ = held_out_sets([Record(f"q{i}", f"d{i}", source="faq") for i in range(50)], SHARE, SEED)
    assert len(held.queries) == 4 and len(held.documents) == 8 and all(held.answers)


def test_the_table_has_a_line_for_each_scorer_and_says_what_chance_may_be():
    held = HeldOut("faq", ["red", "blue"] * 50, ["red", "blue"], [{0}, {1}] * 50, alike=False)
    table = held_out.comparison([held], {"TF-IDF": held_out.tfidf, "nothing": lambda held: np.zeros((100, 2))})
    lines = table.splitlines()
    assert lines[2].split() == ["faq", "100", "2", "TF-IDF", "100.0%", "1.000"]
    assert lines[3].split() == ["nothing", "0.0%", "0.500"]  # all alike: none is found
    assert lines[4] == "Of 100 queries, a difference of up to 10 points may be chance."
