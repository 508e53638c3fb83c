"""Texts without pairs: prepared, cached and distilled, alone and beside pairs."""

import json
from contextlib import nullcontext

import jax.numpy as jnp
import numpy as np
import pytest

from f2jax import Embedder
from f2jax import config as configs
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.teacher_vectors import TeacherVectors
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.train.cache_teacher import by_model, cache_teacher
from f2jax.train.loop import train
from f2jax.train.outside_teacher import list_texts
from f2jax.train.terms import batch_loss, check_learned
from tests import tiny, tiny_model
from tests.data import corpora
from tests.tiny import loss_config

WEIGHTS = {"loss.contrastive_weight": 0, "loss.distill": "cosine", "loss.distill_texts_weight": 0.7}
TEMPERATURES = {"loss.distill_temperature": 0.1, "loss.distill_teacher_temperature": 0.03}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of 40 texts, of which some come twice, a student, and the vectors of a teacher. Read only."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = corpora.make_tokenizer(folder / "tokenizer")
    rows = [{"query": f"{tiny.WORDS[i // 2 % 13]} {i // 2}", "kind": "texts"} for i in range(40)]
    corpora.make(folder, [corpora.write(folder / "plain.jsonl", rows)])
    for name, width in (("teacher", 96), ("student", 64)):
        architecture = size("tiny", width=width)
        card = tiny_model.ModelSettings(96, {}, (width,))
        Embedder(architecture, tiny_model.random_params(architecture), tokenizer, card).save_pretrained(folder / name)
    corpus = PreparedCorpus(folder / "corpus")
    cache_teacher(corpus, folder / "vectors", by_model(str(folder / "teacher"), "float32", corpus), dtype="float32")
    return folder


def settings(folder, **changes):
    values = {"init_from": str(folder / "student"), "data.sources": f"('corpus:{folder / 'corpus'}',)", "steps": 1}
    values |= {"teacher.cache": str(folder / "vectors"), "tokenizer.train_vocab": 0, "optim.warmup_steps": 0}
    values |= {"optim.peak_lr": 1e-30, "optim.end_lr": 0, "data.batch_size": 64, "log.every": 1}
    values |= {"loss.matryoshka": False, "model.dtype": "float32"} | WEIGHTS | TEMPERATURES
    return values | changes


def test_the_loss_of_texts_alone_is_that_of_each_vector_worked_out_by_itself(folder, tmp_path):
    values = train(tiny.config(tmp_path, **settings(folder)), tmp_path / "run")
    assert set(values) >= {"loss_distill", "loss_distill_texts"} and not any("accuracy" in name for name in values)

    corpus = PreparedCorpus(folder / "corpus")
    ((data, _),) = corpus.splits(TeacherVectors(folder / "vectors", corpus))
    rows, all_i = data.rows(range(len(data)), (), 0), (np.arange(len(data)), np.zeros(len(data), int))
    queries = rows.tokens(*all_i)
    student_ie = Embedder.from_pretrained(folder / "student").encode_tokens(queries)
    student_ie, teacher_ie = (
        x_ie / np.linalg.norm(x_ie, axis=1, keepdims=True) for x_ie in (student_ie, rows.vectors(*all_i))
    )
    cut_ie = rows.vectors(*all_i)[:, :64]
    cut_ie /= np.linalg.norm(cut_ie, axis=1, keepdims=True)
    assert values["loss_distill"] == pytest.approx(1 - (student_ie * cut_ie).sum(1).mean(), abs=1e-5)

    distinct = list({ids.tobytes(): i for i, ids in enumerate(queries)}.values())
    assert 10 < len(distinct) < len(queries)
    divergences = []
    for i in distinct:
        others = [c for c in distinct if c != i]
        logits = [x_ie[others] @ x_ie[i] / t for x_ie, t in ((student_ie, 0.1), (teacher_ie, 0.03))]
        log_s, log_t = (x - np.log(np.exp(x).sum()) for x in logits)
        divergences.append((np.exp(log_t) * (log_t - log_s)).sum())
    assert values["loss_distill_texts"] == pytest.approx(np.mean(divergences), rel=1e-4)
    assert values["loss"] == pytest.approx(values["loss_distill"] + 0.7 * values["loss_distill_texts"], rel=1e-5)
    assert values["validation/plain/loss"] > 0
    assert list_texts(corpus, tmp_path / "listed.jsonl") == 20, "for a teacher of another tool, each once"


