"""What a start finds in a workdir: whether a run has begun, what it goes on from, and what may differ then."""

import json
from types import SimpleNamespace

import pytest

from f2jax import config as configs
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.train import resume
from f2jax.train.loop import train
from tests import tiny

DATA, STEP, METRICS = "data.json", "checkpoints/4", "metrics.jsonl"


def workdir(folder, *files):
    """A workdir of `tiny.config(folder)` with some files more; Orbax takes any folder with a number as finished."""
    (folder / "run/checkpoints").mkdir(parents=True)
    (folder / "run/config.json").write_text(configs.to_json(tiny.config(folder)))
    (folder / "run/model.json").write_text(json.dumps(vars(size("tiny"))))
    for name in files:
        (folder / "run" / name).parent.mkdir(exist_ok=True, parents=True)
        if name == STEP:
            (folder / "run" / name).mkdir()
        else:
            (folder / "run" / name).write_text("{}\n")
    return folder / "run"


@pytest.mark.parametrize(
    "files,begun,step",
    [
        ([], False, None),
        ([DATA, "tokenizer/tokenizer.model"], False, None),
        (["checkpoints/4.orbax-checkpoint-tmp/params"], False, None),  # a write that was cut off
        ([STEP], True, 4),
        ([METRICS], True, None),
    ],
    ids=lambda value: ",".join(value) or "empty" if isinstance(value, list) else None,
)
def test_a_run_has_begun_with_a_checkpoint_or_a_line_of_metrics(tmp_path, files, begun, step):
    (tmp_path / "metrics.jsonl").touch()
    run = resume.open_run(tiny.config(tmp_path), workdir(tmp_path, *files))
    assert (run.begun, run.step) == (begun, step)


@pytest.mark.parametrize(
    "field,files",
    [
        ("seed", []),
        ("log.every", [METRICS]),
        ("mesh.fsdp", [METRICS, STEP]),
        ("init_from", [STEP]),
        ("resume_from", [STEP]),
        ("teacher.path", [DATA, METRICS]),
        ("teacher.cache", [DATA, STEP]),
        ("data.sources", [DATA, STEP]),
    ],
)
def test_what_may_differ(tmp_path, field, files):
    run = workdir(tmp_path, *files)
    value = "('elsewhere',)" if field == "data.sources" else 3
    assert resume.open_run(tiny.config(tmp_path, **{field: value}), run).begun == bool(files)


@pytest.mark.parametrize(
    "field,files,advice",
    [
        ("seed", [METRICS], "or another --workdir."),
        ("data.skip_steps", [DATA, STEP], "or another --workdir, with --config.resume_from="),
        ("optim.peak_lr", [DATA, STEP], "or another --workdir, with --config.resume_from="),
        ("init_from", [DATA, METRICS], "or another"),  # the weights are still to be read
        ("teacher.path", [STEP], "or another"),  # a version that kept no facts of its data
    ],
)
def test_what_may_not_differ(tmp_path, field, files, advice):
    run = workdir(tmp_path, *files)
    with pytest.raises(
        UserError, match=f"holds a run whose config differs in {field}; give the same config .*{advice}"
    ):
        resume.open_run(tiny.config(tmp_path, **{field: 3}), run)


def saved_config(run, change):
    """Changes the config of a run, as another version would have written it."""
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))


def test_a_run_of_a_version_with_other_fields_goes_on(tmp_path):
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config["optim"].update(gone_since=3))
    saved_config(run, lambda config: config["data"].pop("skip_steps"))
    saved_config(run, lambda config: config.pop("resume_from"))
    assert resume.open_run(tiny.config(tmp_path), run).step == 4


@pytest.mark.parametrize("group,values", [("optim", {"decay_steps": 3}), ("model", {"size": "", "width": 32})])
def test_a_run_with_a_field_that_changed_nothing_goes_on_without_it(tmp_path, group, values):
    """Versions that accepted `decay_steps` without `schedule=wsd`, or a width without a size, did not read it."""
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config[group].update(values))
    changes = {"model.size": ""} if "size" in values else {}
    assert resume.open_run(tiny.config(tmp_path, **changes), run).step == 4
    with pytest.raises(UserError, match=r"differs in optim\.peak_lr;"):
        resume.open_run(tiny.config(tmp_path, **changes, **{"optim.peak_lr": 3}), run)


def test_a_field_that_takes_effect_in_one_of_two_configs_is_a_difference(tmp_path):
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config["optim"].update(decay_steps=3))
    with pytest.raises(UserError, match=r"differs in optim\.decay_steps, optim\.schedule;"):
        resume.open_run(tiny.config(tmp_path, **{"optim.decay_steps": 3, "optim.schedule": "wsd"}), run)


def test_a_new_field_that_is_not_at_its_default_is_a_difference(tmp_path):
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config["data"].pop("skip_steps"))
    with pytest.raises(UserError, match=r"differs in data\.skip_steps"):
        resume.open_run(tiny.config(tmp_path, **{"data.skip_steps": 5}), run)


