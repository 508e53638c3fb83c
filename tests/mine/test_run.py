"""`f2jax mine`: rows in, the same rows with hard negatives out; interruptions, choices, and what is refused."""

import errno
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from f2jax.cli import main
from f2jax.data.record import KINDS, Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.errors import UserError
from f2jax.inference import vectors as vectors_module
from f2jax.inference.encode_file import encode_file
from f2jax.inference.top_k import SearchBlocks
from f2jax.inference.truncation import Truncation
from f2jax.mine import result
from f2jax.mine import run as module
from f2jax.mine.options import MiningInput, MiningOptions
from f2jax.mine.rows import read_mining_rows
from f2jax.mine.run import FileVectors, ModelVectors, list_mining_texts, mine_folder
from tests import tiny_model
from tests.mine.test_negatives import exact_vectors, oracle

BLOCKS = SearchBlocks(queries=16, documents=32, chunk=1)
FEW = MiningOptions(top=12, skip=1, keep=4, max_score=0.5)
LOOSE = MiningOptions(top=20, skip=0, keep=4, max_score=None, relative=None)
PROMPTS = {"query": "Find: ", "document": "Text: ", "other": "Other: "}


class FakeEmbedder:
    """Exact unit vectors that depend on the text alone; stops once, after so many texts, as a lost machine would.

    Its default prompt is none that mining wants.
    """

    vectors_key, spans_hosts = "fake", False

    def __init__(self, stops_after: int | None = None, prompts: dict | None = None):
        self.stops_after, self.seen, self.prompts, self.truncation = stops_after, [], prompts or {}, Truncation()

    def encode(self, texts, prompt="Default: ", batch_size=1, show_progress_bar=None):
        texts = [prompt + text for text in texts]
        if self.stops_after is not None and len(self.seen) >= self.stops_after:
            raise KeyboardInterrupt
        self.seen += texts
        return np.concatenate([exact_vectors(1, seed=list(text.encode())) for text in texts])

    def encode_document(self, texts, **options):
        return self.encode(texts, self.prompts.get("document", ""), **options)

    def encode_each(self, pieces, prompt):
        return (self.encode(piece, prompt) for piece in pieces)


