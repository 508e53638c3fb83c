"""The table that `f2jax evaluate` prints."""

import pytest

runner = pytest.importorskip("f2jax.evaluation.runner")
SCORES = {
    ("f2jax/x", "256"): (0.8, 0.5),
    ("f2jax/x", "64"): (0.6, 0.5),
    ("f2jax/x", "256 int8"): (0.8, 0.25),
    ("f2jax/x-untrained", "256"): (0.1, 0.2),
    ("f2jax/tfidf", "4096"): (0.5, 0.4),
    ("f2jax/random", "64"): (0.0, 0.13),
}


def scores(majority):
    for (model, variant), values in SCORES.items():
        yield runner.TaskScore(model, variant, "bitext", "f1", values[0])
        yield runner.TaskScore(model, variant, "topics", "accuracy", values[1], majority)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


def test_a_score_stands_with_what_it_keeps_of_the_full_one_and_beside_the_baselines():
    head, _, bitext, topics, mean = cells(runner.scores_table(list(scores(0.2525))))
    baselines = ["untrained", "TF-IDF", "random", "majority"]
    assert head == ["f2jax/x", "metric", "256", "64", "256 int8", *baselines]
    assert bitext == ["bitext", "f1", "80.00", "60.00 (75%)", "80.00 (100%)", "10.00", "50.00", "0.00"]
    assert topics == ["topics", "accuracy", "50.00", "50.00 (100%)", "25.00 (50%)", "20.00", "40.00", "13.00", "25.25"]
    assert mean == ["mean", "65.00", "55.00 (85%)", "52.50 (81%)", "15.00", "45.00", "6.50"]


def test_a_table_without_a_model_or_a_majority_has_no_place_for_them():
    baseline = [score for score in scores(None) if score.model == "f2jax/tfidf"]
    head, _, *rows = cells(runner.scores_table(baseline))
    assert head == ["task", "metric", "TF-IDF"]
    assert rows == [["bitext", "f1", "50.00"], ["topics", "accuracy", "40.00"], ["mean", "45.00"]]
