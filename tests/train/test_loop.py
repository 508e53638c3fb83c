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
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from f2jax import config as configs
from f2jax.checkpoints import orbax, workdir
from f2jax.data.loader import Loader, load_data
from f2jax.data.prompts import read_prompts
from f2jax.data.skip_list import SkipList
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import Interrupted, UserError
from f2jax.train import loop
from f2jax.train.goodput import Goodput
from f2jax.train.loop import train
from f2jax.train.metrics import Totals
from f2jax.train.report import Pending, Report, Work
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
    tokenizer, splits = load_data(config, tokenizer, "", 512, SkipList())
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
    of_sets = [values["validation/pairs/loss"], values["validation/colours/loss"]]
    assert values["validation/loss"] == pytest.approx(np.mean(of_sets))
    assert values["validation/kind/clustering/loss"] == values["validation/colours/loss"]
    assert found[5]["loss"] < found[0]["loss"]


def test_a_run_counts_its_tokens_and_operations(finished):
    """Operations by hand: 6 for each token and weight outside the table, and attention as squares of lengths."""
    folder, _ = finished
    config = tiny.config(folder)
    tokenizer, splits = load_data(config, folder / "run/tokenizer", "", 512, SkipList())
    loader = Loader([training for training, _ in splits], config, tokenizer.pad_id)
    squares, tokens = 0, 0
    for step in range(12):
        batch = loader.batch(step)[1]
        tokens += batch.useful_tokens
        squares += int((2 * batch.positions_bt[batch.segments_bt > 0] + 1).sum())  # 1 + 3 + 5 + … are the squares
    layers, width, mlp, heads, kv_heads, head_dim = 2, 64, 160, 4, 2, 32
    layer = width * head_dim * (2 * heads + 2 * kv_heads) + 3 * width * mlp + 2 * width + 2 * head_dim
    expected = 6 * tokens * (layers * layer + width) + 6 * layers * heads * head_dim * squares
    last = lines(folder / "run")[-2]
    assert (last["tokens"], last["operations"]) == (tokens, pytest.approx(expected)) and "mfu" not in last


def test_a_workdir_keeps_the_prompts_that_its_data_has_and_none_of_the_others_in_its_config(finished):
    run = finished[0] / "run"
    assert json.loads((run / "config.json").read_text())["prompts"].keys() > {"query", "document"}
    assert read_prompts(run) == {"query": "", "document": ""}


def test_running_again_changes_nothing_and_says_so(finished, copied, capsys):
    folder, _ = finished
    train(*copied)
    out = capsys.readouterr().out
    assert "is finished: it has taken 12 of 12 steps. To train on, begin another workdir" in out
    assert "Resuming" not in out
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
def test_kill_9_while_the_first_checkpoint_is_written_costs_only_its_steps(finished, tmp_path):
    folder, _ = finished
    start = {"init_from": str(folder / "run"), "tokenizer.train_vocab": 0}
    process = subprocess.Popen(
        command(folder, tmp_path / "run", **start), env=os.environ | RUN, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any((tmp_path / "run/checkpoints").glob("4*")):
        time.sleep(0.0005)
    process.kill()
    assert process.wait() == -9
    train(tiny.config(folder, **start), tmp_path / "run")
    train(tiny.config(folder, **start), tmp_path / "whole")
    assert same_bits(weights(tmp_path / "whole"), weights(tmp_path / "run"))


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
    assert "run the same command to continue" in errors.splitlines()[-1] and "Traceback" not in errors
    train(tiny.config(folder), tmp_path / "run")
    assert same_bits(weights(folder / "run"), weights(tmp_path / "run"))


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """The finished run in a folder of its own, and its config; what seems damaged is read again at once."""
    folder, _ = finished
    monkeypatch.setattr(orbax, "RETRY_SECONDS", (0,))
    shutil.copytree(folder / "run", tmp_path / "run")
    return tiny.config(folder), tmp_path / "run"


def test_a_signal_inside_a_validation_saves_and_the_next_run_begins_with_it(copied, monkeypatch):
    config, run = copied
    *training, validation = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(training))  # as if killed before the last line

    measure = loop.Validation.measure

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="saved after step 12 of 12; run the same"):
        patch.setattr(loop.Validation, "measure", signalled)
        train(config, run)
    assert len(lines(run)) == len(training)
    values = train(config, run)
    assert lines(run)[-1] == json.loads(validation)
    assert values == {key: value for key, value in json.loads(validation).items() if key != "step"}


