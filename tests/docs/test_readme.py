"""The front page: its five lines print what stands below them, and its table of sizes is that of the models."""

import contextlib
import io
import re

from f2jax.configs.common import HYPER_PARAMETERS
from f2jax.configs.stage2 import HUB
from f2jax.model.sizes import SIZES
from tests import tiny

PAGE = (tiny.ROOT / "README.md").read_text()


def test_the_first_lines_print_what_stands_below_them():
    ((snippet, output),) = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", PAGE, re.S | re.M)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, "README.md", "exec"), {})
    assert printed.getvalue() == output


def test_the_table_of_sizes_is_that_of_the_models():
    rows = re.findall(r"^\| (\S+b|\d+m) \| ([\d,]+) \| ([\d,]+) \| .*? \| (\S+) \| \[.*?\]\((.*?)\) \|$", PAGE, re.M)
    shown = {size: (parameters, width, teacher, link) for size, parameters, width, teacher, link in rows}
    assert shown == {
        size: (
            f"{SIZES[size].parameters:,}",
            f"{SIZES[size].width:,}",
            HYPER_PARAMETERS[size][2] or "none",
            f"https://huggingface.co/{HUB.format(size.upper())}",
        )
        for size in ("80m", "160m", "330m", "0.6b", "1.7b", "4b", "8b", "14b")
    }


def test_the_notebooks_are_all_listed():
    listed = re.findall(r"\(notebooks/(\w+\.ipynb)\)", PAGE)
    assert sorted(listed) == sorted(path.name for path in (tiny.ROOT / "notebooks").glob("*.ipynb"))
