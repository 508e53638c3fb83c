"""A reranker's scores of a row's documents: from the column `scores` to a batch, in memory and in a corpus."""

import math
import shutil

import numpy as np
import pytest

from f2jax.data.corpus import PreparedCorpus
from f2jax.data.dataset import build_datasets
from f2jax.data.instructions import Instructions
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import load_tokenizer
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.options import PrepareOptions
from tests.data import corpora

NONE = Instructions(enabled=False)


def scored_rows(count: int = 30) -> list[dict]:
    """Each document says its score, which no two have; every fourth row has none, and now and then one is null."""
    rows = []
    for i in range(count):
        documents = [f"document {8 * i + j}" for j in range(2 + i % 4)]
        scores = [None if i % 5 == 1 and j == 1 else 8 * i + j + 0.5 for j in range(len(documents))]
        row = {"query": f"query {i}", "positive": documents[0], "negatives": documents[1:]}
        rows.append(row | ({"scores": scores} if i % 4 else {}))
    return rows


def read(tmp_path, rows: list[dict]) -> tuple[list, SkipList]:
    skipped = SkipList()
    return list(open_source(corpora.write(tmp_path / "scored.jsonl", rows), "train", skipped)), skipped


@pytest.mark.parametrize(
    ("fields", "negatives", "scores"),
    [
        ({"negatives": ["a", "b"], "scores": [3, 2.5, -1]}, ("a", "b"), (3.0, 2.5, -1.0)),
        ({"negatives": '["a", "b"]', "scores": "[3, 2.5, -1]"}, ("a", "b"), (3.0, 2.5, -1.0)),
        (
            {"negative_1": "a", "negative_10": "c", "negative_2": "b", "scores": [3, 1, 2, 4]},
            ("a", "b", "c"),
            (3, 1, 2, 4),
        ),
        ({"negatives": ["", "b", " "], "scores": [3, 2, 1, 0]}, ("b",), (3, 1)),
        ({"negatives": ["right", "b"], "scores": [3, 2, 1]}, ("b",), (3, 1)),
        ({"negatives": ["a"]}, ("a",), ()),
        ({"scores": [3]}, (), (3,)),
    ],
)
def test_scores_stay_with_their_documents(tmp_path, fields, negatives, scores):
    (record,), _ = read(tmp_path, [{"query": "q", "positive": "right"} | fields])
    assert (record.negatives, record.scores) == (negatives, scores)


