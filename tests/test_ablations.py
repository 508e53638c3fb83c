"""The rows of benchmarks/ablations.py, and what is made of their scores."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.ablations import QUESTIONS, Question, Scores
from configs.ablation import ROWS
from f2jax import config
from f2jax.errors import UserError

PATH = Path(__file__).parents[1] / "configs/ablation.py"
MEANS_OF_EXAMPLE = {"a": (10.0, 12.0, 14.0), "b": (11.0, 13.0, 18.0)}


def load(row: str, seed: int = 0):
    start = ",start=/start" if ROWS[row].start else ""
    return config.load(f"{PATH}:row={row},data=/data,seed={seed}{start}")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_differs_from_the_recipe_in_what_it_says(name):
    row, made = ROWS[name], load(name)
    config.check(made)
    said = set(row.changes)
    if "steps" in said:
        said.add("checkpoint.every")
    if row.corpus != "corpus":
        said.add("data.sources")
    if row.vectors != ROWS["recipe"].vectors:
        said.add("teacher.cache")
    if not row.start:
        said |= {"init_from", "model.size", "model.width", "model.vocab"}
    assert set(config.differences(load("recipe").to_dict(), made.to_dict())) == said


def test_seeds_are_runs_of_their_own():
    assert config.differences(load("recipe").to_dict(), load("recipe", 1).to_dict()) == ["seed"]


def test_every_start_is_a_row_or_made_and_never_both():
    assert {row.start for row in ROWS.values() if row.start} <= {*ROWS, *ablations.STARTS}
    assert not ROWS.keys() & {*ablations.STARTS, ablations.MERGED}


def test_every_question_has_rows_that_are_run():
    for question in QUESTIONS.values():
        assert set(question.rows) <= {*ROWS, *ablations.STARTS, ablations.MERGED}
        assert {other for other in question.rows.values() if other} <= set(question.rows)


def lines(rows=MEANS_OF_EXAMPLE) -> list[dict]:
    """Scores of seeds 0, 1, 2: the mean of the tasks is that of the row, and one of them is two points above it."""
    return [
        {
            "row": row,
            "seed": seed,
            "scores": {
                task: {"full": mean + shift} for task, shift in zip(ablations.SETS, (2, -2, 0, 0, 0, 0), strict=True)
            },
        }
        for row, means in rows.items()
        for seed, mean in enumerate(means)
    ]


def test_a_table_has_means_and_paired_differences_with_their_standard_errors():
    found = ablations.table(Question("Which?", {"a": "", "b": "a"}), Scores(lines()))
    a, b = (line.strip("| ").split(" | ") for line in found.splitlines()[2:])
    assert a[:2] == ["a", "14.0"] and a[7] == "12.00 ± 1.15"  # 2 / √3
    assert b[7:] == ["14.00 ± 2.08", "+2.00 ± 1.00"]  # differences 1, 1 and 4: √3 / √3


def test_a_difference_is_of_the_seeds_that_both_rows_have():
    scores = Scores([line for line in lines() if (line["row"], line["seed"]) != ("b", 2)])
    assert scores.gain("b", "a") == {0: 1.0, 1: 1.0}


def test_what_is_scored_is_not_run_again(tmp_path, monkeypatch):
    trained = []
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines({"recipe": (1.0,)})))

    def train(self, row, seed):
        trained.append((row, seed))
        folder = self.output / "runs" / f"{row}-{seed}"
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(ablations.Runs, "train", train)
    monkeypatch.setattr(ablations.Runs, "score", lambda self, row, model: lines({row: (3.0,)})[0]["scores"])
    command = ["ablations", "--data", "d", "--sets", "s", "--output", str(tmp_path), "--rows", "recipe", "alone"]
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "0", "1"])
    for _ in range(2):
        ablations.main()
        assert trained == [("alone", 0), ("recipe", 1), ("alone", 1)]
    kept = [(line["row"], line["seed"]) for line in ablations.read_lines(tmp_path / "scores.jsonl")]
    assert kept == [("recipe", 0), *trained]


def test_tables_and_plots_are_made_of_scores_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines({"recipe": (2.0, 3.0), "alone": (1.0, 1.0)}))))
    arguments = ["--scores", str(tmp_path / "s.jsonl"), "--plots", str(tmp_path / "plots")]
    monkeypatch.setattr(sys, "argv", ["ablations", *arguments])
    ablations.main()
    assert "+1.50 ± 0.50" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["sizes.png"]  # no other question has two rows


def test_data_without_evaluation_sets_is_refused_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ablations", "--data", "d", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        ablations.main()
    assert "--data and --sets go together" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_missing_is_one_sentence():
    with pytest.raises(UserError, match=r"^The row fresh is configs/ablation.py:row=fresh,data=FOLDER\.$"):
        config.load(f"{PATH}:row=fresh")
    with pytest.raises(UserError, match=r"row=pruned,data=FOLDER,start=MODEL"):
        config.load(f"{PATH}:row=pruned,data=/data")
    with pytest.raises(UserError, match=r"no row 'alnoe'; did you mean"):
        config.load(f"{PATH}:row=alnoe,data=/data")
