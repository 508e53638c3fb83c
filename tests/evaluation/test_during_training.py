"""Tasks for a model that is being trained: their scores are those of `f2jax evaluate`."""

import json

import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.evaluation.during_training import open_tasks
from f2jax.inference.embedder import Embedder
from tests import tiny, tiny_model
from tests.evaluation.test_own import write


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model, and two files of one's own: scored pairs, and questions with answers."""
    folder, words = tmp_path_factory.mktemp("own"), tiny.WORDS
    tiny_model.make_embedder(folder).save_pretrained(folder / "model")
    write(
        folder / "pairs.csv", ("sentence1", "sentence2", "score"), [(words[i], words[i // 2], i % 6) for i in range(12)]
    )
    write(folder / "faq.csv", ("question", "answer"), [(f"{words[i]}?", f"{words[i]} {i % 3}") for i in range(12)])
    return folder


def test_local_tasks_score_as_the_command_does(own):
    pytest.importorskip("mteb")
    data = [str(own / "pairs.csv"), str(own / "faq.csv")]
    *by_task, mean = open_tasks(data=data)(Embedder.from_pretrained(own / "model"))
    command = ["evaluate", "--model", str(own / "model"), "--data", *data, "--output", str(own / "out")]
    cli.main([*command, "--baseline", "none", "--dims", "64", "16"])
    for scores, task in zip(by_task, ("pairs", "faq"), strict=True):
        (path,) = (own / "out/results/f2jax__model").glob(f"*/{task}*.json")
        (name, value), *smaller = scores.items()
        assert name == path.stem and value == json.loads(path.read_text())["scores"]["test"][0]["main_score"]
        assert [name.rpartition("/")[2] for name, _ in smaller] == ["16"]
    assert mean == {"mean": pytest.approx(sum(next(iter(scores.values())) for scores in by_task) / 2)}


def test_without_names_the_built_in_tasks_are_scored(monkeypatch, own):
    from f2jax.evaluation import builtin

    task = builtin.RetrievalTask("names", ["red", "old"], ["old", "red"], [{1}, {0}], ["und"] * 2)
    monkeypatch.setattr(builtin, "TASKS", {"names": lambda: task})
    scores, mean = open_tasks()(Embedder.from_pretrained(own / "model"))
    assert scores == {"names": 1.0, "names/16": 1.0} and mean == {"mean": 1.0}, "each text is its own nearest"


@pytest.mark.parametrize(
    "names,data,message",
    [
        (["cldr-name"], (), "no task 'cldr-name'; did you mean 'cldr-names'"),
        (["STSB.local"], (), "STSB.local is a local task; name the folder of its data"),
        (["STSBenchmark"], (), "mteb downloads STSBenchmark; log.evaluate_tasks takes built-in and local tasks"),
        ([], ["no/such.csv"], "no/such.csv"),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused_before_the_first_step(names, data, message):
    pytest.importorskip("mteb")
    with pytest.raises(UserError, match=message):
        open_tasks(names, data)
