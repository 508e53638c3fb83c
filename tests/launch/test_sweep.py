"""A sweep: all combinations, a workdir each, one slice or several."""

import sys

import pytest

from tests.launch.conftest import wait_for

SWEEP = ["sweep.sh", "--yes", "--config", "configs/nano.py:stage=1", "--workdir", "gs://bucket/sweep"]
GRID = ["--grid", "optim.peak_lr=1e-3,2e-3", "--grid", "seed=0,1"]


def names(launch) -> list[str]:
    """The workdirs of the trainings that were started, by their last part."""
    return [call[call.index("--workdir") + 1].removeprefix("gs://bucket/sweep/") for call in launch.f2jax_calls()]


def test_each_combination_is_trained_once_in_a_workdir_of_its_own(launch):
    launch.machines(1)
    launch.plan(*4 * ["0"])
    done = launch(*SWEEP, *GRID, "--", "--config.steps=9", TPU_TYPE="v5p-8")
    assert done.returncode == 0
    expected = []
    for lr, seed in (("1e-3", 0), ("1e-3", 1), ("2e-3", 0), ("2e-3", 1)):
        workdir = f"gs://bucket/sweep/optim.peak_lr={lr},seed={seed}"
        overrides = ["--config.steps=9", f"--config.optim.peak_lr={lr}", f"--config.seed={seed}"]
        expected.append(["0", "train", "--config", "configs/nano.py:stage=1", "--workdir", workdir, *overrides])
    assert launch.f2jax_calls() == expected
    assert done.stdout.count("done  gs://bucket/sweep/") == 4


def test_the_runs_of_a_sweep_share_their_compiled_programs_and_their_commands_do_not_say_so(launch):
    """So that sweeps that began before they did can be followed."""
    launch.machines(1)
    launch.program(launch.cloud / "worker-bin/f2jax", 'echo "$A $F2JAX_COMPILED" >>"$CLOUD/folders"')
    assert launch(*SWEEP, "--grid", "seed=0,1", TPU_TYPE="v5p-8", WORKER_ENV="A=1").returncode == 0
    assert launch.read("folders") == 2 * ["1 gs://bucket/sweep/compiled"]
    command = (launch.cloud / "machines/0/f2jax-run/command").read_text()
    assert command.startswith("A=1 f2jax train ") and "compiled" not in command


def test_the_runs_of_a_local_sweep_share_them_too(launch):
    local_f2jax(launch, 'echo "$F2JAX_COMPILED $JAX_COMPILATION_CACHE_DIR" >>"$CLOUD/folders"')
    assert launch(*LOCAL, *GRID, JAX_COMPILATION_CACHE_DIR="own").returncode == 0
    assert launch.read("folders") == 4 * ["runs/here/compiled own"]


def test_a_run_that_failed_is_reported_and_tried_again_while_the_others_are_skipped(launch):
    launch.machines(1)
    launch.plan("0", "1", "0")
    first = launch(*SWEEP, "--grid", "seed=0,1", TPU_TYPE="v5p-8")
    assert first.returncode == 1
    assert first.stdout.splitlines() == ["done  gs://bucket/sweep/seed=0", "not done  gs://bucket/sweep/seed=1"]
    assert (launch.checkout / "runs/sweep/seed=1.log").read_text().count("the message of 1")

    assert launch(*SWEEP, "--grid", "seed=0,1", TPU_TYPE="v5p-8").returncode == 0
    assert names(launch) == ["seed=0", "seed=1", "seed=1"]


def test_a_grid_may_come_from_a_file_and_values_may_have_commas(launch):
    (launch.checkout / "runs").mkdir()
    grid = launch.checkout / "runs/grid.txt"
    grid.write_text("# what is varied\ndata.weights=('a=1',)|('b=2','c=3')   # two mixtures\n\nseed=7\n")
    done = launch(*SWEEP, "--dry_run", "--grid_file", str(grid))
    assert done.returncode == 0
    assert "gs://bucket/sweep/data.weights=--a=1-,-,seed=7" in done.stderr
    assert "\n2 runs on 1 x 8 chips of v5p-16 (spot).\n" in done.stderr


def test_several_slices_share_the_runs_and_are_deleted_when_theirs_have_ended(launch):
    done = launch(*SWEEP, "--dry_run", "--grid", "seed=0,1,2", "--slices", "2")
    assert done.returncode == 0
    calls = [line for line in done.stderr.splitlines() if line.startswith("+ ")]
    for name, seeds in (("f2jax-1", "02"), ("f2jax-2", "1")):
        own = [call for call in calls if f" {name} " in call and ("worker.sh start" in call or " delete " in call)]
        assert [call.split("seed=")[1][0] for call in own[:-1]] == list(seeds)
        assert f" delete {name} --force" in own[-1]


def test_a_sweep_that_is_stopped_follows_nothing_any_more(launch):
    launch.plan("hang")
    process = launch.start(*SWEEP, "--grid", "seed=0", "--slices", "2")
    wait_for(lambda: len(launch.f2jax_calls()) == 2, process)
    process.terminate()
    assert launch.end(process).returncode == 130
    log = launch.checkout / "runs/sweep/seed=0.log"
    wait_for(lambda: "Not followed any more" in log.read_text(), process)
    assert "delete" not in launch.verbs()