def test_without_validation_the_held_out_rows_are_not_looked_at(copied, monkeypatch):
    config, run = copied
    config.log.validate_every = 0
    *training, _ = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(training))  # the next start would go on with the validation
    monkeypatch.delattr(loop.Validation, "measure")
    assert train(config, run) == {}
    assert (run / "metrics.jsonl").read_text() == "".join(training)


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
    assert "checkpoint of step 12 cannot be read and is skipped" in out
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
    assert re.search(r"Weights, 0\.58 MB: .*token_table\.\n", out), "143,808 · 4 bytes"
    announced = re.search(r"^About (\d+) tokens a step\.$", out, re.MULTILINE)
    assert int(announced[1]) == first_batch(tiny.config(folder, **changes), tmp_path / "run/tokenizer").tokens
    goodput = re.search(r"Goodput (\d+)%: steps ([\d.]+) s; start ([\d.]+) s, compile ([\d.]+) s, input .* s\.", out)
    assert float(goodput[4]) > 0 and float(goodput[3]) > 0


def test_a_branch_goes_on_bit_for_bit_from_a_checkpoint_with_its_optimizer_and_step(finished, tmp_path, capsys):
    """With the config of the run it ends with the weights of the run; the optimizer's moments are in them."""
    folder, _ = finished
    config = tiny.config(folder, resume_from=f"{folder}/run@8")
    train(config, tmp_path / "branch")
    assert f"Going on from step 8 of {folder}/run, up to step 12." in capsys.readouterr().out
    assert same_bits(weights(folder / "run"), weights(tmp_path / "branch"))
    assert [line["step"] for line in lines(tmp_path / "branch")] == [10, 12, 12]
    for name in ("tokens", "operations"):
        assert lines(tmp_path / "branch")[-2][name] == lines(folder / "run")[-2][name] > 0, (
            "counted from the first step"
        )
    branch = {"run": f"{folder}/run", "step": 8, "changed": []}
    assert json.loads((tmp_path / "branch/branch.json").read_text()) == branch
    assert train(config, tmp_path / "branch") == {}, "it is a run of its own from here on"


def test_a_branch_may_change_rate_schedule_steps_data_and_skip_batches(finished, tmp_path, monkeypatch):
    folder, _ = finished
    changes = {"optim.peak_lr": 1e-4, "optim.schedule": "linear", "steps": 13, "data.batch_size": 8, "seed": 5}
    config = tiny.config(folder, resume_from=f"{folder}/run", **changes, **{"data.skip_steps": 3})
    trained, take = [], loop.Loop.take

    def spy(self, step, name, batch):
        trained.append((step, batch.tokens_bt.tobytes()))
        take(self, step, name, batch)

    monkeypatch.setattr(loop.Loop, "take", spy)
    train(config, tmp_path / "branch")
    tokenizer, splits = load_data(config, tmp_path / "branch/tokenizer", "", 512, SkipList())
    loader = Loader([training for training, _ in splits], config, tokenizer.pad_id)
    assert trained == [(12, loader.batch(15)[1].tokens_bt.tobytes())]
    branch = json.loads((tmp_path / "branch/branch.json").read_text())
    assert branch["step"] == 12 and branch["changed"] == sorted([*changes, "data.skip_steps"])
    assert lines(tmp_path / "branch")[0]["learning_rate"] < 1e-4, "step 12 of the new schedule"


