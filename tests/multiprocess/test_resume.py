"""Processes train on the same rows, and go on from the same checkpoint."""

import json
import os
import shutil

import pytest

from f2jax.locks import exclusive
from tests import tiny
from tests.checkpoints.test_orbax import run_to
from tests.multiprocess.test_processes import run

# `f2jax train`, each process in a folder of its own: the same paths, and what lies there is not the same.
TRAIN = """
import os, sys
from f2jax import cli
os.chdir(f"{sys.argv[1]}/{os.environ['JAX_PROCESS_ID']}")
sys.exit(cli.main(["train", *sys.argv[2:]]))
"""


def test_a_host_that_sees_other_rows_is_named_on_every_host(monkeypatch, tmp_path):
    for process in ("0", "1", "2"):
        (tmp_path / process).mkdir()
        tiny.write_rows(tmp_path / process)
    path = tmp_path / "1/colours.jsonl"
    path.write_text(path.read_text().replace("red", "blue", 1))

    options = tiny.overrides(tmp_path, **{"data.sources": "('pairs.jsonl', 'colours.jsonl')"})
    config = ["--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir", str(tmp_path / "run")]
    for code, text in run(monkeypatch, ["-c", TRAIN, str(tmp_path), *config, *options], 3):
        line = text.splitlines()[-1]
        assert code == 1 and "The hosts differ: " in line, text
        assert "process 1 on " in line and "has data set colours clustering, " in line
        assert "data set pairs" not in line and "process 0" not in line and "process 2" not in line
    assert not (tmp_path / "run/data.json").exists()


def test_a_workdir_that_another_job_writes_is_refused_by_every_process(monkeypatch, tmp_path):
    for process in ("0", "1"):
        (tmp_path / process).mkdir()
        tiny.write_rows(tmp_path / process)
    options = tiny.overrides(tmp_path, **{"data.sources": "('pairs.jsonl',)"})
    config = ["--config", str(tiny.ROOT / "configs/nano.py:stage=2"), "--workdir", str(tmp_path / "run")]
    with exclusive(tmp_path / "run", "train"):
        first, second = run(monkeypatch, ["-c", TRAIN, str(tmp_path), *config, *options], 2)
    assert (first[0], second[0]) == (1, 1)
    assert f"Another f2jax train, process {os.getpid()} on " in first[1].splitlines()[-1]
    assert f"Process 0 cannot use the workdir {tmp_path}/run; its message" in second[1].splitlines()[-1]


# Restores in each case as two processes, each of which has a folder of its own, and tells what came of it.
RESTORE = """
import json, sys
from f2jax.parallel import hosts
hosts.start()
import jax, ml_collections, numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec
from f2jax.errors import Restart, UserError
from f2jax.checkpoints.orbax import Checkpoints
from f2jax.checkpoints.orbax import TrainState
from tests.checkpoints.test_orbax import KEEP, STEPS, state_at

mesh = jax.make_mesh((2,), ("x",))
split = lambda x: NamedSharding(mesh, PartitionSpec("x") if x.ndim == 2 else PartitionSpec())
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split(x)), state_at(0))
def late(*_, **__):
    raise TimeoutError("no answer")

process, found = jax.process_index(), {}
for case in sys.argv[2:]:
    with Checkpoints(f"{sys.argv[1]}/{case}/{process}", ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
        if case == "late" and process == 1:
            ocp.Checkpointer.restore = late
        warnings = []
        try:
            with jax.set_mesh(mesh):
                state = checkpoints.restore(like, warn=warnings.append)
            checkpoints.set_aside_after(int(state.step))
            (weight,) = state.params["weight"].addressable_shards
            found[case] = [int(state.step), np.unique(weight.data).tolist(), len(warnings), checkpoints.steps()]
        except (UserError, Restart) as error:
            found[case] = [type(error).__name__, str(error)]
print("found", json.dumps(found))
"""
EMPTIED = {"whole": ([], []), "second": ([], [15]), "each": ([15], [10]), "none": ([], [5, 10, 15]), "late": ([], [])}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes restore, by case; each lacks the content of some checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    run_to(folder / "whole", 15, keep_last=3)
    for case, emptied in EMPTIED.items():
        for process, steps in enumerate(emptied):
            own = folder / case / str(process)
            shutil.copytree(folder / "whole/checkpoints", own / "checkpoints")
            for path in (path for step in steps for path in own.glob(f"checkpoints/{step}/**/*") if path.is_file()):
                path.write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        ended = run(patch, ["-c", RESTORE, str(folder), *EMPTIED], 2)
    assert [code for code, _ in ended] == [0, 0], ended
    lines = [line for _, text in ended for line in text.splitlines() if line.startswith("found ")]
    return [json.loads(line.removeprefix("found ")) for line in lines]


@pytest.mark.parametrize("case,step,warnings", [("whole", 15, 0), ("second", 10, 1), ("each", 5, 2)])
def test_all_take_the_newest_checkpoint_that_each_can_read(found, case, step, warnings):
    assert [own[case][:3] for own in found] == [[step, [step], warnings]] * 2


def test_what_was_passed_over_is_set_aside_once(found):
    assert [found[0][case][3] for case in ("whole", "second", "each")] == [[5, 10, 15], [5, 10], [5]]


@pytest.mark.parametrize("case,error,text", [("none", "UserError", "None of"), ("late", "Restart", "just now")])
def test_all_end_where_one_can_read_none_or_none_just_now(found, case, error, text):
    assert all(own[case][0] == error and text in own[case][1] for own in found)
