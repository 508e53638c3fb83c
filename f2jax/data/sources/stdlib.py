"""Code retrieval from the Python standard library on the machine: docstring ↔ function. No download.

The set depends on the Python version, and so do scores on it.
"""

import ast
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from f2jax.data.record import Record, stable_id
from f2jax.errors import UserError
from f2jax.evaluation.task import RetrievalTask

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "turtledemo", "__pycache__"}
FEWEST_WORDS = 4  # of a docstring that says something
TEST_SHARE = 10  # one function in so many is held out
HARD_NEGATIVES = 7


class Function(NamedTuple):
    module: str
    summary: str  # first paragraph of the docstring
    code: str  # source without the docstring


@lru_cache(maxsize=1)
def functions() -> list[Function]:
    """Documented functions and methods, in a fixed order; each summary and each code once."""
    root = Path(sysconfig.get_path("stdlib"))
    found, summaries, codes = [], set(), set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if LEFT_OUT & set(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):  # some installations ship files that are no Python
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
                continue
            summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if len(summary.split()) < FEWEST_WORDS:
                continue
            node.body = node.body[1:]
            code = ast.unparse(node)
            if summary not in summaries and code not in codes:
                summaries.add(summary)
                codes.add(code)
                found.append(Function("/".join(parts), summary, code))
    return found


def in_test(function: Function) -> bool:
    return stable_id(function.summary) % TEST_SHARE == 0


def read(split: str = "train") -> Iterator[Record]:
    """Docstring → function; functions of the same module, where there are some, as hard negatives.

    Raises:
        UserError: a split other than train and test.
    """
    if split not in ("train", "test"):
        raise UserError(f"There is no split '{split}'; splits are train and test.")
    chosen = [f for f in functions() if in_test(f) == (split == "test")]
    modules = defaultdict(list)
    for function in chosen:
        modules[function.module].append(function.code)
    for function in chosen:
        start = stable_id(function.code)
        siblings = sorted(modules[function.module], key=lambda code: stable_id(code) ^ start)
        negatives = tuple(code for code in siblings if code != function.code)[:HARD_NEGATIVES]
        yield Record(function.summary, function.code, negatives, "retrieval", "code:python", "stdlib-code")


def evaluation() -> RetrievalTask:
    """Each held-out docstring once: which of the held-out functions does it describe?"""
    held = [f for f in functions() if in_test(f)]
    return RetrievalTask(
        "stdlib-code",
        [f.summary for f in held],
        [f.code for f in held],
        [{i} for i in range(len(held))],
        ["code:python"] * len(held),
    )
