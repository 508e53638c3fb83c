"""f2jax start: from a corpus and a teacher's vectors to a package that training begins from."""

import json

import numpy as np
import pytest

from f2jax.checkpoints.package import ModelSettings
from f2jax.cli import main
from f2jax.config import load
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.teacher_vectors import pieces, sample_texts_and_vectors
from f2jax.errors import UserError
from f2jax.inference.embedder import Embedder
from f2jax.model.sizes import size
from f2jax.train.cache_teacher import by_model, cache_teacher
from f2jax.train.loop import train
from tests import tiny_model
from tests.data import corpora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus and the vectors of a random teacher as wide as a tiny student. Read only."""
    folder = tmp_path_factory.mktemp("start")
    first, second, _, more = corpora.write_inputs(folder / "in")
    corpora.make(folder, [first, second, more])
    corpus, architecture = PreparedCorpus(folder / "corpus"), size("tiny")
    tokenizer = corpora.make_tokenizer(folder / "tokenizer")
    teacher = Embedder(architecture, tiny_model.random_params(architecture), tokenizer, ModelSettings(96))
    teacher.save_pretrained(folder / "teacher")
    for width in (64, 32):
        cache_teacher(corpus, folder / f"v{width}", by_model(str(folder / "teacher"), "float32", corpus), width=width)
    return folder


def start(folder, output, *options, vectors="v64") -> int:
    command = ["start", "--corpus", str(folder / "corpus"), "--teacher-vectors", str(folder / vectors)]
    return main([*command, "--size", "tiny", "--output", str(output), "--batch-size", "32", *options])


def test_the_start_is_nearer_to_the_teacher_the_longer_it_learns(folder, tmp_path, capsys):
    texts = ["red green", "a large river", "the old stone"]
    teacher_ie = Embedder.from_pretrained(folder / "teacher").encode(texts)[:, :63]
    cosines = []
    for steps in (1, 200):
        assert start(folder, tmp_path / str(steps), "--steps", str(steps)) == 0
        found_ie = Embedder.from_pretrained(tmp_path / str(steps)).encode(texts)[:, :63]
        cosines.append((found_ie * teacher_ie).sum(axis=1).mean())
    assert cosines[1] > cosines[0] + 0.1
    out = capsys.readouterr().out
    assert "cosine to the teacher" in out
    assert f"cached:start={tmp_path / '200'},corpus={folder / 'corpus'},cache={folder / 'v64'} --workdir" in out


def test_training_on_the_cached_vectors_goes_on_from_it(folder, tmp_path):
    assert start(folder, tmp_path / "start", "--steps", "20") == 0
    options = f"start={tmp_path / 'start'},corpus={folder / 'corpus'},cache={folder / 'v64'}"
    changes = {
        "data.include": "('pairs',)",
        "data.batch_size": 16,
        "data.max_length": 32,
        "data.row_length": 32,
        "data.programs": 1,
        "data.use_instructions": True,
        "steps": 40,
        "optim.warmup_steps": 2,
        "optim.decay_steps": 20,
        "log.every": 1,
        "log.validate_every": 0,
    }
    config = load(f"cached:{options}", [f"--config.{field}={value}" for field, value in changes.items()])
    train(config, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    losses = [line["loss_distill"] for line in lines if "loss_distill" in line]
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_a_config_for_cached_vectors_names_what_is_missing():
    with pytest.raises(UserError, match="needs corpus, cache"):
        load("cached:start=start")


def test_a_student_may_be_narrower_or_deeper_than_its_size(folder, tmp_path):
    assert start(folder, tmp_path / "narrow", "--width", "32", "--layers", "3", "--steps", "2", vectors="v32") == 0
    found = Embedder.from_pretrained(tmp_path / "narrow").architecture
    assert found == size("tiny", width=32, layers=3, vocab_size=found.vocab_size)


def test_texts_that_are_drawn_come_with_their_own_vectors(folder):
    corpus = PreparedCorpus(folder / "corpus")
    every = [tuple(ids) for piece in pieces("", corpus) for ids in piece.tokens(Reader())]
    tokens, vectors_ie = sample_texts_and_vectors(folder / "v64", corpus, 40, seed=3)
    assert len(tokens) == 40 and {tuple(ids) for ids in tokens} < set(every)
    expected_ie = Embedder.from_pretrained(folder / "teacher").encode_tokens(tokens)
    np.testing.assert_allclose(expected_ie, vectors_ie, atol=0.05)
    whole, _ = sample_texts_and_vectors(folder / "v64", corpus, 10**6, seed=3)
    assert [tuple(ids) for ids in whole] == every


@pytest.mark.parametrize(
    "options,vectors,message",
    [
        ([], "v32", "has 32 dimensions and the student has 64; write the cache with f2jax cache-teacher --width 64"),
        (["--width", "300"], "v64", "write the cache with f2jax cache-teacher --width 300"),
        (["--width", "-4"], "v64", "width=-4 is out of range"),
        (["--steps", "0"], "v64", "steps=0 should be at least 1"),
        (["--size", "tinny"], "v64", "did you mean 'tiny'"),
        ([], "none", "holds no vectors.json"),
    ],
)
def test_what_cannot_be_is_one_line(folder, tmp_path, capsys, options, vectors, message):
    assert start(folder, tmp_path / "out", *options, vectors=vectors) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
