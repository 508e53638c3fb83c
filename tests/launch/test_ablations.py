"""The runs of launch/ablations/run.sh: what each row starts from and is taught by, and what is skipped."""

import shlex

import pytest

from configs.ablation import ROWS
from f2jax import config
from f2jax.errors import UserError
from tests.launch.conftest import ROOT

GIVEN = ["--teacher", "/t", "--from", "/f", "--corpus", "/c", "--texts", "a b", "--data", "/d"]


def planned(done) -> list[list[str]]:
    return [shlex.split(line[2:]) for line in done.stderr.splitlines() if line.startswith("+ ")]


def test_all_rows_and_seeds_are_pruned_trained_and_scored(launch, tmp_path):
    done = launch("ablations/run.sh", "--dry_run", *GIVEN, "--output", str(tmp_path), "--seeds", "0 1")
    assert done.returncode == 0, done.stderr
    commands = planned(done)
    runs = [command[command.index("--workdir") + 1] for command in commands if command[1] == "train"]
    scored = [command[command.index("--model") + 1] for command in commands if command[1] == "evaluate"]
    assert runs == scored and len(runs) == len(set(runs)) == 26


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_what_its_name_says(launch, tmp_path, row):
    done = launch("ablations/run.sh", "--dry_run", *GIVEN, "--output", str(tmp_path), "--rows", row, "--seeds", "7")
    commands = planned(done)
    (train,) = (command for command in commands if command[1] == "train")
    made = config.load(train[train.index("--config") + 1])
    assert made.seed == 7 and made.init_from == ("" if row.startswith("random_start") else made.model.size)
    assert made.model.size in [command[command.index("--output") + 1] for command in commands if command[1] == "prune"]
    assert (made.teacher.path, made.teacher.cache) == {
        "alone": ("", ""),
        "random_start_alone": ("", ""),
        "first_channels_alone": ("", ""),
        "cached": ("", f"{tmp_path}/teacher"),
    }.get(row, ("/t", ""))
    distilled = config.load(f"{ROOT}/configs/ablation.py:row=distilled,start={made.model.size},teacher=/t,seed=7")
    assert set(config.differences(distilled.to_dict(), made.to_dict())) == set(ROWS[row]) | (
        {"teacher.cache"} if row == "cached" else set()
    )


def test_students_can_train_as_in_the_first_stage(launch, tmp_path):
    options = ["--output", str(tmp_path), "--rows", "distilled", "--seeds", "0", "--stage", "1"]
    given = ["--config.steps=7", '--config.data.exclude=("a*",)']
    commands = planned(launch("ablations/run.sh", "--dry_run", *GIVEN, *options, "--", *given))
    train, evaluate = (next(c for c in commands if c[1] == name) for name in ("train", "evaluate"))
    made = config.load(train[train.index("--config") + 1])
    assert not made.data.use_instructions and not made.data.negatives.retrieval
    assert train[-2:] == given and evaluate[evaluate.index("--prompts") + 1] == "none"


@pytest.mark.parametrize("languages", ["", "eng zho"])
def test_scores_can_be_of_some_languages(launch, tmp_path, languages):
    options = ["--output", str(tmp_path), "--rows", "alone", "--seeds", "0", "--languages", languages]
    evaluate = planned(launch("ablations/run.sh", "--dry_run", *GIVEN, *options))[-1]
    chosen = evaluate[evaluate.index("--languages") + 1 : evaluate.index("--name")] if languages else []
    assert chosen == languages.split() and ("--languages" in evaluate) == bool(languages)


def test_what_is_done_is_skipped(launch, tmp_path):
    for name in ("student-importance", "distilled-0"):
        (tmp_path / "done").mkdir(exist_ok=True)
        (tmp_path / "done" / name).touch()
    options = ["--output", str(tmp_path), "--rows", "distilled", "--seeds", "0"]
    done = launch("ablations/run.sh", "--dry_run", *GIVEN, *options)
    assert [command[1] for command in planned(done)] == ["evaluate"]


def test_what_is_missing_is_one_sentence(launch):
    done = launch("ablations/run.sh", "--teacher", "/t")
    assert done.returncode == 1 and done.stderr == "launch: --from is missing; see launch/ablations/run.sh --help.\n"
    with pytest.raises(UserError, match=r"needs start and teacher"):
        config.load(f"{ROOT}/configs/ablation.py:row=alone")
    with pytest.raises(UserError, match=r"no row 'alnoe'; did you mean"):
        config.load(f"{ROOT}/configs/ablation.py:row=alnoe,start=a,teacher=b")
