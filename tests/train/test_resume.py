"""When a run has begun in a workdir, and what may differ when it goes on there."""

import json

import pytest

from f2jax import config as configs
from f2jax.errors import UserError
from f2jax.train import resume
from tests import tiny


@pytest.mark.parametrize(
    "files,begun,checkpoint",
    [
        ([], False, False),
        (["config.json", "data.json", "tokenizer/tokenizer.model"], False, False),
        (["checkpoints/4.orbax-checkpoint-tmp/params"], False, False),  # a write that was cut off
        (["checkpoints/4/params"], True, True),
        (["metrics.jsonl"], True, False),
    ],
    ids=lambda value: ",".join(value) or "empty" if isinstance(value, list) else None,
)
def test_a_run_has_begun_with_a_checkpoint_or_a_line_of_metrics(tmp_path, files, begun, checkpoint):
    (tmp_path / "metrics.jsonl").touch()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert (resume.has_begun(tmp_path), resume.has_checkpoint(tmp_path)) == (begun, checkpoint)


def workdir(folder, *files):
    """A workdir of `tiny.config(folder)` with some files more."""
    (folder / "run").mkdir()
    (folder / "run/config.json").write_text(configs.to_json(tiny.config(folder)))
    for name in files:
        (folder / "run" / name).parent.mkdir(exist_ok=True)
        (folder / "run" / name).write_text("{}\n")
    return folder / "run"


DATA, STEP, METRICS = "data.json", "checkpoints/4", "metrics.jsonl"


@pytest.mark.parametrize(
    "field,files",
    [
        ("seed", []),
        ("log.every", [METRICS]),
        ("mesh.fsdp", [METRICS, STEP]),
        ("init_from", [STEP]),
        ("teacher.path", [DATA, METRICS]),
        ("teacher.cache", [DATA, STEP]),
        ("data.sources", [DATA, STEP]),
    ],
)
def test_what_may_differ(tmp_path, field, files):
    run = workdir(tmp_path, *files)
    value = "('elsewhere',)" if field == "data.sources" else 3
    assert resume.prepare_workdir(tiny.config(tmp_path, **{field: value}), run) == bool(files)


@pytest.mark.parametrize(
    "field,files",
    [
        ("seed", [METRICS]),
        ("optim.peak_lr", [DATA, STEP]),
        ("init_from", [DATA, METRICS]),  # the weights are still to be read
        ("teacher.path", [STEP]),  # a version that kept no facts of its data
    ],
)
def test_what_may_not_differ(tmp_path, field, files):
    run = workdir(tmp_path, *files)
    with pytest.raises(UserError, match=f"holds a run whose config differs in {field}; give the same config"):
        resume.prepare_workdir(tiny.config(tmp_path, **{field: 3}), run)


@pytest.mark.parametrize(
    "before,changed",
    [
        ({"the tokenizer": "b"}, "the tokenizer"),
        ({"the tokenizer": "a", "data set gone": "rows"}, "data set gone"),
        ({f"data set {i}": "" for i in range(9)} | {"the tokenizer": "a"}, "data set 3, data set 4 and 4 more"),
    ],
    ids=["another", "one fewer", "many"],
)
def test_what_differs_in_the_data_of_a_run_is_named(tmp_path, before, changed):
    (tmp_path / "data.json").write_text(json.dumps(before))
    with pytest.raises(UserError, match=f"{changed}; restore"):
        resume.check_data(None, {"the tokenizer": "a"}, tmp_path, begun=True)