def write(path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def inputs(tmp_path) -> list[str]:
    """Sixty pairs of two sources; every fifth query has two right documents."""
    pairs = [{"query": f"query {i - (i % 5 == 4)}", "positive": f"document {i}", "language": "eng"} for i in range(60)]
    return [write(tmp_path / "one.jsonl", pairs[:35]), write(tmp_path / "two.jsonl", pairs[35:])]


def mined(inputs, output, options=FEW, embedder=None, corpus=None, only=KINDS, own=None, ratings=None, **more):
    given = MiningInput(tuple(inputs), corpus, only=tuple(only), own=own, ratings=ratings)
    return mine_folder(given, ModelVectors(embedder or FakeEmbedder()), str(output), options, blocks=BLOCKS, **more)


def read(path) -> list[Record]:
    return list(open_source(str(path), "train", SkipList()))


def files_of(folder) -> dict[str, bytes]:
    """{name: content}; unfinished work is in a folder."""
    return {path.name: b"" if path.is_dir() else path.read_bytes() for path in folder.iterdir()}


def expected(records: list[Record], options: MiningOptions) -> dict[str, list[str]]:
    """query → negatives, of one source, by brute force."""
    queries, documents = (
        list(dict.fromkeys(texts)) for texts in zip(*((r.query, r.positive) for r in records), strict=True)
    )
    right = [
        [n for n, text in enumerate(documents) if Record(q, text, source=records[0].source, language="eng") in records]
        for q in queries
    ]
    encode = partial(FakeEmbedder().encode, prompt="")
    found = oracle(encode(queries), encode(documents), right, options)
    return {query: [documents[n] for n in row] for query, row in zip(queries, found, strict=True)}


# What is written


@pytest.mark.parametrize("keep", [1, 4, 8])
def test_rows_get_the_negatives_of_a_brute_force_search_in_their_own_source(inputs, tmp_path, keep):
    options = MiningOptions(top=20, skip=1, keep=keep, max_score=0.5, relative=None)
    mined(inputs, tmp_path / "out", options)
    found = read(tmp_path / "out")
    sources = [read(path) for path in inputs]
    wanted = [(record, expected(some, options)[record.query]) for some in sources for record in some]
    assert [(r.query, r.positive, r.source) for r in found] == [(r.query, r.positive, r.source) for r, _ in wanted]
    assert [list(record.negatives) for record in found] == [negatives for _, negatives in wanted]


def test_a_folder_called_parquet_is_one_table_to_other_readers(inputs, tmp_path):
    mined(inputs, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")["query"].to_pylist()
    assert found == [record.query for record in read(tmp_path / "out.parquet")] != []


def test_all_other_fields_of_a_row_stay(tmp_path):
    full = {
        "kind": "clustering",
        "language": "swh",
        "source": "topics",
        "label": "7",
        "instruction": "Group.",
        "symmetric": True,
    }
    rows = [{"query": f"q{i}", "positive": f"p{i}"} | full | {"label": str(i)} for i in range(9)]
    path = write(tmp_path / "rows.jsonl", [*rows, {"query": "q", "positive": "p", "negatives": list("abcde")}])
    options = MiningOptions(top=20, skip=0, keep=2, max_score=None, relative=None)
    mined([path], tmp_path / "out", options)
    found = read(tmp_path / "out")
    for record, row in zip(found[1:], rows, strict=True):
        assert {name: getattr(record, name) for name in row} == row
        assert len(record.negatives) == 2
    assert found[0] == Record("q", "p", tuple("abcde"), source="rows")


def test_the_rows_own_negatives_come_first_and_mined_ones_fill_up(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(9)]
    rows[0]["negatives"] = ["own", "p3", "own"]
    rows[1]["negatives"] = ["a", "b", "c", "d", "e"]
    path = write(tmp_path / "rows.jsonl", rows)
    options = MiningOptions(top=20, skip=0, keep=4, max_score=None, relative=None)
    summary = mined([path], tmp_path / "out", options)
    first, second, third, *_ = read(tmp_path / "out")
    assert first.negatives[:2] == ("own", "p3") and len(set(first.negatives)) == 4
    assert second.negatives == ("a", "b", "c", "d", "e"), "what a row has is not cut"
    assert summary.brought == 7 and summary.negatives == 9 * 4 + 1

    mined([path], tmp_path / "replaced", options, own=0)
    replaced = read(tmp_path / "replaced")
    assert all(len(record.negatives) == 4 and "own" not in record.negatives for record in replaced)
    assert set(first.negatives[2:]) <= set(replaced[0].negatives)
    assert third == replaced[2]


def test_rows_of_other_kinds_stay_as_they_are(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}", "negatives": ["x"]} for i in range(9)]
    rows[4]["kind"] = "classification"
    options = MiningOptions(top=20, skip=0, keep=4, max_score=None, relative=None)
    summary = mined([write(tmp_path / "rows.jsonl", rows)], tmp_path / "out", options, only=["retrieval"], own=0)
    found = read(tmp_path / "out")
    assert found[4].negatives == ("x",) and summary.brought == 1
    assert all(len(record.negatives) == 4 and "p4" not in record.negatives for i, record in enumerate(found) if i != 4)


def test_two_rows_with_one_label_are_never_each_others_negatives(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}", "kind": "clustering", "label": i % 3} for i in range(30)]
    options = MiningOptions(top=30, skip=0, keep=20, max_score=None, relative=None)
    mined([write(tmp_path / "rows.jsonl", rows)], tmp_path / "out", options)
    for i, record in enumerate(read(tmp_path / "out")):
        assert set(record.negatives) == {f"p{n}" for n in range(30) if n % 3 != i % 3}


def test_documents_of_the_corpus_and_of_other_sources_may_be_negatives(inputs, tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(f"extra {i}\n" for i in range(50)))
    options = MiningOptions(top=100, skip=0, keep=60, max_score=None, relative=None)
    mined(inputs, tmp_path / "corpus", options, corpus=str(tmp_path / "corpus.txt"))
    mined(
        inputs,
        tmp_path / "across",
        MiningOptions(top=100, skip=0, keep=55, max_score=None, relative=None),
        across_sources=True,
    )
    both = {f"extra {i}" for i in range(50)}
    assert all(len(both & set(record.negatives)) > 20 for record in read(tmp_path / "corpus"))
    one, *_, two = read(tmp_path / "across")
    assert "document 59" in one.negatives and "document 0" in two.negatives


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_with_too_few_negatives_are_dropped_and_counted(tmp_path, kind):
    large = [{"query": f"q{i}", "positive": f"p{i}", "source": "large"} for i in range(40)]
    small = [{"query": f"q{i}", "positive": f"s{i}", "source": "small"} for i in range(5)]
    path = write(tmp_path / "rows.jsonl", [*large, *small, {"query": "", "positive": "x"}])
    options = MiningOptions(top=20, skip=1, keep=8, max_score=0.1, relative=None)
    summary = mined([path], tmp_path / "out", options)
    found = read(tmp_path / "out")
    passing = expected([Record(r["query"], r["positive"], source="large", language="eng") for r in large], options)
    kept = [query for query, negatives in passing.items() if len(negatives) == 8]
    assert [record.query for record in found] == kept and 0 < len(kept) < 40
    assert summary.dropped == {
        "fewer than 8 negatives, too few documents pass the thresholds": 40 - len(kept),
        "fewer than 8 negatives, too few documents are in the set": 5,
    }
    assert (summary.read, summary.written, summary.negatives) == (45, len(kept), 8 * len(kept))
    text = str(summary)
    assert f"{len(kept)} of 45 rows, 8.0 negatives each" in text
    assert "5 rows dropped: fewer than 8 negatives, too few documents are in the set" in text
    assert "1 rows not read: empty query" in text and "near documents rejected" in text


def test_rows_with_too_few_negatives_may_get_random_ones(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(40)]
    rows.append({"query": "alone", "positive": "single", "source": "single"})
    path = write(tmp_path / "rows.jsonl", rows)
    options = MiningOptions(top=20, skip=1, keep=8, max_score=0.05, relative=None, fewer="random")
    summary = mined([path], tmp_path / "out", options)
    found = read(tmp_path / "out")
    assert [record.query for record in found] == [f"q{i}" for i in range(40)]
    assert all(len(set(record.negatives)) == 8 and record.positive not in record.negatives for record in found)
    assert summary.dropped == {"fewer than 8 negatives, too few documents are in the set": 1}
    assert f"{summary.counts['random']} negatives drawn at random" in str(summary)
    mined([path], tmp_path / "seed", MiningOptions(**vars(options) | {"seed": 1}))
    assert read(tmp_path / "seed") != found


def test_a_classification_row_that_brings_its_wrong_label_is_not_dropped(tmp_path):
    """Its set has as many documents as there are classes."""
    rows = [
        {"query": f"q{i}", "positive": f"class {i % 3}", "kind": "classification", "label": i % 3} for i in range(9)
    ]
    for row in rows[:6]:
        row["negatives"] = ["wrong"]
    summary = mined([write(tmp_path / "rows.jsonl", rows)], tmp_path / "out", MiningOptions())
    assert [(record.query, record.negatives) for record in read(tmp_path / "out")] == [
        (f"q{i}", ("wrong",)) for i in range(6)
    ]
    assert summary.dropped == {"fewer than 24 negatives, too few documents are in the set": 3}


def test_a_classification_row_that_brings_negatives_needs_one_mined_one_in_their_place(tmp_path):
    rows = [
        {"query": f"q{i}", "positive": f"class {i % 3}", "kind": "classification", "label": i % 3, "negatives": ["x"]}
        for i in range(9)
    ]
    options = MiningOptions(skip=0, max_score=None, relative=None)
    mined([write(tmp_path / "rows.jsonl", rows)], tmp_path / "out", options, own=0)
    assert [len(record.negatives) for record in read(tmp_path / "out")] == [2] * 9


def test_a_rerankers_scores_are_not_of_the_new_negatives(tmp_path):
    rows = [
        {"query": f"q{i}", "positive": f"p{i}", "negatives": [f"n{i}"], "scores": [2.0, 1.0], "source": "s"}
        for i in range(6)
    ]
    options = MiningOptions(top=20, skip=0, keep=2, max_score=None, relative=None)
    mined([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", options)
    records = read(tmp_path / "out")
    assert len(records) == 6 and {record.scores for record in records} == {()}
    assert all(len(record.negatives) > 1 for record in records)


@pytest.mark.parametrize("row_group,waiting,rows", [(60, 10_000, 3), (10_000, 200, 3), (10_000, 10_000, 12)])
def test_few_rows_wait_in_memory_however_many_sources_come_mixed(tmp_path, monkeypatch, row_group, waiting, rows):
    """A row has 28 characters: query, positive and two negatives."""
    monkeypatch.setattr(result, "ROW_GROUP", row_group)
    monkeypatch.setattr(result, "WAITING", waiting)
    given = [{"query": f"query{i:02}", "positive": f"text{i:03}", "source": f"s/{i % 5}"} for i in range(60)]
    path = write(tmp_path / "rows.jsonl", given)
    mined([path], tmp_path / "out", MiningOptions(top=20, skip=0, keep=2, max_score=None, relative=None))
    names, sizes = [f"s_{k}.parquet" for k in range(5)], []
    assert files_of(tmp_path / "out").keys() == {*names, ".mined.json"}
    for k, name in enumerate(names):
        file = pq.ParquetFile(tmp_path / "out" / name)
        sizes += [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert file.read(["query"])["query"].to_pylist() == [row["query"] for row in given[k::5]]
        assert set(file.read(["source"])["source"].to_pylist()) == {f"s/{k}"}
    assert max(sizes) == rows


def test_inputs_of_one_source_are_its_parts(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(30)]
    paths = [write(tmp_path / name, rows[k::2]) for k, name in enumerate(["it-00000-of-00002.jsonl", "IT.jsonl"])]
    mined(paths, tmp_path / "out", MiningOptions(top=20, skip=0, keep=2, max_score=None, relative=None))
    found = {name: read(tmp_path / "out" / name) for name in ("it.parquet", "IT_part2.parquet")}
    assert [[r.query for r in some] for some in found.values()] == [[r["query"] for r in rows[k::2]] for k in (0, 1)]
    assert {(r.source, len(r.negatives)) for r in found["it.parquet"]} == {("it", 2)}


def test_the_files_of_an_earlier_call_go_and_others_stay(inputs, tmp_path):
    output = tmp_path / "out"
    mined(inputs, output)
    (output / "notes.parquet").write_text("mine")
    mined(inputs[1:], output, MiningOptions(top=12, skip=1, keep=3, max_score=0.5))
    assert files_of(output).keys() == {"two.parquet", "notes.parquet", ".mined.json"}
    assert {len(record.negatives) for record in read(output / "two.parquet")} == {3}


@pytest.mark.parametrize("operation,calls", [("replace", 0), ("replace", 1), ("unlink", 0), ("unlink", 1)])
def test_a_call_that_is_killed_while_it_replaces_an_earlier_one_leaves_either(
    inputs, tmp_path, monkeypatch, operation, calls
):
    """The earlier result has one.parquet and two.parquet, the new one both of them in other files."""
    output, others = tmp_path / "out", [str(tmp_path / f"{k}{Path(path).name}") for k, path in enumerate(inputs)]
    for path, other in zip(inputs, others, strict=True):
        Path(other).write_bytes(Path(path).read_bytes())
    mined(inputs, output)
    original, left = getattr(Path, operation), iter(range(calls))

    def operate(path, *arguments, **options):
        of_output = path.suffix == ".parquet" and output in {path.parent, *(name.parent for name in arguments)}
        if of_output and next(left, None) is None:
            raise KeyboardInterrupt
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, operation, operate)
        mined(others, output)
    names = {path.name for path in output.glob("*.parquet")}
    assert {"one.parquet", "two.parquet"} <= names or {"0one.parquet", "1two.parquet"} <= names
    mined(others, output)
    mined(others, tmp_path / "reference")
    assert files_of(output) == files_of(tmp_path / "reference")


@pytest.mark.parametrize("spec", ["out", "out/*.parquet", "out/one.parquet", "classification:out"])
def test_an_input_in_the_output_is_refused(inputs, tmp_path, spec):
    mined(inputs, tmp_path / "out")
    before = files_of(tmp_path / "out")
    spec = spec.replace("out", f"{tmp_path}/out", 1)
    with pytest.raises(UserError, match=r"The input .*/out/one\.parquet is inside the output .*/out, which would"):
        mined([inputs[0], spec], tmp_path / "out", own=2)
    assert files_of(tmp_path / "out") == before


def test_an_input_that_changes_in_between_is_refused(inputs, tmp_path, monkeypatch):
    original = module.mine_negatives

    def mine_and_change(*arguments):
        yield from original(*arguments)
        write(tmp_path / "two.jsonl", [{"query": "other", "positive": "text"}])

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"two\.jsonl has changed since it was read"):
        patch.setattr(module, "mine_negatives", mine_and_change)
        mined(inputs, tmp_path / "out")
    assert files_of(tmp_path / "out") == {".partial": b""}


def test_a_second_round_keeps_a_part_of_the_first_ones_negatives(inputs, tmp_path):
    """The rows of the first round are the input of the second, by a newer model."""
    options = MiningOptions(top=20, skip=1, keep=4, max_score=0.5, relative=None)
    mined(inputs, tmp_path / "first", options)
    newer = FakeEmbedder(prompts={"query": "Newer: "})
    mined([str(tmp_path / "first")], tmp_path / "second", options, newer, own=2)
    mined([str(tmp_path / "first")], tmp_path / "alone", options, newer, own=0)
    for first, second, alone in zip(*(read(tmp_path / name) for name in ("first", "second", "alone")), strict=True):
        rest = [text for text in alone.negatives if text not in first.negatives[:2]]
        assert list(second.negatives) == [*first.negatives[:2], *rest][:4] and first.negatives != alone.negatives


@pytest.mark.parametrize("fewer", ["drop", "random"])
def test_what_a_reranker_rates_as_right_is_no_negative(inputs, tmp_path, fewer):
    options = MiningOptions(top=30, skip=0, keep=4, max_score=0.5, relative=None, fewer=fewer)
    mined(inputs, tmp_path / "first", options)
    pairs = [(r.query, text) for r in read(tmp_path / "first") for text in r.negatives]
    scored = {pair: (i * 7 % 10) / 10 for i, pair in enumerate(pairs)}
    rows = [{"query": f"Instruct: Find.\nQuery: {q}", "document": d, "score": s} for (q, d), s in scored.items()]
    ratings = write(tmp_path / "ratings.jsonl", rows)
    mined(inputs, tmp_path / "anew", options, ratings=ratings)
    summary = mined([str(tmp_path / "first")], tmp_path / "second", options, ratings=ratings)
    assert f"{summary.counts['rated']:,} near documents rejected: they are rated as right answers" in str(summary)
    for record, anew, second in zip(*(read(tmp_path / name) for name in ("first", "anew", "second")), strict=True):
        right = {text for text in record.negatives if scored[record.query, text] >= 0.5}
        assert right and not right & {*anew.negatives, *second.negatives}
        kept = [text for text in record.negatives if text not in right]
        assert list(second.negatives[: len(kept)]) == kept and len(second.negatives) == len(anew.negatives) == 4
        if fewer == "drop":
            assert list(anew.negatives[: len(kept)]) == kept, "those that pass are the nearest"


@pytest.mark.parametrize(
    "rows,message",
    [
        ([{"query": "q", "score": 1}], "has no column document; it has query, score: rename one."),
        ([{"query": "q", "document": "d", "score": "high"}], ":1: row without query, document and score; fix or"),
        ([{"query": None, "document": "d", "score": 1}], ":1: row without query, document and score; fix or"),
    ],
)
def test_ratings_that_are_none(inputs, tmp_path, rows, message):
    with pytest.raises(UserError, match=re.escape(message)):
        mined(inputs, tmp_path / "out", ratings=write(tmp_path / "ratings.jsonl", rows))
    assert not (tmp_path / "out").exists()


# Vectors


def test_a_model_puts_its_prompts_before_the_texts(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(4)]
    rows[1]["query"] = "Instruct: Find it.\nQuery: q1"
    rows[2]["instruction"] = "Say."
    path = write(tmp_path / "rows.jsonl", rows)
    documents = [f"Text: p{i}" for i in range(4)]
    for name, prompt in ((None, "Find: "), ("other", "Other: ")):
        embedder = FakeEmbedder(prompts=PROMPTS)
        options = MiningOptions(top=3, skip=0, keep=3, max_score=None, relative=None)
        mine_folder(MiningInput([path]), ModelVectors(embedder, name), str(tmp_path / "out"), options)
        asked = [f"{prompt}q0", "Instruct: Find it.\nQuery: q1", "Instruct: Say.\nQuery: q2", f"{prompt}q3"]
        assert list(dict.fromkeys(embedder.seen)) == asked + documents
    with pytest.raises(UserError, match="no prompt named 'qurey'; did you mean 'query'"):
        ModelVectors(FakeEmbedder(prompts=PROMPTS), "qurey")


def test_vectors_of_another_tool_give_the_same_bytes(inputs, tmp_path):
    """List the texts, embed them by `f2jax encode` or anything else, mine with the files."""
    (tmp_path / "corpus.txt").write_text("extra\n")
    corpus = str(tmp_path / "corpus.txt")
    mined(inputs, tmp_path / "model", corpus=corpus)
    listed = list_mining_texts(MiningInput(inputs, corpus), str(tmp_path / "q.jsonl"), str(tmp_path / "d.jsonl"))
    assert listed.splitlines() == [f"{tmp_path}/q.jsonl: 48 queries.", f"{tmp_path}/d.jsonl: 61 documents."]
    for name in "qd":
        encode_file(FakeEmbedder(), str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}.npy"), prompt="")
    given = FileVectors(str(tmp_path / "q.npy"), str(tmp_path / "d.npy"))
    mine_folder(MiningInput(inputs, corpus), given, str(tmp_path / "given"), FEW, blocks=BLOCKS)
    assert files_of(tmp_path / "given")["one.parquet"] == files_of(tmp_path / "model")["one.parquet"]
    assert read(tmp_path / "given") == read(tmp_path / "model")


# Interruptions


class _Stops:
    """`mine`, which stops after so many blocks of all sources."""

    def __init__(self, after: int):
        self.left, self.original, self.starts = after, module.mine_negatives, []

    def __call__(self, queries, documents, answers, options, ids, starts, blocks):
        self.starts.append(starts)
        for block in self.original(queries, documents, answers, options, ids, starts, blocks):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield block


@pytest.mark.parametrize("fewer", ["drop", "random"])
@pytest.mark.parametrize("blocks,starts", [(0, [[0, 16], [0, 16]]), (1, [[16], [0, 16]]), (2, [[0, 16]]), (3, [[16]])])
def test_mining_goes_on_from_the_last_whole_block(inputs, tmp_path, monkeypatch, blocks, starts, fewer):
    """One source has 28 queries in blocks of 16 and 12, the other 20 in blocks of 16 and 4."""
    options = MiningOptions(top=12, skip=1, keep=4, max_score=0.1, fewer=fewer)
    reference = mined(inputs, tmp_path / "reference", options)
    with monkeypatch.context() as patch:
        patch.setattr(module, "mine_negatives", _Stops(blocks))
        with pytest.raises(KeyboardInterrupt):
            mined(inputs, tmp_path / "out", options)
    assert files_of(tmp_path / "out") == {".partial": b""}

    second, embedder = _Stops(100), FakeEmbedder()
    monkeypatch.setattr(module, "mine_negatives", second)
    summary = mined(inputs, tmp_path / "out", options, embedder)
    assert second.starts == starts
    assert embedder.seen == [], "the vectors are kept"
    assert files_of(tmp_path / "out") == files_of(tmp_path / "reference")
    assert str(summary).replace("out", "reference") == str(reference)


@pytest.mark.parametrize("stops_after", [0, 1, 30, 49, 50, 90])
def test_embedding_goes_on_from_the_last_whole_piece(inputs, tmp_path, monkeypatch, stops_after):
    monkeypatch.setattr(vectors_module, "PIECE", 10)
    mined(inputs, tmp_path / "reference")
    with pytest.raises(KeyboardInterrupt):
        mined(inputs, tmp_path / "out", embedder=FakeEmbedder(stops_after))
    second = FakeEmbedder()
    mined(inputs, tmp_path / "out", embedder=second)
    assert len(second.seen) <= 48 + 60 - stops_after + 10
    assert files_of(tmp_path / "out") == files_of(tmp_path / "reference")


def test_vectors_of_other_texts_are_refused_and_other_rules_find_those_that_are_there(inputs, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, "mine_negatives", _Stops(1))
        with pytest.raises(KeyboardInterrupt):
            mined(inputs, output)
    with pytest.raises(UserError, match=r"queries\.npy belongs to another model, other texts or other options; delete"):
        mined(inputs[:1], output)
    embedder = FakeEmbedder()
    options = MiningOptions(top=12, skip=1, keep=4)
    mined(inputs, output, options, embedder, across_sources=True)
    assert embedder.seen == []
    mined(inputs, tmp_path / "reference", options, across_sources=True)
    assert files_of(output) == files_of(tmp_path / "reference")


def test_where_no_row_is_left_other_rules_may_be_tried(inputs, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UserError) as error:
        mined(inputs, output, MiningOptions(keep=90))
    assert str(error.value) == (
        "No row is left: fewer than 90 negatives, too few documents are in the set; "
        "lower --keep or --skip, or give --fewer random."
    )
    assert files_of(output) == {".partial": b""}
    (tmp_path / "single.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    with pytest.raises(UserError, match=r"too few documents are in the set; give --documents\.$"):
        mined([str(tmp_path / "single.jsonl")], tmp_path / "none", MiningOptions(keep=90, fewer="random"))
    embedder = FakeEmbedder()
    mined(inputs, output, FEW, embedder)
    assert embedder.seen == [] and read(output)


def test_the_same_rows_in_other_files_are_written_anew(inputs, tmp_path, monkeypatch):
    """The first of two files was done."""

    def cut(at: int) -> list[str]:
        rows = [{"query": f"q{i}", "positive": f"p{i}", "source": "s"} for i in range(60)]
        return [write(tmp_path / "a.jsonl", rows[:at]), write(tmp_path / "b.jsonl", rows[at:])]

    def stop_at_second(writer, number):
        if number:
            raise KeyboardInterrupt
        original(writer, number)

    original = result.ResultWriter.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(result.ResultWriter, "write", stop_at_second)
        mined(cut(30), tmp_path / "out", LOOSE)
    mined(cut(10), tmp_path / "out", LOOSE)
    mined(cut(10), tmp_path / "reference", LOOSE)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "reference")


def test_a_complete_output_is_left_as_it_is_and_one_that_lacks_a_file_is_made_again(inputs, tmp_path):
    output, embedder = tmp_path / "out", FakeEmbedder()
    mined(inputs, output)
    complete, times = files_of(output), {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert mined(inputs, output, embedder=embedder) is None and embedder.seen == []
    assert times == {path: path.stat().st_mtime_ns for path in output.iterdir()}
    (output / "two.parquet").unlink()
    mined(inputs, output)
    assert files_of(output) == complete


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="which files are open is read from /proc")
def test_no_file_is_open_when_the_work_is_deleted_and_work_that_stays_is_only_told(
    inputs, tmp_path, monkeypatch, caplog
):
    """NFS keeps an open file, and with it its folder."""
    held = []

    def refuse(path, **options):
        if path.name != ".partial":
            return original(path, **options)
        descriptors = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        maps = Path("/proc/self/maps").read_text().splitlines()
        held.extend(line for line in descriptors + maps if str(path) in line)
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    original = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        mined(inputs, tmp_path / "out", LOOSE)
    assert held == [] and len(read(tmp_path / "out")) == 60
    assert "/.partial cannot be deleted: Directory not empty; delete it, the result is complete." in caplog.text


# What is refused


def test_a_disk_that_is_too_full_is_said_before_the_work(inputs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"out cannot be written: No space left on device\."):
        mined(inputs, tmp_path / "out")


NOT_FLOATS = "should be a .npy file of floats, with a row for each text."


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("q.npy", np.ones((47, 96)), "has 47 vectors, but the input has 48 distinct queries; embed the texts that"),
        ("d.npy", np.ones((61, 96)), "has 61 vectors, but the input has 60 distinct documents; embed the texts that"),
        ("q.npy", np.ones((48, 96), np.int8), NOT_FLOATS),
        ("q.npy", np.ones(48), NOT_FLOATS),
        ("d.npy", b"no numbers", "cannot be read: it is no .npy file of numbers."),
        ("d.npy", None, "d.npy; check the path."),
        ("d.npy", np.ones((60, 64)), "have 96 and 64 dimensions; embed both with one model."),
        ("d.npy", np.full((60, 96), np.nan), "The vectors of the documents hold values that are not finite"),
    ],
)  # fmt: skip
def test_vectors_that_do_not_fit(inputs, tmp_path, name, content, message):
    np.save(tmp_path / "q.npy", exact_vectors(48, 0))
    np.save(tmp_path / "d.npy", exact_vectors(60, 1))
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        mine_folder(MiningInput(inputs), FileVectors(f"{tmp_path}/q.npy", f"{tmp_path}/d.npy"), f"{tmp_path}/out", FEW)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"--output": None}, "f2jax: mine needs --output, or a --list option."),
        ({"--output": "out.jsonl"}, "out.jsonl should be a local or mounted folder, in which each"),
        ({"--output": "gs://bucket/out"}, "should be a local or mounted folder"),
        ({"--list-queries": "q.txt"}, "q.txt should end in .jsonl, because a text may contain line breaks."),
        ({"--model": "runs/nano"}, "Give either --model, or both --query-embeddings and --document-embeddings."),
        ({"--query-embeddings": None}, "Give either --model, or both --query-embeddings and --document-embeddings."),
        ({"--query-embeddings": None, "--document-embeddings": None}, "Give either --model, or both"),
        ({"--max-rating": "0.7"}, "--max-rating would change nothing without --ratings; leave that out."),
        ({"--seed": "3"}, "--seed would change nothing without --fewer random; leave that out."),
        ({"--query-embeddings": None, "--document-embeddings": None, "--model": "nowhere"}, "There is no model folder"),
        ({"--prompt-name": "query"}, "--prompt-name would change nothing with --query-embeddings"),
        ({"--dtype": "bfloat16", "--batch-size": "8"}, "--dtype and --batch-size would change nothing with --query"),
        ({"--input": "nothing.jsonl"}, "There is no data file nothing.jsonl"),
        ({"--documents": "nothing.txt"}, "There is no file nothing.txt; check the path."),
        ({"--kinds": "one=retreival"}, "'one=retreival' among the kinds should be SOURCE=KIND"),
        ({"--only": "retreival"}, "There is no kind 'retreival'; did you mean 'retrieval'?"),
        ({"--max-score": "high"}, "f2jax: mine --max-score: invalid float or off value: 'high'"),
        ({"--relative": "-1"}, "relative=-1.0 should be 0 or more."),
        ({"--keep": "many"}, "f2jax: mine --keep: invalid int value: 'many'"),
        ({"--top": "10"}, "top=10 should be at least skip + keep = 29."),
        ({"--fewer": "keep"}, "fewer='keep' is not a choice; choose from drop, random"),
    ],
    ids=str,
)  # fmt: skip
def test_the_command_with_a_wrong_option(capsys, inputs, tmp_path, changes, message):
    options = {"--input": inputs[0], "--output": f"{tmp_path}/out"}
    options |= {"--query-embeddings": f"{tmp_path}/q.npy", "--document-embeddings": f"{tmp_path}/d.npy"} | changes
    argv = ["mine", *(f"{name}={value}" for name, value in options.items() if value is not None)]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("f2jax") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_the_command_mines_with_files_of_vectors(capsys, inputs, tmp_path):
    listing = [
        "mine",
        "--input",
        *inputs,
        "--list-queries",
        f"{tmp_path}/q.jsonl",
        "--list-documents",
        f"{tmp_path}/d.jsonl",
    ]
    assert main(listing) == 0
    for name in "qd":
        encode_file(FakeEmbedder(), str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}.npy"), prompt="")
    vectors = ["--query-embeddings", f"{tmp_path}/q.npy", "--document-embeddings", f"{tmp_path}/d.npy"]
    rules = ["--top", "20", "--skip", "2", "--keep", "3", "--max-score", "0.4", "--relative", "off"]
    rules += ["--fewer", "random", "--seed", "7"]
    assert main(["mine", "--input", *inputs, "--output", f"{tmp_path}/out", *vectors, *rules]) == 0
    assert f"{tmp_path}/out: 60 of 60 rows, 3.0 negatives each" in capsys.readouterr().out
    assert main(["mine", "--input", *inputs, "--output", f"{tmp_path}/out", *vectors, *rules]) == 0
    assert f"{tmp_path}/out is complete: it already has the result of this command." in capsys.readouterr().out
    options = MiningOptions(top=20, skip=2, keep=3, max_score=0.4, relative=None, fewer="random", seed=7)
    mined(inputs, tmp_path / "expected", options)
    assert read(tmp_path / "out") == read(tmp_path / "expected")


def test_the_command_mines_with_a_model(capsys, inputs, tmp_path):
    """Vectors are those of `encode_query` and `encode_document`."""
    embedder = tiny_model.make_embedder(tmp_path / "tokenizer")
    embedder.save_pretrained(tmp_path / "model")
    rules = ["--keep", "3", "--max-score", "off", "--relative", "off"]
    argv = ["mine", "--input", *inputs, "--model", f"{tmp_path}/model", "--output", f"{tmp_path}/by-model", *rules]
    assert main(argv) == 0
    assert "60 of 60 rows, 3.0 negatives each" in capsys.readouterr().out

    rows = read_mining_rows(MiningInput(tuple(inputs)), tmp_path / "rows")
    np.save(tmp_path / "q.npy", embedder.encode_query(list(rows.queries)))
    np.save(tmp_path / "d.npy", embedder.encode_document(list(rows.documents)))
    given, options = (
        FileVectors(f"{tmp_path}/q.npy", f"{tmp_path}/d.npy"),
        MiningOptions(keep=3, max_score=None, relative=None),
    )
    mine_folder(MiningInput(inputs), given, f"{tmp_path}/given", options)
    assert read(tmp_path / "by-model") == read(tmp_path / "given")
