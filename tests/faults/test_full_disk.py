"""A disk that fills up in the middle of a run costs nothing that was written before."""

import os
import subprocess
import sys

import pytest

from f2jax.train import workdir
from f2jax.train.checkpoint import Checkpoints
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, as room for two or three checkpoints of the tiny model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_in_one_line_and_earlier_checkpoints_stay(small_disk, tmp_path):
    config = str(tiny.ROOT / "configs/nano.py:stage=2")
    command = [sys.executable, "-m", "f2jax", "train", "--config", config, "--workdir", str(small_disk / "run")]
    changes = tiny.overrides(tmp_path, **{"checkpoint.every": 2, "checkpoint.keep_last": 10})
    run = subprocess.run(
        [*command, *changes], env=os.environ | {"JAX_PLATFORMS": "cpu"}, cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("f2jax: ") and ("the disk is full" in last or "No space left on device" in last)
    assert "run the same command" in last
    with Checkpoints(small_disk / "run") as checkpoints:
        assert checkpoints.steps()
    assert workdir.load_weights(str(small_disk / "run"))
