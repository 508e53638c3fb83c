"""Hostile files and texts through every reader and curation: nothing breaks, and what goes is counted and listed."""

import io
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.tables import ENDINGS, read_rows
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions, CurationReport
from tests.prepare.curate.in_memory import curate

HOSTILE = {
    "lone surrogate": "before \ud83d after",
    "NUL": "before \0 after",
    "zero width": "be\u200bfore af\ufeffter",
    "bidirectional": "\u202ebefore\u202c after",
    "newlines": "before\r\nafter\rlater\u2028end",
    "megabyte": "before after " * 80_000,
    "marks": "a" + "\u0315\u0300" * 1_000,
    "nothing": "\u200b\0\u202e",
}
EVERYTHING = CurationOptions(identify_language=True, near_duplicates=0.8)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path, rows):
    """Parquet holds UTF-8, in which there is no lone surrogate."""
    rows = json.loads(json.dumps(rows).replace("\\ud83d ", ""))
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name,write", [("x.jsonl", write_jsonl), ("x.parquet", write_parquet)])
def test_hostile_texts_pass_the_readers_and_leave_curation_clean(tmp_path, name, write):
    rows = [{"query": text, "positive": f"positive {i}", "language": "\0"} for i, text in enumerate(HOSTILE.values())]
    rows += [{"query": f"query {i}", "positive": text, "language": "eng"} for i, text in enumerate(HOSTILE.values())]
    write(tmp_path / name, rows)
    skipped = SkipList()
    records = list(open_source(str(tmp_path / name), "train", skipped))
    assert len(records) == len(rows) and not skipped
    report = CurationReport()
    kept = list(curate(records, EVERYTHING, report))
    assert report.skipped == {"empty query": 1, "empty positive": 1} and report.kept == len(rows) - 2
    for record in kept:
        text = record.query + record.positive
        text.encode()
        assert not set(text) & set("\0\u200b\ufeff\u202e\u202c\r\u2028") and len(text) < 100_100


@pytest.mark.parametrize("name,write", [("jsonl", write_jsonl), ("parquet", write_parquet)])
def test_hostile_texts_pass_the_beir_reader(tmp_path, name, write):
    texts = list(HOSTILE.values())
    write(
        tmp_path / f"corpus.{name}", [{"_id": f"d{i}", "title": f"{i}", "text": text} for i, text in enumerate(texts)]
    )
    write(tmp_path / f"queries.{name}", [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts)])
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{(i + 1) % len(texts)}", "score": 1} for i in range(len(texts))]
    write(tmp_path / f"qrels.{name}", qrels)
    skipped = SkipList()
    records = list(open_source(f"beir:{tmp_path}", "train", skipped))
    assert len(records) == len(texts) and not skipped
    report = CurationReport()
    list(curate(records, CurationOptions(exact_duplicates=False), report))
    assert report.kept == len(texts) - 1 and report.skipped == {"empty query": 1}


def test_names_are_cleaned_like_texts(tmp_path):
    row = {
        "query": "q",
        "positive": "p",
        "source": "s\0",
        "label": "l\u200b",
        "instruction": "i\r\n",
        "language": "deu\u200e",
    }
    write_jsonl(tmp_path / "x.jsonl", [row])
    (record,) = curate(open_source(str(tmp_path / "x.jsonl"), "train", SkipList()), CurationOptions(), CurationReport())
    assert record == Record("q", "p", (), "retrieval", "deu", "s", "l", "i\n")


# Hostile files


@given(st.binary(max_size=200), st.sampled_from(ENDINGS))
def test_any_bytes_are_rows_or_one_clear_error(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("bytes") / f"x{ending}"
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in read_rows(str(path), SkipList(), lambda present: present))
    except UserError as error:
        assert str(path) in str(error)


PARTS = [b'{"query": "q", "positive": "p"}', b"\n", b"\r\n", b"\r", b"\xff", b"[", b"\0", b"{}"]


@given(st.lists(st.sampled_from(PARTS)).map(b"".join))
def test_any_mix_of_lines_is_read_or_counted(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes(b'{"query": "first", "positive": "p"}\n' + content)
    rows = 1
    for line in content.split(b"\n"):
        rows += 1 if b"\xff" in line else sum(bool(part.strip()) for part in line.split(b"\r"))
    skipped = SkipList()
    assert len(list(open_source(str(path), "train", skipped))) + skipped.total() == rows


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, newline):
    row = json.dumps({"query": "one\u2028line", "positive": "p"}, ensure_ascii=False)
    (tmp_path / "x.jsonl").write_bytes((row + newline).encode() * 3)
    (tmp_path / "x.tsv").write_bytes((f"query\tpositive{newline}" + f"one\u2028line\tp{newline}" * 3).encode())
    (tmp_path / "x.txt").write_bytes(f"one\u2028line{newline}".encode() * 3)
    for ending, column in (("jsonl", "query"), ("tsv", "query"), ("txt", "text")):
        rows = list(read_rows(str(tmp_path / f"x.{ending}"), SkipList(), lambda present: present))
        assert [row[column] for row in rows] == ["one\u2028line"] * 3


def test_json_that_is_nested_too_deep_is_counted(tmp_path):
    good = '{"query": "q", "positive": "p"}\n'
    (tmp_path / "x.jsonl").write_text(good + "[" * 200_000 + "\n" + good)
    skipped = SkipList()
    assert len(list(open_source(str(tmp_path / "x.jsonl"), "train", skipped))) == 2
    assert skipped == {"line is no JSON": 1}


def test_a_file_of_no_known_kind_is_an_error(tmp_path):
    with pytest.raises(
        UserError, match=r"notes\.md is not a known kind of file; data files end in \.parquet, \.arrow, \.jsonl"
    ):
        read_rows(str(tmp_path / "notes.md"), SkipList(), lambda present: present)


def test_rows_that_readers_leave_out_can_be_listed(tmp_path):
    good = {"query": "q", "positive": "p"}
    write_jsonl(tmp_path / "x.jsonl", [good, {"query": "", "positive": "x" * 999}, good])
    with open(tmp_path / "x.jsonl", "ab") as file:
        file.write(b"\xff\n\nno JSON\n")
    write_parquet(tmp_path / "y.parquet", [good, good | {"positive": " "}])
    listing = io.StringIO()
    skipped = SkipList(listing)
    assert len(list(open_source(str(tmp_path), "train", skipped))) == 3
    lines = [json.loads(line) for line in listing.getvalue().splitlines()]
    assert Counter(line["reason"] for line in lines) == skipped
    assert lines[0] == {"reason": "empty query", "where": f"{tmp_path}/x.jsonl:2"} | {"line": lines[0]["line"]}
    assert lines[0]["line"].startswith('{"query": ""') and len(lines[0]["line"]) == 200
    where = [line["where"].removeprefix(f"{tmp_path}/") for line in lines]
    assert where == ["x.jsonl:2", "x.jsonl:4", "x.jsonl:6", "y.parquet:1"]
    assert lines[3]["positive"] == " "


def test_a_list_without_a_file_only_counts():
    skipped = SkipList()
    skipped.skip("reason")
    assert skipped == {"reason": 1}
