"""The report of hand-made result files: each number worked out here, and the published ones beside it."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.release.export import read_scores
from f2jax.tables import html_page

mteb = pytest.importorskip("mteb")
builtin, published, report, results = (
    pytest.importorskip(f"f2jax.evaluation.{name}") for name in ("builtin", "published", "report", "results")
)
pytestmark = pytest.mark.parity


def write(folder: Path, model: str, task: str, scores: dict[str, float], split="test", tags=(), **meta) -> None:
    """A result file with one entry for each subset, and the metadata beside it."""
    experiment = meta.get("experiment_kwargs")
    place = folder / "results" / model.replace("/", "__") / meta.get("revision", "r1")
    if experiment:
        place = place / "experiments" / "_".join(f"{key}_{value}" for key, value in experiment.items())
    place.mkdir(parents=True, exist_ok=True)
    entries = [
        {"hf_subset": name, "languages": [name.replace("_", "-"), *tags], "main_score": score}
        for name, score in scores.items()
    ]
    (place / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": {split: entries}}))
    known = {"name": model, "revision": "r1", "n_parameters": 2_000_000, "embed_dim": 64, "experiment_kwargs": None}
    (place / "model_meta.json").write_text(json.dumps(known | meta))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two models; the first on three tasks, and on one of them at another dimension and in binary too."""
    write(tmp_path, "f2jax/a", "SIB200.local", {"deu_Latn": 0.6, "jpn_Jpan": 0.2})
    write(tmp_path, "f2jax/a", "Tatoeba.local", {"deu-Latn": 0.9, "jpn-Jpan": 0.5}, tags=["eng-Latn"])
    write(tmp_path, "f2jax/a", "STSBenchmark", {"default": 0.75}, tags=["eng-Latn"])
    for kwargs, score in (({"embed_dim": 8}, 0.1), ({"output_dtypes": "binary"}, 0.3)):
        dim = kwargs.get("embed_dim", 64)
        write(tmp_path, "f2jax/a", "SIB200.local", {"deu_Latn": score}, experiment_kwargs=kwargs, embed_dim=dim)
    write(tmp_path, "f2jax/b", "SIB200.local", {"deu_Latn": 0.8}, n_parameters=9_000_000)
    return tmp_path


@pytest.fixture
def tables(folder) -> dict:
    runs = results.read_results([folder])
    return {table.title: table for table in report.score_tables(runs, results.covered_benchmarks(runs))}


def rows(table) -> dict:
    return {
        name: [pytest.approx(cell) if isinstance(cell, float) else cell for cell in cells] for name, cells in table.rows
    }


def test_a_language_has_the_mean_of_its_tasks_and_english_beside_another_does_not_count(tables):
    table = tables["Languages"]
    assert table.columns == ["f2jax/a", "f2jax/b"]
    assert dict(table.rows)["jpn-Jpan Japanese"] == pytest.approx([100 * (0.2 + 0.5) / 2, None])
    assert dict(table.rows)["deu-Latn German"] == pytest.approx([75.0, 80.0])
    assert "eng-Latn English" not in dict(table.rows)


def test_a_task_type_has_the_mean_of_its_tasks(tables):
    assert rows(tables["Task types"]) == {
        "BitextMining": [70.0, None],
        "Classification": [40.0, 80.0],
        "STS": [75.0, None],
        "mean of tasks": [(70 + 40 + 75) / 3, 80.0],
    }


def test_dimensions_and_precisions_are_compared_on_the_tasks_that_all_have(tables):
    table = tables["Dimensions and precisions"]
    assert table.columns == ["mean of tasks", "Classification"]
    assert rows(table) == {
        "f2jax/a, 64": [40.0, 40.0],
        "f2jax/a, 8": [10.0, 10.0],
        "f2jax/a, 64 binary": [30.0, 30.0],
    }


def test_published_scores_stand_beside_ours(tables):
    table = tables["Benchmarks"]
    english = table.columns.index("MTEB(eng, v2)")
    assert dict(table.rows)["f2jax/a"][english] == "75.00 (1 of 41)", "not to be taken for the whole benchmark"
    assert dict(table.rows)["F2LLM-v2-80M (paper)"][english] == 64.55
    assert dict(table.rows)["F2LLM-v2-14B (paper)"][english] == 73.08
    types = tables["MTEB(eng, v2) by task type"]
    sts = types.columns.index("STS")
    assert [dict(types.rows)[name][sts] for name in ("f2jax/a", "F2LLM-v2-0.6B (paper)")] == ["75.00 (1 of 9)", 83.53]
    paper = dict(zip(tables["Tasks"].columns, dict(tables["Tasks"].rows)["STSBenchmark"], strict=True))
    assert paper["type"] == "STS" and paper["F2LLM-v2-80M (paper)"] == 83.63


