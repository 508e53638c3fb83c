"""Results of an evaluation on gs://: those of each task are there when it is done, and are not made again."""

import json

import fsspec
import pytest

from f2jax import cli, files
from f2jax.evaluation import runner
from f2jax.release.export import read_scores
from tests import tiny


@pytest.fixture
def data(tmp_path) -> list[str]:
    names = []
    for name in ("one", "two"):
        names.append(str(tmp_path / f"{name}.csv"))
        rows = "".join(f"{word} {name},about {word}\n" for word in tiny.WORDS[:8])
        (tmp_path / f"{name}.csv").write_text("question,answer\n" + rows)
    return names


def found(folder: str) -> dict[str, float]:
    """{file of a task's result: its score} on gs://."""
    names = [name for name in fsspec.filesystem("gs").find(folder) if name.endswith("-retrieval.json")]
    results = {name.rpartition("/")[2]: json.loads(files.read_bytes(f"gs://{name}")) for name in names}
    return {name: result["scores"]["test"][0]["main_score"] for name, result in results.items()}


def test_what_was_stopped_goes_on_from_the_bucket(data, tmp_path, bucket, monkeypatch, capsys):
    def scored(output: str) -> int:
        return cli.main(["evaluate", "--baseline", "tfidf", "--data", *data, "--output", output])

    assert scored(str(tmp_path / "here")) == 0
    expected = {
        path.name: json.loads(path.read_bytes())["scores"]["test"][0]["main_score"]
        for path in (tmp_path / "here").rglob("*-retrieval.json")
    }
    evaluate, done = runner.mteb.evaluate, []

    def stop_at(number):
        def counted(encoder, task, **options):
            if len(done) == number:
                raise KeyboardInterrupt
            done.append(task.metadata.name)
            return evaluate(encoder, task, **options)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(runner.mteb, "evaluate", stop_at(1))
        assert scored(f"{bucket}/scores") != 0
    assert found(f"{bucket}/scores") == {name: expected[name] for name in ["one-retrieval.json"]}
    with monkeypatch.context() as patch:
        patch.setattr(runner.mteb, "evaluate", stop_at(2))
        assert scored(f"{bucket}/scores") == 0
    assert done == ["one-retrieval", "two-retrieval"], "each task is scored once"
    assert found(f"{bucket}/scores") == expected
    assert f"Results: {bucket}/scores/results" in capsys.readouterr().out
    assert cli.main(["report", f"{bucket}/scores", "--output", str(tmp_path / "page")]) == 0  # as evaluate says
    assert (tmp_path / "page/scores.csv").read_text().count("f2jax/tfidf") == 2
    assert read_scores(f"{bucket}/scores", "char_wb-1-4-4096").keys() == {"one-retrieval", "two-retrieval"}
