"""Relative links in the Markdown of the repository lead to files, and to sections, that are there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests import tiny

LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.splitlines() or pytest.skip("no git checkout")


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def links(text: str) -> list[tuple[str, str]]:
    """(file, section) of those within the repository; what stands in code is no link."""
    found = [target.partition("#") for target in LINK.findall(prose(text)) if "://" not in target]
    return [(path, section) for path, _, section in found]


def sections(text: str) -> set[str]:
    """The names under which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: str, path: str, section: str) -> bool:
    target: Path = (tiny.ROOT / page).parent / path if path else tiny.ROOT / page
    return not target.exists() or bool(section and section not in sections(target.read_text()))


def test_relative_links_lead_to_files_and_sections():
    found = [(page, *target) for page in pages() for target in links((tiny.ROOT / page).read_text())]
    assert len(found) > 50 and sum(bool(section) for *_, section in found) > 20
    assert [link for link in found if leads_nowhere(*link)] == []


def test_what_counts_as_a_link_and_as_a_section():
    text = "[a](b.md#c) [d](https://e.org) [j](#k)\n```\n[f](g.md)\n# no\n```\n![h](i.png)\n## It's `here`, now"
    assert links(text) == [("b.md", "c"), ("", "k"), ("i.png", "")]
    assert sections(text) == {"its-here-now"}