def test_a_whole_benchmark_has_a_plain_mean(tmp_path):
    for i, task in enumerate(mteb.get_benchmark("MTEB(kor, v1)").tasks):
        write(tmp_path, "f2jax/a", task.metadata.name, dict.fromkeys(task.hf_subsets, i / 10), task.eval_splits[0])
    runs = results.read_results([tmp_path])
    (found,) = [benchmark for benchmark in results.covered_benchmarks(runs) if benchmark.short == "korean"]
    assert found.means == {"f2jax/a": (pytest.approx((0 + 1 + 2 + 3 + 4 + 5) / 60), 6)}
    table = report.by_benchmark([found])
    assert rows(table)["f2jax/a"] == [25.0]
    assert rows(table)["F2LLM-v2-8B (paper)"] == [75.11]


def test_a_single_model_is_no_plot_against_size(tmp_path):
    """With a second one of another size there are two points to compare."""
    write(tmp_path, "f2jax/a", "SIB200.local", {"deu_Latn": 0.5})
    runs = results.read_results([tmp_path])
    assert runs[0].parameters and report.size_panels(runs, []) == []
    write(tmp_path, "f2jax/b", "SIB200.local", {"deu_Latn": 0.25})
    (panel,) = report.size_panels(results.read_results([tmp_path]), [])
    assert sorted(score for *_, score in panel.models) == [25.0, 50.0]


def test_addresses_in_notes_are_links():
    text = html_page("Scores", "See https://a.org/b?c=1&d, and <that>.", [], {})
    assert '<p>See <a href="https://a.org/b?c=1&amp;d">https://a.org/b?c=1&amp;d</a>, and &lt;that&gt;.</p>' in text


def test_two_revisions_of_one_name_are_told_apart(tmp_path):
    for revision, score in (("aaaaaaaaaa", 0.1), ("bbbbbbbbbb", 0.2)):
        write(tmp_path, "f2jax/a", "SIB200.local", {"deu_Latn": score}, revision=revision)
    assert {run.model: run.tasks() for run in results.read_results([tmp_path])} == {
        "f2jax/a@aaaaaaaa": {"SIB200.local": 0.1},
        "f2jax/a@bbbbbbbb": {"SIB200.local": 0.2},
    }


def test_results_without_metadata_take_the_names_of_their_folders(folder):
    for path in folder.rglob("model_meta.json"):
        path.unlink()
    assert {run.model for run in results.read_results([folder / "results/f2jax__b"])} == {"f2jax/b"}


def test_published_means_over_the_benchmarks_are_those_of_the_paper():
    """Table 2 gives the mean of the 17 too: a slip of one number would show."""
    means = {
        "14B": 71.72,
        "8B": 71.23,
        "4B": 70.27,
        "1.7B": 68.88,
        "0.6B": 66.45,
        "330M": 64.38,
        "160M": 60.16,
        "80M": 57.62,
    }
    scores = published.benchmark_scores()
    found = {size: sum(scores[f"F2LLM-v2-{size}"].values()) / 17 for size in means}
    assert found == pytest.approx(means, abs=0.011)


def test_one_page_with_everything_inside_and_the_plots_beside_it(folder, tmp_path, capsys):
    output = tmp_path / "report"
    assert cli.main(["report", str(folder), "--output", str(output)]) == 0
    assert capsys.readouterr().out.split() == [
        str(output / name) for name in ("index.html", "scores.csv", "dimensions.png", "sizes.png")
    ]
    page = (output / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'src="(?!data:)|<link|@import', page), "nothing is fetched from elsewhere"
    assert '<a href="https://arxiv.org/abs/2603.19223">' in page
    assert "<td>83.63</td>" in page and "<td>75.00 (1 of 41)</td>" in page
    for name in ("dimensions.png", "sizes.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    lines = list(csv.DictReader(io.StringIO((output / "scores.csv").read_text())))
    assert len(lines) == 8
    expected = {"model": "f2jax/a", "dim": "64", "precision": "binary", "task": "SIB200.local", "score": "0.3"}
    assert [line for line in lines if expected.items() <= line.items()]


def test_built_in_results_are_reported_beside_those_of_mteb(folder, tmp_path, capsys):
    tasks = {
        "cldr-names": {"queries": 2, "documents": 2, "tfidf": 0.25, "dims": {8: 0.5, 64: 0.75}},
        "stdlib-code": {"queries": 2, "documents": 2, "tfidf": 0.75, "dims": {8: 0.0, 64: 0.25}},
    }
    builtin.write_results(tasks, tmp_path / "mine", "r9", "f2jax/mine", 3_000_000)
    runs = results.read_results([tmp_path / "mine"])
    tables = {table.title: table for table in report.score_tables(runs, results.covered_benchmarks(runs))}
    assert tables["Tasks"].columns == ["type", "f2jax/mine", "f2jax/tfidf"]
    assert rows(tables["Tasks"]) == {
        "cldr-names": ["Retrieval", 75.0, 25.0],
        "stdlib-code": ["Retrieval", 25.0, 75.0],
    }
    assert rows(tables["Dimensions and precisions"])["f2jax/mine, 8"] == [25.0, 25.0]
    output = tmp_path / "report"
    assert cli.main(["report", str(folder), str(tmp_path / "mine"), "--output", str(output)]) == 0
    lines = list(csv.DictReader(io.StringIO((output / "scores.csv").read_text())))
    assert {line["model"] for line in lines} == {"f2jax/a", "f2jax/b", "f2jax/mine", "f2jax/tfidf"}
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "mine"), "--output", str(output)]) == 0
    names = {path.name for path in output.iterdir()}
    assert names >= {"index.html", "scores.csv", "dimensions.png"} and "sizes.png" not in names, "one size is no curve"


