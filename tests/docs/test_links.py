"""Relative links in the Markdown of the repository lead to files that are there."""

import re
import subprocess

import pytest

from tests import tiny

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def pages():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=tiny.ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.splitlines() or pytest.skip("no git checkout")


def links(text: str) -> list[str]:
    """Those that lead to files; what stands in code is no link."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    return [target for target in LINK.findall(text) if "://" not in target]


def test_relative_links_lead_to_files():
    found = [(page, target) for page in pages() for target in links((tiny.ROOT / page).read_text())]
    assert len(found) > 50
    assert [(page, target) for page, target in found if not (tiny.ROOT / page).parent.joinpath(target).exists()] == []


def test_what_counts_as_a_link():
    text = "[a](b.md#c) [d](https://e.org)\n```\n[f](g.md)\n```\n![h](i.png)"
    assert links(text) == ["b.md", "i.png"]
