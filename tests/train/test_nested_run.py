"""Runs that train exits and a factorized token table, and the smaller models that are cut from them."""

import jax
import numpy as np
import pytest

from f2jax import Embedder
from f2jax.checkpoints import workdir
from f2jax.cli import main
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.train.loop import train
from f2jax.train.teacher import open_teacher
from tests import tiny

TEXTS = ["a red river", "small old stone", "tree"]
NESTED = {"model.table_rank": 48, "loss.exits": True, "loss.nested_ranks": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A plain run, and one that goes on from it with exits and a token table of rank 48."""
    folder = tmp_path_factory.mktemp("runs")
    train(tiny.config(folder, steps=3), folder / "plain")
    changes = NESTED | {"tokenizer.train_vocab": 0, "init_from": folder / "plain", "steps": 4}
    train(tiny.config(folder, **changes), folder / "nested")
    return folder


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_goes_on_where_it_was(runs, tmp_path):
    changes = NESTED | {"tokenizer.train_vocab": 0, "init_from": runs / "plain", "steps": 4, "checkpoint.every": 2}
    run = tmp_path / "run"
    train(tiny.config(runs, **changes), run)
    (step,) = (name for name in (run / "checkpoints").iterdir() if name.name.endswith("4"))
    step.rename(tmp_path / "away")
    train(tiny.config(runs, **changes), run)
    found, wanted = (workdir.load_weights(str(name))[1] for name in (run, runs / "nested"))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(("layers", "rank"), [(None, None), (1, None), (None, 16), (1, 48)])
def test_a_package_of_some_depth_and_rank_gives_the_vectors_of_the_run_cut_there(runs, tmp_path, layers, rank):
    model = Embedder.from_pretrained(runs / "nested", truncate_layers=layers, table_rank=rank)
    options = ["--truncate-layers", str(layers)] * bool(layers) + ["--table-rank", str(rank)] * bool(rank)
    assert main(["export", "--model", str(runs / "nested"), "--output", str(tmp_path / "out"), *options]) == 0
    package = Embedder.from_pretrained(tmp_path / "out")
    assert package.architecture.layers == (layers or 2) and package.architecture.table_rank == 0
    close(package.encode(TEXTS), model.encode(TEXTS))


def test_fewer_layers_or_a_smaller_rank_are_another_model(runs):
    whole = Embedder.from_pretrained(runs / "nested").encode(TEXTS)
    for cut in ({"truncate_layers": 1}, {"table_rank": 8}):
        assert np.abs(Embedder.from_pretrained(runs / "nested", **cut).encode(TEXTS) - whole).max() > 1e-3


def test_a_factorized_start_of_full_rank_is_the_model_it_came_from(runs, tmp_path):
    changes = {"model.table_rank": 64, "tokenizer.train_vocab": 0, "init_from": runs / "plain", "steps": 1}
    train(tiny.config(runs, **changes, **{"optim.peak_lr": 1e-30, "optim.schedule": "constant"}), tmp_path / "run")
    close(
        Embedder.from_pretrained(tmp_path / "run").encode(TEXTS), Embedder.from_pretrained(runs / "plain").encode(TEXTS)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss.nested_ranks": True}, "the token table is not factorized; set model.table_rank."),
        ({"model.table_rank": 65}, "table_rank=65 is out of range"),
        ({"init_from": "nested"}, "has rank 48, not 0; set model.table_rank=48"),
        ({"init_from": "nested", "model.table_rank": 32}, "has rank 48, not 32; set model.table_rank=48"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(runs, tmp_path, changes, sentence):
    if "init_from" in changes:
        changes = changes | {"init_from": runs / changes["init_from"], "tokenizer.train_vocab": 0}
    with pytest.raises(UserError) as error:
        train(tiny.config(runs, **changes), tmp_path / "run")
    assert sentence in str(error.value)


def test_exits_are_not_distilled_from_a_cache(runs):
    config = tiny.config(runs, **{"loss.exits": True, "teacher.cache": "cache"})
    with pytest.raises(UserError, match=r"a cache has only its last layer; set teacher\.path"):
        open_teacher(config, size("tiny"))


def test_exits_need_a_teacher_that_is_as_deep(runs, tmp_path):
    Embedder.from_pretrained(runs / "plain", truncate_layers=1).save_pretrained(tmp_path / "shallow")
    changes = {"loss.exits": True, "teacher.path": tmp_path / "shallow", "init_from": runs / "plain"}
    with pytest.raises(UserError, match="has 1 layers and the student 2"):
        train(tiny.config(runs, **changes, **{"tokenizer.train_vocab": 0}), tmp_path / "run")


def test_a_factorized_table_is_multiplied_out_before_it_is_pruned(runs, tmp_path):
    pruned = tmp_path / "pruned"
    assert main(["prune", "--model", str(runs / "nested"), "--layers", "1", "--output", str(pruned)]) == 0
    cut = Embedder.from_pretrained(runs / "nested", truncate_layers=1)
    close(Embedder.from_pretrained(pruned).encode(TEXTS), cut.encode(TEXTS))


def test_runs_with_factorized_tables_are_exported_before_they_are_merged(runs, tmp_path, capsys):
    assert main(["merge", str(runs / "nested"), str(runs / "nested"), "--output", str(tmp_path / "out")]) == 1
    assert "is factorized; f2jax export writes a folder where it is one table" in capsys.readouterr().err
