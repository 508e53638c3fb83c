"""The model that comes with f2jax: whole, small, of the size of its name, with a card, and the same on this machine."""

from pathlib import Path

from f2jax import Embedder, files
from f2jax.checkpoints import workdir
from f2jax.model.sizes import size
from f2jax.release import verify

FOLDER = files.BUILT_IN_MODELS / "mini"


def test_it_is_found_by_its_name_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(Embedder.from_pretrained("mini").origin) == FOLDER


def test_it_has_at_most_20_mb_and_no_trace_of_the_machine_that_made_it():
    paths = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) <= 20_000_000
    assert not [path for path in paths if path.name.startswith(".")]


def test_trainings_start_from_it_by_the_size_of_its_name():
    assert workdir.read_architecture(str(FOLDER)) == size("mini")


def test_it_gives_its_golden_vectors_on_this_machine(monkeypatch):
    monkeypatch.setattr(verify, "TOOLS", [tool for tool in verify.TOOLS if tool.name == "f2jax"])
    (one,) = verify.verify_package(FOLDER)
    assert not one.failed and one.worst > 0.99999


def test_its_card_tells_data_teacher_limits_and_scores():
    card = (FOLDER / "README.md").read_text()
    for section in ("## Scores", "## Limits", "## Data and licences", "multilingual-e5-small", "license: "):
        assert section in card
