"""The table of imports in docs/layout.md is true of the code."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests import tiny

EVERYWHERE = {"__version__", "errors", "files", "tables", "figures"}
PACKAGE = tiny.ROOT / "f2jax"


def stated() -> dict[str, set[str]]:
    """The parts that each part may import, in the order of the table."""
    table = (tiny.ROOT / "docs/layout.md").read_text().split("| part | may import |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row) for row in table.splitlines()]
    return {part: set(others) for part, *others in filter(None, rows)}


def part_of(path: Path) -> str:
    """The first folder below f2jax/, or the module where it lies in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """The parts that a module imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "f2jax":
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("f2jax.")]
    return {name.split(".")[1] for name in names}


def used() -> dict[str, set[str]]:
    """The parts that each part imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(part_of(path), set()).update(imports(path.read_text()) - EVERYWHERE)
    return {part: others - {part} for part, others in found.items()}


def test_parts_import_exactly_what_the_table_says():
    found = {part: others for part, others in used().items() if part not in ("__init__", "__main__", "cli")}
    assert found == stated() and len(found) > 15


def test_parts_import_only_what_stands_above_them():
    order = list(stated())
    below = [(part, other) for part, others in stated().items() for other in others - set(order[: order.index(part)])]
    assert below == []


def test_an_import_inside_a_function_counts():
    assert imports("def f():\n    from f2jax.train import loop\n") == {"train"}
    assert imports("import f2jax.model.qwen3\nimport numpy\nfrom f2jax import files") == {"model", "files"}


def test_the_data_package_needs_no_jax():
    for path in (PACKAGE / "data").rglob("*.py"):
        modules = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M)
        assert not {"jax", "flax", "optax", "orbax"} & set(modules), path


def test_the_files_to_change_exist():
    """A name without a folder lies next to the one before it."""
    table = (tiny.ROOT / "docs/layout.md").read_text().split("## Where to change what")[1]
    folder = tiny.ROOT
    for name in re.findall(r"`([\w./]+(?:\.py|\.md|/))`", table):
        path = tiny.ROOT / name if "/" in name or name.endswith(".md") else folder / name
        assert path.exists(), name
        folder = path if path.is_dir() else path.parent


def modules_imported(source: str, modules: set[str]) -> set[str]:
    """The modules of f2jax that a module imports, wherever in it, also those for types alone."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return modules.intersection(names)


def test_no_module_imports_itself_through_others():
    paths = {".".join(path.relative_to(tiny.ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {name: modules_imported(path.read_text(), set(paths)) - {name} for name, path in paths.items()}
    assert len(graph) > 100 and sum(map(len, graph.values())) > 400
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
