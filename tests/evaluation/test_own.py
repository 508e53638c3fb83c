"""Files of one's own as tasks of mteb: scores against what is worked out by hand, scipy and scikit-learn."""

import csv
import json
import shutil

import numpy as np
import pytest
from scipy.stats import spearmanr

from f2jax import cli
from f2jax.data.record import stable_id
from f2jax.errors import UserError
from tests import tiny, tiny_model

pytest.importorskip("mteb")
own = pytest.importorskip("f2jax.evaluation.own")
selection = pytest.importorskip("f2jax.evaluation.selection")
runner = pytest.importorskip("f2jax.evaluation.runner")
encoder = pytest.importorskip("f2jax.evaluation.encoder")
prompts = pytest.importorskip("f2jax.evaluation.prompts")
PromptType = encoder.PromptType


def write(path, names, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return str(path)


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    words = tiny.WORDS
    questions = [(f"{words[i]} {words[-i]}", f"{words[i]} {i % 3} stone") for i in range(12)]
    write(folder / "faq.csv", ("question", "answer"), [*questions, (questions[0][0], "another answer")])
    pairs = [(words[i], words[i // 2], i % 6 / 2) for i in range(12)]
    write(folder / "pairs.csv", ("sentence1", "sentence2", "score"), pairs)
    write(folder / "texts.csv", ("Satz", "Art"), [(f"{words[i % 13]} {i}", f"sort {i % 2}") for i in range(60)])
    beir = folder / "books"
    (beir / "qrels").mkdir(parents=True)
    write(beir / "corpus.csv", ("_id", "title", "text"), [(f"d{i}", f"title {i}", words[i]) for i in range(10)])
    write(beir / "queries.csv", ("_id", "text"), [(f"q{i}", words[i]) for i in range(5)])
    write(beir / "qrels" / "test.tsv", ("query-id\tcorpus-id\tscore",), [(f"q{i}\td{i + 1}\t1",) for i in range(4)])
    write(beir / "qrels" / "train.tsv", ("query-id\tcorpus-id\tscore",), [("q4\td4\t1",)])
    return folder


def fixed(texts_to_vectors):
    """An encoder of given vectors, and what it was asked with which prompt."""
    asked = []

    def encode(prompt, texts):
        asked.append((prompt, texts))
        return np.stack([texts_to_vectors(text) for text in texts])

    width = len(texts_to_vectors("red"))
    meta = encoder.empty_meta("f2jax/fixed").model_copy(update={"revision": "1", "embed_dim": width})
    return encoder.Encoder(encode, meta, encoder.Variant(width), encoder.NONE), asked


def vector(text: str) -> np.ndarray:
    return np.random.default_rng(stable_id(text)).standard_normal(8).astype(np.float32)


def cosine(a: str, b: str) -> float:
    x, y = vector(a), vector(b)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def score(task, tmp_path) -> float:
    (found,) = runner.run_tasks([fixed(vector)[0]], [task], tmp_path)
    return found.value


def ndcg(query: str, documents: dict[str, str], right: set[str]) -> float:
    """nDCG@10 of binary judgements, by its formula."""
    order = sorted(documents, key=lambda name: -cosine(query, documents[name]))[:10]
    gains = [float(name in right) for name in order]
    best = sum(1 / np.log2(rank + 2) for rank in range(min(10, len(right))))
    return sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) / best


def test_pairs_are_searched_among_all_documents_of_their_file(folder, tmp_path):
    (task,) = own.own_tasks(f"{folder}/faq.csv", {})
    assert task.metadata.name == "faq-retrieval"
    rows = read(folder / "faq.csv")
    documents = {answer: answer for _, answer in rows}
    right = {query: {a for q, a in rows if q == query} for query, _ in rows}
    expected = np.mean([ndcg(query, documents, right[query]) for query in right])
    assert score(task, tmp_path) == pytest.approx(expected, abs=1e-4)


def test_a_beir_folder_is_searched_in_all_of_its_corpus_for_the_queries_of_its_test_split(folder, tmp_path):
    (task,) = own.own_tasks(f"beir:{folder}/books", {})
    assert task.metadata.name == "books-retrieval"
    words = tiny.WORDS
    documents = {f"d{i}": f"title {i} {words[i]}" for i in range(10)}
    expected = np.mean([ndcg(words[i], documents, {f"d{i + 1}"}) for i in range(4)])
    assert score(task, tmp_path) == pytest.approx(expected, abs=1e-4)


def test_scored_pairs_are_ranked_by_cosine(folder, tmp_path):
    (task,) = own.own_tasks(f"{folder}/pairs.csv", {})
    rows = read(folder / "pairs.csv")
    expected = spearmanr([cosine(a, b) for a, b, _ in rows], [float(value) for *_, value in rows]).statistic
    assert score(task, tmp_path) == pytest.approx(expected, abs=1e-4)
    assert own.own_tasks(f"sts:{folder}/pairs.csv", {})[0].metadata.name == "pairs-similarity"


def test_labelled_texts_are_classified_and_clustered(folder, tmp_path):
    columns = {"text": "Satz", "label": "Art"}
    classification, clustering = own.own_tasks(f"{folder}/texts.csv", columns)
    assert [task.metadata.name for task in (classification, clustering)] == ["texts-classification", "texts-clustering"]
    data = classification.subsets()["default"][1]
    train, test = set(data["train"]["text"]), set(data["test"]["text"])
    assert not train & test and len(train | test) == 60 and min(len(train), len(test)) > 15

    # vectors that tell the label: both are perfect; vectors that do not: neither is
    def told(text):
        return np.eye(4, dtype=np.float32)[int(text.split()[-1].replace("red", "0")) % 2]

    scores = runner.run_tasks([fixed(told)[0]], [classification, clustering], tmp_path / "told")
    assert [found.value for found in scores] == [1.0, pytest.approx(1.0)]
    again = own.own_tasks(f"{folder}/texts.csv", columns)
    scores = runner.run_tasks([fixed(vector)[0]], again, tmp_path / "not")
    assert scores[0].value < 0.8 and scores[1].value < 0.5


def test_a_label_and_a_prefix_choose_one_task(folder):
    for prefix in ("classification", "clustering"):
        (task,) = own.own_tasks(f"{prefix}:{folder}/texts.csv#Satz,Art", {})
        assert task.metadata.name == f"texts-{prefix}"


@pytest.mark.parametrize(
    "names,rows,message",
    [
        (("text", "label"), [("a", "x"), ("b", "x")], "has fewer than two values of its label"),
        (("text", "label"), [("a", "x"), ("b", "y")], "has too few texts"),
        (("sentence1", "sentence2", "score"), [("a", "b", 1), ("c", "d", 1)], "fewer than two values of its score"),
        (("question", "answer"), [("a", "x"), ("b", "x")], "has a single document"),
        (("premise", "hypothesis", "label"), [("a", "b", "entailment")], "rows of nli, for which there is no task"),
        (("Frage", "Antwort"), [("a", "b")], "has no column query; it has Frage, Antwort"),
    ],
)
def test_a_file_that_makes_no_task_is_refused(tmp_path, names, rows, message):
    with pytest.raises(UserError, match=message):
        own.own_tasks(write(tmp_path / "x.csv", names, rows), {})


def test_two_files_of_one_name_are_refused_and_one_given_twice_is_one(tmp_path):
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "faq.csv", ("question", "answer"), [("a", "x"), ("b", "y")]))
    with pytest.raises(UserError, match=r"a/faq\.csv and .*b/faq\.csv are both called faq-retrieval; rename one"):
        selection.select_tasks(data=paths)
    assert len(selection.select_tasks(data=[paths[0], paths[0]])) == 1


def test_a_label_that_one_half_of_the_texts_has_alone_is_left_out_and_counted(tmp_path, caplog):
    rows = [*((f"text {i}", f"label {i % 2}") for i in range(40)), ("only one", "lonely")]
    classification, clustering = own.own_tasks(write(tmp_path / "x.csv", ("text", "label"), rows), {})
    data = classification.subsets()["default"][1]
    assert set(data["train"]["label"]) == set(data["test"]["label"]) == {"label 0", "label 1"}
    assert "lonely" in clustering.subsets()["default"][1]["test"]["labels"]
    assert "1 to classify, of labels that one half of the texts has alone" in caplog.text


def test_judgements_that_are_no_whole_numbers_are_refused(folder, tmp_path):
    shutil.copytree(folder / "books", tmp_path / "books")
    with open(tmp_path / "books/qrels/test.tsv", "a") as file:
        file.write("q4\td5\t0.5\n")
    with pytest.raises(UserError, match=r"books has a judgement of 0\.5; mteb scores whole numbers"):
        own.own_tasks(f"beir:{tmp_path}/books", {})


def test_languages_leave_your_own_files_in(folder, monkeypatch):
    monkeypatch.setattr(selection, "_filter_languages", lambda tasks, languages: [])
    (task,) = selection.select_tasks(["STSBenchmark"], data=[f"{folder}/faq.csv"], languages=["deu"])
    assert task.metadata.name == "faq-retrieval"


@pytest.mark.parametrize("name", own.PREFIXES)
def test_a_folder_that_is_called_as_a_prefix_is_a_folder(name):
    assert not own.is_own(name) and own.is_own(f"{name}:x")


def test_other_rows_have_another_revision(tmp_path):
    rows = [("a", "x"), ("b", "y")]
    first = own.own_tasks(write(tmp_path / "x.csv", ("question", "answer"), rows), {})[0].metadata.revision
    second = own.own_tasks(write(tmp_path / "x.csv", ("question", "answer"), [*rows, ("c", "z")]), {})[0]
    assert first != second.metadata.revision


def test_own_files_stand_beside_the_folder_of_the_local_tasks(folder):
    with pytest.raises(UserError, match="--columns is for files of your own in --data"):
        selection.select_tasks(["XQuAD.local"], data=["sets"], columns={"query": "Frage"})
    with pytest.raises(UserError, match="names the folders a and b; the local tasks have one"):
        selection.select_tasks(data=["a", "b"])
    tasks = selection.select_tasks(data=[f"{folder}/faq.csv", f"beir:{folder}/books"])
    assert [task.metadata.name for task in tasks] == ["faq-retrieval", "books-retrieval"]


def test_the_command_scores_a_model_with_its_own_prompts_beside_its_baselines(folder, tmp_path, capsys):
    embedder = tiny_model.make_embedder(tmp_path)
    embedder.save_pretrained(tmp_path / "model")
    argv = ["evaluate", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "scores"), "--dims", "64"]
    assert cli.main([*argv, "--precisions", "--data", f"{folder}/faq.csv"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("faq-retrieval"))
    _, metric, _, tfidf, random = line.split()
    assert metric == "ndcg_at_10" and float(tfidf) > float(random)
    (settings,) = (tmp_path / "scores" / "results").rglob("*model/*/settings.jsonl")
    record = json.loads(settings.read_text())
    assert record["prompts"] == {name: tiny_model.PROMPTS[name] for name in ("query", "document")}


@pytest.mark.parametrize(
    "given,question",
    [
        ({}, tiny_model.PROMPTS["query"]),
        ({"STS": "Same?"}, tiny_model.PROMPTS["query"]),
        ({"query": "Ask."}, "Instruct: Ask.\nQuery: "),
        ({"faq-retrieval": "Ask."}, "Instruct: Ask.\nQuery: "),
    ],
)
def test_an_instruction_changes_the_prompts_of_the_tasks_that_it_names_alone(folder, tmp_path, given, question):
    """And two sentences are not a question and its document."""
    embedder = tiny_model.make_embedder(tmp_path)
    write(tmp_path / "same.csv", ("sentence1", "sentence2"), [("red", "rose"), ("blue", "sky")])
    tasks = selection.select_tasks(data=[f"{folder}/faq.csv", f"{tmp_path}/same.csv", f"{folder}/pairs.csv"])
    instructions = prompts.read_instructions(given=given, tasks=tasks).for_tasks(tasks).for_own(tasks, embedder)
    model = encoder.Encoder(vector, encoder.empty_meta("f2jax/x"), encoder.Variant(8), instructions)
    query, document = PromptType.query, PromptType.document
    faq, same, scored = (task.metadata for task in tasks)
    assert (model.prompt(faq, query), model.prompt(faq, document)) == (question, tiny_model.PROMPTS["document"])
    plain = embedder.choose_prompt()
    assert model.prompt(same, document) == plain
    assert model.prompt(same, query) == (question if "query" in given else plain)
    assert model.prompt(scored, None) == ("Instruct: Same?\nQuery: " if given.get("STS") else plain)
