"""Every field of every reader: a clean value, or missing; what cannot be read is counted and named."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import KINDS, Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.errors import UserError
from tests.data import tables

PAIR = {"query": "q", "positive": "p"}


def read(spec, skipped=None, **options) -> list[Record]:
    return list(open_source(str(spec), "train", SkipList() if skipped is None else skipped, **options))


def read_row(tmp_path, **fields) -> tuple[Record | None, dict]:
    """The record of a row with these fields, and the counts, in a file with one good row more."""
    path, skipped = tmp_path / "x.jsonl", SkipList()
    path.write_text("".join(json.dumps(row) + "\n" for row in (PAIR | fields, {"query": "good", "positive": "p"})))
    *records, _ = read(path, skipped)
    return (records[0] if records else None), dict(skipped)


# Missing values


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "json"])
def test_nan_is_missing_in_every_field(tmp_path, ending):
    fields = dict.fromkeys(("negatives", "kind", "language", "source", "label", "instruction", "symmetric"), math.nan)
    path = tables.write(tmp_path / f"x.{ending}", [PAIR | fields])
    assert read(path) == [Record("q", "p", source="x")]


@pytest.mark.parametrize("name", ["query", "positive"])
def test_nan_in_the_place_of_a_text_is_an_empty_text(tmp_path, name):
    assert read_row(tmp_path, **{name: math.nan}) == (None, {f"empty {name}": 1})


# Names


@pytest.mark.parametrize("value,name", [("a", "a"), (3, "3"), (3.0, "3"), (0, "0"), (True, "True"), (2.5, "2.5")])
def test_a_label_is_a_text_or_a_number_that_pandas_may_have_turned_into_a_float(tmp_path, value, name):
    assert read_row(tmp_path, label=value)[0].label == name


@pytest.mark.parametrize("column", ["label", "language", "lang", "source"])
@pytest.mark.parametrize("value", [["l"], {"a": 1}, []])
def test_what_names_nothing_costs_the_row_and_is_counted(tmp_path, column, value):
    assert read_row(tmp_path, **{column: value}) == (None, {f"{column} is neither a text nor a number": 1})


def test_an_instruction_is_a_text(tmp_path):
    assert read_row(tmp_path, instruction={"a": 1}) == (None, {"instruction is not a text": 1})


# Flags


@pytest.mark.parametrize(
    "value,truth",
    [
        *((value, True) for value in (True, "true", "True", " yes", 1, 1.0, "1")),
        *((value, False) for value in (False, "false", "FALSE", "no", 0, 0.0, "0", "", None)),
    ],
)
def test_a_flag_may_be_written_in_any_way(tmp_path, value, truth):
    assert read_row(tmp_path, symmetric=value)[0].symmetric is truth


@pytest.mark.parametrize("value", ["maybe", 2, [True], {}])
def test_a_flag_that_says_neither_is_counted(tmp_path, value):
    assert read_row(tmp_path, symmetric=value) == (None, {"symmetric is neither true nor false": 1})


# Negatives


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow", "csv", "tsv"])
def test_triplets_have_one_negative(tmp_path, ending):
    path = tables.write(tmp_path / f"x.{ending}", [PAIR | {"negative": "n"}])
    assert read(path) == [Record("q", "p", ("n",), source="x")]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_negatives_may_be_objects_with_a_text(tmp_path, ending):
    negatives = [{"text": "a", "score": 0.5, "title": None}, {"text": "b", "score": None, "title": "T"}]
    path = tables.write(tmp_path / f"x.{ending}", [PAIR | {"negatives": negatives}])
    assert read(path)[0].negatives == ("a", "T b")


@pytest.mark.parametrize("negatives", [[1, 2], [["n"]], [{"id": 5}], ["n", 7], [True]])
def test_negatives_that_are_no_texts_cost_the_row_and_are_counted(tmp_path, negatives):
    assert read_row(tmp_path, negatives=negatives) == (None, {"a negative is not a text": 1})


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_table_may_hold_lists_as_json(tmp_path, ending):
    path = tables.write(tmp_path / f"x.{ending}", [PAIR | {"negatives": '["a", "b"]'}])
    assert read(path)[0].negatives == ("a", "b")


def test_a_list_that_numpy_printed_is_counted(tmp_path):
    assert read_row(tmp_path, negatives="['a' 'b']") == (None, {"negatives are not a list": 1})


def test_a_negative_that_is_the_positive_is_none(tmp_path):
    assert read_row(tmp_path, negatives=["p", "n", " p\n"])[0].negatives == ("n",)
    counts = {"classification without negatives": 1}
    assert read_row(tmp_path, negatives=["p"], kind="classification") == (None, counts)


def test_a_judged_document_with_the_text_of_a_right_one_is_no_negative(tmp_path):
    tables.write(tmp_path / "corpus.jsonl", [{"_id": x, "text": text} for x, text in (("a", "t"), ("b", "t"))])
    tables.write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "question"}])
    tables.write(tmp_path / "qrels.jsonl", [{"query-id": "q", "corpus-id": x, "score": x == "a"} for x in "ab"])
    (record,) = read(f"beir:{tmp_path}")
    assert (record.positive, record.negatives) == ("t", ())


def test_columns_that_are_not_read_are_named_once(tmp_path, caplog):
    row = PAIR | {"hard_negatives": ["n"], "id": 3}
    for name in ("x.jsonl", "y.parquet"):
        read(tables.write(tmp_path / name, [row, row]))
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/x.jsonl: columns that are not read: hard_negatives, id."
    ]


# Instructions inside of texts


@pytest.mark.parametrize("template", ["Instruct: Find it.\nQuery: {}", "Instruct: Find it. \n Query:{}"])
def test_an_instruction_in_the_query_is_the_records(tmp_path, template):
    record, _ = read_row(tmp_path, query=template.format("who?"), instruction="another")
    assert (record.query, record.instruction) == ("who?", "Find it.")


def test_an_instruction_before_nothing_is_an_empty_query(tmp_path):
    assert read_row(tmp_path, query="Instruct: Find it.\nQuery: ") == (None, {"empty query": 1})


def test_an_instruction_in_a_judged_query_is_the_records(tmp_path):
    tables.write(tmp_path / "corpus.jsonl", [{"_id": "a", "text": "t"}])
    tables.write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "Instruct: Find it.\nQuery: who?"}])
    tables.write(tmp_path / "qrels.jsonl", [{"query-id": "q", "corpus-id": "a", "score": 1}])
    assert read(f"beir:{tmp_path}") == [Record("who?", "t", source=tmp_path.name, instruction="Find it.")]


# Names of classes


def write_classes(path, table: dict, column: str, names: list[str]) -> str:
    """A file as the `datasets` library writes it: classes are numbers, their names stand in the metadata."""
    features = {column: {"names": names, "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    written = pa.table(table).replace_schema_metadata(metadata)
    if path.suffix == ".parquet":
        pq.write_table(written, path)
    else:
        with pa.ipc.new_stream(str(path), written.schema) as stream:
            stream.write_table(written)
    return str(path)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_classes_have_the_names_that_the_file_gives_them(tmp_path, ending):
    table = {"text": [f"text {i}" for i in range(7)], "label": [0, 1, 2, 0, 1, 2, -1]}
    path = write_classes(tmp_path / f"x.{ending}", table, "label", ["bad", "fair", "good"])
    skipped = SkipList()
    records = read(f"classification:{path}", skipped)
    assert [record.positive for record in records] == ["bad", "fair", "good"] * 2
    assert skipped == {"no label or score": 1}


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 1}', b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_metadata_of_another_shape_gives_no_names(tmp_path, metadata, caplog):
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [record.positive for record in read(f"classification:{tmp_path}/x.parquet")] == ["0", "1"]
    assert "classification:x: the labels are numbers, not names" in caplog.text


def test_what_contradicts_is_never_right_whatever_the_order_of_the_classes(tmp_path):
    names = ["contradiction", "entailment", "neutral"]
    table = {"premise": ["p"] * 3, "hypothesis": ["runs", "sleeps", "old"], "label": [0, 1, 2]}
    path = write_classes(tmp_path / "x.parquet", table, "label", names)
    assert read(f"nli:{path}") == [Record("p", "sleeps", ("old", "runs"), source="x")]


def test_relations_that_are_bare_numbers_are_read_as_in_snli_and_that_is_said(tmp_path, caplog):
    rows = [{"premise": "p", "hypothesis": f"h{i}", "label": float(i)} for i in range(3)]
    assert read(f"nli:{tables.write(tmp_path / 'x.parquet', rows)}") == [Record("p", "h0", ("h1", "h2"), source="x")]
    assert "nli:x: relations are numbers without names, read as in SNLI (0 entailment" in caplog.text


# Scores


@pytest.mark.parametrize("scale,words", [(1, "0.8"), (5, None), (10, "8"), (100, "80")])
def test_scores_of_any_scale_are_read_on_their_own(tmp_path, caplog, scale, words):
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i * scale / 20} for i in range(21)]
    records = read(f"sts:{tables.write(tmp_path / 'x.jsonl', rows)}")
    assert [record.query for record in records[::2]] == [f"a {i}" for i in range(16, 21)]
    assert (f"pairs of {words} and more are taken for alike" in caplog.text) == bool(words)


def test_the_scale_is_that_of_a_whole_source_not_of_one_language(tmp_path):
    pairs = [("eng", 5), ("eng", 1), ("deu", 1), ("deu", 0.5)]
    rows = [{"sentence1": f"a{i}", "sentence2": "b", "score": s, "lang": x} for i, (x, s) in enumerate(pairs)]
    assert {record.query for record in read(f"sts:{tables.write(tmp_path / 'x.jsonl', rows)}")} == {"a0", "b"}


def test_scores_of_no_known_scale_are_refused(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "score": 1000}]
    with pytest.raises(UserError, match="sts:x has scores up to 1000; bring them to a scale of 0 to 1, 5, 10 or 100"):
        read(f"sts:{tables.write(tmp_path / 'x.jsonl', rows)}")


@pytest.mark.parametrize("score", [math.nan, math.inf, "much", None, [1]])
def test_a_judgement_that_is_no_number_is_counted(tmp_path, score):
    tables.write(tmp_path / "corpus.jsonl", [{"_id": "a", "text": "t"}])
    tables.write(tmp_path / "queries.jsonl", [{"_id": 1.0, "text": "q"}])
    judged = [{"query-id": "1", "corpus-id": "a", "score": 1}, {"query-id": "1", "corpus-id": "b", "score": score}]
    tables.write(tmp_path / "qrels.jsonl", [*judged, {"query-id": None, "corpus-id": "a", "score": 1}])
    skipped = SkipList()
    assert read(f"beir:{tmp_path}", skipped) == [Record("q", "t", source=tmp_path.name)]
    assert skipped == {"judgement without a number": 1, "judgement without an id": 1}


# Anything


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "title", "x"]), inner),
    max_leaves=4,
)
FIELDS = (
    "query",
    "positive",
    "negative",
    "negatives",
    "kind",
    "language",
    "source",
    "label",
    "instruction",
    "symmetric",
)
rows_of_anything = st.lists(st.dictionaries(st.sampled_from(FIELDS), values), max_size=4)


@given(rows_of_anything, st.booleans())
def test_any_fields_are_clean_records_or_counted(tmp_path_factory, rows, bare):
    path, skipped = tmp_path_factory.getbasetemp() / "fields.jsonl", SkipList()
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"query": "first", "positive": "p"}, *rows]))
    records = read(path, skipped, bare=bare)
    assert len(records) + skipped.total() == len(rows) + 1
    for record in records:
        texts = (record.query, record.positive, *record.negatives)
        assert all(isinstance(text, str) and text.strip() for text in texts) and record.kind in KINDS
        assert record.positive not in record.negatives and isinstance(record.symmetric, bool)
        assert all(isinstance(name, str) and name.lower() != "nan" for name in (record.language, record.source))
        assert all(text is None or isinstance(text, str) for text in (record.label, record.instruction))


labelled_rows = st.lists(
    st.fixed_dictionaries({"text": values, "label": values}, optional={"lang": values}), max_size=4
)


@given(labelled_rows)
def test_any_labelled_fields_are_records_or_counted(tmp_path_factory, rows):
    path, skipped = tmp_path_factory.getbasetemp() / "labelled.jsonl", SkipList()
    good = [{"text": f"good {i}", "label": label, "lang": "x y"} for i, label in enumerate("ab")]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, *rows]))
    records = read(f"classification:{path}", skipped)
    assert {record.query for record in records} >= {"good 0", "good 1"}
    for record in records:
        assert record.positive.strip() and record.positive != record.negatives[0] and "nan" not in record.language