def test_a_branch_that_would_have_nothing_to_do_or_does_not_fit_is_refused(finished, tmp_path):
    folder, _ = finished
    for changes, message in [
        ({}, r"run@12 (is at step 12|has taken 12 steps), and this run ends after 12; raise steps"),
        ({"model.size": "nano"}, "resume_from=.* is not a nano: it has width 64, not 192"),
        ({"optim.name": "sgd", "steps": 14}, r"The checkpoint of step 12 in .* cannot be used"),
    ]:
        with pytest.raises(UserError, match=message):
            train(tiny.config(folder, resume_from=f"{folder}/run", **changes), tmp_path / "branch")


def test_a_branch_keeps_the_tokenizer_of_its_run_and_refuses_another(finished, tmp_path):
    folder, _ = finished

    def opened(**tokenizer):
        changes = {f"tokenizer.{name}": value for name, value in tokenizer.items()}
        return loop.resume.open_run(tiny.config(folder, resume_from=f"{folder}/run@8", **changes), tmp_path / "branch")

    other, own = configs.PACKAGED.parent / "models/mini", f"{folder}/run/tokenizer"
    with pytest.raises(UserError, match=r"tokenizer\.path=.*mini splits texts into other tokens than the run to cont"):
        opened(path=str(other), train_vocab=0)
    with pytest.raises(UserError, match=r"train_vocab=401 makes a new tokenizer, and the run .* set it to 0"):
        opened(train_vocab=401)
    assert opened(path=own, train_vocab=0).tokenizer == opened(train_vocab=0).tokenizer == own


def test_checkpoints_are_written_by_time_too(tmp_path, monkeypatch):
    """After every step, where the minutes pass in an instant; the newest ones stay."""
    saved, save = [], orbax.Checkpoints.save

    def spy(self, state):
        saved.append(int(state.step))
        save(self, state)

    monkeypatch.setattr(orbax.Checkpoints, "save", spy)
    train(tiny.config(tmp_path, **{"checkpoint.minutes": 1e-9, "checkpoint.every": 100, "steps": 4}), tmp_path / "run")
    assert saved == [1, 2, 3, 4]
    assert orbax.finished_steps(tmp_path / "run") == [3, 4]


