"""The site: it builds without a warning, and its reference has every command, every field and every listed module."""

import html
import os
import re
import subprocess
import sys

import pytest

from f2jax import cli
from f2jax.config import fields
from f2jax.configs import common
from tests import tiny

DOCS = tiny.ROOT / "docs"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site. Warnings are errors, such as a page that no list of index.md leads to."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(folder)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def words(path) -> str:
    """The text of a page."""
    return html.unescape(re.sub(r"<[^>]*>", "", path.read_text()))


def test_every_page_is_there_under_its_title(site):
    """A page named like one of Sphinx's own, such as search.md, would be lost without a warning."""
    pages = {path.relative_to(DOCS).with_suffix(""): path.read_text() for path in DOCS.rglob("*.md")}
    titles = {name: text.splitlines()[0].removeprefix("# ") for name, text in pages.items()}
    lost = [name for name, title in titles.items() if f"\n{title}¶\n" not in words(site / f"{name}.html")]
    assert len(pages) > 20 and lost == []


def test_every_command_explains_itself(site):
    page = words(site / "reference/commands.html")
    assert [name for name in cli.COMMANDS if f"f2jax {name}¶" not in page] == []
    assert "--near-duplicates NUMBER" in page


def test_every_field_of_a_config_has_its_line(site):
    page = words(site / "reference/config.html")
    known = fields(common.get_config())
    assert [name for name in known if not re.search(rf"^{re.escape(name)}$", page, re.M)] == []
    assert common.get_config().optim.b2 == 0.98 and "0.98\ndecay rate of the second moment" in page


def test_every_listed_module_is_described(site):
    for source in (DOCS / "reference/api").glob("*.md"):
        page = (site / f"reference/api/{source.stem}.html").read_text()
        listed = re.findall(r"`(f2jax\.[\w.]+)`\]", source.read_text())
        assert listed and [name for name in listed if f'id="{name}.' not in page] == []


def test_docstrings_come_with_their_arguments_and_errors(site):
    page = words(site / "reference/api/parallel.html")
    assert re.search(r"make_mesh\(.*?Parameters.*?replica.*?Raises", page, re.S)
