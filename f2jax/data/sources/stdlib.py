"""Code retrieval from the machine's Python standard library: docstrings and their functions. Nothing is downloaded.

The data depend on the version of Python, and so do scores on them.
"""

import ast
import heapq
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from f2jax.data.record import Record, stable_id

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "turtledemo", "__pycache__"}
MIN_WORDS = 4  # fewest words of a docstring to use
TEST_SHARE = 10  # one function in 10 is held out
HARD_NEGATIVES = 7


class Function(NamedTuple):
    module: str
    summary: str  # first paragraph of the docstring
    code: str  # source without the docstring


@lru_cache(maxsize=1)
def functions() -> list[Function]:
    """Returns documented functions and methods in a fixed order, without repeated summaries or code."""
    root = Path(sysconfig.get_path("stdlib"))
    distinct: list[Function] = []
    summaries, codes = set(), set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if LEFT_OUT & set(parts):
            continue
        for summary, code in _documented(path):
            if summary not in summaries and code not in codes:
                summaries.add(summary)
                codes.add(code)
                distinct.append(Function("/".join(parts), summary, code))
    return distinct


def _documented(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (first paragraph of the docstring, source without it) of each function in a file."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError):  # some installations ship files that are not Python
        return
    lines = source.split("\n")  # as the parser counts; splitlines would break lines at form feeds too
    for node in _functions(tree):
        summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        docstring = node.body[0]
        if len(summary.split()) >= MIN_WORDS and docstring.lineno > node.lineno:
            code = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
            yield summary, "\n".join(_dedented(line, node.col_offset) for line in code if line.strip())


def _dedented(line: str, indent: int) -> str:
    """Returns the line without its indentation, or unchanged if its text starts further left, as in a long string."""
    return line if line[:indent].strip() else line[indent:]


def _functions(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields functions of a module and methods of its classes that have more than a docstring."""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _functions(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and len(child.body) > 1:
            yield child


def is_test_function(function: Function) -> bool:
    return stable_id(function.summary) % TEST_SHARE == 0


def read_stdlib(split: str = "train") -> Iterator[Record]:
    """Pairs a docstring with its function, against functions of the same module if there are some; train or test."""
    chosen = [f for f in functions() if is_test_function(f) == (split == "test")]
    modules = defaultdict(list)
    for function in chosen:
        modules[function.module].append((stable_id(function.code), function.code))
    for function in chosen:
        own_id = stable_id(function.code)
        siblings = heapq.nsmallest(HARD_NEGATIVES + 1, modules[function.module], key=lambda other: other[0] ^ own_id)
        negatives = tuple(code for number, code in siblings if number != own_id)  # at distance 0, the smallest
        yield Record(function.summary, function.code, negatives, "retrieval", "code:python", "stdlib-code")
