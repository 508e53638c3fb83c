"""The whole family in order: what each model starts from, who teaches it, and what is skipped."""

import shlex

import pytest

from f2jax import config
from f2jax.evaluation.published import load_published
from tests.launch.conftest import ROOT

FAMILY = ["family.sh", "--local", "--stage1", "raw1/*.parquet", "--stage2", "raw2/*.parquet"]
SLICE = ["family.sh", "--stage1", "gs://raw1/*.parquet", "--stage2", "raw2/*.parquet"]
SIZES = ("14b", "8b", "4b", "1.7b", "0.6b", "330m", "160m", "80m")
# The F2LLM-v2 paper: table 1 (teachers), section 3.3 (which sizes are cut from the 0.6B).
TEACHERS = {"1.7b": "4b", "0.6b": "1.7b", "330m": "0.6b", "160m": "0.6b", "80m": "0.6b"}
PRUNED = ("330m", "160m", "80m")


def planned(done) -> list[list[str]]:
    """The commands of a dry run, without `f2jax` or the script that runs it on a slice."""
    commands = [shlex.split(line[2:]) for line in done.stderr.splitlines() if line.startswith("+ ")]
    return [command[1 + (command[1] == "--one") :] for command in commands if command[0].endswith(("f2jax", "run.sh"))]


def values(command: list[str]) -> dict[str, str]:
    """{"--workdir": …} of a command, in either way of writing."""
    flat = [part for word in command[1:] for part in (word.split("=", 1) if word.startswith("--config.") else [word])]
    return dict(zip(flat[::2], flat[1::2], strict=False))


@pytest.fixture
def commands(launch) -> list[list[str]]:
    return planned(launch(*FAMILY, "--dry_run", "--output", "/out"))


