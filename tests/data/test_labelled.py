"""Files of labelled data as sources: `TASK:PATH`, with rows as `convert.py` makes them."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import convert, is_single_input, open_source, source_files
from f2jax.errors import UserError
from tests.data import corpora


def read(spec: str, skipped: Counter | None = None) -> list[Record]:
    return list(open_source(spec, "train", SkipList() if skipped is None else skipped))


LABELLED = [("great", "good"), ("fine", "good"), ("awful", "bad"), ("poor", "bad")]


@pytest.mark.parametrize("task", ["clustering", "classification"])
def test_labelled_texts_become_rows_of_a_kind(tmp_path, task):
    path = corpora.write(tmp_path / "reviews.jsonl", [{"text": text, "label": label} for text, label in LABELLED])
    records = read(f"{task}:{path}")
    assert records == list(getattr(convert, task)(LABELLED, "reviews"))
    assert {record.kind for record in records} == {task} and len(records) == 4


def test_pairs_with_a_score_of_4_and_more_become_symmetric_rows(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": "4.2"}, {"sentence1": "c", "sentence2": "d", "score": 3.9}]
    same = {"source": "stsb", "symmetric": True}
    assert read(f"sts:{corpora.write(tmp_path / 'stsb.jsonl', rows)}") == [
        Record("a", "b", **same),
        Record("b", "a", **same),
    ]


@pytest.mark.parametrize("score", ["much", "", None, 10**400], ids=["word", "empty", "missing", "huge"])
def test_a_score_that_is_no_number_of_a_size_to_compare_is_counted(tmp_path, score):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 5}, {"sentence1": "c", "sentence2": "d", "score": score}]
    skipped = SkipList()
    assert len(read(f"sts:{corpora.write(tmp_path / 'stsb.jsonl', rows)}", skipped)) == 2
    assert skipped == {"no label or score": 1}


@pytest.mark.parametrize("names", [("entailment", "neutral", "contradiction"), (0, 1, 2)])
def test_entailed_hypotheses_become_positives_whether_relations_are_words_or_numbers(tmp_path, names):
    rows = [{"premise": "p", "hypothesis": f"h{i}", "label": name} for i, name in enumerate(names)]
    rows.append({"premise": "p", "hypothesis": "nobody agreed", "label": -1})
    assert read(f"nli:{corpora.write(tmp_path / 'x.jsonl', rows)}") == [Record("p", "h0", ("h1", "h2"), source="x")]


def test_languages_are_kept_apart_and_parts_of_a_source_together(tmp_path):
    rows = [{"text": f"{language} {text}", "label": label, "language": language} for language in ("deu", "eng")
            for text, label in LABELLED]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows[::2]), tmp_path / "intents.parquet")
    pq.write_table(pa.Table.from_pylist(rows[1::2]), tmp_path / "intents_part2.parquet")
    records = read(f"clustering:{tmp_path}")
    assert {record.source for record in records} == {"intents"} and len(records) == 8
    for record in records:
        assert {text[:3] for text in (record.query, record.positive, *record.negatives)} == {record.language}


def test_a_folder_of_labelled_data_stands_for_its_tables_too(tmp_path):
    (tmp_path / "stsb.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t5\n")
    (tmp_path / "README.txt").write_text("What this is.")
    assert [(record.query, record.positive) for record in read(f"sts:{tmp_path}")] == [("a", "b"), ("b", "a")]
    assert source_files(f"sts:{tmp_path}") == [f"{tmp_path}/stsb.tsv"]


def test_columns_of_any_name_can_be_named(tmp_path):
    path = corpora.write(tmp_path / "x.jsonl", [{"utt": text, "what": label} for text, label in LABELLED])
    assert read(f"classification:{path}#utt,what") == list(convert.classification(LABELLED, "x"))


def test_rows_without_a_text_or_label_are_counted(tmp_path):
    bad = [{"text": " ", "label": "good"}, {"text": "x", "label": None}, {"text": None, "label": "bad"}]
    rows = bad + [{"text": text, "label": label} for text, label in LABELLED]
    skipped = SkipList()
    assert len(read(f"clustering:{corpora.write(tmp_path / 'x.jsonl', rows)}", skipped)) == 4
    assert skipped == {"empty text": 2, "no label or score": 1}


def test_a_set_is_one_source_whose_content_is_that_of_all_its_files(tmp_path):
    paths = [corpora.write(tmp_path / f"x{end}.jsonl", [{"text": "a", "label": "b"}]) for end in ("", "_part2")]
    assert is_single_input(f"clustering:{tmp_path}") and source_files(f"clustering:{tmp_path}#text,label") == paths


@pytest.mark.parametrize(
    "spec,message",
    [
        ("clustering:{}#text", "clustering: takes 2 columns behind #, for text, label_text; got text"),
        ("sts:{}", r"x.jsonl has no column sentence1 or text1 or query; it has text, label: name the right ones by"),
        ("classification:{}", "gives no row; check its columns, and that it has more than one label"),
        ("nli:{}/nowhere", "There is no data file"),
    ],
)
def test_what_cannot_be_converted_is_one_clear_error(tmp_path, spec, message):
    path = corpora.write(tmp_path / "x.jsonl", [{"text": "a", "label": "b"}, {"text": "c", "label": "b"}])
    with pytest.raises(UserError, match=message):
        read(spec.format(path))
