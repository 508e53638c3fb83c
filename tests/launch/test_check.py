"""Trainings are checked before anything starts: what f2jax would refuse later is one sentence now."""

import importlib.util
import shutil
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from f2jax.errors import UserError
from tests import tiny
from tests.launch.conftest import ROOT

spec = importlib.util.spec_from_file_location("check", ROOT / "launch/check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)

TINY = ["--config", str(ROOT / "configs/nano.py:stage=1"), "--config.model.size=tiny"]
FINE = ["--config.data.sources=('{rows}',)"]


def said(tmp_path, capsys, overrides, *options) -> str:
    """What the check of one run says; {rows} in the overrides is a file of rows."""
    rows = tiny.write_rows(tmp_path)[0]
    try:
        check.main([*options, "--", *TINY, *(text.format(rows=rows, folder=tmp_path) for text in overrides)])
    except SystemExit as stop:
        return str(stop.code)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["--config.mesh.fsdp=3", "--config.mesh.data=-1"], "does not fit 8 device(s); the sizes must multiply to 8."),
        (["--config.mesh.tensor=8", "--config.mesh.data=1"], "is not a multiple of mesh.tensor=8; choose a divisor."),
        (["--config.steps=15", "--config.optim.warmup_steps=20"], "optim.warmup_steps=20 leaves nothing of 15 steps"),
        (["--config.steps=0", "--config.optim.schedule=cosin"], "There is no schedule 'cosin'; did you mean 'cosine'?"),
        (["--config.optim.freeze=('no_such',)"], "No weight is named 'no_such' (optim.freeze)"),
        (["--config.loss.distill=cosin"], "There is no distillation loss 'cosin'; did you mean 'cosine'?"),
        (["--config.loss.matryoshka_weights=even"], "There are no Matryoshka weights 'even'"),
        (["--config.model.remat=ful"], "There is no remat policy 'ful'; did you mean 'full'?"),
        (["--config.checkpoint.best_metric=loss"], "checkpoint.best_metric=loss should be a metric of held-out rows"),
        (["--config.data.sources=('{folder}/none.jsonl',)"], "/none.jsonl"),
        (["--config.data.sources=('corpus:{folder}',)"], "in data.sources is no corpus; make it with f2jax prepare."),
        ([*FINE, "--config.init_from={folder}/gone"], "gone"),
        ([*FINE, "--config.teacher.path={folder}"], "config.json"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, overrides, message):
    found = said(tmp_path, capsys, overrides, "--devices", "8", "--folder", str(tmp_path / "run"))
    assert found.startswith("launch: ") and message in found and "\n" not in found


@pytest.mark.parametrize(
    "tail,kept",
    [
        ({"tail_steps": 20}, 20),
        ({"tail_steps": 0}, 0),
        ({"tail_steps": 40, "tail_every": 0}, 0),
        ({"tail_steps": 40}, 40),
    ],
)
def test_runs_that_keep_checkpoints_of_fewer_steps_than_are_to_be_merged(tmp_path, capsys, tail, kept):
    overrides = [*FINE, *(f"--config.checkpoint.{name}={value}" for name, value in tail.items())]
    found = said(tmp_path, capsys, overrides, "--folder", str(tmp_path / "run"), "--merge", "40")
    assert (f"tail_every keep those of {kept}; merge fewer" in found) == (kept < 40)


def test_a_mistake_in_the_second_of_two_runs_is_found(tmp_path):
    with pytest.raises(SystemExit, match=r"no field 'optim\.peak_l'"):
        check.main(["--", *TINY, "++", *TINY, "--config.optim.peak_l=1"])


def test_runs_that_fit_pass_and_what_is_elsewhere_is_said(tmp_path, capsys):
    options = ["--devices", "8", "--folder", str(tmp_path / "run"), "--given", "out/0.6b-1"]
    assert said(tmp_path, capsys, [*FINE, "--config.init_from=out/0.6b-1"], *options) == ""
    hub = [*FINE, "--config.init_from=Qwen/Qwen3-0.6B"]
    assert "Qwen/Qwen3-0.6B is not looked for: it would be downloaded" in said(tmp_path, capsys, hub, *options)
    assert "they are not checked here" in said(tmp_path, capsys, FINE, "--devices", "8")
    assert "the data decide; the schedule" in said(tmp_path, capsys, [*FINE, "--config.steps=0"], *options)


