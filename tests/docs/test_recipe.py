"""Each section of the recipe that the code cites is in docs/recipe.md, and its tables are those of the code."""

import re

from f2jax.configs import common
from f2jax.model.sizes import SIZES
from tests import tiny

NUMBER = r"\d(?:\.\d{1,2})?(?![\d.]*\d)"
CITATION = re.compile(rf"\brecipe\s+(?:#\s+)?({NUMBER}(?:(?:,|,?\s+and)\s+{NUMBER})*)")
PAGE = tiny.ROOT / "docs/recipe.md"


def cited(text: str) -> list[str]:
    """The sections that a text names: `recipe 2.4`, `recipe 0.5, 2.3`, `recipe 4.2 and 4.4`."""
    return [number for found in CITATION.findall(text) for number in re.findall(r"[\d.]+", found)]


def headings(text: str) -> list[str]:
    return re.findall(rf"^##+ ({NUMBER}) \S", text, re.M)


def row(title: str) -> dict[str, str]:
    """{size: cell} of the first row with this title in a table whose columns are sizes."""
    header = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and "| 80m |" in line:
            header = line
        if line.startswith(f"| {title} |"):
            names, cells = ([cell.strip() for cell in text.split("|")[2:-1]] for text in (header, line))
            return dict(zip(names, cells, strict=True))
    raise AssertionError(f"no row {title}")


def test_each_section_that_the_code_cites_is_there():
    known = headings(PAGE.read_text())
    files = [path for folder in ("f2jax", "configs") for path in sorted((tiny.ROOT / folder).rglob("*.py"))]
    found = [(path.name, number) for path in files for number in cited(path.read_text())]
    assert len(known) == len(set(known)) and len(found) >= 30
    assert [(name, number) for name, number in found if number not in known] == []


def test_what_counts_as_a_citation():
    text = "(recipe 0.5, 2.3). The recipe's 27e6, recipe 4.2 and 4.4; recipe\n# 6.10), recipe 2.2, table 1 of 2024"
    assert cited(text) == ["0.5", "2.3", "4.2", "4.4", "6.10", "2.2"]
    assert headings("# 9 x\n## 1 Model\n### 6.10 ML\ntext 3.1 y\n") == ["1", "6.10"]


def test_shapes_and_hyper_parameters_are_those_of_the_code():
    fields = {"width = embedding dimension": "width", "MLP": "mlp", "layers": "layers", "query heads": "heads"}
    for title, field in (fields | {"parameters": "parameters"}).items():
        stated = {name: int(cell.replace(",", "")) for name, cell in row(title).items()}
        assert len(stated) == 8 and stated == {name: getattr(SIZES[name], field) for name in stated}, title
    rates, epochs, teachers = (row(title) for title in ("peak learning rate", "epochs", "teacher"))
    stated = {name: (float(rates[name]), int(epochs[name]), teachers[name]) for name in rates}
    assert len(stated) == 8 and stated == {name: common.HYPER_PARAMETERS[name] for name in stated}
