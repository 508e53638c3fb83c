"""`f2jax train --config finetune:…`: from a file as people have it to a model and its scores, in one command."""

import csv
import re
from pathlib import Path

import pytest

from f2jax import Embedder, cli, config
from f2jax.checkpoints.package import ModelSettings
from f2jax.data.loader import read_records
from f2jax.data.prompts import read_prompts
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.evaluation.held_out import HeldOut, held_out_sets
from f2jax.model.sizes import size
from tests import tiny, tiny_model

pytest.importorskip("sklearn", reason="TF-IDF is an extra")

PROMPTS = {"query": "Instruct: Find the colour.\nQuery:", "document": "Document: "}  # as Qwen3-Embedding writes it
FAST = {"data.batch_size": 16, "data.programs": 1, "loss.matryoshka_min": 32, "log.tensorboard": False}


@pytest.fixture(scope="module")
def package(make_once) -> Path:
    def make(folder: Path) -> None:
        card = ModelSettings(max_length=32, prompts=PROMPTS, matryoshka_dims=(64, 32))
        architecture = size("tiny")
        embedder = Embedder(
            architecture, tiny_model.random_params(architecture), tiny_model.train_tokenizer(folder), card
        )
        embedder.save_pretrained(folder / "release")

    return make_once("package-to-tune", make) / "release"


def write(path: Path, names, rows) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def questions(path: Path, count: int, names=("question", "answer")) -> Path:
    words = tiny.WORDS
    rows = [(f"{words[i % 13]} {words[i // 13 % 13]} {i}", f"{words[i % 13]} stone {i % 40}") for i in range(count)]
    return write(path, names, rows)


def tune(data: Path, workdir: Path, package: Path, options: str = "", **changes) -> int:
    fields = [f"--config.{name}={value}" for name, value in (FAST | changes).items()]
    spec = f"finetune:data={data},model={package},epochs=1{options}"
    return cli.main(["train", "--config", spec, "--workdir", str(workdir), *fields])


def first_scores(embedder, held: HeldOut) -> float:
    """The share of held-out queries whose nearest document is right, counted one by one."""
    right = 0
    for query, answers in zip(held.queries, held.answers, strict=True):
        scores = embedder.similarity(embedder.encode_query([query]), embedder.encode_document(held.documents))[0]
        right += int(scores.argmax()) in answers
    return right / len(held.queries)


def test_questions_and_answers_become_a_model_with_the_prompt_that_it_was_trained_with(capsys, tmp_path, package):
    data, run = questions(tmp_path / "faq.csv", 100), tmp_path / "run"
    assert tune(data, run, package) == 0
    printed = capsys.readouterr().out
    scores = dict(re.findall(r"^.*(TF-IDF|before|after) +(\d+\.\d)% +[\d.]+$", printed, re.M))
    assert list(scores) == ["TF-IDF", "before", "after"]

    before, after = Embedder.from_pretrained(package), Embedder.from_pretrained(run)
    loaded = config.load(f"finetune:data={data},model={package}")
    (held,), _ = held_out_sets(read_records(loaded, SkipList()), loaded.data.validation_share, loaded.seed)
    assert float(scores["before"]) == pytest.approx(100 * first_scores(before, held), abs=0.06)
    assert float(scores["after"]) == pytest.approx(100 * first_scores(after, held), abs=0.06)

    # f2jax's template, with which the rows were trained
    assert read_prompts(run) == {"query": "Instruct: Find the colour.\nQuery: ", "document": ""} == after.prompts
    assert after.max_length == before.max_length == 32

    assert tune(data, run, package) == 0  # once more: nothing is trained, the scores are shown again
    again = capsys.readouterr().out
    assert f"The run in {run} is finished" in again and "before" in again


def test_texts_with_labels_and_columns_of_other_names_are_trained_without_a_prompt(capsys, tmp_path, package):
    rows = [(f"{tiny.WORDS[i % 4]} {tiny.WORDS[i % 13]} {i}", i % 4) for i in range(80)]
    data, run = write(tmp_path / "texts.csv", ("Satz", "Art"), rows), tmp_path / "run"
    assert tune(data, run, package, ",text=Satz,label=Art") == 0
    assert "texts " in capsys.readouterr().out
    assert read_prompts(run) == {"query": "", "document": ""}


def test_three_rows_are_trained_on_and_the_lack_of_held_out_rows_is_said(capsys, tmp_path, package):
    """In the workdir of a command that named a wrong column before."""
    wrong = questions(tmp_path / "faq.csv", 3, ("Frage", "answer"))
    assert tune(wrong, tmp_path / "run", package) == 1
    assert tune(questions(tmp_path / "faq.csv", 3), tmp_path / "run", package) == 0
    assert "No row is held out of faq: give more rows, or a larger data.validation_share." in capsys.readouterr().out


@pytest.mark.parametrize(
    "names,options,message",
    [
        (
            ("Frage", "Antwort"),
            "",
            r"faq\.csv has no column query; it has Frage, Antwort: rename one .or, to train or evaluate, name it in",
        ),
        (("Frage", "Antwort"), ",query=frage", r"has no column frage; did you mean 'Frage'\?"),
        (("question", "answer"), ",qery=question", r"The config has no option 'qery'; did you mean 'query'\?"),
    ],
)
def test_a_wrong_column_is_said_before_anything_is_trained(capsys, tmp_path, package, names, options, message):
    assert tune(questions(tmp_path / "faq.csv", 9, names), tmp_path / "run", package, options) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("data", ["", "empty.csv"])
def test_no_data_and_an_empty_file_are_said(capsys, tmp_path, package, data):
    if data:
        questions(tmp_path / data, 0)
    source = tmp_path / data if data else ""
    assert tune(source, tmp_path / "run", package) == 1
    assert re.search("no usable row|data.sources is empty; .* --config finetune:data=FILE", capsys.readouterr().err)


def test_a_model_that_is_not_there_is_said_by_its_name(tmp_path):
    with pytest.raises(UserError, match="There is no model folder nowhere; give a folder"):
        config.load("finetune:data=faq.csv,model=nowhere")


@pytest.mark.parametrize("step", ["@1", ""])
def test_a_checkpoint_of_a_run_can_be_tuned(tmp_path, step):
    tiny_model.write_workdir(tmp_path / "run", tiny_model.make_embedder(tmp_path / "tokenizer"))
    assert config.load(f"finetune:data=faq.csv,model={tmp_path}/run{step}").init_from == f"{tmp_path}/run{step}"


def test_the_commands_of_the_page_load_and_begin_with_the_model_that_comes_with_f2jax():
    page = (Path(__file__).parents[2] / "docs/finetune.md").read_text()
    commands = re.findall(r"^f2jax train --config (finetune:\S+) --workdir \S+$", page, re.M)
    assert len(commands) == 3
    for command in commands:
        loaded = config.load(command)
        config.check(loaded)
        assert loaded.init_from == "mini"


def test_the_rate_follows_the_size_and_a_teacher_adds_its_scores(package):
    tuned = config.load(f"finetune:data=faq.csv,model={package},teacher=big,epochs=7")
    assert tuned.optim.peak_lr == 3e-4 and tuned.epochs == 7
    assert (tuned.teacher.path, tuned.loss.distill_weight, tuned.loss.distill_in_batch_weight) == ("big", 0.0, 1.0)
    config.check(tuned)
