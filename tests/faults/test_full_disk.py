"""A disk that fills up in the middle of a run costs nothing that was written before."""

import os
import subprocess
import sys

import numpy as np
import pytest

from f2jax.checkpoints import workdir
from f2jax.checkpoints.orbax import Checkpoints
from f2jax.configs import common
from f2jax.data.corpus import Shards
from f2jax.data.teacher_vectors import Piece
from f2jax.errors import UserError
from tests import tiny


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB: room for two or three checkpoints of the tiny model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line_and_earlier_checkpoints_stay(small_disk, tmp_path):
    config = str(tiny.ROOT / "configs/nano.py:stage=2")
    command = [sys.executable, "-m", "f2jax", "train", "--config", config, "--workdir", str(small_disk / "run")]
    changes = tiny.overrides(tmp_path, **{"checkpoint.every": 2, "checkpoint.keep_last": 10})
    run = subprocess.run(
        [*command, *changes], env=os.environ | {"JAX_PLATFORMS": "cpu"}, cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if line.startswith("f2jax: ")]  # beside what Orbax's threads print
    assert len(said) == 1
    assert "the disk is full" in said[0] or "No space left on device" in said[0]
    assert "run the same command" in said[0]
    with Checkpoints(small_disk / "run") as checkpoints:
        assert checkpoints.steps()
    assert workdir.load_weights(str(small_disk / "run"))


def failing(checkpoints):
    checkpoints.manager.close()

    def close():
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    checkpoints.manager.close = close
    return checkpoints


def test_a_write_that_fails_at_the_very_end_is_said_too(tmp_path):
    config = common.get_config().checkpoint
    with pytest.raises(UserError, match="the disk is full"), failing(Checkpoints(tmp_path, config)):
        pass


def test_the_first_thing_that_went_wrong_is_the_one_that_is_said(tmp_path):
    config = common.get_config().checkpoint
    with pytest.raises(UserError, match="the first"), failing(Checkpoints(tmp_path, config)):
        raise UserError("the first")


def test_records_that_find_the_disk_full_say_so_and_leave_nothing(small_disk):
    """The library of the records raises RuntimeError, which would be a crash."""
    vectors = np.random.default_rng(0).normal(size=(60_000, 32))
    piece = Piece(str(small_disk / "vectors/train"), {}, Shards("", ()), "train", 0, len(vectors), 0)
    with pytest.raises(UserError, match="vectors/train cannot be written: the disk is full; make room there"):
        piece.write(vectors, "float32")
    assert not piece.exists() and not list((small_disk / "vectors").iterdir())
