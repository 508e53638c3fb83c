"""Checkpoints on disk: the recipe's choice of those that stay, and no use of one that was cut off."""

import errno
import shutil

import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
import pytest

from f2jax.checkpoints.orbax import DAMAGED, NOT_NOW, READ, Checkpoints, TrainState, is_checkpoint_step
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts

KEEP = {"every": 5, "keep_last": 2, "keep_every": 10, "tail_steps": 7, "tail_every": 2}
STEPS = 25


def state_at(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"weight": jnp.full((4, 2), step)}, {"mean": jnp.full(3, -step)})


def run_to(folder, stop: int, **changes) -> list[int]:
    """The steps whose checkpoints are there after the run's steps up to `stop`."""
    config = ml_collections.ConfigDict(KEEP | changes)
    with Checkpoints(folder, config, STEPS) as checkpoints:
        for step in range(1, stop + 1):
            if is_checkpoint_step(step, STEPS, config):
                checkpoints.save(state_at(step))
        checkpoints.wait()
        return checkpoints.steps()


def test_the_last_ones_the_multiples_and_the_tail_stay(tmp_path):
    assert run_to(tmp_path / "early", 16) == [10, 15], "every fifth is written, the last two stay"
    assert run_to(tmp_path / "whole", STEPS) == [10, 18, 20, 22, 24, 25], "tail: even steps of the last seven"
    assert run_to(tmp_path / "bare", STEPS, keep_every=0, tail_steps=0) == [20, 25]


def test_a_write_that_was_cut_off_is_never_picked_up(tmp_path):
    """A checkpoint gets its name when it is whole; until then its folder is marked as temporary."""
    run_to(tmp_path, 10)
    whole = tmp_path / "checkpoints/10"
    shutil.copytree(whole, tmp_path / "checkpoints/15.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        state = checkpoints.restore(state_at(0))
        assert int(state.step) == 10 and checkpoints.steps() == [5, 10]
        checkpoints.save(state_at(15))  # waits for the clearing up, which goes on in the background
    assert not (tmp_path / "checkpoints/15.orbax-checkpoint-tmp").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        ValueError("RESOURCE_EXHAUSTED: out of memory"),
        TimeoutError("no answer"),
    ],
    ids=str,
)
def test_a_disk_that_fails_for_a_moment_costs_no_checkpoint(tmp_path, error, monkeypatch):
    run_to(tmp_path, 15)
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        before = checkpoints.steps()

        def failing(*_, **__):
            raise error

        with monkeypatch.context() as patch, pytest.raises(Restart, match="step 15 could not be read just now"):
            patch.setattr(ocp.Checkpointer, "restore", failing)
            checkpoints.restore(state_at(0))
        assert checkpoints.steps() == before and int(checkpoints.restore(state_at(0)).step) == 15


def test_a_checkpoint_that_cannot_be_written_just_now_asks_for_a_restart(tmp_path, monkeypatch):
    run_to(tmp_path, 5)
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:

        def failing(*_, **__):
            raise ValueError("UNAVAILABLE: no answer")

        monkeypatch.setattr(checkpoints.manager, "save", failing)
        with pytest.raises(Restart, match=r"could not be written to .* just now \(UNAVAILABLE: no answer\)"):
            checkpoints.save(state_at(10))


def test_a_checkpoint_that_was_passed_over_is_set_aside_and_not_deleted(tmp_path):
    run_to(tmp_path, 15)
    for _ in range(2):  # the second time one of that number lies there
        damaged = [path for path in (tmp_path / "checkpoints/15").rglob("*") if path.is_file()]
        for path in damaged:
            path.write_bytes(b"")
        with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
            assert int(checkpoints.restore(state_at(0), warn=[].append).step) == 10
            checkpoints.set_aside_after(10)
            assert checkpoints.steps() == [10]
            checkpoints.save(state_at(15))
            checkpoints.wait()
            assert int(checkpoints.restore(state_at(0)).step) == 15
    assert sorted(path.name for path in (tmp_path / "unreadable").iterdir()) == ["15", "15-2"]


def beside_another(monkeypatch, *outcomes: int):
    """As if a second process said so of each checkpoint, one after the other."""
    said = iter(outcomes)
    monkeypatch.setattr(hosts, "allgather", lambda value: [value, next(said)])


def test_a_checkpoint_that_another_process_cannot_read_is_passed_over_here_too(tmp_path, monkeypatch):
    run_to(tmp_path, 15)
    warnings: list[str] = []
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        beside_another(monkeypatch, DAMAGED, READ)
        assert int(checkpoints.restore(state_at(0), warn=warnings.append).step) == 10
        assert warnings == ["The checkpoint of step 15 cannot be read and is passed over (by process 1)."]
        beside_another(monkeypatch, DAMAGED, DAMAGED)
        with pytest.raises(UserError, match="None of the checkpoints"):
            checkpoints.restore(state_at(0), warn=warnings.append)
        beside_another(monkeypatch, NOT_NOW)
        with pytest.raises(Restart, match=r"step 15 could not be read just now \(by process 1\)"):
            checkpoints.restore(state_at(0))
