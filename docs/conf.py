"""The site: Markdown pages, and a reference that is made from the code when the site is built (`make docs`)."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import generate  # noqa: E402

from f2jax import __version__  # noqa: E402

project = "f2jax"
author = copyright = "The f2jax maintainers"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # `page.md#a-heading` works as it does on GitHub
highlight_language = "none"  # of code without a language: commands and what they print
html_theme = "furo"
html_title = "f2jax"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]

default_role = "code"  # docstrings mark names with single backticks
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True  # names of constants, not what they hold
nitpicky = True
# Without pages are type variables, and the names of other projects: the build asks no network for them.
nitpick_ignore_regex = [("py:.*", r"(?!f2jax\.).*|.*\.[A-Z]")]


def add(app, page: str, source: list[str]) -> None:
    source[0] += generate.addition(page, source[0])


def setup(app) -> None:
    app.connect("source-read", add)