def test_beside_pairs_texts_have_the_terms_of_the_teacher_alone(folder, tmp_path):
    """At a rate of 1e-30 the terms of a batch are those of the first step, whatever the other batches are."""
    rows = [{"query": f"{word} {i}", "positive": f"{word} {i} {i}"} for i, word in enumerate(tiny.WORDS * 3)]
    texts = [{"query": f"{word} {i}", "kind": "texts"} for i, word in enumerate(tiny.WORDS)]
    files = [corpora.write(tmp_path / f"{name}.jsonl", part) for name, part in (("pairs", rows), ("plain", texts))]
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    corpora.make(tmp_path, files)
    corpus = PreparedCorpus(tmp_path / "corpus")
    cache_teacher(corpus, tmp_path / "vectors", by_model(str(folder / "teacher"), "float32", corpus), dtype="float32")
    changes = {"data.sources": f"('corpus:{tmp_path / 'corpus'}',)", "teacher.cache": str(tmp_path / "vectors")}
    changes |= {"steps": 4, "data.batch_size": 16, "data.programs": 2, "log.validate_every": 0}
    changes |= {"loss.contrastive_weight": 0.5, "loss.distill_in_batch_weight": 2}
    train(tiny.config(tmp_path, **settings(folder, **changes)), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    pairs, plain = ([line for line in lines if f"{name}/loss" in line] for name in ("pairs", "plain"))
    assert pairs and plain and len(pairs) + len(plain) == 4
    alike = {"loss_distill": 1.0, "loss_distill_texts": 0.7}
    weights = alike | {"loss_hard": 0.5, "loss_in_batch": 0.5, "loss_distill_in_batch": 2.0}
    for group, expected in ((pairs, weights), (plain, alike)):
        for line in group:
            assert {name for name in line if name.startswith("loss_")} == expected.keys()
            total = sum(weight * line[name] for name, weight in expected.items())
            assert line["loss"] == pytest.approx(total, rel=1e-5) and total > 0.1
    assert all("accuracy" in line for line in pairs) and not any("accuracy" in line for line in plain)


@pytest.mark.parametrize(
    "has_teacher,weights,refused",
    [
        (True, {}, False),
        (True, {"distill_weight": 0, "distill_texts_weight": 1}, False),
        (True, {"distill_weight": 0, "distill_hard_weight": 1}, True),
        (False, {}, True),
        (False, {"spread_weight": 1}, True),
    ],
)
def test_texts_from_which_nothing_is_learned_are_refused(has_teacher, weights, refused):
    group = configs.load("common").loss.to_dict() | weights
    check_learned(group, {"pairs": "retrieval"}, has_teacher)
    with (
        pytest.raises(UserError, match=r"set plain, whose kind is texts; set teacher.path or teacher.cache with loss.d")
        if refused
        else nullcontext()
    ):
        check_learned(group, {"pairs": "retrieval", "plain": "texts"}, has_teacher)


@pytest.mark.parametrize("name", ["shared_negatives", "query_query", "document_document", "spread"])
@pytest.mark.parametrize("kind", ["clustering", "classification"])
def test_labelled_rows_learn_nothing_from_terms_of_retrieval(name, kind):
    group = configs.load("common").loss.to_dict() | {f"{name}_weight": 1.0}
    check_learned(group, {"topics": kind}, has_teacher=False)
    group["contrastive_weight"] = 0.0
    check_learned(group, {"topics": kind}, has_teacher=True)
    message = f"learns from the data set topics, whose kind is {kind}; set loss.contrastive_weight, or teacher.path or"
    with pytest.raises(UserError, match=message):
        check_learned(group, {"topics": kind}, has_teacher=False)


@pytest.mark.parametrize("weight", ["distill_margin_weight", "distill_hard_weight", "shared_negatives_weight"])
def test_rows_without_negatives_learn_nothing_from_terms_that_need_them(weight):
    group = configs.load("common").loss.to_dict() | {"contrastive_weight": 0.0, "distill_weight": 0.0, weight: 1.0}
    check_learned(group, {"pairs": "retrieval"}, has_teacher=True, bare={"clustering"})
    message = r"pairs, whose kind is retrieval and which has no negatives \(see data.negatives.retrieval\); set loss"
    with pytest.raises(UserError, match=message):
        check_learned(group, {"pairs": "retrieval"}, has_teacher=True, bare={"retrieval"})
    group["contrastive_weight"] = 1.0  # in-batch negatives
    check_learned(group, {"pairs": "retrieval"}, has_teacher=True, bare={"retrieval"})


def test_a_run_without_negatives_from_which_nothing_is_learned_is_refused(tmp_path):
    changes = {"data.negatives.clustering": 0, "data.include": "('colours',)"}
    with pytest.raises(UserError, match=r"data set colours, .* no negatives \(see data\.negatives\.clustering\)"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run")


def test_texts_alone_are_spread_out():
    """Vectors at 60 degrees: a squared cosine of a quarter."""
    q_be, nothing = jnp.array([[1.0, 0], [1, 3**0.5], [9, 9]]), jnp.zeros((0, 2))
    masks = {"n_mask_bj": jnp.ones((3, 0), bool), "row_mask_b": jnp.array([True, True, False])}
    numbers = {"label_b": jnp.full(3, -1), "positive_b": jnp.arange(3), "negative_bj": jnp.zeros((3, 0), jnp.int32)}
    numbers["text_s"] = jnp.arange(3)
    config = loss_config(contrastive_weight=0.0, spread_weight=2.0)
    loss, metrics = batch_loss((q_be, nothing, jnp.zeros((3, 0, 2))), kind="texts", config=config, **masks, **numbers)
    assert loss == pytest.approx(2 * 0.25) and set(metrics) == {"loss_spread"}


def test_a_file_of_texts_needs_no_positive_if_its_kind_is_said(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(json.dumps({"query": text}) + "\n" for text in ("a b", "c")))
    with pytest.raises(UserError, match=r"no column positive .* or add plain=texts to the kinds if it has texts alone"):
        list(open_source(str(path), "train", SkipList()))
    records = list(open_source(str(path), "train", SkipList(), ("plain=texts",)))
    assert [(r.query, r.positive, r.documents) for r in records] == [("a b", "", ()), ("c", "", ())]


def test_a_text_alone_is_held_out_by_itself_in_a_source_whose_texts_may_change_places_too():
    records = [Record(str(i), "", kind="texts", symmetric=True) for i in range(9)]
    assert [record.split_id for record in records] == [record.query_id for record in records]
