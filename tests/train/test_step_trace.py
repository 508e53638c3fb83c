"""The trace of some steps: a file that the profiler's own reader opens, with those steps and no others."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from f2jax import config as configs
from f2jax import files
from f2jax.errors import Restart, UserError
from f2jax.train.loop import train
from f2jax.train.step_trace import NAME, StepTrace
from tests import tiny


def traced_steps(workdir: Path) -> list[int]:
    """The numbers of the steps in the only trace of a workdir."""
    (path,) = (workdir / "profile").rglob("*.xplane.pb")
    assert path.parts[-4:-2] == ("plugins", "profile"), "where TensorBoard looks"
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events if event.name == NAME]
    return sorted({int(dict(event.stats)["step_num"]) for event in events})


@pytest.mark.parametrize(
    ("start", "steps", "taken", "expected"), [(2, 2, 6, [3, 4]), (0, 1, 3, [1]), (3, 9, 5, [4, 5])]
)
def test_the_steps_of_the_config_are_in_it_and_no_others(tmp_path, start, steps, taken, expected):
    state = [jnp.ones(3)]
    with StepTrace(tmp_path, start, steps) as trace:
        for step in range(taken):
            with trace.step(step, lambda: state):
                state[0] = state[0] + 1
    assert traced_steps(tmp_path) == expected


@pytest.mark.parametrize(("start", "steps", "first"), [(0, 0, 0), (2, 3, 3)])
def test_a_run_that_goes_on_after_the_first_of_them_writes_none(tmp_path, start, steps, first):
    with StepTrace(tmp_path, start, steps) as trace, trace.step(first, lambda: None):
        pass
    assert not (tmp_path / "profile").exists()


def test_a_run_writes_it_beside_its_metrics(tmp_path):
    changes = {"steps": 3, "log.profile": "(1, 1)", "log.validate_every": 0, "data.programs": 1}
    train(tiny.config(tmp_path, **changes, **{"loss.matryoshka": False}), tmp_path / "run")
    assert traced_steps(tmp_path / "run") == [2]


@pytest.mark.parametrize("value", ["(5,)", "(5, 0)", "(-1, 2)", "('a', 'b')", "(1, 2, 3)", "(1.5, 2)"])
def test_another_value_is_refused(value):
    config = configs.load("common", [f"--config.log.profile={value}"])
    with pytest.raises(UserError, match=r"log.profile=.* should be \(START, STEPS\), such as \(20, 5\)"):
        configs.check(config)


def test_with_a_workdir_on_gs_it_is_uploaded(tmp_path, monkeypatch):
    def write(target, content):
        path = tmp_path / target.removeprefix("gs://")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr(files, "write_atomically", write)
    with StepTrace("gs://bucket/run", 0, 1) as trace, trace.step(0, lambda: None):
        jnp.ones(3) + 1
    assert traced_steps(tmp_path / "bucket/run") == [1]


def test_an_upload_that_fails_ends_no_run_and_what_was_traced_stays(tmp_path, monkeypatch, capsys):
    def write(target, content):
        raise Restart(f"{target}: no answer")

    monkeypatch.setattr(files, "write_atomically", write)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with StepTrace("gs://bucket/run", 0, 1) as trace, trace.step(0, lambda: None):
        jnp.ones(3) + 1
    (folder,) = tmp_path.iterdir()
    assert any(folder.rglob("*.xplane.pb"))
    printed = capsys.readouterr().out
    assert printed.startswith("The trace could not be written to gs://bucket/run (gs://bucket/run/profile/plugins/")
    assert printed.endswith(f"no answer); it is in {folder}.\n")