def test_a_signal_while_the_last_checkpoint_is_written_does_not_cut_it_off(finished, tmp_path, monkeypatch):
    folder, _ = finished
    wait, sent = orbax.Checkpoints.wait, []

    def killed(number, frame):
        raise AssertionError("nobody listens: the process would be killed here")

    def signalled(self):
        sent.append(os.kill(os.getpid(), signal.SIGTERM))
        wait(self)

    before = signal.signal(signal.SIGTERM, killed)
    monkeypatch.setattr(orbax.Checkpoints, "wait", signalled)
    try:
        train(tiny.config(folder, steps=4), tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent and orbax.finished_steps(tmp_path / "run") == [4]


def test_a_run_killed_before_its_first_checkpoint_was_finished_starts_from_its_weights_again(finished, tmp_path):
    """A line of metrics is there and no checkpoint: with a rate of zero the weights of `init_from` come out."""
    folder, _ = finished
    changes = {"init_from": str(folder / "run"), "tokenizer.train_vocab": 0, "steps": 2, "optim.warmup_steps": 0}
    config = tiny.config(tmp_path, **changes, **{"optim.peak_lr": 1e-30, "optim.end_lr": 0})
    train(config, tmp_path / "run")
    shutil.move(tmp_path / "run/checkpoints/2", tmp_path / "run/checkpoints/2.orbax-checkpoint-tmp-1")
    train(config, tmp_path / "run")
    assert same_bits(weights(folder / "run"), weights(tmp_path / "run"))


def test_a_loss_that_is_not_finite_names_the_step_and_the_data(tmp_path):
    with pytest.raises(UserError, match=r"Step \d+ \(on (pairs|colours)\) has loss .*Lower optim.peak_lr .* another"):
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


def test_a_kernel_of_another_platform_is_refused_before_data_are_read(tmp_path):
    config = tiny.config(tmp_path, **{"model.kernel": "triton", "data.sources": ("nowhere.jsonl",)})
    with pytest.raises(UserError, match="The attention kernel 'triton' is for a GPU, not for a CPU"):
        train(config, tmp_path / "run")


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
        {"optim.schedule": "cosine", "optim.warmup_steps": 99},
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
    with pytest.raises(UserError, match="is not a nano: it has width 64, not 192"):
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
    with pytest.raises(UserError, match="whose data differs in the teacher's weights; restore"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run")


def test_a_teacher_of_another_tokenizer_is_refused_though_its_table_is_as_large(finished, tmp_path):
    changes = {"teacher.path": str(finished[0] / "run"), "tokenizer.train_vocab": 420}
    with pytest.raises(UserError, match="splits texts into other tokens than the student; take one"):
        train(tiny.config(tmp_path, **changes), tmp_path / "run")


def test_too_small_a_tokenizer_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"ids up to 519, but the model's token table has 512 rows"):
        train(tiny.config(tmp_path, **{"tokenizer.train_vocab": 520}), tmp_path / "run")


def test_interrupted_is_no_user_error():
    assert not issubclass(Interrupted, UserError)


def test_time_of_other_work_is_not_in_the_speed_of_the_steps(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Goodput()  # at 0
    clock.started()  # 10
    with clock.during("validation"):  # 20 to 30
        pass
    with clock.during("input"):  # 40 to 50
        pass
    assert clock.training_seconds() == 60 - 10 - 10


class Lines:
    """In the place of a file of metrics."""

    def __init__(self):
        self.values = {}

    def write(self, step, values):
        self.values[step] = values


def test_metrics_are_written_while_the_next_step_runs(trained, tmp_path, monkeypatch):
    """But for those before a checkpoint or a validation."""
    dispatched, written, wait, flush = [], [], Report.wait, Report.flush

    def waits(self):
        dispatched.append(1)
        wait(self)

    def writes(self):
        if self.pending:
            written.append((self.pending[-1].step, len(dispatched)))
        return flush(self)

    monkeypatch.setattr(Report, "wait", waits)
    monkeypatch.setattr(Report, "flush", writes)
    changes = {"steps": 7, "checkpoint.every": 6, "checkpoint.tail_steps": 0, "log.every": 2}
    train(tiny.config(trained, **changes), tmp_path / "run")
    assert written == [(2, 3), (4, 5), (6, 6), (7, 7)], "the last step of each, and the steps dispatched by then"


def test_a_report_counts_the_tokens_of_its_steps_and_the_losses_of_each_data_set():
    class Clock:
        def training_seconds(self):
            return self.now

    clock, lines = Clock(), Lines()
    clock.now = 3.0
    report = Report(lines, lambda step: 0.5, clock, advice=str, work=Work(lambda batch: 50.0, 200.0, Totals(5, 7)))
    for step, name, loss in ((1, "pairs", 1.0), (2, "colours", 4.0)):
        batch = SimpleNamespace(tokens=12, useful_tokens=9)
        report.add(step, name, batch, {"loss": np.float32(loss), "grad_norm": np.float32(2.0)})
    clock.now = 5.0
    report.flush()
    expected = {"loss": 2.5, "grad_norm": 2.0, "pairs/loss": 1.0, "colours/loss": 4.0, "tokens_per_second": 9.0}
    expected |= {"mfu": 0.25, "tokens": 23.0, "operations": 107.0}
    assert lines.values == {2: expected | {"useful_share": 0.75, "learning_rate": 0.5}}


def test_what_is_not_known_is_no_metric():
    """The peak of a CPU, and what a run of an older version had done."""
    step = Pending(8, "pairs", 9, 12, 50.0, {})
    assert Work(lambda batch: 50.0, 0.0, None).metrics([step], 2.0) == {}
    assert Work(lambda batch: 50.0).metrics([step, step], 2.0) == {"tokens": 18.0, "operations": 100.0}
