"""Retrieval tasks made of the built-in held-out splits: which document belongs to which query."""

from dataclasses import dataclass

from f2jax.data.sources import cldr, stdlib
from f2jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, candidates, and for each query the numbers of the right candidates."""

    name: str
    queries: list[str]
    documents: list[str]
    answers: list[set[int]]
    languages: list[str]  # of the queries


def cldr_names() -> RetrievalTask:
    """Each test string once: which of all English names is it? A string that names several has several answers."""
    english = cldr.english()
    documents = sorted(set(english.values()))
    number = {text: i for i, text in enumerate(documents)}
    answers: dict[str, set[int]] = {}
    languages: dict[str, str] = {}
    for name in cldr.names():
        if name.entity in english and cldr.in_test(name.text):
            answers.setdefault(name.text, set()).add(number[english[name.entity]])
            languages.setdefault(name.text, name.language)
    return RetrievalTask("cldr-names", list(answers), documents, list(answers.values()), list(languages.values()))


def stdlib_code() -> RetrievalTask:
    """Each held-out docstring once: which of the held-out functions does it describe?"""
    held = [function for function in stdlib.functions() if stdlib.in_test(function)]
    return RetrievalTask(
        "stdlib-code",
        [function.summary for function in held],
        [function.code for function in held],
        [{i} for i in range(len(held))],
        ["code:python"] * len(held),
    )


TASKS = {"cldr-names": cldr_names, "stdlib-code": stdlib_code}


def load_task(name: str) -> RetrievalTask:
    """A built-in task by its name.

    Raises:
        UserError: there is no such task.
    """
    if name not in TASKS:
        raise UserError(f"There is no built-in task '{name}'{did_you_mean(name, TASKS)}")
    return TASKS[name]()
