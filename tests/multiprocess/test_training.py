"""A training goes on over other numbers of processes, through a kill and a SIGTERM on any of them: rows and losses are
those of one process without interruption.
"""

import json
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from f2jax.parallel.local import launch
from f2jax.train import workdir
from f2jax.train.loop import train
from tests import tiny

pytestmark = pytest.mark.slow

CHANGES = {"data.row_steps": 1, "log.every": 1, "checkpoint.keep_last": 9, "log.validation_batches": 1}


def lines(run) -> dict[int, dict]:
    """Training lines of metrics.jsonl by step."""
    found = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in found if "loss" in line}


def start(folder, run, processes: int, **mesh) -> list[subprocess.Popen]:
    changes = CHANGES | {f"mesh.{axis}": length for axis, length in mesh.items()}
    config = ["--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir", str(run)]
    command = ["-m", "f2jax", "train", *config, *tiny.overrides(folder, **changes)]
    return launch(command, processes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(run, step: int, started) -> None:
    while step not in lines(run):
        assert all(process.poll() is None for process in started), [process.communicate()[0] for process in started]
        time.sleep(0.05)


def ends(started, seconds: int) -> list[tuple[int, str]]:
    """(exit code, output) of each process; they end within so many seconds."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in started]
        return [(process.returncode, text) for process, text in zip(started, outputs, strict=True)]
    finally:
        for process in started:
            process.kill()


def test_from_one_process_to_two_to_four(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    train(tiny.config(tmp_path, **CHANGES), tmp_path / "one")
    expected = lines(tmp_path / "one")

    run = tmp_path / "run"  # the first four steps of the same run
    shutil.copytree(tmp_path / "one", run)
    for step in (8, 12):
        shutil.rmtree(run / f"checkpoints/{step}")
    kept = [text for text in (run / "metrics.jsonl").read_text().splitlines() if json.loads(text)["step"] <= 4]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")

    two = start(tmp_path, run, 2, fsdp=2)
    wait_for_step(run, 6, two)
    two[1].kill()
    (code, text), _ = ends(two, seconds=60)
    assert code != 0, "the process that is left ends too, and does not wait for ever"
    assert "Traceback" not in text, text

    two = start(tmp_path, run, 2, fsdp=2)
    wait_for_step(run, 6, two)
    two[1].send_signal(signal.SIGTERM)
    results = ends(two, seconds=300)
    assert [code for code, _ in results] == [130, 130], results
    assert all("Stopped and saved after step" in text.splitlines()[-1] for _, text in results)
    assert "Resuming after step 4 of 12" in results[0][1] and "Resuming" not in results[1][1], "one process prints"

    four = start(tmp_path, run, 4, fsdp=2)
    results = ends(four, seconds=300)
    assert [code for code, _ in results] == [0] * 4, results
    assert "Goodput" in results[0][1]

    found = lines(run)
    assert sorted(found) == sorted(expected) == list(range(1, 13))
    for step, line in expected.items():
        assert found[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step
        assert {key for key in line if "/" in key} == {key for key in found[step] if "/" in key}, "the same data set"
    one, other = (workdir.load_weights(str(folder))[1] for folder in (tmp_path / "one", run))
    worst = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one, other)
    assert max(jax.tree.leaves(worst)) < 1e-4
