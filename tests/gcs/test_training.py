"""A run whose data and workdir lie on gs://, killed in the middle and resumed: the same run as one on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

from f2jax import Embedder, cli, files
from f2jax.checkpoints import workdir
from f2jax.checkpoints.orbax import Checkpoints, finished_steps
from f2jax.train.loop import train
from tests import tiny

pytestmark = pytest.mark.slow

LENGTH = {"steps": 24, "checkpoint.every": 8, "log.tensorboard": True}


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A run of 24 steps on this machine, without interruption."""
    folder = tmp_path_factory.mktemp("local")
    train(tiny.config(folder, **LENGTH), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def remote(server, tmp_path_factory) -> str:
    """The same on gs://, by a process that is killed while it writes its second checkpoint, and one that goes on."""
    folder, bucket = tmp_path_factory.mktemp("remote"), server.new_bucket()
    paths = tiny.write_rows(folder)
    fsspec.filesystem("gs").put(paths, f"{bucket}/data/")
    sources = tuple(f"{bucket}/data/{Path(path).name}" for path in paths)
    options = tiny.overrides(folder, **LENGTH, **{"data.sources": str(sources)})
    command = [sys.executable, "-m", "f2jax", "train", "--config", str(tiny.ROOT / "configs/nano.py:stage=2")]
    command += ["--workdir", f"{bucket}/runs/one", *options]
    environment = server.environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)}
    here = {"env": environment, "cwd": folder, "text": True}

    since = server.mark()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **here)
    while process.poll() is None and not any("/checkpoints/16/" in r.url for r in server.requests(since)):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9, "the run was over before it could be killed"
    with Checkpoints(f"{bucket}/runs/one") as checkpoints:
        assert checkpoints.steps() in ([8], [8, 16])
        resumes = checkpoints.steps()[-1]

    again = subprocess.run(command, capture_output=True, check=False, **here)
    assert again.returncode == 0, again.stderr
    assert f"Resuming after step {resumes} of 24" in again.stdout
    assert not {"gs:", "run", "runs"} & set(os.listdir(folder)), "nothing of the run lies on this machine"
    return f"{bucket}/runs/one"


def test_a_run_killed_while_it_writes_its_first_checkpoint_starts_from_its_weights_again(server, local, tmp_path):
    """Orbax writes straight into `checkpoints/4/` there: a folder of that name is no checkpoint."""
    bucket = server.new_bucket()
    changes = {"init_from": str(local), "tokenizer.train_vocab": 0, "steps": 8}
    config = tiny.config(tmp_path, **changes)
    command = [sys.executable, "-m", "f2jax", "train", "--config", str(tiny.ROOT / "configs/nano.py:stage=2")]
    command += ["--workdir", f"{bucket}/run", *tiny.overrides(tmp_path, **changes)]
    environment = server.environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    filesystem = fsspec.filesystem("gs")
    while process.poll() is None and not filesystem.find(f"{bucket}/run/checkpoints/4"):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9, "the run was over before it could be killed"
    for name in filesystem.find(f"{bucket}/run/checkpoints"):  # where it was quicker than the kill
        if name.endswith("commit_success.txt"):
            filesystem.rm_file(name)
    assert filesystem.find(f"{bucket}/run/checkpoints/4") and not finished_steps(f"{bucket}/run")

    train(config, f"{bucket}/run")
    train(config, tmp_path / "whole")
    (_, there), (_, here) = (workdir.load_weights(str(run)) for run in (f"{bucket}/run", tmp_path / "whole"))
    assert jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), here, there))


def content(path) -> bytes:
    return files.read_range(path, 0, files.file_size(path))


def lines(run) -> list[dict]:
    """The metrics, without those that tell of time."""
    found = [json.loads(line) for line in content(files.join(run, "metrics.jsonl")).splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in found]


def test_the_parameters_are_the_same_bit_for_bit(local, remote):
    (architecture, here), (same, there) = (workdir.load_weights(str(run)) for run in (local, remote))
    assert architecture == same
    assert jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), here, there))


def test_architecture_tokenizer_and_checkpoints_are_the_same(local, remote):
    for name in ("model.json", "tokenizer/tokenizer.model"):
        assert content(files.join(local, name)) == content(files.join(remote, name))
    with Checkpoints(local) as here, Checkpoints(remote) as there:
        assert here.steps() == there.steps()


def test_the_metrics_are_the_same_and_without_gap(local, remote):
    assert [line["step"] for line in lines(remote)] == [*range(2, 25, 2), 24]
    assert lines(remote) == lines(local)


def test_tensorboard_files_of_both_processes_are_there(remote):
    filesystem, name = files.filesystem(f"{remote}/tensorboard")
    assert len(filesystem.find(name)) == 2


def test_the_embedder_and_the_commands_read_the_workdir(local, remote, tmp_path, capsys):
    texts = ["a red river", "ein Stein"]
    expected = Embedder.from_pretrained(local).encode(texts)
    np.testing.assert_array_equal(Embedder.from_pretrained(remote).encode(texts), expected)
    assert cli.main(["export", "--model", remote, "--output", str(tmp_path / "release")]) == 0
    np.testing.assert_array_equal(Embedder.from_pretrained(tmp_path / "release").encode(texts), expected)
