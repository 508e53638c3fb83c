"""What is made from the code: tables of options and fields in two pages, and what the site adds to others.

python docs/generate.py    # writes the tables into docs/reference/commands.md and config.md
"""

import argparse
import re
import sys
from pathlib import Path
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from f2jax import cli  # noqa: E402
from f2jax import config as configs  # noqa: E402
from f2jax.configs import common  # noqa: E402

MARK = "<!-- `python docs/generate.py` makes the rest of this page. -->\n"


def main() -> None:
    for name in MADE:
        page = HERE / f"{name}.md"
        page.write_text(made(name, page.read_text()))


def made(page: str, text: str) -> str:
    """The text of a page of `MADE` with the tables that the code has now."""
    return text.partition(MARK)[0] + MARK + MADE[page]()


def addition(page: str, text: str) -> str:
    """Markdown that the site adds to the end of `page`, whose Markdown is `text`."""
    if page == "index":
        return contents(text)
    if page.startswith("reference/api/"):
        return modules(text)
    return ""


def contents(text: str) -> str:
    """The lists of links under each heading, as the site's table of contents: the order is said once."""
    lists = ""
    for section in text.split("\n## ")[1:]:
        pages = re.findall(r"^- \[.*?\]\((\S+)\.md\)", section, re.M)
        if pages:
            caption = section.splitlines()[0]
            lists += "\n```{toctree}\n" + "\n".join([":hidden:", f":caption: {caption}", "", *pages]) + "\n```\n"
    return lists


def commands() -> str:
    """A section for each command, with a table for each group of its options."""
    return "".join(command(name, parser(name)) for name in cli.COMMANDS)


def parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    found: list[argparse.ArgumentParser] = []
    with patch.object(argparse.ArgumentParser, "print_help", lambda self, file=None: found.append(self)):
        cli.main([name, "--help"])
    return found[0]


def command(name: str, given: argparse.ArgumentParser) -> str:
    example = plain(given.epilog).removeprefix("example: ")
    text = f"\n## f2jax {name}\n\n{plain(given.description)}\n\n```\n{example}\n```\n"
    for group in given._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            about = f"\n{plain(group.description)}\n" if group.description else ""
            rows = "".join(f"| `{usage(action)}` | {cell(plain(action.help))} |\n" for action in actions)
            text += f"{about}\n| {cell(group.title)} | |\n|---|---|\n{rows}"
    return text


def usage(action: argparse.Action) -> str:
    """An option with its value, as somebody types it."""
    several = " …" if action.nargs in ("*", "+") else ""
    value = (
        ""
        if isinstance(action, argparse.BooleanOptionalAction)
        else f"{action.metavar or action.dest.upper()}{several}"
    )
    return " ".join(filter(None, ["`, `".join(action.option_strings), value]))


def plain(text: str | None) -> str:
    """What argparse prints of a text."""
    return (text or "").replace("%%", "%")


def cell(text: str | None) -> str:
    return (text or "").replace("|", r"\|")


def fields() -> str:
    """A table for each group of fields, from the comments of configs/common.py and its values for a 0.6b."""
    values = configs.fields(common.get_config())
    groups: dict[str, list[str]] = {}
    for name, comment in comments(Path(common.__file__).read_text()):
        value = f"`{values[name]!r}`" if name in values else ""
        groups.setdefault(name.rpartition(".")[0], []).append(f"| `{name}` | {value} | {cell(comment)} |\n")
    tables = (
        f"\n## {group or 'The run'}\n\n| field | default | |\n|---|---|---|\n{''.join(rows)}"
        for group, rows in groups.items()
    )
    return "".join(tables)


def comments(source: str) -> list[tuple[str, str]]:
    """Each field of a config with its comment, in the order of the lines `group.name = value  # comment`."""
    found, prefixes = [], {"c": ""}
    for line in source.splitlines():
        match = re.fullmatch(r"    (\w+(?:\.\w+)*)\.(\w+) = (.*?)(?:  # (.*))?", line)
        if match and match[1] in prefixes:
            name = prefixes[match[1]] + match[2]
            if match[3].endswith("ConfigDict()"):  # a group, perhaps with a short name: c.model = m = ConfigDict()
                prefixes[match[3].partition(" = ")[0] if " = " in match[3] else f"{match[1]}.{match[2]}"] = f"{name}."
            if match[4]:
                found.append((name, match[4]))
    return found


def modules(text: str) -> str:
    """The public names of the modules that a page lists, from their docstrings."""
    names = re.findall(r"^- \[`(f2jax\.[\w.]+)`\]", text, re.M)
    return "".join(f"\n## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)


MADE = {"reference/commands": commands, "reference/config": fields}

if __name__ == "__main__":
    main()
