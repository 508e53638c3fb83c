"""The loop: it learns, resumes bit for bit, survives kill -9 and damage, and says in one line what is wrong."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
import pytest

from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.data.loader import Loader, load_data
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import Interrupted, UserError
from f2jax.train import loop
from f2jax.train.loop import train
from tests import tiny

RUN = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)}


def weights(folder):
    return workdir.load_weights(str(folder))[1]


def same_bits(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def command(folder, run, **changes) -> list[str]:
    config = str(tiny.ROOT / "configs/nano.py:stage=2")
    return [
        sys.executable,
        "-m",
        "f2jax",
        "train",
        "--config",
        config,
        "--workdir",
        str(run),
        *tiny.overrides(folder, **changes),
    ]


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def first_batch(config, tokenizer):
    tokenizer, splits = load_data(config, tokenizer, "", 512, Counter())
    return Loader([training for training, _ in splits], config, tokenizer.pad_id).batch(0)[1]


@pytest.fixture
def finished(trained):
    """The folder of a run of 12 steps without interruption, and its last metrics."""
    return trained, json.loads((trained / "values.json").read_text())


def test_a_run_reports_losses_by_data_set_and_validates(finished):
    folder, values = finished
    found = lines(folder / "run")
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10, 12, 12]
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "useful_share"} <= found[0].keys()
    assert any("colours/loss" in line for line in found) and any("pairs/loss" in line for line in found)
    assert values["validation/pairs/loss"] > 0 and values["validation/colours/loss_hard"] > 0
    assert found[5]["loss"] < found[0]["loss"]


def test_running_again_changes_nothing_and_says_so(finished, copied, capsys):
    folder, _ = finished
    train(*copied)
    assert "Resuming after step 12 of 12" in capsys.readouterr().out
    assert same_bits(weights(folder / "run"), weights(copied[1]))


@pytest.mark.slow
def test_kill_9_at_random_steps_and_restarts_give_the_same_parameters(finished, tmp_path):
    folder, _ = finished
    rng, kills = random.Random(time.time_ns()), 0
    for _ in range(8):
        process = subprocess.Popen(command(folder, tmp_path / "run"), env=os.environ | RUN, stderr=subprocess.DEVNULL)
        target = rng.choice([2, 4, 6, 8, 10]) if kills < 2 else 99
        while process.poll() is None:
            path = tmp_path / "run/metrics.jsonl"
            if path.exists() and any(line.startswith(f'{{"step": {target},') for line in path.read_text().splitlines()):
                process.kill()
                kills += 1
                break
            time.sleep(0.05)
        if process.wait() == 0:
            break
    assert process.returncode == 0 and kills >= 1
    assert same_bits(weights(folder / "run"), weights(tmp_path / "run"))
    steps = [line["step"] for line in lines(tmp_path / "run")]
    assert steps == sorted(steps), "lines after the checkpoint of a resume are dropped"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(finished, tmp_path, number):
    folder, _ = finished
    process = subprocess.Popen(
        command(folder, tmp_path / "run"), env=os.environ | RUN, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run/metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on" in errors.splitlines()[-1] and "Traceback" not in errors
    train(tiny.config(folder), tmp_path / "run")
    assert same_bits(weights(folder / "run"), weights(tmp_path / "run"))


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run in a folder of its own, and its config."""
    folder, _ = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    return tiny.config(folder), tmp_path / "run"


def test_a_signal_inside_a_validation_saves_and_the_next_run_begins_with_it(copied, monkeypatch):
    config, run = copied
    *training, validation = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(training))  # as if killed before the last line

    validate = loop.validate

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="saved after step 12 of 12; the same"):
        patch.setattr(loop, "validate", signalled)
        train(config, run)
    assert len(lines(run)) == len(training)
    values = train(config, run)
    assert lines(run)[-1] == json.loads(validation)
    assert values == {key: value for key, value in json.loads(validation).items() if key != "step"}


def test_a_checkpoint_cut_short_is_passed_over_for_the_one_before(copied, capsys):
    config, run = copied
    expected = weights(run)
    newest = run / "checkpoints/12"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    train(config, run)
    out = capsys.readouterr().out
    assert "checkpoint of step 12 cannot be read and is passed over" in out
    assert "Resuming after step 8 of 12" in out
    assert same_bits(expected, weights(run))


