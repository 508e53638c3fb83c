"""What the pages say is so: commands have the options that are shown, configs the fields, and errors the words."""

import ast
import contextlib
import io
import re

import pytest

from docs import generate
from f2jax import cli
from f2jax.config import FREE, fields
from f2jax.configs import common
from tests import tiny

ANY = "…"  # stands for what a message fills in
PAGES = [tiny.ROOT / "README.md", *(tiny.ROOT / "docs").rglob("*.md")]


def shown() -> list[tuple[str, str, str]]:
    """(page, command, its arguments) of each line in a block of code that begins with `f2jax`."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)
        lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
        calls = [re.match(r"f2jax ([\w-]+) ([^#]*)", line) for line in lines]
        found += [(page.name, call[1], call[2].partition(" -- ")[0]) for call in calls if call]  # others' stand behind
    return found


def options_of(command: str) -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main([command, "--help"]) == 0
    return set(re.findall(r"--[\w-]+", printed.getvalue()))


def test_commands_have_the_options_that_are_shown():
    known = {command: options_of(command) for command in cli.COMMANDS}
    given = [(page, name, option) for page, name, text in shown() for option in re.findall(r"--[\w-]+(?![\w.-])", text)]
    assert len(given) > 100
    assert [use for use in given if use[2] not in known[use[1]]] == []


def test_the_reference_lists_each_command_with_its_purpose():
    page = (tiny.ROOT / "docs/reference/commands.md").read_text().partition(generate.MARK)[0]
    assert re.findall(r"^\| `([\w-]+)` \| (.*?) \|", page, re.M) == list(cli.COMMANDS.items())


@pytest.mark.parametrize("name", generate.MADE)
def test_the_tables_of_the_reference_are_those_of_the_code(name):
    page = (tiny.ROOT / f"docs/{name}.md").read_text()
    assert page == generate.made(name, page), "options or fields have changed: run `python docs/generate.py`"


def test_configs_have_the_fields_that_are_set():
    known = fields(common.get_config()).keys()
    given = {(page.name, name) for page in PAGES for name in re.findall(r"--config\.([\w.]+)=", page.read_text())}
    assert len(given) > 20
    assert sorted(use for use in given if use[1] not in known and not use[1].startswith(("NAME", *FREE))) == []


def quoted(page) -> list[str]:
    """The messages in the table under "What goes wrong"."""
    table = page.read_text().partition("## What goes wrong")[2]
    return [text.strip(f"{ANY} ") for text in re.findall(r"^\| `([^`]*)` \|", table, re.M)]


def messages() -> str:
    """All strings in the code, a line each."""
    found = set()
    for path in (tiny.ROOT / "f2jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return "\n".join(found)


def test_quoted_errors_are_those_of_the_code():
    known = messages()
    texts = [(page.stem, text) for page in (tiny.ROOT / "docs/tasks").glob("*.md") for text in quoted(page)]
    assert len(texts) > 30
    assert [(page, text) for page, text in texts if text not in known] == []
