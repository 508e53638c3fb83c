"""Scores on small tasks worked out by hand, and the files that are written."""

import json
import math
import re
from collections import Counter
from dataclasses import replace
from importlib import util

import numpy as np
import pytest

from f2jax import figures
from f2jax.data.sources import cldr
from f2jax.errors import UserError
from f2jax.evaluation import builtin, plots
from f2jax.evaluation.builtin import TASKS, RetrievalTask, load_task
from f2jax.evaluation.variants import Variant
from tests import tiny_model

NAMES = {
    "Kenia": "Kenya", "Brasilien": "Brazil", "Köln": "Cologne", "Deutschland": "Germany", "Norwegen": "Norway",
    "Ungarn": "Hungary", "Italie": "Italy", "Suède": "Sweden", "Grèce": "Greece", "Allemagne": "Germany",
    "Nueva Zelanda": "New Zealand", "Corea del Norte": "North Korea", "Nieuw-Zeeland": "New Zealand", "日本": "Japan",
}  # fmt: skip


def names_task(name="names") -> RetrievalTask:
    documents = sorted(set(NAMES.values()))
    answers = [{documents.index(right)} for right in NAMES.values()]
    return RetrievalTask(name, list(NAMES), documents, answers, ["und"] * len(NAMES))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def small_tasks(monkeypatch):
    for name in ("names", "more-names"):
        monkeypatch.setitem(TASKS, name, lambda name=name: names_task(name))


# Scores


def test_accuracy_is_the_share_of_queries_whose_best_document_is_right():
    similarity_qd = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.1], [0.0, 0.5, 0.6], [0.7, 0.1, 0.8]])
    assert builtin.accuracy_at_1(similarity_qd, [{0}, {1}, {2}, {2}]) == 1.0
    assert builtin.accuracy_at_1(similarity_qd, [{1}, {1}, {2}, {0}]) == 0.5
    assert builtin.accuracy_at_1(similarity_qd, [{1, 0}, {0, 2}, {0, 1}, {1, 2}]) == 0.5, "any right answer will do"


@pytest.mark.parametrize("function", ["dot", "euclidean", "manhattan"])
def test_models_of_any_similarity_are_scored_by_the_vectors_that_encode_returns(embedder, function):
    """Lengths that vary, which only cosines ignore, would decide otherwise."""
    other = embedder.with_weights(embedder.params)
    other.settings = replace(embedder.settings, similarity=function)
    task = names_task()
    expected = {}
    for dim in sorted(other.matryoshka_dims):
        found = [
            encode(texts, truncate_dim=dim)
            for encode, texts in ((other.encode_query, task.queries), (other.encode_document, task.documents))
        ]
        expected[dim] = builtin.accuracy_at_1(other.similarity(*found), task.answers)
    assert builtin.score_dimensions(other, task) == expected


def test_one_encoding_scores_as_separate_encodings_of_each_dimension_do(embedder):
    task = names_task()
    expected = {}
    for dim in embedder.matryoshka_dims:
        queries = embedder.encode_query(task.queries, truncate_dim=dim)
        documents = embedder.encode_document(task.documents, truncate_dim=dim)
        expected[dim] = builtin.accuracy_at_1(queries @ documents.T, task.answers)
    found = builtin.score_dimensions(embedder, task)
    assert found == expected
    assert list(found) == [8, 16, 32, 64]
    assert len(set(found.values())) > 1, "the dimensions differ, or the test could not fail"


@pytest.mark.parametrize("task,prompt", [("cldr-names", "cldr-names"), ("names", "query")])
def test_queries_carry_the_prompt_of_the_task_or_that_of_queries(embedder, monkeypatch, task, prompt):
    seen = []
    encode = embedder.tokenizer.encode
    monkeypatch.setattr(embedder.tokenizer, "encode", lambda texts, length: seen.append(texts) or encode(texts, length))
    builtin.score_dimensions(embedder, names_task(task))
    assert seen[0] == [embedder.prompts[prompt] + text for text in NAMES]
    assert seen[1] == [embedder.prompts["document"] + text for text in sorted(set(NAMES.values()))]


def grams(text: str) -> Counter:
    """Character n-grams of 1 to 4 inside words that have a space on either side; words shorter than n count once."""
    found = Counter()
    for word in re.split(r"\s+", text.lower()):
        padded = f" {word} "
        for n in range(1, 5):
            found.update([padded] if len(padded) < n else [padded[i : i + n] for i in range(len(padded) - n + 1)])
    return found