def test_every_model_is_there_before_something_is_made_of_it(commands):
    made = {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B"}
    for command in commands[2:]:
        given = values(command)
        needs = [given[name] for name in ("--model", "--config.init_from") if name in given]
        if command[0] == "train":
            needs += [part for part in given["--config"].split("teacher=")[1:] if part != "none"]
            made.add(given["--workdir"])
        assert set(needs) <= made
        if command[0] in ("prune", "export"):
            made.add(given["--output"])


def test_models_start_and_are_taught_as_in_the_paper(commands):
    trained = {values(command)["--workdir"]: values(command) for command in commands if command[0] == "train"}
    assert len(trained) == 5 + 8
    for size in SIZES:
        second = trained[f"/out/{size}-2"]
        teacher = f"/out/{TEACHERS[size]}-2" if size in TEACHERS else "none"
        assert second["--config"].endswith(f"configs/stage2.py:size={size},teacher={teacher}")
        assert second["--config.init_from"] == f"/out/{size}-1"
        assert (f"/out/{size}-1" in trained) == (size not in PRUNED)
    pruned = [values(command) for command in commands if command[0] == "prune"]
    assert [(p["--model"], p["--size"], p["--input"], p["--output"]) for p in pruned] == [
        ("/out/0.6b-1", size, "raw1/*.parquet", f"/out/{size}-1") for size in PRUNED
    ]


def test_every_training_is_one_that_f2jax_accepts(commands):
    for command in commands:
        if command[0] == "train":
            file, options = values(command)["--config"].split("configs/")[1].split(":", 1)
            overrides = [word for word in command if word.startswith("--config.")]
            loaded = config.load(f"{ROOT}/configs/{file}:{options}", overrides)
            assert loaded.data.sources[0].startswith("corpus:/out/corpus/")
            assert loaded.mesh.fsdp == -1, "14b does not fit a chip whole"


def test_overrides_are_of_every_training_and_win(launch):
    done = launch(*FAMILY, "--dry_run", "--output", "/out", "--sizes", "0.6b", "--", "--config.mesh.fsdp=8")
    trainings = [command for command in planned(done) if command[0] == "train"]
    assert len(trainings) == 2
    for command in trainings:
        overrides = [word for word in command if word.startswith("--config.mesh")]
        assert config.load(f"{ROOT}/configs/stage2.py:size=0.6b,teacher=none", overrides).mesh.fsdp == 8


def test_sizes_may_come_one_after_another_and_what_was_trained_before_teaches(launch):
    marks = launch.checkout / "runs/family/-out"
    marks.mkdir(parents=True)
    for step in ("train-4b-2", "train-0.6b-1"):
        (marks / step).touch()
    done = launch(*FAMILY, "--dry_run", "--output", "/out", "--sizes", "1.7b 80m")
    configs = [values(command)["--config"] for command in planned(done) if command[0] == "train"]
    assert [given.split("teacher=")[1] for given in configs if "teacher=" in given] == ["/out/4b-2", "none"]


def test_steps_that_are_done_are_skipped_and_a_failed_one_is_tried_again(launch):
    launch.program(
        launch.cloud / "bin/f2jax",
        'echo "$1" >>"$CLOUD/ran"; [ "$1" != export ] || [ -e "$CLOUD/may-export" ] || exit 3',
    )
    launch.program(launch.cloud / "bin/hf", "true")
    argv = [*FAMILY, "--output", str(launch.cloud / "out"), "--sizes", "0.6b", "--benchmarks", "english code"]
    first = launch(*argv)
    assert first.returncode == 1
    assert first.stderr.endswith(
        "launch: export-0.6b failed with exit code 3; run the same command to continue from here.\n"
    )
    launch.write("may-export")
    assert launch(*argv).returncode == 0
    steps = ["prepare", "prepare", "train", "train", "export", "export", "verify", "evaluate", "evaluate", "report"]
    assert launch.read("ran") == steps


def test_packages_are_scored_on_the_17_benchmarks_and_reported_at_the_end(launch):
    commands = planned(launch(*FAMILY, "--dry_run", "--output", "/out", "--sizes", "0.6b 80m"))
    scored = [values(command) for command in commands if command[0] == "evaluate"]
    assert [run["--model"] for run in scored] == 17 * ["/out/release/0.6b"] + 17 * ["/out/release/80m"]
    assert len({run["--benchmark"] for run in scored}) == 17
    assert {run["--benchmark"] for run in scored} == set(load_published()["benchmarks"])
    assert commands[-1] == ["report", "/out/results/0.6b", "/out/results/80m", "--output", "/out/report"]


def test_what_is_released_may_be_an_average(launch):
    commands = planned(launch(*FAMILY, "--dry_run", "--output", "/out", "--sizes", "0.6b", "--merge", "2500"))
    merged = [command for command in commands if command[0] == "merge"]
    assert merged == [["merge", "/out/0.6b-2", "--last", "2500", "--output", "/out/0.6b-merged-2500"]]
    (exported,) = [values(command) for command in commands if command[0] == "export"]
    assert exported["--model"] == "/out/0.6b-merged-2500"


def test_a_release_takes_the_place_of_another_one_and_a_report_has_all_sizes_with_results(launch):
    launch.program(launch.cloud / "bin/f2jax", 'echo "$@" >>"$CLOUD/ran"')
    launch.program(launch.cloud / "bin/hf", "true")
    out = launch.cloud / "out"

    def ran(sizes, *options) -> list[list[str]]:
        (launch.cloud / "ran").unlink(missing_ok=True)
        done = launch(*FAMILY, "--output", str(out), "--sizes", sizes, "--benchmarks", "english", *options)
        assert done.returncode == 0, done.stderr
        return [line.split() for line in launch.read("ran")]

    ran("0.6b")
    (out / "results/0.6b").mkdir(parents=True)
    release = ["export", "verify", "evaluate", "report"]
    for options, steps in (
        ([], ["report"]),
        (["--merge", "2"], ["merge", *release]),
        (["--merge", "4"], ["merge", *release]),
        (["--merge", "2"], release),  # its average is still there
        ([], release),
    ):
        assert [command[0] for command in ran("0.6b", *options)] == steps
    assert ran("80m")[-1] == ["report", f"{out}/results/0.6b", f"{out}/results/80m", "--output", f"{out}/report"]


def test_on_a_slice_trainings_run_on_all_workers_and_the_rest_on_one(launch):
    launch.program(launch.cloud / "bin/f2jax", "true")
    where = ["--output", "gs://b/family", "--sizes", "0.6b 80m"]
    done = launch(*SLICE, "--dry_run", *where, DATA="gs://b/family/corpus", EXTRAS="tpu,mteb")
    lines = [line.split("run.sh ")[1].split()[:2] for line in done.stderr.splitlines() if "run.sh " in line]
    assert [words[0] for words in lines].count("train") == 3
    assert {words[1] for words in lines if words[0] == "--one"} == {"prune", "evaluate", "export"}
    assert "('\\''corpus:/tmp/f2jax-data/1'\\'',)" in done.stderr
    assert not (launch.checkout / "runs/family").exists(), "a dry run writes nothing"


def test_what_workers_read_lies_in_the_bucket(launch):
    launch.program(launch.cloud / "bin/f2jax", "true")
    argv = ["family.sh", "--stage1", "raw1/*.parquet", "--stage2", "raw2/*.parquet", "--output", "gs://b/x"]
    done = launch(*argv, DATA="gs://b/x/corpus")
    assert done.stderr == (
        "launch: a worker reads the files of --stage1 to measure what to prune: put raw1/*.parquet on gs://.\n"
    )


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["family.sh"], "say what to train on and where to write: --stage1"),
        ([*FAMILY, "--output", "/out", "--sizes", "7b"], "there is no size '7b'."),
        ([*FAMILY, "--output", "/out", "--sizes", "80m"], "80m is pruned from 0.6b: add that to --sizes."),
        ([*FAMILY, "--output", "gs://b/x"], "--local writes to a folder, not to gs://b/x."),
        ([*SLICE, "--output", "/out"], "a slice writes to a bucket: --output gs://bucket/family."),
        ([*SLICE, "--output", "gs://b/x"], "set DATA=gs://b/x/corpus in launch/env.sh"),
        ([*FAMILY, "--output", "/out", "--merge", "all"], "--merge should be a number of steps, such as 2500."),
        ([*FAMILY, "--output", "/out", "--plan"], "--plan is for a slice; leave it out with --local."),
    ],
)
def test_a_wrong_order_is_one_sentence(launch, argv, sentence):
    done = launch(*argv)
    assert done.returncode == 1
    assert done.stderr.startswith(f"launch: {sentence}") and done.stderr.count("\n") == 1
