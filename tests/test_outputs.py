"""What f2jax did not write is not overwritten, whatever the command; its own outputs are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from f2jax import cli
from f2jax.errors import UserError
from f2jax.outputs import RECORD, output_file, output_folder
from tests import tiny, tiny_model

CONFIG = str(tiny.ROOT / "configs/nano.py:stage=2")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with what the commands need: a model, texts, rows, scores."""
    folder = tmp_path_factory.mktemp("given")
    tiny_model.make_embedder(folder / "tokenizer").save_pretrained(folder / "model")
    (folder / "texts.txt").write_text("red stone\nblue river\n")
    rows = [{"query": f"red {i}", "passage": f"a red stone {i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "vectors.npy", np.eye(4, dtype=np.float32))
    prepare = ["prepare", "--input", folder / "rows.jsonl", "--tokenizer", folder / "model", "--no-curation"]
    assert cli.main([*map(str, prepare), "--output", str(folder / "corpus"), "--max-length", "32"]) == 0
    return folder


MODEL, ROWS, TEXTS = ["--model", "model"], ["--input", "rows.jsonl"], ["--input", "texts.txt"]
FOLDERS = {  # command: its arguments without the one that names the output
    "cache-teacher": ["--corpus", "corpus", *MODEL],
    "compare": ["run"],
    "evaluate": [*MODEL, "--tasks", "cldr-names"],
    "export": MODEL,
    "merge": ["model", "model"],
    "mine": [*ROWS, *MODEL, "--top=3", "--skip=0", "--keep=1", "--max-score=off"],
    "prepare": [*ROWS, "--tokenizer", "model", "--no-curation"],
    "prune": [*MODEL, "--layers", "1"],
    "report": ["scores"],
    "start": ["--corpus", "corpus", "--teacher-vectors", "vectors"],
    "train": ["--config", CONFIG],
}
FILES = {
    "cache-teacher": (["--corpus", "corpus"], "--list-texts", "out.jsonl"),
    "encode": ([*MODEL, *TEXTS], "--output", "out.npy"),
    "mine queries": (ROWS, "--list-queries", "out.jsonl"),
    "mine documents": (ROWS, "--list-documents", "out.jsonl"),
    "plan": (["--config", CONFIG, "--topology", "v5e:2x2"], "--json", "out.json"),
    "prepare": ([*FOLDERS["prepare"], "--output", "new"], "--skipped", "out.jsonl"),
    "search": (["--vectors", "vectors.npy", "--queries", "vectors.npy"], "--output", "out.jsonl"),
}
NO_OUTPUT = {"serve", "verify"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_sweep_has_every_command():
    assert {name.partition(" ")[0] for name in (*FOLDERS, *FILES)} | NO_OUTPUT == set(cli.COMMANDS)


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_of_somebody_else_is_refused_and_stays(given, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(given)
    (tmp_path / "config.json").write_text('{"mine": 1}')
    (tmp_path / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    option = "--workdir" if command == "train" else "--output"
    assert cli.main([command, *FOLDERS[command], option, str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("f2jax: ") and message.count("\n") == 1 and str(tmp_path) in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", FILES)
def test_a_file_of_somebody_else_is_refused_and_stays(given, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(given)
    arguments, option, name = FILES[command]
    (tmp_path / name).write_text("years of work\n")
    assert cli.main([command.partition(" ")[0], *arguments, option, str(tmp_path / name)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("f2jax: ") and message.count("\n") == 1 and name in message
    assert tree(tmp_path) == {name: b"years of work\n"}


@pytest.mark.parametrize("command", ["export", "merge", "mine"])
def test_the_same_command_overwrites_its_own_folder(given, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(given)
    argv = [command, *FOLDERS[command], "--output", str(tmp_path / "out")]
    assert [cli.main(argv), cli.main(argv)] == [0, 0]


@pytest.mark.parametrize("command", ["encode", "mine queries", "search"])
def test_the_same_command_overwrites_its_own_file_until_it_is_changed(given, tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(given)
    arguments, option, name = FILES[command]
    argv = [command.partition(" ")[0], *arguments, option, str(tmp_path / name)]
    assert [cli.main(argv), cli.main(argv)] == [0, 0]
    with (tmp_path / name).open("ab") as file:
        file.write(b"notes")
    assert cli.main(argv) == 1
    assert "changed since" in capsys.readouterr().err
    (tmp_path / name).unlink()
    assert cli.main(argv) == 0


@pytest.mark.parametrize("output", [output_folder, output_file])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_before_the_first_byte_leaves_all_as_it_was(tmp_path, output, existed):
    folder = tmp_path / "new"
    if existed:
        folder.mkdir()
    with pytest.raises(ValueError), output(folder if output == output_folder else folder / "out.npy", "thing"):
        raise ValueError
    assert list(tmp_path.rglob("*")) == ([folder] if existed else [])


def test_a_failure_in_the_middle_leaves_what_the_next_call_continues(tmp_path):
    with pytest.raises(ValueError), output_folder(tmp_path / "out", "thing"):
        (tmp_path / "out/part").touch()
        raise ValueError
    with output_folder(tmp_path / "out", "thing"):
        assert (tmp_path / "out/part").exists()
    with (
        pytest.raises(UserError, match="holds a thing of f2jax, not a package"),
        output_folder(tmp_path / "out", "package"),
    ):
        pass


def test_a_file_whose_writing_was_killed_is_written_again(tmp_path, monkeypatch):
    record = {"files": {"out.npy": {"kind": "thing", "stamp": "unfinished"}}}  # as a kill leaves it
    (tmp_path / RECORD).write_text(json.dumps(record))
    (tmp_path / "out.npy").write_text("half")
    with output_file(tmp_path / "out.npy", "thing"):
        (tmp_path / "out.npy").write_text("all")
    monkeypatch.chdir(tmp_path)
    with output_file("out.npy", "thing"):
        os.remove("out.npy")
    assert os.listdir() == []
