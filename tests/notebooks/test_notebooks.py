"""Each notebook runs from top to bottom, with a tiny model on little data, and shows its plots."""

import json
from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "model.size": "tiny",
    "model.unroll": 1,
    "steps": 2,
    "data.batch_size": 16,
    "data.validation_share": 0.0,
    "optim.warmup_steps": 0,
    "loss.matryoshka_min": 32,
    "log.every": 1,
}
FAST = {"steps": 2, "optim.warmup_share": 0.0, "optim.warmup_steps": 0, "data.programs": 1, "log.every": 1}


def parameters(folder: Path) -> str:
    """The cell that replaces the one tagged `parameters`: a few rows instead of the built-in sets."""
    names = {"Kenia": "Kenya", "Schweden": "Sweden", "日本": "Japan", "Pérou": "Peru", "Кения": "Kenya"}
    rows = [{"query": a, "positive": b, "negative_1": "Chad", "negative_2": "Mali"} for a, b in names.items()]
    source = folder / "names.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in 20 * rows))
    overrides = [f"--config.{name}={value}" for name, value in (TINY | {"data.sources": (str(source),)}).items()]
    fresh = [*overrides, "--config.tokenizer.train_vocab=300"]
    values = {"FOLDER": str(folder), "STAGE_1": fresh, "STAGE_2": overrides}
    values |= {"MODEL": str(folder / "release"), "SHORT": fresh, "QUERIES": 50}
    values |= {
        "SHAPE": {"width": 32, "mlp": 80, "layers": 1},
        "STUDENT": [x for x in overrides if "model.size" not in x],
    }
    values |= {"CONFIG": "configs/stage2.py:size=tiny,teacher=none", "FIELDS": ["--config.data.batch_size=16"]}
    values |= {"TOPOLOGIES": ("v5e:2x2",), "TOKENS_PER_TEXT": 64}
    values |= {"TUNING": [f"--config.{name}={value}" for name, value in FAST.items()]}
    return "\n".join(f"{name} = {value!r}" for name, value in values.items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shared, as on a user's machine: the notebook that comes first makes the model, the others find it."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, folder):
    if path.stem == "plan_a_pod":
        pytest.importorskip("libtpu")
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    given = parameters(folder)
    assert {line.split(" = ")[0] for line in cell.source.splitlines()} <= {
        line.split(" = ")[0] for line in given.splitlines()
    }
    cell.source = f'{given}\nMODEL = "mini"' if path.stem in ("quickstart", "finetune") else given
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_begins_with_its_installation(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "pip install" in code[0].source