def test_built_in_tasks_of_several_calls_and_models_are_one_row_for_each_model(tmp_path):
    for folder, model, task, score in (
        ("x", "a", "cldr-names", 0.5), ("x", "b", "cldr-names", 0.25), ("y", "a", "stdlib-code", 0.75),
    ):  # fmt: skip
        found = {"queries": 2, "documents": 2, "tfidf": 0.125, "dims": {8: score}}
        builtin.write_results({task: found}, tmp_path / folder, f"r{model}", f"f2jax/{model}")
    runs = results.read_results([tmp_path / "x", tmp_path / "y"])
    assert {run.model: run.tasks() for run in runs} == {
        "f2jax/a": {"cldr-names": 0.5, "stdlib-code": 0.75},
        "f2jax/b": {"cldr-names": 0.25},
        "f2jax/tfidf": {"cldr-names": 0.125, "stdlib-code": 0.125},
    }
    assert len(runs) == 3


@pytest.mark.parametrize(
    "content", ['{"tasks": {"a": 1}, "revision": "r"}', '{"tasks": [], "revision": "r"}', '{"tasks": {}}']
)
def test_a_damaged_file_of_built_in_results_is_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json is not a result file .*; delete it and evaluate again\.$"):
        results.read_results([tmp_path])


def test_names_are_escaped_in_the_page(tmp_path):
    write(tmp_path, "f2jax/<b>", "SIB200.local", {"deu_Latn": 0.1})
    runs = results.read_results([tmp_path])
    assert "<b>" not in report.page(report.score_tables(runs, []), {})


def test_a_folder_without_results_and_a_broken_file_are_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"There are no results in .*empty; give the --output of f2jax evaluate"):
        results.read_results([tmp_path / "empty"])
    broken = next(folder.rglob("STSBenchmark.json"))
    broken.write_text("{")
    with pytest.raises(UserError, match=r"STSBenchmark\.json is no JSON .*; delete it and evaluate again"):
        results.read_results([folder])


def test_the_model_card_takes_the_scores_of_its_model_alone(folder):
    write(folder, "f2jax/tfidf", "SIB200.local", {"deu_Latn": 0.99}, revision="tfidf")
    write(folder, "f2jax/a-untrained", "STSBenchmark", {"default": 0.01}, revision="untrained")
    write(folder, "f2jax/a", "SIB200.local", {"deu_Latn": 0.4}, revision="mine")
    assert read_scores(folder, "mine") == {"SIB200.local": {"64": pytest.approx(0.4)}}
    with pytest.raises(UserError, match=r"f2jax/a-untrained, .*f2jax/tfidf, not of exactly this model"):
        read_scores(folder, "of no run")


@pytest.mark.parametrize("revision", ["mine", "of another model"])
def test_the_model_card_takes_built_in_scores_and_those_of_mteb_from_one_folder(folder, revision):
    content = {"model": "f2jax/a", "revision": revision, "tasks": {"cldr-names": {"tfidf": 0.1, "dims": {"64": 0.5}}}}
    (folder / "results.json").write_text(json.dumps(content))
    write(folder, "f2jax/a", "SIB200.local", {"deu_Latn": 0.4}, revision="mine", experiment_kwargs={"prompts": "1"})
    built_in = {"cldr-names": {"64": 0.5}} if revision == "mine" else {}
    assert read_scores(folder, "mine") == built_in | {"SIB200.local": {"64": pytest.approx(0.4)}}
    if built_in:
        (folder / "results.json").write_text(json.dumps(content | {"revision": "built in alone"}))
        assert read_scores(folder, "built in alone") == built_in


def test_the_model_card_takes_no_scores_of_two_sets_of_prompts(tmp_path):
    for kwargs in (None, {"prompts": "none"}):
        write(tmp_path, "f2jax/a", "SIB200.local", {"deu_Latn": 0.4}, experiment_kwargs=kwargs)
    with pytest.raises(UserError, match=r"scores of f2jax/a and f2jax/a \(prompts none\); evaluate one of them"):
        read_scores(tmp_path, "r1")