def test_raw_data_that_is_not_there_is_found(tmp_path, capsys):
    corpus = ["--prepare", f"{tmp_path}/corpus", f"{tmp_path}/none.csv"]
    assert "none.csv" in said(tmp_path, capsys, FINE, "--folder", str(tmp_path), *corpus)


def test_a_disk_without_room_for_the_corpora(tmp_path, capsys, monkeypatch):
    """A corpus that is there needs none again."""
    for name, size in (("raw.jsonl", 3000), ("raw.jsonl.gz", 500)):
        (tmp_path / name).write_bytes(bytes(size))
    made = tmp_path / "made"
    made.mkdir()
    (made / "corpus.json").write_text("{}")
    needed = check.CORPUS_SHARE[False] * 3000 + check.CORPUS_SHARE[True] * 500
    corpora = ["--prepare", f"{tmp_path}/new/1", f"{tmp_path}/raw.jsonl", f"{tmp_path}/raw.jsonl.gz"]
    corpora += ["--prepare", str(made), f"{tmp_path}/raw.jsonl"]
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        found = said(tmp_path, capsys, FINE, *corpora)
        assert ("The corpora take at least" in found) and found.startswith("launch: ") != fits


def test_what_a_corpus_that_was_cut_off_has_on_disk_needs_no_room_again(tmp_path, monkeypatch):
    """1,000 bytes of the first lie there, of the second more than it is to take, of the third nothing."""
    (tmp_path / "raw.jsonl").write_bytes(bytes(4000))
    for name, lying in (("1", 1000), ("2", 100_000)):
        (tmp_path / name / "work").mkdir(parents=True)
        (tmp_path / name / "work/part").write_bytes(bytes(lying))
    corpora = [[str(tmp_path / name), str(tmp_path / "raw.jsonl")] for name in "123"]
    needed = 2 * check.CORPUS_SHARE[False] * 4000 - 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed))
    check.check_room_for_corpora(corpora, set())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match="room, or give another folder"):
        check.check_room_for_corpora(corpora, set())


def test_runs_are_planned_once_for_all_that_are_alike(tmp_path, capsys, monkeypatch):
    from f2jax.plan import run

    planned = []

    def plan_slice(config, topology):
        planned.append((config.model.size, config.teacher.path, topology))
        numbers = {"needed": 2**30, "hbm": 2**31, "seconds": {"step": 1728.0}, "chips": 8, "advice": "take more chips"}
        numbers |= {"topology": topology, "fits": config.model.size != "nano"}
        return run.SlicePlan(**dict.fromkeys(field.name for field in fields(run.SlicePlan)) | numbers)

    monkeypatch.setattr(run, "plan_slice", plan_slice)
    others = ["--config.seed=3", "--config.teacher.path=out/4b-2"]
    tiny_run = [*TINY, "--config.steps=100"]  # of 1,728 seconds, which are two days
    longer = [*TINY, "--config.steps=150", "--config.data.use_instructions=False", "--config.prompts.query=Search: "]
    runs = [*tiny_run, "--config.seed=2", "++", *tiny_run, "++", *tiny_run, *others, "++", *longer]
    check.main(["--plan", "v5p-16", "--given", "out/4b-2", "--", *runs])
    assert planned == [("tiny", "", "v5p:2x2x2"), ("tiny", "4b", "v5p:2x2x2")]
    printed = capsys.readouterr().err
    assert printed.count("1.0 of 2.0 GiB, 2.00 days at most, 384 chip-hours, $1,613 at $4.20\n") == 2
    assert printed.count("3.00 days at most, 576 chip-hours, $2,419 at $4.20\n") == 1, "the same step, more often"
    check.main(["--plan", "v5p-16", "--price", "1.5", "--", *tiny_run])
    assert "$576 at $1.50" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"nano.py:stage=1 does not fit v5p:2x2x2; take more chips\."):
        check.main(["--plan", "v5p-16", "--", "--config", str(ROOT / "configs/nano.py:stage=1")])
    planned.clear()
    with pytest.raises(SystemExit, match="does not fit 8 device"):
        check.main(["--plan", "v5p-16", "--devices", "8", "--", *TINY, "++", *TINY, "--config.mesh.fsdp=3"])
    assert not planned, "all are checked before the first is planned"
    with pytest.raises(SystemExit, match="--plan compiles for one slice"):
        check.main(["--plan", "v5p-16", "--slices", "2", "--", *TINY])


