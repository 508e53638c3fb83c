"""The table of imports in docs/layout.md is true of the code."""

import ast
import re

from tests import tiny

EVERYWHERE = {"errors", "files", "__init__"}


def stated() -> dict[str, set[str]]:
    """What each part may import, in the order of the table."""
    table = (tiny.ROOT / "docs/layout.md").read_text().split("| part | may import |")[1].split("\n\n")[0]
    rows = [re.findall(r"`([\w.]+)`", row) for row in table.splitlines()]
    return {part: set(others) for part, *others in filter(None, rows)}


def part_of(module: str, parts) -> str | None:
    """The longest name of a part that a module's begins with: parallel.plan_time is of `parallel.plan`."""
    return max((part for part in parts if f"{module}.".startswith((f"{part}.", f"{part}_"))), key=len, default=None)


def imports(path) -> list[str]:
    """Modules of f2jax that a file imports as it is imported, without `f2jax.`; those inside functions do not count."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "f2jax":
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("f2jax")]
    return [name.partition(".")[2] for name in found]


def test_parts_import_what_the_table_says():
    parts = stated()
    wrong, seen = [], set()
    for path in sorted((tiny.ROOT / "f2jax").rglob("*.py")):
        module = ".".join(path.relative_to(tiny.ROOT / "f2jax").with_suffix("").parts).removesuffix(".__init__")
        part = part_of(module, parts)
        if part is None:
            assert module in ("__init__", "__main__", "cli"), module
            continue
        used = {part_of(name, parts) for name in imports(path)} - {None, part} - EVERYWHERE
        seen.add(part)
        wrong += [f"{module} imports {other}" for other in used - parts[part]]
    assert wrong == [] and seen == parts.keys()


def test_parts_import_only_what_stands_above_them():
    order = list(stated())
    below = [(part, other) for part, others in stated().items() for other in others - set(order[: order.index(part)])]
    assert len(order) > 10 and below == []


def test_a_module_is_of_the_part_with_the_longest_name():
    parts = ["parallel", "parallel.plan", "release"]
    names = ("parallel.plan_time", "parallel.mesh.make_mesh", "release.package", "errors")
    assert [part_of(name, parts) for name in names] == ["parallel.plan", "parallel", "release", None]
