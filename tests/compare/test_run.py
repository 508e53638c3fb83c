"""`f2jax compare` on workdirs written by hand: what they say of themselves, and what is made of it."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from f2jax import cli, config
from f2jax.checkpoints.workdir import write_architecture
from f2jax.compare.law import GridPoint, ScalingLaw
from f2jax.compare.run import FittedLaw, optimum_table
from f2jax.compare.runs import differing_fields, measures, read_runs
from f2jax.model.sizes import size

LAW = ScalingLaw(0.4, 20.0, 0.4, 300.0, 0.4)
TOKENS = 1000  # a step
LONG = "width=64,steps=200,seed=0"
SPEED = 500.0  # tokens a second: two seconds a step


def workdir(
    folder: Path, width: int, steps: int, seed: int = 0, overrides=(), data="hash", counted=True, law=LAW
) -> Path:
    """A finished run of `steps` steps, whose held-out loss follows `law`."""
    fields = [f"--config.model.width={width}", f"--config.steps={steps}", f"--config.seed={seed}"]
    made = config.load("common", ["--config.model.size=tiny", "--config.loss.matryoshka=False", *fields, *overrides])
    path = folder / f"width={width},steps={steps},seed={seed}{''.join(overrides)}".replace("/", "-")
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.to_json(made))
    (path / "data.json").write_text(json.dumps({"data set names": data}))
    architecture = size("tiny", width=width)
    write_architecture(path, architecture)
    weights = architecture.parameters - architecture.table_parameters
    lines = [
        {"step": step, "loss": 5 - step / steps, "tokens_per_second": SPEED}
        | ({"tokens": TOKENS * step, "operations": 7e12 * step, "mfu": 0.4} if counted else {})
        for step in (steps // 2, steps)
    ]
    held_out = {"validation/loss": float(law.loss(weights, TOKENS * steps)), "validation/names/loss": 9.0}
    lines.append({"step": steps} | held_out)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')  # cut off
    return path


def grid(folder: Path, law: ScalingLaw = LAW) -> Path:
    for width in (32, 64, 128, 256):
        for steps in (100, 200, 400):
            workdir(folder, width, steps, law=law)
    (folder / "notes.log").write_text("no workdir\n")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def compare(*argv) -> int:
    return cli.main(["compare", *map(str, argv)])


def test_a_grid_becomes_a_page_with_a_law_that_predicts_the_size_left_out(tmp_path, capsys):
    assert compare(grid(tmp_path / "sweep"), "--output", tmp_path / "page", "--leave-out", "1", "--bootstrap", "5") == 0
    printed = capsys.readouterr().out
    assert "validation/loss = 0.4 + 20 / N^0.4 + 300 / D^0.4 on 9 runs. The 3 runs left out: off by 0.0%" in printed
    names = {"index.html", "curves.png", "law.png", "runs.csv", "curves.csv", "law.csv", ".f2jax.json"}
    assert {path.name for path in (tmp_path / "page").iterdir()} == names
    page = (tmp_path / "page/index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page.replace("http-equiv", "")

    runs = table(tmp_path / "page/runs.csv")
    assert [run["left out"] for run in runs] == [""] * 9 + ["yes"] * 3
    for run in runs:
        for name in ("validation/loss by the law", "low", "high"):
            assert float(run[name]) == pytest.approx(float(run["validation/loss"]), rel=1e-3)
    values = {row["constant"]: float(row["value"]) for row in table(tmp_path / "page/law.csv")}
    assert [values[name] for name in "EAaBb"] == pytest.approx(list(dataclasses.astuple(LAW)), rel=1e-3)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_loss_that_does_not_change_with_size_has_no_best_size(tmp_path, capsys):
    sweep = grid(tmp_path / "sweep", ScalingLaw(0.4, 0.0, 0.0, 300.0, 0.4))
    assert compare(sweep, "--output", tmp_path / "page", "--bootstrap", "3") == 0
    sentence = "The loss hardly changes with N in these runs, so its exponent is not identified and no size is optimal."
    assert f"validation/loss = 0.4 + 0 / N^0 + 300 / D^0.4 on 12 runs. {sentence}" in capsys.readouterr().out
    page = (tmp_path / "page/index.html").read_text()
    assert sentence in page and "Compute-optimal" not in page
    assert [row["constant"] for row in table(tmp_path / "page/law.csv")] == list("EAaBb")


def test_intervals_of_the_optimum_leave_out_samples_without_one(tmp_path):
    flat = ScalingLaw(0.6, 0.0, 0.0, 300.0, 0.4)
    point = GridPoint("run", 1000, 1e6, 6e9, 1.0)
    law = FittedLaw(LAW, [LAW, flat, LAW], [point], [])
    assert law.with_optimum == [LAW, LAW]
    assert law.doubt == "1 of 3 samples, in which the loss hardly changes with N or D, have no optimum."
    assert "Compute-optimal" in optimum_table(law).title
    assert FittedLaw(LAW, [flat], [point], []).with_optimum == []


def test_the_table_has_what_differs_and_what_a_run_took(tmp_path):
    sweep = tmp_path / "sweep"
    for steps in (100, 200):
        workdir(sweep, 64, steps)
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps([{"size": "tiny", "chips": 16, "seconds": {"step": 1.5}}, {"size": "tiny", "seconds": {}}])
    )
    assert compare(sweep, "--output", tmp_path / "page", "--plan", f"{LONG}={plan}") == 0

    short, long = table(tmp_path / "page/runs.csv")
    assert long["run"] == LONG and list(long)[:2] == ["run", "steps"]  # of the config, only steps differ
    assert (long["tokens"], long["seconds a step"], long["seconds a step, planned"]) == ("200000.0", "2.0", "1.5")
    assert float(long["hours"]) == pytest.approx(400 / 3600)
    assert float(long["chip-hours"]) == pytest.approx(16 * 400 / 3600) and short["chip-hours"] == ""
    assert float(long["operations"]) == 7e12 * 200 and float(long["mfu"]) == 0.4
    curves = table(tmp_path / "page/curves.csv")
    assert [(row["run"], row["step"], row["tokens"]) for row in curves[-3:]] == [
        (LONG, "100", "100000.0"),
        (LONG, "200", "200000.0"),
        (LONG, "200", "200000.0"),
    ]
    assert "validation/names/loss" not in curves[0]


def test_the_hours_of_a_branch_are_those_of_its_own_steps(tmp_path):
    """Two seconds a step, of steps 51 to 200; its tokens are those of all."""
    run = workdir(tmp_path, 64, 200)
    (run / "branch.json").write_text('{"run": "other", "step": 50, "changed": []}')
    (found,) = read_runs([str(run)])
    assert found.hours == pytest.approx(300 / 3600) and found.step_seconds == 2 and found.tokens == 200_000


def test_a_metric_that_no_run_has_is_refused(tmp_path, capsys):
    run = workdir(tmp_path, 64, 200)
    assert compare(run, "--output", tmp_path / "page", "--metric", "validation/los") == 1
    assert "No run has the metric 'validation/los'; did you mean 'validation/loss'?" in capsys.readouterr().err


def test_runs_whose_held_out_loss_is_of_something_else_are_marked_and_left_out_of_the_law(tmp_path):
    sweep = grid(tmp_path / "sweep")
    changes = ["data.batch_size=64", "loss.temperature=0.02", "loss.matryoshka=True", "teacher.path=other"]
    others = [workdir(sweep, 64, 300, overrides=[f"--config.{change}"]) for change in changes]
    others.append(workdir(sweep, 64, 300, data="other rows"))
    for other in others:
        (other / "metrics.jsonl").write_text('{"step": 300, "tokens": 300000, "validation/loss": 0.001}\n')
    assert compare(sweep, "--output", tmp_path / "page", "--bootstrap", "2") == 0
    runs = {run["run"]: run for run in table(tmp_path / "page/runs.csv")}
    assert sorted(runs[other.name]["held-out loss"] for other in others) == ["B", "C", "D", "E", "F"]
    assert {runs[other.name]["validation/loss by the law"] for other in others} == {""}
    assert [run["held-out loss"] for run in runs.values()].count("A") == 12
    values = {row["constant"]: float(row["value"]) for row in table(tmp_path / "page/law.csv")}
    assert values["a"] == pytest.approx(LAW.size_exponent, rel=1e-3)
    assert "these losses do not compare" in (tmp_path / "page/index.html").read_text()


def test_a_run_of_before_label_mask_was_a_switch_had_it_on(tmp_path):
    old, on, off = (
        workdir(tmp_path, 64, steps, overrides=[f"--config.loss.label_mask={value}"])
        for steps, value in ((100, False), (200, True), (400, False))
    )
    saved = json.loads((old / "config.json").read_text())
    del saved["loss"]["label_mask"]
    (old / "config.json").write_text(json.dumps(saved))
    runs = read_runs([str(path) for path in (old, on, off)])
    assert differing_fields(runs)["loss.label_mask"] == [True, True, False]
    assert measures(runs) == ["A", "A", "B"]


def test_what_is_no_grid_has_no_law_and_says_why(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for steps in (100, 200, 400):
        workdir(sweep, 64, steps, counted=False)
    assert compare(sweep, "--output", tmp_path / "page") == 0
    assert "No law: it takes 3 sizes with 3 budgets" in capsys.readouterr().out
    runs = table(tmp_path / "page/runs.csv")
    assert "tokens" not in runs[0] and "validation/loss by the law" not in runs[0]
    assert not (tmp_path / "page/law.png").exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["empty"], "is not a workdir of f2jax train, and contains none"),
        (["none"], "is not a workdir of f2jax train, and contains none"),
        (["sweep", "--leave-out", "-1"], "--leave-out -1 should be at least 0."),
        (
            ["sweep", "--plan", "other=plan.json"],
            "--plan other=plan.json should be RUN=FILE, with the name of a run such",
        ),
        (["sweep", "--plan", "width=64,steps=100,seed=0=PLANS"], "should hold one plan that fits, of size tiny, as"),
        (["sweep", "--bootstrap", "0"], "--bootstrap 0 should be at least 1."),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys, argv, sentence):
    (tmp_path / "empty").mkdir()
    workdir(tmp_path / "sweep", 64, 100)
    (tmp_path / "plans.json").write_text(json.dumps([{"size": "80m", "chips": 4, "seconds": {"step": 1.5}}]))
    argv = [text.replace("PLANS", str(tmp_path / "plans.json")) for text in argv]
    assert compare(tmp_path / argv[0], *argv[1:], "--output", tmp_path / "page") == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_tokens_between_lines_are_interpolated(tmp_path):
    from f2jax.compare.runs import read_runs

    (run,) = read_runs([workdir(tmp_path / "sweep", 64, 100)])
    assert run.tokens_at(np.array([0, 25, 50, 100])).tolist() == [0, 25_000, 50_000, 100_000]
