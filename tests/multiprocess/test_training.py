"""A training goes on over other numbers of processes, through a kill and a SIGTERM on one of them: rows and losses are
those of one process without interruption.
"""

import json
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest

from f2jax.checkpoints import workdir
from f2jax.parallel.simulate import launch
from tests import tiny

pytestmark = pytest.mark.slow

CHANGES = {"data.programs": 2, "log.every": 1, "checkpoint.keep_last": 9}
CHANGES |= {"loss.matryoshka": False, "data.validation_share": 0}  # two programs to compile, and small ones
# `f2jax train`, in which the last process sends itself a signal after it has started a step.
COMMAND = """
import os, sys
import jax
from f2jax import cli
from f2jax.train import loop

number, at = int(sys.argv[1]), int(sys.argv[2])
add = loop.Report.add

def signalled(self, step, *args):
    add(self, step, *args)
    if step == at and jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), number)

loop.Report.add = signalled
sys.exit(cli.main(["train", *sys.argv[3:]]))
"""


def run(folder, name, processes: int, number: int = 0, at: int = 0, devices: int = 1, **mesh) -> list[tuple[int, str]]:
    """(exit code, output) of each process of a training; they end within minutes."""
    changes = CHANGES | {f"mesh.{axis}": length for axis, length in mesh.items()}
    config = ["--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir", str(folder / name)]
    command = ["-c", COMMAND, str(int(number)), str(at), *config, *tiny.overrides(folder, **changes)]
    started = launch(command, processes, devices, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        outputs = [process.communicate(timeout=600)[0] for process in reversed(started)]
        return [(process.returncode, text) for process, text in zip(started, reversed(outputs), strict=True)]
    finally:
        for process in started:
            process.kill()


def lines(folder) -> dict[int, dict]:
    """Training lines of metrics.jsonl by step."""
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in found if "loss" in line}


def test_from_one_process_to_two_to_four(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    ((code, text),) = run(tmp_path, "one", 1)
    assert code == 0, text
    shutil.copytree(tmp_path / "one", tmp_path / "run")
    for step in (8, 12):
        shutil.rmtree(tmp_path / f"run/checkpoints/{step}")  # what is left is as if it had been killed after step 4

    (code, text), (killed, _) = run(tmp_path, "run", 2, signal.SIGKILL, 6, fsdp=2)
    assert killed == -signal.SIGKILL and code != 0, "the process that is left ends too, and does not wait for ever"
    assert "Resuming after step 4 of 12" in text and "Traceback" not in text

    (first, text), (last, other) = run(tmp_path, "run", 2, signal.SIGTERM, 6, fsdp=2)
    assert (first, last) == (130, 130), text + other
    assert all("Stopped and saved after step 7 of 12; run the same command to" in said for said in (text, other))
    assert "Resuming after step 4 of 12" in text and "Resuming" not in other, "one process prints"

    results = run(tmp_path, "run", 4, fsdp=2)
    assert [code for code, _ in results] == [0] * 4, "\n".join(said[-2000:] for _, said in results)
    assert "Resuming after step 7 of 12" in results[0][1] and "Goodput" in results[0][1]

    expected, found = lines(tmp_path / "one"), lines(tmp_path / "run")
    assert sorted(found) == sorted(expected) == list(range(1, 13))
    for step, line in expected.items():
        assert found[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step
        assert {key for key in line if "/" in key} == {key for key in found[step] if "/" in key}, "the same data set"
    one, other = (workdir.load_weights(str(tmp_path / name))[1] for name in ("one", "run"))
    worst = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one, other)
    assert max(jax.tree.leaves(worst)) < 1e-4


def test_tasks_of_a_run_on_two_processes_score_as_on_one(tmp_path, monkeypatch):
    """The first process scores, the other helps it encode, and both know which checkpoint is the best."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    script = """
from f2jax.evaluation import builtin

texts = [f"red {i} stone" for i in range(20)]
task = builtin.RetrievalTask("names", texts, [text[4:] for text in texts], [{i} for i in range(20)], ["und"] * 20)
builtin.TASKS = {"names": lambda: task}
"""
    monkeypatch.setattr("tests.multiprocess.test_training.COMMAND", script + COMMAND)
    monkeypatch.setitem(CHANGES, "log.evaluate_every", 4)
    monkeypatch.setitem(CHANGES, "checkpoint.best_metric", "evaluation/mean")
    monkeypatch.setitem(CHANGES, "checkpoint.keep_last", 1)
    monkeypatch.setitem(CHANGES, "model.dtype", "float32")
    found = []
    for name, processes, devices in (("one", 1, 1), ("two", 2, 2)):
        mesh = {"fsdp": 2, "tensor": 2} if devices == 2 else {}
        results = run(tmp_path, name, processes, devices=devices, **mesh)
        assert [code for code, _ in results] == [0] * processes, "\n".join(said[-2000:] for _, said in results)
        texts = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        scored = [line for line in map(json.loads, texts) if "evaluation/mean" in line]
        assert [line["step"] for line in scored] == [4, 8, 12]
        found.append([line["evaluation/names"] for line in scored])
        kept = sorted(int(path.name) for path in (tmp_path / name / "checkpoints").iterdir() if path.name.isdigit())
        assert len(kept) <= 2 and kept[-1] == 12
    assert found[0] == found[1]
