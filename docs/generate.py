"""What the site adds to a page when it is built; on GitHub the page stands without it."""

import contextlib
import io
import os
import re
from pathlib import Path

from f2jax import cli
from f2jax import config as configs
from f2jax.configs import common

COLUMNS = "88"  # of the help, whatever the terminal


def addition(page: str, text: str) -> str:
    """Markdown for the end of `page`, whose Markdown is `text`."""
    if page == "index":
        return contents(text)
    if page == "reference/commands":
        return commands()
    if page == "reference/config":
        return config_fields()
    if page.startswith("reference/api/"):
        return modules(text)
    return ""


def contents(text: str) -> str:
    """The lists of links under each heading, as the site's table of contents: the order is said once."""
    made = ""
    for section in text.split("\n## ")[1:]:
        pages = re.findall(r"^- \[.*?\]\((\S+)\.md\)", section, re.M)
        if pages:
            caption = section.splitlines()[0]
            made += "\n```{toctree}\n" + "\n".join([":hidden:", f":caption: {caption}", "", *pages]) + "\n```\n"
    return made


def commands() -> str:
    """The help of each command, as its parser prints it."""
    os.environ |= {"COLUMNS": COLUMNS, "NO_COLOR": "1"}
    made = ""
    for name in cli.COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            cli.main([name, "--help"])
        made += f"\n## f2jax {name}\n\n```\n{printed.getvalue()}```\n"
    return made


def config_fields() -> str:
    """A table for each group of fields, from the comments of configs/common.py and its values for a 0.6b."""
    values = configs.fields(common.get_config())
    groups: dict[str, list[str]] = {}
    for name, comment in comments(Path(common.__file__).read_text()):
        group = name.rpartition(".")[0]
        value = f"`{values[name]!r}`" if name in values else ""
        groups.setdefault(group, []).append(f"| `{name}` | {value} | {comment} |\n")
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
                found.append((name, match[4].replace("|", r"\|")))
    return found


def modules(text: str) -> str:
    """The public names of the modules that a page lists, from their docstrings."""
    names = re.findall(r"^- \[`(f2jax\.[\w.]+)`\]", text, re.M)
    return "".join(f"\n## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)