def test_a_score_that_is_null_is_none(tmp_path):
    (record,), _ = read(tmp_path, [{"query": "q", "positive": "p", "negatives": ["a"], "scores": [None, 2]}])
    assert math.isnan(record.scores[0]) and record.scores[1] == 2


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([1.0], "scores are not one for the positive and one for each negative; rename a column with another meaning"),
        ([1.0, "high"], "a score is not a number that float32 holds"),
        ([1.0, True], "a score is not a number that float32 holds"),
        ([1.0, 1e39], "a score is not a number that float32 holds"),
        ([1.0, 10**400], "a score is not a number that float32 holds"),
        (0.7, "scores are not a list"),
    ],
)
def test_rows_with_other_scores_are_counted(tmp_path, scores, reason):
    good = {"query": "q", "positive": "p", "negatives": ["a"]}
    records, skipped = read(tmp_path, [good, good | {"scores": scores}])
    assert len(records) == 1 and skipped == {reason: 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    path = corpora.write(folder / "scored.jsonl", scored_rows())
    plain = corpora.write(folder / "plain.jsonl", corpora.rows(20))
    options = PrepareOptions(max_length=32, instructions=NONE, validation_share=0.2, curate=CurationOptions())
    return folder, corpora.make(folder, [path, plain], options)


def by_document(rows: list[dict]) -> dict[str, float]:
    scores = {}
    for row in rows:
        documents = [row["positive"], *row["negatives"]]
        given = row.get("scores") or [None] * len(documents)
        scores |= {text: math.nan if score is None else score for text, score in zip(documents, given, strict=True)}
    return scores


def check(dataset, tokenizer) -> int:
    """Each document of the rows of a data set has its own score; returns how many have one."""
    expected, columns = by_document(scored_rows()), [2, 0, 3, 1]
    texts = dataset.rows(list(range(len(dataset))), columns, negatives=3)
    assert texts.score_bk.dtype == np.float32
    for b, i in np.argwhere(texts.length_bi[:, 1:] > 0):
        (tokens,) = texts.tokens(np.array([b]), np.array([i + 1]))
        assert texts.score_bk[b, i] == pytest.approx(expected[tokenizer.decode(tokens)], nan_ok=True)
    assert np.isnan(texts.score_bk[texts.length_bi[:, 1:] == 0]).all()
    return int((~np.isnan(texts.score_bk)).sum())


@pytest.mark.parametrize("indexed", [True, False])
def test_a_corpus_gives_each_document_its_score(corpus, tmp_path, indexed):
    folder, card = corpus
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    if not indexed:
        shutil.rmtree(tmp_path / "corpus/index")
    prepared = PreparedCorpus(tmp_path / "corpus")
    found = {training.name: (training, held) for training, held in prepared.splits()}
    tokenizer = load_tokenizer(prepared.tokenizer_folder)
    assert sum(check(dataset, tokenizer) for dataset in found["scored"]) > 40
    training = found["plain"][0]
    assert not training.is_scored and training.rows([0], [0], 1).score_bk is None
    entries = {entry["name"]: entry for entry in card["datasets"]}
    assert sum(entries["scored"]["scored"].values()) == sum("scores" in row for row in scored_rows())
    assert found["scored"][0].is_scored


def test_rows_in_memory_have_the_same_scores(corpus, tmp_path):
    tokenizer = load_tokenizer(corpus[0] / "tokenizer")
    (dataset,) = build_datasets(read(tmp_path, scored_rows())[0], tokenizer, 32, NONE)
    assert dataset.is_scored and check(dataset, tokenizer) > 40
    rows = scored_rows()
    rows[1]["scores"][0] += 1
    (other,) = build_datasets(read(tmp_path, rows)[0], tokenizer, 32, NONE)
    assert other.fingerprint() != dataset.fingerprint(), "a run that resumes sees other targets"


def test_tfds_reads_the_scores(corpus):
    """With the description that `prepare` wrote, a row that has none gives None."""
    import tensorflow_datasets as tfds

    folder, card = corpus
    entry = next(entry for entry in card["datasets"] if entry["name"] == "scored")
    rows = tfds.builder_from_directory(folder / "corpus/rows" / entry["folder"] / "1.0.0")
    found = [row["document_scores"] for row in rows.as_data_source(split="train")]
    assert sum(scores is not None for scores in found) == entry["scored"]["train"] < len(found)
    assert {scores.dtype for scores in found if scores is not None} == {np.dtype(np.float32)}
    plain = next(entry for entry in card["datasets"] if entry["name"] == "plain")
    features = tfds.builder_from_directory(folder / "corpus/rows" / plain["folder"] / "1.0.0").info.features
    assert "document_scores" not in features


def test_a_batch_has_the_scores_of_its_rows_and_room_for_all(corpus):
    prepared = PreparedCorpus(corpus[0] / "corpus")
    (training,) = [training for training, _ in prepared.splits() if training.name == "scored"]
    texts = training.rows([1, 2, 3], [1, 0], negatives=2)
    how = {"kind": "retrieval", "batch_size": 5, "rules": RowRules(64), "pad_id": 0}
    batch = assemble(texts, 4, scored=True, **how)
    assert batch.score_bk.shape == (5, 5)
    assert np.array_equal(batch.score_bk[:3, :3], texts.score_bk, equal_nan=True)
    assert np.isnan(batch.score_bk[3:]).all() and np.isnan(batch.score_bk[:, 3:]).all()
    assert assemble(texts, 4, **how).score_bk is None
    plain = training.__class__(prepared.folder, prepared.card["datasets"][1], "train", prepared._reader)
    assert np.isnan(assemble(plain.rows([0], [0], 1), 4, scored=True, **how).score_bk).all()
