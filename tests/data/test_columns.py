"""Rows under the names that people give their columns are read as what they are, or refused in a sentence."""

import csv
from operator import attrgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import convert, open_source
from f2jax.errors import UserError
from tests.data import corpora

PAIRS = [("where is Kenya?", "in Africa"), ("where is Peru?", "in America")]


def write(folder, ending, names, rows):
    path = folder / f"faq.{ending}"
    if ending == "csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    elif ending == "parquet":
        pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
    else:
        corpora.write(path, [dict(zip(names, row, strict=True)) for row in rows])
    return path


def read(path, *columns, skipped=None):
    return list(open_source(str(path), "train", SkipList() if skipped is None else skipped, columns=columns))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "names",
    [
        ("query", "positive"),
        ("anchor", "positive"),
        ("question", "answer"),
        ("query", "passage"),
        ("sentence1", "sentence2"),
    ],
)
def test_pairs_are_known_by_the_names_that_are_common(tmp_path, ending, names):
    alike = names == ("sentence1", "sentence2")  # neither is a question
    expected = [Record(a, b, source="faq", symmetric=alike) for a, b in PAIRS]
    assert read(write(tmp_path, ending, names, PAIRS)) == expected


@pytest.mark.parametrize("positive", ["positive", "passage"])
def test_a_positive_or_passage_decides_beside_an_answer(tmp_path, positive):
    path = write(tmp_path, "csv", ("query", "answer", positive, "negative_1"), [("q", "short", "long", "wrong")])
    (record,) = open_source(str(path), "train", SkipList(), ["faq=retrieval"])
    assert (record.positive, record.negatives) == ("long", ("wrong",))


def test_a_score_that_only_later_rows_of_json_have_is_refused(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b"}]
    rows += [{"sentence1": text, "sentence2": text * 2, "score": score} for text, score in [("c", 0), ("d", 5)]]
    corpora.write(tmp_path / "faq.jsonl", rows)
    with pytest.raises(UserError, match=r"faq\.jsonl has rows with a score or label, but its first row has none"):
        read(tmp_path / "faq.jsonl")
    corpora.write(tmp_path / "faq.jsonl", [rows[0] | {"score": None}, *rows[1:]])
    skipped = SkipList()
    assert read(tmp_path / "faq.jsonl", skipped=skipped) == list(convert.sts([("d", "dd", 5)], "faq"))
    assert skipped == {"no label or score": 1}


LABELLED = [("great", "good"), ("fine", "good"), ("awful", "bad"), ("poor", "bad")]


def test_the_kinds_choose_what_texts_with_labels_are(tmp_path):
    path = str(write(tmp_path, "csv", ("text", "label"), LABELLED))
    assert list(open_source(path, "train", SkipList(), ["faq=classification"])) == list(
        convert.classification(LABELLED, "faq")
    )
    with pytest.raises(UserError, match="rows of clustering, which faq=retrieval among the kinds does not fit"):
        list(open_source(path, "train", SkipList(), ["faq=retrieval"]))


@pytest.mark.parametrize("prefix", ["", "clustering:"])
def test_a_folder_with_a_file_for_each_label_is_one_set(tmp_path, prefix):
    folder = tmp_path / "mails"
    folder.mkdir()
    for label in ("good", "bad"):
        rows = [row for row in LABELLED if row[1] == label]
        write(folder, "csv", ("text", "label"), rows).rename(folder / f"{label}.csv")
    key = attrgetter("query")
    assert sorted(read(f"{prefix}{folder}"), key=key) == sorted(convert.clustering(LABELLED, "mails"), key=key)


@pytest.mark.parametrize("spec", ["cldr:translation", "stdlib:code", "beir:books"])
def test_columns_are_refused_where_they_have_their_names(spec):
    with pytest.raises(UserError, match=f"{spec} names its own columns"):
        read(spec, "query=Frage")


def test_triplets_keep_their_negatives(tmp_path):
    rows = [(*pair, "in Asia", "in Europe") for pair in PAIRS]
    path = write(tmp_path, "csv", ("anchor", "positive", "negative_2", "negative_1"), rows)
    assert [record.negatives for record in read(path)] == [("in Europe", "in Asia")] * 2


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_of_other_names_are_said(tmp_path, ending):
    path = write(tmp_path, ending, ("query", "Frage", "Antwort"), [(n, *pair) for n, pair in enumerate(PAIRS)])
    found = read(path, "query=Frage", "positive=Antwort")
    assert found == [Record(a, b, source="faq") for a, b in PAIRS]  # not the numbers in the column called query


@pytest.mark.parametrize("prefix,columns", [("", ("text", "label")), ("clustering:", ("Satz", "Art"))])
def test_labelled_texts_are_known_too(tmp_path, prefix, columns):
    rows = [("great", "good"), ("fine", "good"), ("awful", "bad"), ("poor", "bad")]
    path = write(tmp_path, "csv", columns, rows)
    named = [f"text={columns[0]}", f"label={columns[1]}"] if prefix else []
    assert read(f"{prefix}{path}", *named) == list(convert.clustering(rows, "faq"))


def test_a_column_that_is_said_comes_before_others_that_could_be_the_label(tmp_path):
    rows = [(text, "x", label) for text, label in [("great", "g"), ("fine", "g"), ("awful", "b"), ("poor", "b")]]
    path = write(tmp_path, "csv", ("text", "label_text", "kind of it"), rows)
    assert {record.label for record in read(path, "label=kind of it")} == {"g", "b"}


def test_scored_pairs_and_relations_are_known_too(tmp_path):
    scored = write(tmp_path, "csv", ("sentence1", "sentence2", "score"), [("a", "b", 4.5), ("c", "d", 1)])
    assert read(scored) == list(convert.sts([("a", "b", 4.5)], "faq"))
    related = write(tmp_path, "jsonl", ("premise", "hypothesis", "label"), [("p", "h", "entailment"), ("p", "i", "no")])
    assert read(related) == list(convert.nli([("p", "h", "entailment"), ("p", "i", "no")], "faq"))


@pytest.mark.parametrize(
    "names,columns,message",
    [
        (("Frage", "Antwort"), (), r"faq\.csv has no column query; it has Frage, Antwort: rename one"),
        (("question", "Antwort"), (), r"faq\.csv has no column query; it has question, Antwort"),
        (("Frage", "Antwort"), ("query=frage",), r"has no column frage; did you mean 'Frage'\? It has Frage, "),
        (("Frage", "Antwort"), ("Frage=query",), r"There is no column name 'Frage'"),
        (("Frage", "Antwort"), ("query",), r"'query' among the columns should be NAME=COLUMN"),
        (("Frage", "Antwort"), ("query=Frage", "positive=Frage"), r"'positive=Frage' .* a second time; leave one"),
        (
            ("question", "answer", "response"),
            (),
            r"has answer and response: rename the one .* in training .* positive=COLUMN",
        ),
        (("sentence1", "sentence2", "label"), (), r"pairs of sentences with a label; say what it is: sts:"),
    ],
)
def test_columns_that_say_nothing_clear_are_refused(tmp_path, names, columns, message):
    path = write(tmp_path, "csv", names, [tuple("abc"[: len(names)])])
    with pytest.raises(UserError, match=message):
        read(path, *columns)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"faq\.csv has no usable row \(it is empty\)"):
        read(write(tmp_path, "csv", ("question", "answer"), []))
    (tmp_path / "faq.csv").write_text("")
    with pytest.raises(UserError, match=r"faq\.csv has no usable row \(it is empty\)"):
        read(tmp_path / "faq.csv")