def test_when_no_checkpoint_can_be_read_it_is_an_error(copied):
    config, run = copied
    for path in (run / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(b"")
    with pytest.raises(UserError, match="None of the checkpoints"):
        train(config, run)


def test_a_run_says_what_lies_where_and_where_its_time_went(finished, tmp_path, capsys):
    folder, _ = finished
    changes = {"steps": 2, "optim.warmup_steps": 0, "log.validation_batches": 1, "model.chunk_rows": 1}
    train(tiny.config(folder, **changes), tmp_path / "run")
    out = capsys.readouterr().out
    assert re.search(r"token_table +512 × 64 +tensor, fsdp +0\.13\n", out), "512 · 64 · 4 bytes"
    announced = re.search(r"Mesh replica 1 × data 1 × fsdp 1 × tensor 1: about (\d+) tokens a step on each chip", out)
    assert int(announced[1]) == first_batch(tiny.config(folder, **changes), tmp_path / "run/tokenizer").tokens_bt.size
    goodput = re.search(r"Goodput (\d+)%: steps ([\d.]+) s; start ([\d.]+) s, compile ([\d.]+) s, input .* s\.", out)
    assert float(goodput[4]) > 0 and float(goodput[3]) > 0


def test_a_loss_that_is_not_finite_names_the_step_and_the_data(tmp_path):
    with pytest.raises(UserError, match=r"Step \d+ \(on (pairs|colours)\) has loss .*lower optim.peak_lr"):
        train(tiny.config(tmp_path, **{"optim.peak_lr": 1e30, "optim.clip_norm": 0}), tmp_path / "run")


def test_a_workdir_of_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(UserError, match=r"differs in optim\.peak_lr, seed; give the same config"):
        train(tiny.config(folder, **{"optim.peak_lr": 1.0, "seed": 9}), folder / "run")


def test_a_run_goes_on_where_its_data_was_moved_and_not_where_it_was_changed(copied, tmp_path):
    _, run = copied
    config = tiny.config(tmp_path)  # the same rows in another folder
    assert train(config, run) == {}, "nothing is left to do"
    kept = (run / "config.json").read_text()
    assert str(tmp_path / "colours.jsonl") in kept

    (tmp_path / "other").mkdir()
    other = tiny.config(tmp_path / "other")
    path = tmp_path / "other/colours.jsonl"
    path.write_text(path.read_text().replace("red", "blue", 1))
    with pytest.raises(UserError, match="whose data differs in data set colours; restore the data to resume it, or"):
        train(other, run)
    assert (run / "config.json").read_text() == kept


def test_a_run_of_a_version_that_did_not_know_its_data_goes_on_and_keeps_it(copied, tmp_path):
    config, run = copied
    kept = (run / "data.json").read_text()
    (run / "data.json").unlink()
    with pytest.raises(UserError, match=r"differs in data\.sources"):
        train(tiny.config(tmp_path), run)
    train(config, run)
    assert (run / "data.json").read_text() == kept


def test_all_may_be_corrected_before_anything_is_trained(tmp_path):
    wrong = [
        {"data.sources": "('nosuch.jsonl',)"},
        {"tokenizer.train_vocab": 300, "data.row_length": 16},
        {"optim.warmup_steps": 99},
        {"loss.matryoshka_weights": "unifrm"},
    ]
    for changes, message in zip(wrong, ["nosuch", "raise it", "lower it", "did you mean 'uniform'"], strict=True):
        with pytest.raises(UserError, match=message):
            train(tiny.config(tmp_path, **changes), tmp_path / "run")
    right = tiny.config(tmp_path, **{"steps": 4, "seed": 1})
    assert train(right, tmp_path / "run")["loss"] > 0
    assert json.loads((tmp_path / "run/config.json").read_text()) == json.loads(configs.to_json(right))
    assert load_tokenizer(tmp_path / "run/tokenizer").vocab_size == 400


def test_a_second_stage_starts_from_the_first(finished, tmp_path):
    """With a learning rate of zero the second run ends with the weights of the first."""
    folder, _ = finished
    changes = {"init_from": str(folder / "run"), "tokenizer.train_vocab": 0, "steps": 2, "optim.warmup_steps": 0}
    changes |= {"optim.peak_lr": 1e-30, "optim.end_lr": 0}
    train(tiny.config(tmp_path, **changes), tmp_path / "run")
    assert same_bits(weights(folder / "run"), weights(tmp_path / "run"))
    assert train(tiny.config(tmp_path, **changes | {"init_from": "gone"}), tmp_path / "run") == {}, (
        "not needed any more"
    )
    with pytest.raises(UserError, match="is no nano: it has width 64, not 192"):
        train(tiny.config(tmp_path, **changes, **{"model.size": "nano"}), tmp_path / "other")


def test_a_model_distilled_from_itself_has_no_distillation_loss(finished, tmp_path):
    folder, _ = finished
    changes = {"init_from": str(folder / "run"), "tokenizer.train_vocab": 0, "steps": 2, "teacher.dtype": "float32"}
    changes |= {"teacher.path": str(folder / "run"), "optim.peak_lr": 1e-30, "optim.end_lr": 0, "optim.warmup_steps": 0}
    values = train(tiny.config(tmp_path, **changes), tmp_path / "run")
    assert values["loss_distill"] < 1e-10 < values["loss_hard"]

    shutil.copytree(folder / "run", tmp_path / "teacher")
    changes["teacher.path"] = str(tmp_path / "teacher")
    assert train(tiny.config(tmp_path, **changes), tmp_path / "run") == {}, "a teacher may move"
    shutil.rmtree(tmp_path / "teacher/checkpoints/12")
    with pytest.raises(UserError, match="whose data differs in the teacher; restore"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run")


def test_a_teacher_of_another_tokenizer_is_refused_though_its_table_is_as_large(finished, tmp_path):
    changes = {"teacher.path": str(finished[0] / "run"), "tokenizer.train_vocab": 420}
    with pytest.raises(UserError, match="reads texts as other tokens than the student; take one"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run")


def test_too_small_a_tokenizer_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"ids up to 549, but the model's token table has 512 rows"):
        train(tiny.config(tmp_path, **{"tokenizer.train_vocab": 550}), tmp_path / "run")


def test_interrupted_is_no_user_error():
    assert not issubclass(Interrupted, UserError)


@pytest.mark.parametrize("waiting", [[], [(1, "a step that is not reported yet")]], ids=["reported", "waiting"])
def test_time_of_other_work_is_not_in_the_next_report(waiting):
    report = loop.Report(writer=None, schedule=None)
    report.pending, report.since = waiting, -1.0
    report.go_on()
    assert (report.since == -1.0) == bool(waiting)
