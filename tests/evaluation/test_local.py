"""The local tasks read their files into what mteb's task types expect."""

import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.evaluation.builtin import LOCAL_NAMES
from f2jax.evaluation.options import EvaluationOptions
from f2jax.inference.embedder import Embedder
from tests import tiny_model

pytest.importorskip("mteb")
local = pytest.importorskip("f2jax.evaluation.local")
run = pytest.importorskip("f2jax.evaluation.run")
selection = pytest.importorskip("f2jax.evaluation.selection")

QRELS = {"query_id": ["q1", "q2", "q9"], "corpus_id": ["d1", "d2", "d1"], "score": [1, 1, 1]}
RETRIEVAL = {
    "corpus": {"_id": ["d1", "d2"], "title": ["", ""], "text": ["one", "zwei"]},
    "queries": {"_id": ["q1", "q2"], "text": ["1?", "2?"]},
    "qrels": QRELS,
}
TABLES = {
    "eval-tatoeba/bitext": {"subset": ["deu-eng"] * 2, "sentence1": ["eins", "zwei"], "sentence2": ["one", "two"]},
    "eval-stsb-multi/sts": {
        "language": ["deu", "zho", "deu"],
        "split": ["test", "test", "train"],
        "sentence1": ["a", "b", "c"],
        "sentence2": ["a", "c", "c"],
        "score": [5.0, 1.0, 5.0],
    },
    "eval-banking77/data": {"split": ["train", "test"], "text": ["a", "b"], "label": ["x", "x"]},
    "eval-sib200-dev/data": {
        "language": ["ace", "ace"],
        "script": ["Arab", "Latn"],
        "text": ["a", "b"],
        "label": ["x", "y"],
    },
    "sib200-topics/train": {
        "kind": ["classification"] * 2 + ["clustering"],
        "subset": ["ace_Arab", "ace_Latn", "ace_Latn"],
        "query": ["c", "d", "e"],
        "positive": ["x", "y", "f"],
        "label": ["x", "y", "y"],
    },
    **{f"eval-xquad/{n}": t | ({} if n == "qrels" else {"language": ["eng", "deu"]}) for n, t in RETRIEVAL.items()},
    **{
        f"eval-humaneval-x/{n}": t | ({"language": ["code:cpp", "code:go"]} if n == "corpus" else {})
        for n, t in RETRIEVAL.items()
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    for name, columns in TABLES.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return str(folder)


@pytest.fixture(scope="module")
def tasks(data) -> dict:
    found = {task.metadata.name: task for task in selection.select_tasks(data=[data])}
    for task in found.values():
        task.load_data()
    return found


def test_all_local_tasks_are_known_without_mteb(tasks):
    assert tuple(tasks) == tuple(local.TASKS) == LOCAL_NAMES


def test_subsets_have_the_tags_of_their_languages(tasks):
    assert {name: dict(task.metadata.eval_langs) for name, task in tasks.items()} == {
        "Tatoeba.local": {"deu-eng": ["deu-Latn", "eng-Latn"]},
        "STSB.local": {"deu": ["deu-Latn"], "zho": ["zho-Hans"]},
        "Banking77.local": {"default": ["eng-Latn"]},
        "SIB200.local": {"ace_Arab": ["ace-Arab"], "ace_Latn": ["ace-Latn"]},
        "SIB200Clustering.local": {"ace_Arab": ["ace-Arab"], "ace_Latn": ["ace-Latn"]},
        "XQuAD.local": {"deu": ["deu-Latn"], "eng": ["eng-Latn"]},
        "HumanEvalX.local": {"cpp": ["eng-Latn", "c++-Code"], "go": ["eng-Latn", "go-Code"]},
    }


def test_rows_come_from_the_split_and_language_of_their_subset(tasks):
    def rows(task: str, subset: str, split: str = "test") -> list[dict]:
        return tasks[task].dataset[subset][split].to_list()

    assert rows("Tatoeba.local", "deu-eng")[1] == {"sentence1": "zwei", "sentence2": "two"}
    assert rows("STSB.local", "deu") == [{"sentence1": "a", "sentence2": "a", "score": 5.0}]
    assert rows("Banking77.local", "default", "train") == [{"text": "a", "label": "x"}]
    assert rows("SIB200.local", "ace_Latn", "train") == [{"text": text, "label": "y"} for text in "def"]
    assert rows("SIB200.local", "ace_Latn") == [{"text": "b", "label": "y"}]
    assert rows("SIB200Clustering.local", "ace_Arab") == [{"sentences": "a", "labels": "x"}]


def test_relevance_is_that_of_the_documents_and_queries_in_the_subset(tasks):
    found = tasks["XQuAD.local"].dataset["eng"]["test"]
    assert found["corpus"].to_list() == [{"id": "d1", "title": "", "text": "one"}]
    assert found["queries"].to_list() == [{"id": "q1", "text": "1?"}]
    assert found["relevant_docs"] == {"q1": {"d1": 1}}
    assert tasks["HumanEvalX.local"].dataset["go"]["test"]["relevant_docs"] == {"q2": {"d2": 1}}


def test_the_revision_is_that_of_the_data_and_the_protocol(data, tmp_path, monkeypatch):
    first = local.TASKS["STSB.local"](data).metadata.dataset["revision"]
    assert first == local.TASKS["STSB.local"](data).metadata.dataset["revision"] and len(first) == 40
    (tmp_path / "eval-stsb-multi").mkdir()
    table = pa.table(TABLES["eval-stsb-multi/sts"] | {"score": [4.0, 1.0, 5.0]})
    pq.write_table(table, tmp_path / "eval-stsb-multi/sts.parquet")
    assert local.TASKS["STSB.local"](tmp_path).metadata.dataset["revision"] != first
    monkeypatch.setattr(local.STSB, "protocol", "of tomorrow")
    assert local.TASKS["STSB.local"](data).metadata.dataset["revision"] != first


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"eval-xquad/corpus\.parquet cannot be read .*a folder in --data should hold"):
        local.TASKS["XQuAD.local"](tmp_path)


@pytest.mark.parametrize(
    "name,hint",
    [("stsb", "STSB.local"), ("banking77", "Banking77.local"), ("SIB-200", "SIB200.local"), ("xquad", "XQuAD.local")],
)
def test_a_wrong_name_finds_the_local_task_in_any_case(name, hint):
    with pytest.raises(UserError) as error:
        selection.select_tasks([name])
    assert str(error.value).startswith(
        f"There is no task '{name}'; did you mean '{hint}'? Built-in tasks are cldr-names, "
    )
    assert all(known in str(error.value) for known in LOCAL_NAMES)


def test_the_command_scores_local_tasks_at_every_dimension_and_says_what_was_cut(data, tmp_path, capsys):
    embedder = tiny_model.make_embedder(tmp_path / "tokenizer")
    embedder.settings = replace(embedder.settings, max_length=8)
    embedder.save_pretrained(tmp_path / "tiny")
    output = tmp_path / "scores"
    argv = ["evaluate", "--model", str(tmp_path / "tiny"), "--data", data, "--output", str(output)]
    argv += ["--tasks", "Tatoeba.local", "XQuAD.local", "--dims", "64", "8", "--precisions", "binary"]
    assert cli.main([*argv, "--baseline", "tfidf", "untrained"]) == 0
    out = capsys.readouterr().out
    tables = [line.split() for line in out.splitlines() if " metric " in line]
    header = ["f2jax/tiny", "metric", "64", "8", "64", "binary"]
    assert tables == [[*header, "untrained", "TF-IDF"]]
    assert re.search(r"^Of what was encoded now, \d+ of \d+ texts were cut to the model's length", out, re.M)
    folder = output / "results/f2jax__tiny" / Embedder.from_pretrained(tmp_path / "tiny").fingerprint
    settings = [json.loads(line) for line in (folder / "settings.jsonl").read_text().splitlines()]
    assert [line["task"] for line in settings] == ["Tatoeba.local", "XQuAD.local"]
    assert settings[1]["prompts"]["document"] == "" and settings[1]["prompts"]["query"].startswith("Instruct: ")
    assert cli.main(argv) == 0
    again = capsys.readouterr().out
    assert "were cut" not in again and again.splitlines()[0].split() == [*header, "TF-IDF", "random"]
    assert cli.main(["report", str(output), "--output", str(tmp_path / "page")]) == 0
    assert "f2jax/tiny, 64 binary" in (tmp_path / "page/index.html").read_text()


@pytest.mark.parametrize(
    "model_prompts,options,said",
    [
        ({}, {}, True),
        ({"query": "", "document": ""}, {}, True),
        ({"query": "Query: "}, {}, False),
        ({}, {"prompts": "none"}, False),
        ({}, {"prompt": {"query": "Find it."}}, False),
        ({}, {"tasks": [], "own_file": True}, False),
        ({}, {"own_file": True}, True),
    ],
    ids=str,
)
def test_a_model_without_prompts_is_told_of_the_instructions(
    data, tmp_path, monkeypatch, capsys, model_prompts, options, said
):
    """Unless none or others are asked for, or all tasks take the model's own."""
    embedder = tiny_model.make_embedder(tmp_path / "tokenizer")
    embedder.settings = replace(embedder.settings, prompts=model_prompts)
    monkeypatch.setattr(run.Embedder, "from_pretrained", lambda *args, **kwargs: embedder)
    monkeypatch.setattr(run.runner, "run_tasks", lambda *args: [])
    (tmp_path / "own.csv").write_text("question,answer\none,two\nthree,four\n")
    options = {"tasks": ["Tatoeba.local"]} | options
    files = [str(tmp_path / "own.csv")] if options.pop("own_file", False) else []
    if options["tasks"]:
        files.append(data)
    run.evaluate(EvaluationOptions(str(tmp_path / "scores"), "mini", data=files, **options))
    assert ("mini has no prompts of its own, so the instructions of F2LLM-v2" in capsys.readouterr().out) == said