def test_a_disk_without_room_for_the_checkpoints_of_all_runs(tmp_path, capsys, monkeypatch):
    """A tiny model has 143,296 weights of 12 bytes with their moments; two newest, and one that is being written."""
    overrides = [*FINE, "--config.checkpoint.keep_last=2", "--config.checkpoint.tail_steps=0"]
    counted = []
    monkeypatch.setattr(check, "check_disk", lambda folder, needed: counted.append(needed))
    said(tmp_path, capsys, overrides, "--folder", str(tmp_path / "a/run"))
    from f2jax.model.sizes import size

    assert counted == [3 * 12 * size("tiny").parameters]
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=counted[0] - 1))
    found = said(tmp_path, capsys, overrides, "--folder", str(tmp_path / "a/run"))
    assert "GiB more at least and" in found and "give another folder, or lower checkpoint.keep_last" in found


def test_room_is_for_what_is_kept_for_good_and_the_moments_of_the_optimizer(tmp_path, monkeypatch):
    """Of 300 steps, 50, 100 … 300 stay, and one more is being written; SGD has one moment."""
    from f2jax.model.sizes import size

    counted = []
    monkeypatch.setattr(check, "check_disk", lambda folder, needed: counted.append(needed))
    rows = tiny.write_rows(tmp_path)[0]
    overrides = {"data.sources": f"('{rows}',)", "steps": 300, "optim.name": "sgd"}
    overrides |= {"checkpoint.every": 50, "checkpoint.keep_every": 50, "checkpoint.tail_steps": 0}
    words = [f"--config.{name}={value}" for name, value in overrides.items()]
    check.main(["--folder", str(tmp_path), "--", *TINY, *words])
    assert counted == [(6 + 1) * 8 * size("tiny").parameters]


def test_what_a_run_has_saved_already_needs_no_room_again(tmp_path, monkeypatch):
    """Of two checkpoints, one and 1,000 bytes lie there: the rest is asked for, and one that is being written."""
    from f2jax.model.sizes import size

    one, runs, counted = 12 * size("tiny").parameters, [], []
    monkeypatch.setattr(check, "check_disk", lambda folder, needed: counted.append(needed))
    rows = tiny.write_rows(tmp_path)[0]
    for name, lying in (("a", one + 1000), ("b", 5 * one), ("c", 0)):
        saved = tmp_path / name / "checkpoints/100/params"
        saved.mkdir(parents=True)
        (saved / "data").write_bytes(bytes(lying))
        overrides = ["--config.checkpoint.keep_last=2", "--config.checkpoint.tail_steps=0"]
        runs += ["++", *TINY, "--workdir", str(tmp_path / name), f"--config.data.sources=('{rows}',)", *overrides]
    check.main(["--folder", str(tmp_path), "--", *runs[1:]])
    assert counted == [(2 * one - 1000) + one + 3 * one]


def test_runs_of_a_sweep_that_are_done_are_not_checked_again(launch):
    argv = ["sweep.sh", "--local", "--dry_run", "--yes", "--config", "configs/nano.py", "--workdir", "runs/here"]
    done = launch.checkout / "runs/here"
    done.mkdir(parents=True)
    (done / "steps=15.done").touch()  # which is refused: fewer steps than the warmup takes
    for steps in ("300,15", "15"):
        assert launch(*argv, "--grid", f"steps={steps}", PYTHON=sys.executable).returncode == 0


def test_a_family_is_checked_before_its_first_step(launch):
    launch.program(launch.cloud / "bin/f2jax", 'echo "$1" >>"$CLOUD/ran"')
    launch.program(launch.cloud / "bin/hf", 'echo hf >>"$CLOUD/ran"')
    argv = ["family.sh", "--local", "--stage1", "raw/*.parquet", "--stage2", "raw/*.parquet", "--output", "out"]
    done = launch(*argv, "--sizes", "0.6b", PYTHON=sys.executable)
    assert done.returncode == 1 and done.stderr.startswith("launch: There is no data file raw/*.parquet")
    assert launch.read("ran") == []


def test_a_sweep_without_f2jax_starts_nothing_unchecked(launch):
    argv = ["sweep.sh", "--yes", "--config", "configs/nano.py", "--workdir", "gs://bucket/sweep", "--grid", "seed=0"]
    done = launch(*argv, PYTHON="false")
    assert done.returncode == 1 and "nothing is started unchecked: pip install -e" in done.stderr
    assert launch.calls() == []
