"""The instruction template of the recipe (2.6), and that a text never gets two."""

import pytest

from f2jax.data.instructions import Instructions, add_instruction
from f2jax.data.record import Record

TASK = "Retrieve translations of the following text."


def test_the_template_is_that_of_the_recipe():
    """With a space after `Query:`, unlike Qwen3-Embedding."""
    assert add_instruction("Kenia", TASK) == "Instruct: Retrieve translations of the following text.\nQuery: Kenia"


@pytest.mark.parametrize("task", [None, ""])
def test_without_a_task_the_text_stays(task):
    assert add_instruction("Kenia", task) == "Kenia"


@pytest.mark.parametrize(
    "text",
    [
        add_instruction("Kenia", TASK),
        add_instruction("Kenia", "Another task."),
        add_instruction("", TASK),
        "Instruct: a task\nQuery:as Qwen3-Embedding writes it",
        "Instruct: a task \n Query:as the first paper prints it",
        "Instruct: a task\nof two lines\nQuery: x",
    ],
)
def test_a_text_that_has_an_instruction_gets_no_second(text):
    assert add_instruction(text, TASK) == text


@pytest.mark.parametrize(
    "text", ["", "Instruct: me in algebra", "What is\nQuery: x", "{text} {task} %s", "a\nInstruct: x\nQuery: y"]
)
def test_any_other_text_gets_one(text):
    assert add_instruction(text, TASK) == f"Instruct: {TASK}\nQuery: {text}"


@pytest.mark.parametrize(
    "names,task",
    [
        (("retrieval",), "of retrieval"),
        (("retrieval", "symmetric"), "of symmetric"),
        (("symmetric", "sts"), "of sts"),
        (("sts", "sts-retrieval"), "of sts-retrieval"),
        (("clustering",), None),
    ],
)
def test_the_closest_name_gives_a_record_its_task(names, task):
    instructions = Instructions(by_name={name: f"of {name}" for name in names})
    assert instructions.task(Record("a", "b", source="sts", symmetric=True)) == task


def test_symmetric_rows_can_go_without_the_instruction_of_their_kind():
    instructions = Instructions(by_name={"retrieval": "Find it.", "symmetric": ""}, symmetric_share=1.0)
    alike, question = Record("a", "b", symmetric=True), Record("a", "b")
    assert (instructions.query(alike), instructions.document("b", alike)) == ("a", "b")
    assert instructions.query(question) == "Instruct: Find it.\nQuery: a"