def test_nothing_starts_without_a_yes(launch):
    done = launch(*[word for word in SWEEP if word != "--yes"], *GRID, answer="n\n")
    assert done.returncode == 1
    assert "4 runs on 1 x 8 chips of v5p-16 (spot).\nStart? [y/N] launch: nothing was done.\n" in done.stderr
    assert launch.calls() == []


def test_a_mistake_in_one_combination_stops_all_before_anything_is_paid_for(launch):
    done = launch(*SWEEP, "--grid", "optim.peak_l=1", PYTHON=sys.executable)
    assert done.returncode == 1
    assert done.stderr == "launch: The config has no field 'optim.peak_l'; did you mean 'optim.peak_lr'?\n"
    assert launch.calls() == []


LOCAL = ["sweep.sh", "--local", "--yes", "--config", "configs/nano.py", "--workdir", "runs/here"]


def local_f2jax(launch, text: str) -> None:
    """f2jax on this machine: writes down its arguments, then does what `text` says."""
    launch.program(launch.cloud / "bin" / "f2jax", f'{{ printf "%s " "$@"; echo; }} >>"$CLOUD/local"\n{text}')


def test_a_local_sweep_takes_options_of_the_config_too_and_resumes(launch):
    local_f2jax(launch, 'case " $* " in *stage=2*seed=1*) exit "${SECOND:-1}" ;; esac')
    grid = ["--grid", ":stage=1,2", "--grid", "seed=0,1", "--", "--config.steps=9"]
    first = launch(*LOCAL, *grid)
    names = [f"stage={stage},seed={seed}" for stage in (1, 2) for seed in (0, 1)]
    calls = [
        f"train --config configs/nano.py:stage={name[6]} --workdir runs/here/{name} --config.steps=9 "
        f"--config.seed={name[-1]} "
        for name in names
    ]
    assert launch.read("local") == calls
    assert first.returncode == 1
    assert first.stdout.splitlines() == [
        *(f"done  runs/here/{name}" for name in names[:3]),
        f"not done  runs/here/{names[3]}",
    ]
    assert launch.calls() == []

    assert launch(*LOCAL, *grid, SECOND="0").returncode == 0
    assert launch.read("local") == [*calls, calls[3]]


def test_a_local_sweep_that_is_stopped_lets_the_run_save(launch):
    local_f2jax(launch, "trap 'sleep 0.3; echo saved >>\"$CLOUD/local\"; exit 130' TERM; while :; do sleep 0.05; done")
    process = launch.start(*LOCAL, "--grid", "seed=0,1")
    wait_for(lambda: launch.read("local"), process)
    process.terminate()
    done = launch.end(process)
    assert done.returncode == 130 and "run the same command to continue" in done.stderr
    assert launch.read("local")[1:] == ["saved"]


def test_a_schedule_that_cannot_be_stops_all(launch):
    done = launch(*LOCAL, "--grid", "steps=300,15", "--dry_run", PYTHON=sys.executable)
    assert done.returncode == 1
    assert done.stderr == "launch: optim.warmup_steps=20 leaves nothing of 15 steps; lower it.\n"


def test_a_corpus_that_the_workers_will_not_have_stops_all(launch):
    done = launch(*SWEEP, *GRID, "--", "--config.data.sources=('corpus:/elsewhere',)", PYTHON=sys.executable)
    assert done.returncode == 1 and done.stderr.startswith("launch: The workers have no /elsewhere; put the corpus on")
    assert launch.calls() == []


def test_a_shape_that_cannot_be_stops_all(launch):
    done = launch(
        *LOCAL, "--grid", "model.heads=2,3", "--dry_run", "--", "--config.model.kv_heads=2", PYTHON=sys.executable
    )
    assert done.returncode == 1
    assert done.stderr == "launch: kv_heads=2 does not divide heads=3; choose a divisor.\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["sweep.sh"], "say what to train: --config configs/stage2.py:size=80m"),
        (SWEEP, "say what to vary: --grid optim.peak_lr=2e-5,4e-5"),
        ([*SWEEP, "--grid", "seed"], "'seed' should be FIELD=VALUE,VALUE."),
        (
            [*SWEEP, "--grid", "x=a/b,a-b"],
            "two runs would be called x=a-b; give values that differ in letters",
        ),
        ([*SWEEP, "--grid_file", "none.txt"], "there is no file none.txt."),
        ([*SWEEP, *GRID, "--slices", "all"], "--slices should be a whole number, at least 1."),
        ([*LOCAL, "--slices", "2"], "--local trains on this machine alone; leave --slices out."),
        ([*LOCAL, "--workdir", "gs://bucket/x"], "--local trains in a folder: --workdir runs/sweep."),
        (["sweep.sh", "--config", "x", "--workdir", "here"], "--workdir should be a folder of a bucket"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(launch, argv, sentence):
    done = launch(*argv)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launch: {sentence}") and done.stderr.count("\n") == 1
