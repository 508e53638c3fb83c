"""What is measured during a run: scores of tasks, means of held-out rows, and the checkpoint that they choose."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from f2jax import cli
from f2jax.checkpoints import workdir
from f2jax.checkpoints.best import best_step
from f2jax.checkpoints.orbax import finished_steps
from f2jax.data.loader import Loader, load_data
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.evaluation.during_training import open_tasks
from f2jax.inference.embedder import Embedder
from f2jax.train.loop import train
from f2jax.train.measures import Validation, validation_means
from tests import tiny

EVERY_4 = {"checkpoint.every": 100, "checkpoint.tail_steps": 0, "checkpoint.keep_last": 1, "log.validate_every": 0}
SCORED = EVERY_4 | {"log.evaluate_every": 4, "checkpoint.best_metric": "evaluation/mean", "model.dtype": "float32"}
TEXTS = ["red river", "slow old stone 7"]


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Scripted:
    """Scores one after the other, instead of a task's; keeps the vectors of the models that it is given."""

    def __init__(self, *scores):
        self.scores, self.vectors = list(scores), []

    def __call__(self, embedder):
        self.vectors.append(embedder.encode(TEXTS, normalize_embeddings=False))
        score = self.scores.pop(0)
        yield {"task": score, "task/8": score / 2}
        yield {"mean": score}


@pytest.fixture(scope="module")
def scored(make_once):
    """A run of 12 steps whose tasks score 0.4, 0.9 and 0.6 after steps 4, 8 and 12, and what they saw."""

    def make(folder):
        evaluate = Scripted(0.4, 0.9, 0.6)
        train(tiny.config(folder, **SCORED), folder / "run", evaluate)
        np.save(folder / "vectors.npy", evaluate.vectors)

    return make_once("scored", make)


def test_tasks_score_the_model_as_it_is_every_so_many_steps_and_after_the_last(scored):
    found = [line for line in lines(scored / "run") if "evaluation/mean" in line]
    assert [(line["step"], line["evaluation/task"]) for line in found] == [(4, 0.4), (8, 0.9), (12, 0.6)]
    assert found[1]["evaluation/task/8"] == 0.45
    seen = np.load(scored / "vectors.npy")
    assert np.abs(seen[1] - seen[2]).max() > 1e-4
    for step, vectors in ((8, seen[1]), (12, seen[2])):
        model = Embedder.from_pretrained(f"{scored / 'run'}@{step}")
        np.testing.assert_allclose(model.encode(TEXTS, normalize_embeddings=False), vectors, rtol=1e-5, atol=1e-5)


def test_the_best_checkpoint_is_kept_and_has_a_name(scored):
    run = scored / "run"
    assert finished_steps(run) == [8, 12], "one newest, and the best; that of step 4 has gone"
    assert workdir.find_model(f"{run}@best") == workdir.StoredModel(str(run), 8)
    best, newest = (Embedder.from_pretrained(name).fingerprint for name in (f"{run}@best", run))
    assert best != newest and best == Embedder.from_pretrained(f"{run}@8").fingerprint


def test_a_resume_knows_the_best_of_the_steps_before(scored, tmp_path):
    """The first start ends after step 8; the second measures less, and must not take the best away."""
    config = tiny.config(scored, **SCORED)
    stopped = Scripted(0.9, 0.4)

    def until_8(embedder):
        yield from stopped(embedder)
        if not stopped.scores:
            raise UserError("killed")

    with pytest.raises(UserError, match="killed"):
        train(config, tmp_path / "run", until_8)
    assert finished_steps(tmp_path / "run") == [4, 8]
    again = Scripted(0.5, 0.6)
    train(config, tmp_path / "run", again)
    assert finished_steps(tmp_path / "run") == [4, 12]
    scores = [(line["step"], line["evaluation/mean"]) for line in lines(tmp_path / "run") if "evaluation/mean" in line]
    assert scores == [(4, 0.9), (8, 0.5), (12, 0.6)], "the scores of step 8, which were not written, are measured again"
    assert workdir.find_model(f"{tmp_path / 'run'}@best").step == 4


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    train(tiny.config(tmp_path, **SCORED), tmp_path / "run", Scripted(float("nan"), 0.9, 0.5))
    assert finished_steps(tmp_path / "run") == [8, 12]
    assert workdir.find_model(f"{tmp_path / 'run'}@best").step == 8


def test_what_a_finished_run_did_not_measure_is_measured_by_the_next_start(tmp_path):
    """It has been validated after its last step, but no tasks were scored: their own scores count, and are kept."""
    validated = EVERY_4 | {"log.validate_every": 4, "model.dtype": "float32"}
    train(tiny.config(tmp_path, **validated), tmp_path / "run")
    tasks = Scripted(0.6)
    for _ in range(2):
        train(tiny.config(tmp_path, **validated | SCORED | {"log.validate_every": 4}), tmp_path / "run", tasks)
    found = [line for line in lines(tmp_path / "run") if line["step"] == 12]
    assert ["validation/loss" in line for line in found].count(True) == 1
    assert ["evaluation/mean" in line for line in found].count(True) == 1
    assert found[-1]["evaluation/mean"] == 0.6 and workdir.find_model(f"{tmp_path / 'run'}@best").step == 12


def test_of_a_loss_the_lowest_is_best_and_held_out_rows_choose_too(tmp_path):
    metric = {"log.validate_every": 4, "checkpoint.best_metric": "validation/loss"}
    train(tiny.config(tmp_path, **EVERY_4 | metric), tmp_path / "run")
    losses = {line["step"]: line["validation/loss"] for line in lines(tmp_path / "run") if "validation/loss" in line}
    lowest, before = min(losses, key=losses.__getitem__), min((4, 8), key=losses.__getitem__)
    assert sorted(losses) == [4, 8, 12]
    assert finished_steps(tmp_path / "run") == [before, 12], "the last is measured after it was saved"
    assert workdir.find_model(f"{tmp_path / 'run'}@best").step == lowest


