"""The instruction template of the recipe (2.6), and that a text never gets two."""

import pytest

from f2jax.data.instructions import add_instruction

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
