"""Good inputs of every command, and a check of what a command does with them once they are damaged."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from f2jax.cli import main
from f2jax.outputs import RECORD
from tests import tiny_model
from tests.data import corpora

ROWS = [{"query": f"red {i}", "positive": f"a red stone {i}", "negatives": [f"a river {i}"]} for i in range(12)]


def write_inputs(folder: Path) -> None:
    """Writes a package, a workdir, a corpus, rows, texts and vectors."""
    embedder = tiny_model.make_embedder(folder / "tokenizer")
    embedder.save_pretrained(folder / "model")
    tiny_model.write_workdir(folder / "run", embedder)
    rows = corpora.write(folder / "pairs.jsonl", corpora.rows(30))
    corpora.prepare([rows], folder / "corpus", folder / "tokenizer", corpora.OPTIONS)
    corpora.write(folder / "rows.jsonl", ROWS)
    (folder / "texts.txt").write_text("red stone\nblue river\n")
    rng = np.random.default_rng(0)
    np.save(folder / "documents.npy", rng.normal(size=(20, 64)).astype(np.float32))
    np.save(folder / "queries.npy", rng.normal(size=(2, 64)).astype(np.float32))


@pytest.fixture
def inputs(make_once, tmp_path, monkeypatch) -> Path:
    """The working directory, with good inputs to damage."""
    folder = tmp_path / "inputs"
    shutil.copytree(make_once("faults", write_inputs), folder)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file by its path, without f2jax's own records of what it wrote."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def run(inputs, capsys) -> Callable[..., tuple[int, str]]:
    """Runs a command: (exit code, its sentence). Nothing that was there before has changed, and nothing crashed."""

    def run(*arguments) -> tuple[int, str]:
        before = contents(inputs)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        errors = capsys.readouterr().err
        after = contents(inputs)
        assert {name: after.get(name) for name in before} == before, "inputs and earlier outputs stay as they are"
        assert code in (0, 1), errors
        assert "Traceback" not in errors
        sentences = [line for line in errors.splitlines() if line.startswith("f2jax: ")]
        assert len(sentences) == code
        if code:
            assert errors.splitlines()[-1] == sentences[0], "the sentence is what is read last"
            assert len(sentences[0]) < 600
        return code, "".join(sentences).removeprefix("f2jax: ")

    return run


@pytest.fixture
def refused(run) -> Callable[..., str]:
    """Runs a command that should exit 1, and returns its sentence."""

    def refused(*arguments) -> str:
        code, sentence = run(*arguments)
        assert code == 1
        return sentence

    return refused


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value))