@pytest.mark.parametrize(
    "metric,best",
    [
        *[("validation/loss", 10), ("validation/loss/64", 10), ("loss-held-out", 10), ("validation/accuracy/64", 20)],
        *[("validation/loss-adjusters/accuracy", 20), ("validation/loss-adjusters/accuracy/64", 20)],
    ],
)
def test_of_a_loss_at_any_dimension_the_lowest_is_best(metric, best):
    assert best_step({10: 0.5, 20: 0.7}, metric, (10, 20)) == best


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"checkpoint.best_metric": "accuracy"}, "should be a metric of held-out rows or of tasks"),
        ({"checkpoint.best_metric": "validation/loss"}, r"is never measured; set log\.validate_every"),
        ({"checkpoint.best_metric": "evaluation/mean"}, r"is never measured; set log\.evaluate_every"),
        (
            {"checkpoint.best_metric": "validation/loss", "log.validate_every": 4, "data.validation_share": 0.0},
            "no rows are held out",
        ),
        ({"log.evaluate_every": 4}, r"pass evaluate=… to train"),
    ],
)
def test_what_nothing_would_measure_is_refused_at_the_start(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tiny.config(tmp_path, **EVERY_4 | changes), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists() or not lines(tmp_path / "run")


def test_a_best_metric_that_the_tasks_do_not_give_is_named_after_the_first_scores(tmp_path):
    changes = SCORED | {"checkpoint.best_metric": "evaluation/means"}
    with pytest.raises(UserError, match="best_metric=evaluation/means; did you mean 'evaluation/mean'"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run", Scripted(0.4))
    assert finished_steps(tmp_path / "run") == [4], "the same command goes on from there, with another metric"
    assert "evaluation/mean" not in lines(tmp_path / "run")[-1]
    with pytest.raises(UserError, match="best_metric=evaluation/means"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run", Scripted(0.4))
    train(tiny.config(tmp_path, **SCORED), tmp_path / "run", Scripted(0.9, 0.5, 0.6))
    assert workdir.find_model(f"{tmp_path / 'run'}@best").step == 4


def test_means_of_held_out_rows_are_those_by_hand():
    """Set a has 30 German rows and 10 French ones, set b 8 German ones."""
    sets = [SimpleNamespace(name="a", kind="retrieval"), SimpleNamespace(name="b", kind="clustering")]
    metrics = [{"loss": 1.0, "loss_hard": 3.0}, {"loss": 2.0, "loss_hard": 5.0}]
    values = validation_means(sets, metrics, [{"deu": 30, "fra": 10}, {"deu": 8}])
    assert values["validation/loss"] == 1.5 and values["validation/kind/clustering/loss_hard"] == 5.0
    assert values["validation/language/deu/loss"] == pytest.approx((0.75 * 1 + 1 * 2) / 1.75)
    assert values["validation/language/fra/loss"] == 1.0
    assert not any(name.startswith("validation/language/") and name.endswith("hard") for name in values)
    alone = validation_means(sets, metrics, [{"deu": 30}, {"deu": 8}])
    assert not any("language" in name for name in alone), "of one language the mean is that of all"


@pytest.mark.parametrize("seed", range(4))
def test_some_batches_of_held_out_rows_are_full_ones(tmp_path, seed):
    """The last batch may be a single row, whose loss among its own candidates is near 0."""
    changes = {"seed": seed, "data.validation_share": 0.3, "data.batch_size": 8, "log.validation_batches": 1}
    config = tiny.config(tmp_path, **changes)
    tokenizer, splits = load_data(config, "", "", 512, SkipList())
    loader = Loader([training for training, _ in splits], config, tokenizer.pad_id)
    counted = SimpleNamespace(
        program=SimpleNamespace(put=lambda batch: batch),
        evaluate=lambda params, batch, kind: {"loss": float(batch.row_mask_b.sum())},
    )
    held_out = [held for _, held in splits]
    validation = Validation(config, counted, loader, held_out, steps=12)
    found = validation.measure(None, SimpleNamespace(exchange=lambda: 0))
    assert len(held_out) == 2 and all(len(held) % 8 and found[f"validation/{held.name}/loss"] == 8 for held in held_out)


def test_a_command_scores_a_step_of_a_run_as_the_run_did(tmp_path, monkeypatch, capsys):
    """The built-in task of the run and `f2jax evaluate RUN@STEP` take two ways to the same numbers."""
    from f2jax.evaluation import builtin

    texts = [f"{word} {i}" for i, word in enumerate(tiny.WORDS)]
    task = builtin.RetrievalTask("names", texts, texts[::-1], [{12 - i} for i in range(13)], ["und"] * 13)
    monkeypatch.setattr(builtin, "TASKS", {"names": lambda: task})
    config = tiny.config(tmp_path, **SCORED, **{"loss.matryoshka_min": 16})  # of three sizes every second is scored
    train(config, tmp_path / "run", open_tasks())
    cli.main(["evaluate", "--model", f"{tmp_path / 'run'}@best", "--tasks", "names", "--output", str(tmp_path / "out")])
    scores = json.loads((tmp_path / "out/results.json").read_text())
    step = workdir.find_model(f"{tmp_path / 'run'}@best").step
    line = next(line for line in lines(tmp_path / "run") if line["step"] == step and "evaluation/mean" in line)
    dims = scores["tasks"]["names"]["dims"]
    assert line["evaluation/names"] == dims["64"] and line["evaluation/names/16"] == dims["16"]
    assert scores["model"] == "f2jax/run@best"