def test_a_run_of_before_label_mask_was_a_switch_goes_on_with_it_on(tmp_path):
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config["loss"].pop("label_mask"))
    assert resume.open_run(tiny.config(tmp_path, **{"loss.label_mask": True}), run).step == 4
    with pytest.raises(UserError, match=r"differs in loss\.label_mask;"):
        resume.open_run(tiny.config(tmp_path), run)


def test_a_name_of_the_users_own_that_has_gone_is_a_difference(tmp_path):
    run = workdir(tmp_path, DATA, STEP)
    saved_config(run, lambda config: config["prompts"].update(mine="Find it: "))
    with pytest.raises(UserError, match=r"differs in prompts\.mine"):
        resume.open_run(tiny.config(tmp_path), run)


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": '{"architectures": ["Qwen3Model"]}', "model.safetensors": "weights"},  # a released package
        {"config.json": '["no run"]'},
        {"notes.txt": "mine"},
        {"data.json": "{}", "checkpoints": "mine"},
    ],
    ids=["package", "list", "notes", "names like ours"],
)
def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path, files):
    (tmp_path / "run").mkdir()
    for name, content in files.items():
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(UserError, match="which is not a training run; give --workdir a new or empty folder"):
        resume.open_run(tiny.config(tmp_path), tmp_path / "run")
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == files


@pytest.mark.parametrize("name", [".DS_Store", "config.json.part"])
def test_an_empty_folder_but_for_a_hidden_or_half_a_file_is_a_new_workdir(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    assert not resume.open_run(tiny.config(tmp_path), tmp_path / "run").begun


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
    run = workdir(tmp_path, METRICS)
    (run / DATA).write_text(json.dumps(before))
    with pytest.raises(UserError, match=f"{changed}; restore"):
        resume.open_run(tiny.config(tmp_path), run).keep(tiny.config(tmp_path), {"the tokenizer": "a"}, None)


def test_a_run_of_a_version_that_knew_one_norm_of_its_teacher_goes_on_and_keeps_the_new_hash(tmp_path):
    run, config = workdir(tmp_path, METRICS), tiny.config(tmp_path)
    (run / DATA).write_text(json.dumps({"the tokenizer": "a", "the teacher": "one norm"}))
    kept = {"the tokenizer": "a", "the teacher's weights": "all bytes"}
    resume.open_run(config, run).keep(config, kept, None)
    assert json.loads((run / DATA).read_text()) == kept
    with pytest.raises(UserError, match="differs in the teacher's weights"):
        resume.open_run(config, run).keep(config, kept | {"the teacher's weights": "others"}, None)


@pytest.mark.parametrize(
    "name,message",
    [
        ("nosuch", "nosuch is not the workdir of a training run"),
        ("{run}@3", r"has no checkpoint of step 3; it has those of 4\."),
    ],
)
def test_a_branch_from_a_checkpoint_that_is_not_there_is_refused(tmp_path, name, message):
    run = workdir(tmp_path, STEP)
    with pytest.raises(UserError, match=message):
        resume.open_run(tiny.config(tmp_path, resume_from=name.format(run=run)), tmp_path / "branch")


def test_a_branch_without_a_checkpoint_begins_again_where_it_began(tmp_path):
    """The other run has gone on since: its newest checkpoint is another one."""
    other, config = workdir(tmp_path, STEP), tiny.config(tmp_path, resume_from=str(tmp_path / "run"))
    branch = tmp_path / "branch"
    resume.open_run(config, branch).keep(config, {}, SimpleNamespace(save=lambda folder: None))
    (branch / METRICS).write_text('{"step": 6}\n')
    (other / "checkpoints/12").mkdir()
    assert resume.open_run(config, branch).branch == (str(other), 4)
    assert resume.open_run(config, tmp_path / "new").branch == (str(other), 12)
    (other / STEP).rmdir()
    with pytest.raises(UserError, match=r"has no checkpoint of step 4; it has those of 12\."):
        resume.open_run(config, branch)


@pytest.mark.parametrize(
    "steps,advice",
    [
        ([], "Lower optim.peak_lr or look at that data, and begin in another --workdir; there is no checkpoint yet"),
        ([40, 80, 120], r"--config.resume_from=runs/a@80 and a lower .*, or --config.data.skip_steps=27 to leave out"),
    ],
    ids=["no checkpoint", "three"],
)
def test_the_advice_after_a_loss_that_is_not_finite_goes_on_before_it(steps, advice):
    """Step 100 took batch 99 + 7; from step 80 on batches 80 + 27 = 107 … follow."""
    import re

    assert re.search(advice, resume.diverged_advice("runs/a", steps, bad_step=100, skipped=7))


def test_a_workdir_in_which_another_process_trains_is_refused(tmp_path):
    run = tmp_path / "run"
    with resume.sole_training(run), resume.sole_training("gs://bucket/run"):
        with pytest.raises(UserError, match=r"^Another f2jax train, process \d+ on .*, is writing to .*run; wait"):
            train(tiny.config(tmp_path), run)
        assert [path.name for path in run.iterdir()] == [".train.lock"]


def test_the_lock_of_a_killed_start_does_not_make_a_folder_somebody_elses(tmp_path):
    (tmp_path / ".train.lock").touch()
    resume.check_is_run(tmp_path)
