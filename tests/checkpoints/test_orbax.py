"""Checkpoints on disk: the recipe's choice of those that stay, and no use of one that was cut off."""

import errno
import random
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from f2jax.checkpoints import orbax
from f2jax.checkpoints.orbax import DAMAGED, NOT_NOW, READ, Checkpoints, SaveTimer, TrainState, is_checkpoint_step
from f2jax.errors import Restart, UserError
from f2jax.parallel import hosts
from f2jax.parallel.mesh import make_mesh

KEEP = {"every": 5, "keep_last": 2, "keep_every": 10, "tail_steps": 7, "tail_every": 2, "best_metric": ""}
STEPS = 25


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """What seems damaged is read again without a pause."""
    monkeypatch.setattr(orbax, "RETRY_SECONDS", (0,))


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


OTHERS = {"keep_every": 0, "tail_steps": 0}, {"keep_last": 4, "every": 7, "keep_every": 4}


@pytest.mark.parametrize("changes", [{}, *OTHERS], ids=str)
def test_the_room_that_a_run_needs_is_that_of_what_it_leaves(tmp_path, changes):
    config = ml_collections.ConfigDict(KEEP | changes)
    assert sorted(orbax.kept_steps(STEPS, config)) == run_to(tmp_path, STEPS, **changes)


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


def big_state(step: int) -> TrainState:
    """A state with a weight that fills a file of its own."""
    return TrainState(jnp.int32(step), {"weight": jax.random.normal(jax.random.key(step), (300, 700))}, {"mean": 0.0})


@pytest.mark.parametrize("damage", ["blank", "half", "gone", "noise"])
def test_a_file_that_is_damaged_is_noticed_whichever_it_is_and_costs_that_checkpoint_alone(tmp_path, damage):
    """It is restored bit for bit, or skipped for the one before, and never a traceback."""
    config = ml_collections.ConfigDict(KEEP)
    with Checkpoints(tmp_path / "run", config, STEPS) as checkpoints:
        checkpoints.save(big_state(5))
        checkpoints.save(big_state(10))
    restored = []
    for number, path in enumerate(sorted((tmp_path / "run/checkpoints/10").rglob("*"))):
        if not path.is_file():
            continue
        copy = shutil.copytree(tmp_path / "run", tmp_path / str(number))
        file, content = copy / path.relative_to(tmp_path / "run"), path.read_bytes()
        file.unlink()
        if damage != "gone":
            noise = random.Random(number).randbytes(len(content))
            file.write_bytes({"blank": b"", "half": content[: len(content) // 2], "noise": noise}[damage])
        with Checkpoints(copy, config, STEPS) as checkpoints:
            state = checkpoints.restore(big_state(0), warn=[].append)
        step = int(state.step)
        assert (state.params["weight"] == big_state(step).params["weight"]).all()
        restored.append(step)
    assert set(restored) == {5, 10}


def failing_once(monkeypatch, error):
    """The next read fails, and those after it do not."""
    read, failures = ocp.Checkpointer.restore, [error]

    def restore(*args, **options):
        if failures:
            raise failures.pop()
        return read(*args, **options)

    monkeypatch.setattr(ocp.Checkpointer, "restore", restore)


def test_one_read_that_seems_damaged_and_is_not_costs_nothing(tmp_path, monkeypatch):
    run_to(tmp_path, 15)
    failing_once(monkeypatch, ValueError("DATA_LOSS: a bucket can say so once"))
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        assert int(checkpoints.restore(state_at(0)).step) == 15


@pytest.mark.parametrize("error", [RuntimeError("something new"), PermissionError(errno.EACCES, "Permission denied")])
def test_an_error_that_does_not_say_damaged_skips_no_checkpoint(tmp_path, monkeypatch, error):
    run_to(tmp_path, 15)
    failing_once(monkeypatch, error)
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        with pytest.raises(UserError, match=r"The checkpoint of step 15 in .* cannot be used \("):
            checkpoints.restore(state_at(0))
        assert checkpoints.steps() == [10, 15]


@pytest.mark.parametrize(
    "like",
    [
        state_at(0).replace(params={"weight": jnp.zeros((5, 2))}),
        state_at(0).replace(opt_state={"trace": jnp.zeros(3)}),
    ],
    ids=["shape", "optimizer"],
)
def test_a_checkpoint_of_another_shape_or_optimizer_is_refused_and_not_skipped(tmp_path, like):
    run_to(tmp_path, 15)
    refused = pytest.raises(UserError, match=r"step 15 .* cannot be used \(.*restore it with the version and config")
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints, refused:
        checkpoints.restore(like)


def test_one_checkpoint_is_restored_where_its_step_is_given(tmp_path):
    run_to(tmp_path, 15)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state_at(0), step=10).params["weight"][0, 0]) == 10


def test_where_how_it_is_stored_cannot_be_read_each_device_reads_all_and_that_is_said_once(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EACCES, "Permission denied")

    run_to(tmp_path, 5)
    monkeypatch.setattr(orbax, "copy_axes", lambda x: ("data",))  # as on several devices
    here = NamedSharding(make_mesh(), PartitionSpec())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state_at(0))
    for said in ([], ["How step 5 is stored cannot be read ([Errno 13] Permission denied), so each device reads all"]):
        warnings: list[str] = []
        with Checkpoints(tmp_path) as checkpoints:
            state = checkpoints.restore(like, warn=warnings.append)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state, state_at(5)))
        assert len(warnings) == len(said) and all(map(str.startswith, warnings, said))
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "metadata", fail)


def test_an_error_on_its_way_waits_for_the_write_and_is_not_replaced(tmp_path):
    with Checkpoints(tmp_path, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        with pytest.raises(ZeroDivisionError), checkpoints.finishing():
            checkpoints.save(state_at(5))
            raise ZeroDivisionError
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]


def test_a_save_is_due_once_its_minutes_have_passed_and_asked_for_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    timer, never = SaveTimer(minutes=30), SaveTimer(minutes=0)
    asked = []
    for now[0] in (1799, 1800, 1801, 4000):
        asked.append(timer.due())
    assert asked == [False, True, False, False] and not never.due()
    timer.saved()
    now[0] = 5799
    assert not timer.due()
    now[0] = 5800
    assert timer.due()


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
        assert warnings == ["The checkpoint of step 15 cannot be read and is skipped (by process 1)."]
        beside_another(monkeypatch, DAMAGED, DAMAGED)
        with pytest.raises(UserError, match="None of the checkpoints"):
            checkpoints.restore(state_at(0), warn=warnings.append)
        beside_another(monkeypatch, NOT_NOW)
        with pytest.raises(Restart, match=r"step 15 could not be read just now \(by process 1\)"):
            checkpoints.restore(state_at(0))
