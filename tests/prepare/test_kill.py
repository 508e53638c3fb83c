"""`kill -9` of a corpus's parent: its processes end too, a second run is told who works, the next one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from f2jax.data.corpus import PreparedCorpus
from f2jax.errors import UserError
from f2jax.prepare.run import prepare
from tests.data import corpora


def contents(folder: Path) -> dict:
    return {entry["name"]: entry["content"] for entry in PreparedCorpus(folder / "corpus").card["datasets"]}


def children(pid: int) -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return set(map(int, listed.split()))


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds: float = 120) -> bool:
    """Returns whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return bool(result)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_parent_takes_its_processes_along_and_the_next_run_goes_on(tmp_path):
    inputs = corpora.write_inputs(tmp_path / "in")
    corpora.make(tmp_path / "other", inputs)
    slow, whole = Path(inputs[-1]), Path(inputs[-1]).read_bytes()
    slow.unlink()
    os.mkfifo(slow)  # its reader waits for a writer, so one process is at work when the parent dies
    corpora.make_tokenizer(tmp_path / "tokenizer")
    output = tmp_path / "corpus"
    argv = ["--output", output, "--tokenizer", tmp_path / "tokenizer", "--jobs", "2", "--input", *inputs]
    argv += ["--max-length", "32", "--validation-share", "0.2", "--tasks", f"retrieval={corpora.TASK}", "--no-curation"]
    command = [sys.executable, "-m", "f2jax", "prepare", *map(str, argv)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        assert until(lambda: len(list(output.glob("survey/*/survey.json"))) == 3 and len(children(parent.pid)) >= 2)
        workers = children(parent.pid)
        with pytest.raises(UserError, match=rf"^Another f2jax prepare, process {parent.pid} on .* is writing to "):
            prepare(inputs[:1], output, tmp_path / "tokenizer", corpora.OPTIONS)
        parent.send_signal(signal.SIGKILL)
    assert until(lambda: not any(map(is_running, workers)), 20)
    slow.unlink()
    slow.write_bytes(whole)
    corpora.make(tmp_path, inputs)
    assert contents(tmp_path) == contents(tmp_path / "other")


@pytest.mark.parametrize(
    "damage", ["only the summary", "cut short", "missing", "not JSON", "of an earlier version", "with fewer numbers"]
)
def test_an_input_whose_files_are_not_those_that_its_summary_names_is_read_again(tmp_path, damage):
    inputs = corpora.write_inputs(tmp_path / "in")
    corpora.make(tmp_path, inputs)
    before = contents(tmp_path)
    (folder,) = [
        path.parent for path in tmp_path.glob("corpus/survey/*/survey.json") if b'"pairs"' in path.read_bytes()
    ][:1]
    summary = json.loads((folder / "survey.json").read_text())
    if damage == "only the summary":
        for path in folder.iterdir():
            path.name == "survey.json" or path.unlink()
    elif damage == "cut short":
        (folder / "rows").write_bytes((folder / "rows").read_bytes()[:-1])
    elif damage == "missing":
        (folder / "survey.json").unlink()
    elif damage == "not JSON":
        (folder / "survey.json").write_text('{"rows": 80, "pa')
    elif damage == "with fewer numbers":
        (folder / "rows").write_bytes(bytes(24 * summary["rows"]))
        changed = summary | {"sizes": summary["sizes"] | {"rows": 24 * summary["rows"]}}
        (folder / "survey.json").write_text(json.dumps(changed))
    else:
        (folder / "survey.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "sizes"}))
    corpora.make(tmp_path, inputs)
    assert contents(tmp_path) == before and json.loads((folder / "survey.json").read_text()) == summary


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: None])
def test_a_data_set_whose_files_are_cut_short_or_gone_is_made_again(tmp_path, damage):
    inputs = corpora.write_inputs(tmp_path / "in")[:1]
    corpora.make(tmp_path, inputs)
    (path,) = tmp_path.glob("corpus/documents/pairs/*/*.array_record*")
    content = path.read_bytes()
    path.unlink()
    if (damaged := damage(content)) is not None:
        path.write_bytes(damaged)
    corpora.make(tmp_path, inputs)
    assert path.read_bytes() == content


def test_a_folder_that_holds_other_files_is_not_written_to(tmp_path):
    inputs = corpora.write_inputs(tmp_path / "in")[:1]
    mine = tmp_path / "corpus/documents/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(UserError, match="contains files that f2jax prepare did not write; name a new or empty folder"):
        corpora.make(tmp_path, inputs)
    assert mine.read_text() == "years of work"


def test_the_list_of_skipped_rows_takes_the_place_of_no_other_file(tmp_path):
    inputs = corpora.write_inputs(tmp_path / "in")
    before = Path(inputs[0]).read_bytes()
    with pytest.raises(UserError, match=r"--skipped .*pairs\.jsonl is a file that f2jax prepare did not write"):
        corpora.make(tmp_path, inputs, listing=inputs[0])
    assert Path(inputs[0]).read_bytes() == before
    for _ in range(2):
        corpora.make(tmp_path, inputs, listing=tmp_path / "skipped.jsonl")
    assert "empty query" in (tmp_path / "skipped.jsonl").read_text()
