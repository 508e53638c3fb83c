"""Labelled data → the three kinds of records (recipe 3.1)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import Record
from f2jax.data.sources.convert import classification, clustering, nli, sts

labelled = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", "z"])), max_size=12)


@given(labelled, st.integers(0, 5))
def test_clustering_pairs_a_text_with_its_class_against_other_classes(rows, negatives):
    classes = {name: {text for text, own in rows if own == name} for _, name in rows}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("f2jax.data.sources.convert.NEGATIVES", negatives)
        records = list(clustering(rows, "s", "deu"))
    for record in records:
        own = classes[record.label]
        assert record.query in own and record.positive in own and record.query != record.positive
        assert not own & set(record.negatives)
        others = set().union(*classes.values()) - own
        assert len(record.negatives) == len(set(record.negatives)) == min(negatives, len(others))
        assert (record.kind, record.source, record.language) == ("clustering", "s", "deu")
    usable = {name for name, own in classes.items() if len(own) > 1 and set().union(*classes.values()) - own}
    assert Counter(record.label for record in records) == {name: len(classes[name]) for name in usable}


@given(labelled, st.randoms(use_true_random=False))
def test_choices_do_not_depend_on_the_order_of_the_rows(rows, shuffle):
    moved = shuffle.sample(rows, len(rows))
    for convert in (clustering, classification):
        assert Counter(convert(rows, "s")) == Counter(convert(moved, "s"))


def test_all_texts_of_a_class_become_positives():
    rows = [(f"text {i}", "one") for i in range(40)] + [("else", "two"), ("more", "two")]
    positives = Counter(record.positive for record in clustering(rows, "s") if record.label == "one")
    assert len(positives) > 20 and max(positives.values()) < 6


def test_classification_has_the_right_label_and_a_wrong_one():
    rows = [("great", "pos"), ("bad", "neg"), ("so so", "neu")] * 2
    records = list(classification(rows, "reviews", "eng"))
    assert [(r.query, r.positive, r.label) for r in records] == [(text, label, label) for text, label in rows]
    assert all(r.kind == "classification" and len(r.negatives) == 1 for r in records)
    assert all(r.negatives[0] in {"pos", "neg", "neu"} - {r.positive} for r in records)


def test_one_label_alone_teaches_nothing():
    assert list(classification([("a", "x"), ("b", "x")], "s")) == list(clustering([("a", "x"), ("b", "x")], "s")) == []


def test_sts_keeps_pairs_of_4_and_more_and_swaps_them():
    rows = [("a", "b", 4.0), ("c", "d", 3.99), ("e", "f", 5)]
    same = {"language": "eng", "source": "stsb", "symmetric": True}
    expected = [Record(one, other, **same) for one, other in ("ab", "ba", "ef", "fe")]
    assert list(sts(rows, "stsb", "eng")) == expected


def test_nli_has_the_entailed_hypothesis_and_the_others_first_among_the_negatives():
    rows = [
        ("A man sleeps.", "He is awake.", "contradiction"),
        ("A man sleeps.", "A person sleeps.", "entailment"),
        ("A man sleeps.", "He dreams.", "neutral"),
        ("A man sleeps.", "Somebody rests.", "entailment"),
        ("A man sleeps.", "Unclear.", "-"),
        ("It rains.", "It is wet.", "entailment"),
        ("It snows.", "It is hot.", "contradiction"),
    ]
    first, second, third = nli(rows, "snli", "eng")
    assert first == Record(
        "A man sleeps.", "A person sleeps.", ("He dreams.", "He is awake."), "retrieval", "eng", "snli", first.label
    )
    assert second.positive == "Somebody rests." and second.label == first.label is not None
    assert third == Record("It rains.", "It is wet.", (), "retrieval", "eng", "snli", None)


def test_a_hypothesis_that_people_disagree_about_is_no_negative():
    rows = [("p", "h", "entailment"), ("p", "h", "neutral"), ("p", "n", "neutral")]
    assert [record.negatives for record in nli(rows, "s")] == [("n",)]


@pytest.mark.parametrize("convert", [clustering, classification, sts, nli])
def test_no_rows_give_no_records(convert):
    assert list(convert([], "s")) == []
