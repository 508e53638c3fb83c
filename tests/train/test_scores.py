"""A run that learns from a reranker's scores: the whole way from a column to the metrics."""

import json
from pathlib import Path

import pytest

from f2jax import config as configs
from f2jax.data.loader import learns_scores
from f2jax.errors import UserError
from f2jax.train.loop import train
from f2jax.train.terms import TERMS, check_learned
from tests import tiny


def scored_files(folder) -> tuple[str, str]:
    """The rows of `tiny`, those of pairs with scores, which a negative wins."""
    pairs, colours = tiny.write_rows(folder)
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    path = folder / "scored.jsonl"
    path.write_text("".join(json.dumps(row | {"scores": [0.0, 4.0, 0.0, 0.0]}) + "\n" for row in rows))
    return str(path), colours


@pytest.mark.parametrize("weight,name", [("score_weight", "scores"), ("score_margin_weight", "score_margins")])
def test_a_run_learns_the_scores_that_rows_bring(tmp_path, weight, name):
    changes = {"data.sources": str(scored_files(tmp_path)), "loss.contrastive_weight": 0.0, f"loss.{weight}": 0.5}
    changes |= {"steps": 16, "data.include": "('scored',)", "log.validate_every": 16, "loss.matryoshka": False}
    train(tiny.config(tmp_path, **changes), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if f"loss_{name}" in line]
    assert all(line["loss"] == pytest.approx(0.5 * line[f"loss_{name}"]) for line in steps)
    assert steps[-1][f"loss_{name}"] < 0.8 * steps[0][f"loss_{name}"]
    assert f"validation/scored/loss_{name}" in lines[-1]


@pytest.mark.parametrize("term", [term for term in TERMS if term.scored], ids=lambda term: term.name)
def test_batches_have_the_scores_that_a_term_needs(tmp_path, term):
    assert learns_scores(tiny.config(tmp_path, **{f"loss.{term.weight}": 0.5}))
    assert not learns_scores(tiny.config(tmp_path))


def test_scores_that_nobody_brings_are_refused():
    group = configs.load("common").loss.to_dict() | {"score_weight": 1.0}
    with pytest.raises(UserError, match=r"loss.score_weight is set and no row has scores; give the rows a column"):
        check_learned(group, {"pairs": "retrieval"}, has_teacher=False)
    group["contrastive_weight"] = 0.0
    check_learned(group, {"pairs": "retrieval"}, has_teacher=False, scored={"pairs"})
    with pytest.raises(UserError, match="No term of the loss learns from the data set plain"):
        check_learned(group, {"pairs": "retrieval", "plain": "retrieval"}, has_teacher=False, scored={"pairs"})
