"""A cached teacher: the same loss as the teacher itself, resumed after any interruption."""

import json
import shutil
from dataclasses import asdict, replace

import ml_dtypes
import numpy as np
import pytest

from f2jax import Embedder
from f2jax.checkpoints.orbax import read_weight
from f2jax.data import teacher_vectors as lib
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.teacher_vectors import TeacherVectors, TeacherVectorsInfo, read_info
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.train.cache_teacher import by_model, cache_teacher
from f2jax.train.loop import train
from tests import tiny, tiny_model
from tests.data import corpora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, a teacher of 96 dimensions, and a student of 64 for its first two steps. Read only."""
    folder = tmp_path_factory.mktemp("cached")
    tokenizer = corpora.make_tokenizer(folder / "tokenizer")
    first, second, _, more = corpora.write_inputs(folder / "in")  # without the hostile texts
    corpora.make(folder, [first, second, more])
    for name, width in (("teacher", 96), ("student", 64)):
        architecture = size("tiny", width=width)
        card = tiny_model.ModelSettings(96, {}, (width,))
        Embedder(architecture, tiny_model.random_params(architecture), tokenizer, card).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return PreparedCorpus(folder / "corpus")


@pytest.fixture(scope="module")
def cached(folder, corpus):
    """Vectors in full, in both types."""
    source = by_model(str(folder / "teacher"), "float32", corpus)
    for dtype in lib.DTYPES:
        cache_teacher(corpus, folder / dtype, source, dtype=dtype)
    return folder


def first_loss(folder, run, **changes) -> dict[str, float]:
    """Metrics of a step with a learning rate of 0, and of the validation after it."""
    defaults = {"init_from": str(folder / "student"), "tokenizer.train_vocab": 0, "steps": 1, "optim.warmup_steps": 0}
    defaults |= {"data.sources": f"('corpus:{folder / 'corpus'}',)", "optim.peak_lr": 1e-30, "optim.end_lr": 0}
    defaults |= {"data.include": "('pairs*',)", "loss.distill_hard_weight": 1.0, "loss.distill_in_batch_weight": 1.0}
    defaults |= {"loss.distill_texts_weight": 1.0}
    return train(tiny.config(run, **(defaults | changes)), run / "run")


@pytest.mark.slow
def test_training_with_the_cache_gives_the_loss_of_the_teacher_itself(cached, tmp_path_factory):
    """The teacher has more dimensions than the student; the score terms use them all."""
    teachers = {
        "online": {"teacher.path": str(cached / "teacher"), "teacher.dtype": "float32"},
        "float32": {"teacher.cache": str(cached / "float32")},
        "bfloat16": {"teacher.cache": str(cached / "bfloat16")},
    }
    found = {name: first_loss(cached, tmp_path_factory.mktemp(name), **how) for name, how in teachers.items()}
    names = {name for name in found["online"] if "distill" in name}
    terms = {"loss_distill", "loss_distill_hard", "loss_distill_in_batch", "loss_distill_texts"}
    assert terms < names and any("validation" in n for n in names)
    for name in names:
        assert found["float32"][name] == pytest.approx(found["online"][name], rel=1e-4)
        assert found["bfloat16"][name] == pytest.approx(found["online"][name], rel=2e-2)
        assert found["bfloat16"][name] != found["float32"][name]


def test_vectors_are_those_of_each_rows_own_texts(cached, corpus):
    """Each text of a row, embedded alone by the teacher."""
    embedder = Embedder.from_pretrained(cached / "teacher")
    for split in corpus.splits(TeacherVectors(cached / "float32", corpus)):
        for data in split:
            rows = data.rows([0, len(data) - 1], range(data.max_negatives), 3)
            texts = np.nonzero(rows.length_bi)
            np.testing.assert_allclose(rows.vectors(*texts), embedder.encode_tokens(rows.tokens(*texts)), atol=1e-4)
            assert (rows.length_bi[:, 2] > 0).all()


def test_the_cache_is_cut_to_the_students_width_and_rounded_once(cached, corpus, tmp_path):
    cache_teacher(corpus, tmp_path, by_model(str(cached / "teacher"), "float32", corpus), width=64)
    whole, cut = TeacherVectors(cached / "float32", corpus), TeacherVectors(tmp_path, corpus)
    entry, numbers = corpus.card["datasets"][0], np.array([3, 0, 5])
    expected = whole.read(entry, "documents", numbers)[:, :64].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(cut.read(entry, "documents", numbers), expected)


def test_an_interrupted_run_goes_on_with_what_is_missing(cached, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(lib, "PIECE", 32)
    made, source = [], by_model(str(cached / "teacher"), "float32", corpus)

    def interrupted(piece, read):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(piece.first)
        return source.vectors(piece, read)

    with pytest.raises(KeyboardInterrupt):
        cache_teacher(corpus, tmp_path, replace(source, vectors=interrupted), dtype="float32")
    with pytest.raises(UserError, match="run f2jax cache-teacher to the end"):
        TeacherVectors(tmp_path, corpus)
    made.clear()
    made.append(None)  # so that three more would be one too many, were any made again
    rest = []
    again = replace(source, vectors=lambda piece, read: rest.append(piece) or source.vectors(piece, read))
    cache_teacher(corpus, tmp_path, again, dtype="float32")
    assert len(rest) == len(lib.pieces(tmp_path, corpus)) - 3
    entry = corpus.card["datasets"][0]
    monkeypatch.undo()
    expected = TeacherVectors(cached / "float32", corpus).read(entry, "documents", np.arange(40))
    monkeypatch.setattr(lib, "PIECE", 32)
    np.testing.assert_allclose(
        TeacherVectors(tmp_path, corpus).read(entry, "documents", np.arange(40)), expected, atol=1e-5
    )


@pytest.mark.slow
def test_a_projection_is_trained_beside_the_model_and_is_no_part_of_it(cached, tmp_path):
    """It begins as the identity and moves; a model of 32 dimensions teaches one of 64; a resume goes on with it."""
    narrow, corpus = tmp_path / "narrow", PreparedCorpus(cached / "corpus")
    cache_teacher(corpus, narrow, by_model(str(cached / "teacher"), "float32", corpus), width=32)
    how = {
        "teacher.cache": str(narrow),
        "loss.distill_projection": True,
        "optim.peak_lr": 1e-3,
        "optim.schedule": "constant",
    }
    first_loss(cached, tmp_path, **how, steps=2, **{"checkpoint.every": 1, "checkpoint.keep_last": 2})
    begin, like = np.eye(64, 32, dtype=np.float32), np.zeros((64, 32), np.float32)
    found = [read_weight(tmp_path / "run", step, ("distill_projection",), like) for step in (1, 2)]
    assert 0 < np.abs(found[0] - begin).max() < np.abs(found[1] - begin).max() < 0.01
    model = Embedder.from_pretrained(tmp_path / "run")
    assert set(model.params) == {"token_table", "layers", "final_norm"}
    assert model.encode("red").shape == (64,)


# Mistakes


def test_what_does_not_fit_is_refused(cached, corpus, tmp_path):
    source = by_model(str(cached / "teacher"), "float32", corpus)
    for make, message in (
        (lambda: cache_teacher(corpus, tmp_path, source, width=97), "this teacher has 96 dimensions"),
        (lambda: cache_teacher(corpus, tmp_path, source, dtype="int8"), "no dtype 'int8'"),
        (lambda: cache_teacher(corpus, cached / "float32", source, width=8), "another teacher, width or dtype"),
        (lambda: TeacherVectors(tmp_path / "nothing", corpus), "holds no vectors.json"),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_a_teacher_with_another_tokenizer_is_refused(cached, corpus, tmp_path):
    tiny_model.make_embedder(tmp_path / "tokenizer").save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="another tokenizer than the corpus"):
        by_model(str(tmp_path / "other"), "float32", corpus)


def test_training_says_what_is_wrong_with_a_cache(cached, tmp_path):
    narrow = tmp_path / "narrow"
    corpus = PreparedCorpus(cached / "corpus")
    cache_teacher(corpus, narrow, by_model(str(cached / "teacher"), "float32", corpus), width=32)
    both = {"teacher.cache": str(cached / "float32"), "teacher.path": str(cached / "teacher")}
    for number, (changes, message) in enumerate(
        (
            ({"teacher.cache": str(narrow)}, "has 32 dimensions, fewer than the student's 64"),
            (both, "either teacher.path or teacher.cache"),
        )
    ):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(UserError, match=message):
            first_loss(cached, tmp_path / str(number), **changes)
    with pytest.raises(UserError, match="needs a prepared corpus"):
        train(tiny.config(tmp_path, **{"teacher.cache": str(cached / "float32")}), tmp_path / "run")


def test_a_corpus_that_changed_needs_new_vectors(cached, tmp_path):
    """One data set is prepared anew from another file: its vectors alone are missing."""
    shutil.copytree(cached / "corpus", tmp_path / "corpus")
    shutil.copytree(cached / "float32", tmp_path / "vectors")
    card = json.loads((tmp_path / "corpus/corpus.json").read_text())
    card["datasets"][1]["content"] = "0" * 32
    (tmp_path / "corpus/corpus.json").write_text(json.dumps(card))
    corpus = PreparedCorpus(tmp_path / "corpus")
    with pytest.raises(UserError, match=card["datasets"][1]["folder"]):
        TeacherVectors(tmp_path / "vectors", corpus)
    missing = [piece for piece in lib.pieces(tmp_path / "vectors", corpus) if not piece.exists()]
    assert {piece.path.split("/")[-3] for piece in missing} == {card["datasets"][1]["folder"]}
    assert all(len(piece.tokens(Reader())) for piece in missing)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"teacher": "x", "width": 8},
        {"teacher": "x", "width": "8", "dtype": "float32"},
        {"teacher": "x", "width": 8, "dtype": "float32"},
        {"teacher": "x", "width": 8, "dtype": "float32", "unit": 1},
        asdict(TeacherVectorsInfo("x", 8, "float32")) | {"later": 1},
    ],
    ids=str,
)
def test_a_card_of_another_shape_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "vectors.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"vectors\.json (holds|lacks|has|is of another version)"):
        read_info(tmp_path)