def tfidf(texts: list[str], documents: list[str]) -> list[dict[str, float]]:
    """(1 + log tf) · (1 + log((1 + N) / (1 + df))) of the n-grams that the documents have, at length 1."""
    frequency = Counter(gram for text in documents for gram in grams(text))
    rows = []
    for text in texts:
        known = {gram: count for gram, count in grams(text).items() if gram in frequency}
        row = {
            gram: (1 + math.log(count)) * (1 + math.log((1 + len(documents)) / (1 + frequency[gram])))
            for gram, count in known.items()
        }
        length = math.sqrt(sum(value**2 for value in row.values())) or 1.0
        rows.append({gram: value / length for gram, value in row.items()})
    return rows


def test_the_tfidf_baseline_is_the_textbook_formula():
    """On a share of the real names, where every change of the formula changes some answer."""
    whole = load_task("cldr-names")
    every = slice(None, None, 40)
    task = RetrievalTask("t", whole.queries[every], whole.documents, whole.answers[every], whole.languages[every])
    queries, documents = (tfidf(texts, task.documents) for texts in (task.queries, task.documents))
    similarity_qd = np.array([[sum(v * d.get(g, 0) for g, v in q.items()) for d in documents] for q in queries])
    assert builtin.tfidf_score(task) == builtin.accuracy_at_1(similarity_qd, task.answers)


def test_the_tfidf_baseline_on_a_task_that_can_be_seen_through():
    """Each query shares n-grams with one document at most; with none, the first document is taken."""
    task = RetrievalTask("t", ["abc", "zz", "xyz"], ["abd", "zzz"], [{0}, {1}, {1}], ["und"] * 3)
    assert builtin.tfidf_score(task) == 1.0
    task = RetrievalTask("t", ["abc", "zz", "123"], ["abd", "zzz"], [{0}, {0}, {1}], ["und"] * 3)
    assert builtin.tfidf_score(task) == pytest.approx(1 / 3)


# The built-in tasks


@pytest.mark.parametrize("name", TASKS)
def test_a_built_in_task_has_distinct_texts_and_an_answer_to_each_query(name):
    task = load_task(name)
    assert task.name == name
    assert len(set(task.queries)) == len(task.queries) == len(task.answers) == len(task.languages) > 300
    assert len(set(task.documents)) == len(task.documents) > 300
    assert all(answers and answers <= set(range(len(task.documents))) for answers in task.answers)


def test_the_list_in_all_languages_has_no_test_name_and_no_english_and_one_text_for_each_thing():
    task, names = load_task("cldr-across"), cldr.names()
    entities: dict[str, set[str]] = {}
    for name in names:
        if name.language != "en":
            entities.setdefault(name.text, set()).add(name.entity)
    assert not set(task.documents) & {text for text in task.documents if cldr.is_test_name(text)}
    assert set(task.documents) <= entities.keys()
    things = {name.entity for name in names}
    assert 0.95 * len(things) < len(task.documents) <= len(things)
    for query, answers in list(zip(task.queries, task.answers, strict=True))[::50]:
        meant = {name.entity for name in names if name.text == query}
        assert all(meant & entities[task.documents[i]] for i in answers)
    drawn = {name.text: name.language for name in names}
    assert len({drawn[text] for text in task.documents}) > 150


# Results


def test_results_by_task_and_their_table(embedder, small_tasks):
    results = builtin.evaluate_builtin(embedder, ["names", "more-names"])
    assert list(results) == ["names", "more-names"]
    one = results["names"]
    assert (one["queries"], one["documents"]) == (14, 12)
    assert one["tfidf"] == builtin.tfidf_score(names_task())
    assert one["dims"] == builtin.score_dimensions(embedder, names_task())
    head, rule, first, second = builtin.accuracy_table(results).splitlines()
    assert head.split() == ["accuracy@1", "queries", "docs", "TF-IDF", "8", "16", "32", "64"]
    assert set(rule) == {"-"}
    percent = [f"{value:.1%}" for value in (one["tfidf"], *one["dims"].values())]
    assert first.split() == ["names", "14", "12", *percent]
    assert second.split()[0] == "more-names"
    assert len({len(line) for line in (head, rule, first, second)}) == 1, "the columns stand under each other"


