"""Damaged rows, vectors, corpora and results: a command says what is wrong and writes nothing that looks complete."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.faults.conftest import ROWS

PREPARE = ("prepare", "--output", "out", "--tokenizer", "tokenizer", "--input")
MINE = (
    "mine",
    "--output",
    "out",
    "--query-embeddings",
    "queries.npy",
    "--document-embeddings",
    "documents.npy",
)
SEARCH = ("search", "--vectors", "documents.npy", "--queries", "queries.npy", "--output", "hits.jsonl", "--k", "2")
TEACHER = (
    "cache_teacher",
    "--corpus",
    "corpus",
    "--output",
    "out",
    "--vectors",
    "teacher.npy",
    "--texts",
    "texts.jsonl",
)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()

ROW_FILES = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n\n",
    "cut.jsonl": LINES[:-9],
    "list.jsonl": b"[1, 2]\n",
    "numbers.jsonl": b"1\n2\n",
    "no_fields.jsonl": b"{}\n{}\n",
    "other_fields.jsonl": b'{"a": "x", "b": "y"}\n',
    "binary.jsonl": bytes(range(256)),
    "utf16.jsonl": LINES.decode().encode("utf-16"),
    "latin1.jsonl": '{"query": "Köln", "positive": "größe"}\n'.encode("latin-1"),
    "nul.jsonl": LINES.replace(b"red", b"\x00"),
    "one_array.json": json.dumps(ROWS).encode()[:-1],
    "object.json": b'{"rows": 3}',
    "scalar.json": b"3",
    "empty.json": b"",
    "empty.parquet": b"",
    "magic.parquet": b"PAR1PAR1",
    "text.parquet": b"query,positive\n",
    "empty.csv": b"",
    "header.csv": b"query,positive\n",
    "quotes.csv": b'query,positive\n"a,b\n',
    "wide.csv": b"query,positive\na,b,c,d\n",
    "empty.tsv": b"",
    "no_gzip.jsonl.gz": LINES,
    "cut.jsonl.gz": gzip.compress(LINES)[:-20],
    "no_zstd.jsonl.zst": LINES,
    "page.html": b"<html>",
    "archive.zip": b"PK\x03\x04",
    "model.safetensors": b"\x00" * 16,
}


@pytest.mark.parametrize("command", [PREPARE, MINE], ids=["prepare", "mine"])
@pytest.mark.parametrize("name", ROW_FILES)
def test_a_file_without_one_good_row(inputs, run, command, name):
    (inputs / name).write_bytes(ROW_FILES[name])
    code, _ = run(*command, name)
    if not code:  # what could be read was read
        assert name in ("cut.jsonl", "nul.jsonl", "wide.csv", "latin1.jsonl"), "nothing was there to be read"


TEXTS = {"empty": b"", "binary": bytes(range(128, 256)), "utf16": "red\n".encode("utf-16"), "nul": b"\x00\n\x00\n"}


@pytest.mark.parametrize("content", TEXTS)
def test_texts_that_are_none(inputs, run, content):
    (inputs / "in.txt").write_bytes(TEXTS[content])
    code, _ = run("encode", "--model", "model", "--input", "in.txt", "--output", "out.npy")
    assert code or np.isfinite(np.load("out.npy")).all()


COLUMNS = {
    "numbers": pa.table({"text": [1, 2]}),
    "lists": pa.table({"text": [["a"], ["b"]]}),
    "structs": pa.table({"text": [{"a": "b"}]}),
    "other name": pa.table({"body": ["a"]}),
    "null": pa.table({"text": pa.array([None, None], pa.string())}),
    "bytes": pa.table({"text": [b"\xff\xfe"]}),
    "no rows": pa.table({"text": pa.array([], pa.string())}),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_holds_no_texts(inputs, run, column):
    pq.write_table(COLUMNS[column], "in.parquet")
    code, _ = run("encode", "--model", "model", "--input", "in.parquet", "--output", "out.npy")
    assert code or (column == "no rows" and len(np.load("out.npy")) == 0)


def vectors(change):
    def write(path):
        np.save(path, change(np.load(path)))

    return write


def poisoned(value):
    def change(x):
        x[1, 3] = value
        return x

    return change


VECTORS = {
    "no rows": vectors(lambda x: x[:0]),
    "no columns": vectors(lambda x: x[:, :0]),
    "one dimension": vectors(lambda x: x[0]),
    "three dimensions": vectors(lambda x: x[None]),
    "a number": vectors(lambda x: x[0, 0]),
    "other width": vectors(lambda x: x[:, :8]),
    "integers": vectors(lambda x: x.astype(np.int8)),
    "complex": vectors(lambda x: x.astype(np.complex64)),
    "strings": vectors(lambda x: x.astype(str)),
    "booleans": vectors(lambda x: x > 0),
    "dates": vectors(lambda x: np.zeros(x.shape, "datetime64[s]")),
    "NaN": vectors(poisoned(np.nan)),
    "infinity": vectors(poisoned(np.inf)),
    "objects": lambda path: np.save(path, np.array([{"a": 1}], object), allow_pickle=True),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("0.1 0.2"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:128]),
    "header of nonsense": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x08\x00{'a': 1}" + bytes(40)),
    "huge shape": lambda path: path.write_bytes(path.read_bytes().replace(b", 64)", b", 999999999999)", 1)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", VECTORS)
def test_vectors_that_are_none(inputs, refused, damage):
    VECTORS[damage](inputs / "documents.npy")
    sentence = refused(*SEARCH)
    assert "documents" in sentence or (damage == "other width" and "vectors" in sentence)
    assert not (inputs / "hits.jsonl").exists()


@pytest.mark.parametrize("damage", [name for name in VECTORS if name != "other width"])
def test_a_teachers_vectors_that_are_none(inputs, run, refused, damage):
    assert run("cache_teacher", "--corpus", "corpus", "--list-texts", "texts.jsonl") == (0, "")
    np.save("teacher.npy", np.ones((len((inputs / "texts.jsonl").read_text().splitlines()), 64), np.float32))
    VECTORS[damage](inputs / "teacher.npy")
    assert "teacher.npy" in refused(*TEACHER)


CARD = {"list": "[]", "null": "null", "empty": "", "cut": '{"datasets": [', "no fields": "{}", "number": "3"}
CARD |= {"datasets of strings": '{"datasets": ["a"]}', "another version": '{"version": 99, "datasets": []}'}


@pytest.mark.parametrize("content", CARD)
def test_a_corpus_whose_card_is_damaged(inputs, refused, content):
    (card,) = [path for path in (inputs / "corpus").glob("*.json")]
    card.write_text(CARD[content])
    assert "corpus" in refused("cache_teacher", "--corpus", "corpus", "--list-texts", "list.jsonl")
    config = tiny.overrides(inputs, **{"data.sources": "('corpus:corpus',)", "tokenizer.train_vocab": 0})
    arguments = ("--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir", "new")
    assert "corpus" in refused("train", *arguments, *config)


RESULTS = {"list": "[]", "null": "null", "empty": "", "cut": '{"a": [', "no fields": "{}", "strings": '{"scores": "x"}'}


@pytest.mark.parametrize("content", RESULTS)
def test_results_that_are_none(inputs, refused, content):
    (inputs / "results").mkdir()
    for name in ("results.json", "scores.json", "STSB.json"):
        (inputs / "results" / name).write_text(RESULTS[content])
    assert "results" in refused("report", "results", "--output", "page")
