"""Checkpoints on gs://, by Orbax itself: every bit comes back, and one that was cut off or damaged is never used."""

import fsspec
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from f2jax import files
from f2jax.checkpoints import orbax
from f2jax.checkpoints.orbax import Checkpoints, TrainState
from f2jax.errors import UserError
from f2jax.parallel.mesh import make_mesh

CONFIG = ml_collections.ConfigDict(
    {"every": 1, "keep_last": 2, "keep_every": 5, "tail_steps": 0, "tail_every": 0, "best_metric": ""}
)


def state_at(step: int) -> TrainState:
    """A state that tells its step from every weight; one weight is larger than a chunk of the store."""
    big = jax.random.normal(jax.random.key(step), (300, 700))
    params = {"big": big, "layers": {"norm": jnp.full(7, step, jnp.bfloat16)}}
    return TrainState(jnp.int32(step), params, {"mean": {"big": big * 2}, "count": jnp.int32(step)})


def like(sharding=None) -> TrainState:
    """The shapes of a state."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_at(0))


def same_bits(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b))


def save(run: str, *steps: int) -> None:
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step))


def restore(run: str, config=CONFIG) -> tuple[TrainState, list[str]]:
    """The newest readable state, and the warnings."""
    warnings: list[str] = []
    with Checkpoints(run, config, 99) as checkpoints:
        return checkpoints.restore(like(), warn=warnings.append), warnings


def objects(run: str, step: int) -> list[str]:
    """All objects under a checkpoint."""
    found, name = files.filesystem(f"{run}/checkpoints/{step}")
    return found.find(name)


@pytest.fixture
def run(bucket, monkeypatch) -> str:
    """A workdir; what seems damaged is read again at once."""
    monkeypatch.setattr(orbax, "RETRY_SECONDS", (0,))
    return f"{bucket}/runs/one"


def test_a_state_comes_back_bit_for_bit(run):
    save(run, 3)
    state, warnings = restore(run)
    assert same_bits(state, state_at(3)) and not warnings
    state, _ = restore(run, config=None)
    assert same_bits(state, state_at(3)), "read-only, as an Embedder does"


def test_a_run_without_checkpoints_has_no_state(run):
    state, warnings = restore(run)
    assert state is None and not warnings


def test_weights_are_restored_straight_into_a_sharding(run):
    save(run, 3)
    sharding = NamedSharding(make_mesh(), PartitionSpec())
    with Checkpoints(run) as checkpoints:
        state = checkpoints.restore(like(sharding))
        stored, unknown = checkpoints._chunks(3, ["params", "opt_state"])
    assert stored["params/big"] == (300, 700) and "opt_state/mean/big" in stored, "what no copy is read of twice"
    assert unknown is None
    assert same_bits(state, state_at(3))
    assert jax.tree.all(jax.tree.map(lambda x: x.sharding == sharding, state.params))


def test_the_last_two_and_every_fifth_stay(run):
    save(run, *range(1, 9))
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [5, 7, 8]
    assert not objects(run, 6), "nothing is left of the others"


def test_a_new_checkpoint_of_another_process_is_seen(run):
    save(run, 1)
    assert restore(run, config=None)[0].step == 1
    save(run, 2)
    assert restore(run, config=None)[0].step == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_write_that_was_cut_off_is_never_picked_up(run, share):
    """The marker comes last: without it, whatever of the rest is there does not count."""
    save(run, 1, 2)
    filesystem = fsspec.filesystem("gs")
    names = [name for name in objects(run, 2) if not name.endswith("/2/commit_success.txt")]
    assert len(names) == len(objects(run, 2)) - 1
    filesystem.rm_file(f"{run}/checkpoints/2/commit_success.txt")
    for name in names[: round(len(names) * (1 - share))]:
        filesystem.rm_file(name)

    state, warnings = restore(run, config=None)
    assert state.step == 1 and not warnings
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.save(state_at(2))
    assert same_bits(restore(run)[0], state_at(2)), "it is written anew"


def test_what_is_left_of_a_write_that_was_cut_off_is_deleted(run):
    save(run, 1, 2)
    fsspec.filesystem("gs").rm_file(f"{run}/checkpoints/2/commit_success.txt")
    save(run, 3)
    assert not objects(run, 2)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run):
    save(run, 1, 2)
    for name in objects(run, 2):
        content = files.read_range(f"gs://{name}", 0, files.file_size(f"gs://{name}"))
        if len(content) > 1_000:
            files.write_atomically(f"gs://{name}", content[:500])
    state, warnings = restore(run)
    assert same_bits(state, state_at(1))
    (warning,) = warnings
    assert warning.startswith("The checkpoint of step 2 cannot be read and is skipped")


def test_what_was_skipped_is_moved_within_the_bucket_and_never_deleted(run):
    save(run, 1, 2)
    for name in objects(run, 2):
        if name.endswith("_METADATA"):
            files.write_atomically(f"gs://{name}", b"")
    damaged = {name.split("/2/", 1)[1]: files.read_bytes(f"gs://{name}") for name in objects(run, 2)}
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        assert checkpoints.restore(like(), warn=[].append).step == 1
        checkpoints.set_aside_after(1)
        assert checkpoints.steps() == [1] and not objects(run, 2)
        checkpoints.save(state_at(2))
    assert same_bits(restore(run)[0], state_at(2))
    filesystem, folder = files.filesystem(f"{run}/unreadable/2")
    moved = filesystem.find(folder)
    assert {name.removeprefix(f"{folder}/"): files.read_bytes(f"gs://{name}") for name in moved} == damaged


@pytest.mark.parametrize("error", [RuntimeError("a new class of gcsfs"), ValueError("DATA_LOSS: once")], ids=str)
def test_one_failed_read_costs_no_checkpoint(run, monkeypatch, error):
    save(run, 1, 2)
    read, failures = ocp.Checkpointer.restore, [error]

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return read(*args, **options)

    monkeypatch.setattr(ocp.Checkpointer, "restore", failing)
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        if isinstance(error, RuntimeError):
            with pytest.raises(UserError, match=r"step 2 in .* cannot be used \(a new class of gcsfs\)"):
                checkpoints.restore(like())
        assert checkpoints.restore(like()).step == 2 and checkpoints.steps() == [1, 2]


def test_when_the_bucket_is_at_fault_no_checkpoint_is_passed_over(run, refusing):
    """Else a run would go back to an older state, or start anew, for a right that was lost for a minute."""
    save(run, 1, 2)
    warnings: list[str] = []
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        refusing(403, "someone@example.com does not have storage.objects.get access")
        with pytest.raises(UserError, match=r"does not have storage\.objects\.get access\); ask the owner"):
            checkpoints.restore(like(), warn=warnings.append)
    assert not warnings


def test_a_checkpoint_that_cannot_be_written_is_an_error(run, refusing):
    with Checkpoints(run, CONFIG, 99) as checkpoints:
        refusing(403, "someone@example.com does not have storage.objects.create access")
        with pytest.raises(UserError, match=rf"could not be written to {run}/checkpoints: .*"):
            checkpoints.save(state_at(1))
            checkpoints.wait()