def test_table_plot_and_numbers_are_written(embedder, small_tasks, tmp_path):
    results = builtin.evaluate_builtin(embedder, ["names", "more-names"])
    builtin.write_results(results, tmp_path / "new/results", "r1")
    folder = tmp_path / "new/results"
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.txt", "dimensions.png"}
    assert (folder / "dimensions.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "results.txt").read_text() == builtin.accuracy_table(results) + "\n"
    stored = json.loads((folder / "results.json").read_text())
    assert stored["revision"] == "r1"
    assert stored["tasks"]["names"]["dims"] == {str(dim): score for dim, score in results["names"]["dims"].items()}


def scores_of(tmp_path, place="results.json") -> tuple:
    content = json.loads((tmp_path / place).read_text())
    return content["revision"], {name: task["dims"] for name, task in content["tasks"].items()}


def test_the_results_of_a_second_model_leave_those_of_the_first_in_a_folder_of_their_own(tmp_path):
    def write(task, score, model):
        result = {"queries": 2, "documents": 2, "tfidf": 0.25, "dims": {8: score}}
        builtin.write_results({task: result}, tmp_path, f"revision of {model}", f"f2jax/{model}")

    write("names", 0.5, "a")
    picture = (tmp_path / "dimensions.png").read_bytes()
    write("names", 1.0, "b")
    assert scores_of(tmp_path) == ("revision of b", {"names": {"8": 1.0}})
    (first,) = (tmp_path / "earlier").iterdir()
    assert first.name == "f2jax__a-revision of "
    assert scores_of(first) == ("revision of a", {"names": {"8": 0.5}})
    assert (first / "dimensions.png").read_bytes() == picture
    assert "50.0%" in (first / "results.txt").read_text() and "50.0%" not in (tmp_path / "results.txt").read_text()

    write("more-names", 0.75, "a")  # again the first model, on another task
    assert scores_of(tmp_path) == ("revision of a", {"names": {"8": 0.5}, "more-names": {"8": 0.75}})
    table = (tmp_path / "results.txt").read_text().splitlines()
    assert [line.split()[0] for line in table[2:]] == ["names", "more-names"]
    stored = builtin.stored_results(tmp_path)
    assert [content["model"] for content in stored.values()] == ["f2jax/a", "f2jax/b"]


def test_results_that_another_version_wrote_are_kept_too(tmp_path):
    (tmp_path / "results.json").write_text('{"cldr-names": {"dims": {"8": 0.25}}}')
    builtin.write_results({}, tmp_path, "r1", "f2jax/a")
    assert json.loads((tmp_path / "earlier/model/results.json").read_text()) == {"cldr-names": {"dims": {"8": 0.25}}}


@pytest.mark.parametrize("panels", [1, 2, 5])
def test_the_legend_lies_within_the_picture_and_above_the_curves(monkeypatch, panels):
    curves = [
        plots.Curve(f"a-task-with-a-name{tail}", color, [(Variant(dim), 50.0 + dim) for dim in dims])
        for color in range(2)
        for tail, dims in (("", (8, 16, 32)), (", TF-IDF", (0,)))
    ]
    monkeypatch.setattr(plots, "to_png", lambda figure: figure)
    figure = plots.plot_dimensions({f"panel {i}": curves for i in range(panels)})
    figure.canvas.draw()
    legend, whole = figure.legends[0].get_window_extent(), figure.bbox
    assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1 and legend.y1 <= whole.y1
    assert all(legend.y0 >= panel.get_window_extent().y1 for panel in figure.axes)
    figures.plt.close(figure)


# What is refused


def test_an_unknown_task_names_the_nearest_before_any_work():
    with pytest.raises(UserError, match="no built-in task 'cldr-nmaes'; did you mean 'cldr-names'"):
        builtin.evaluate_builtin(None, ["cldr-names", "cldr-nmaes"])


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_without_the_extra_it_says_what_to_install(monkeypatch, missing):
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(UserError, match=r"pip install 'f2jax\[eval\]'"):
        builtin.evaluate_builtin(None, ["cldr-names"])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"/file/results\.json cannot be written \(File exists\); check the path\.$"):
        builtin.write_results({}, tmp_path / "file", "r1")
