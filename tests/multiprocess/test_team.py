"""Texts are encoded on all devices of all processes: the vectors and scores are those of one device."""

import json
import subprocess

import numpy as np
import pytest

from f2jax.commands import encode
from f2jax.parallel.simulate import launch
from tests import tiny, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and texts of many lengths."""
    path = tmp_path_factory.mktemp("team")
    tiny_model.make_embedder(path / "tokenizer").save_pretrained(path / "model")
    texts = [" ".join(tiny_model.TEXTS[i % len(tiny_model.TEXTS)] for i in range(n)) for n in range(40)]
    (path / "texts.txt").write_text("\n".join(text.replace("\n", " ") for text in texts))
    return path


def command(folder, name: str) -> list[str]:
    return ["--model", f"{folder}/model", "--input", f"{folder}/texts.txt", "--output", f"{folder}/{name}.npy"]


@pytest.fixture(scope="module")
def expected(folder):
    encode.main(command(folder, "one"))
    return np.load(folder / "one.npy")


def run(monkeypatch, arguments: list[str], processes: int, devices: int) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each process of a job of `python ARGUMENTS`."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = launch(arguments, processes, devices, **options)
    try:
        found = [process.communicate(timeout=600) for process in started]
        return [(process.returncode, *texts) for process, texts in zip(started, found, strict=True)]
    finally:
        for process in started:
            process.kill()


@pytest.mark.parametrize("processes,devices,fsdp", [(1, 4, 2), (2, 2, 1), (2, 2, 4)])
def test_the_vectors_are_those_of_one_device(monkeypatch, folder, expected, processes, devices, fsdp):
    name = f"{processes}-{devices}-{fsdp}"
    ended = run(monkeypatch, ["-m", "f2jax", "encode", *command(folder, name), "--fsdp", str(fsdp)], processes, devices)
    assert [code for code, _, _ in ended] == [0] * processes, ended
    told = ["vectors of 64" in output for _, output, _ in ended]  # not all there is: Gloo's threads print as well
    assert told == [True] + [False] * (processes - 1), ended
    np.testing.assert_allclose(np.load(folder / f"{name}.npy"), expected, atol=1e-5)


SCORE = """
import sys
from f2jax.commands import evaluate
from f2jax.evaluation import builtin
texts = [" ".join(["red", "river", "stone", "tree", "камень"][: 1 + i % 5] * (1 + i // 5)) for i in range(40)]
some = [texts, texts[::-1], [{39 - i} for i in range(40)], ["und"] * 40]
builtin.TASKS["stdlib-code"] = lambda: builtin.RetrievalTask("stdlib-code", *some)
evaluate.main(["--model", sys.argv[1], "--tasks", "stdlib-code"])
"""


def test_the_scores_are_those_of_one_device(monkeypatch, folder):
    arguments = ["-c", SCORE, f"{folder}/model"]
    [(_, expected, _)] = run(monkeypatch, arguments, 1, 1)
    (code, output, errors), (second, others, _) = run(monkeypatch, arguments, 2, 1)
    assert (code, second) == (0, 0), errors
    assert expected in output and "stdlib-code" in expected and "stdlib-code" not in others


def test_an_error_of_the_first_process_ends_the_others(monkeypatch, folder):
    arguments = command(folder, "none")
    arguments[arguments.index("--input") + 1] = f"{folder}/nothing.txt"
    (code, _, errors), (second, _, _) = run(monkeypatch, ["-m", "f2jax", "encode", *arguments], 2, 1)
    assert code == 1 and "nothing.txt" in errors
    assert second != 0


def test_devices_that_cannot_share_the_weights_are_refused_in_one_sentence(monkeypatch, folder):
    [(code, _, errors)] = run(monkeypatch, ["-m", "f2jax", "encode", *command(folder, "none"), "--fsdp", "3"], 1, 2)
    assert code == 1
    assert errors.splitlines()[-1].endswith("fsdp=3, tensor=1 does not fit 2 device(s); the sizes must multiply to 2.")


MINE = """
import sys
from f2jax.commands import mine
from f2jax.inference.top_k import SearchBlocks
from f2jax.mine import run
mine_folder = run.mine_folder
run.mine_folder = lambda *given: mine_folder(*given, blocks=SearchBlocks(queries=16))
mine.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_hosts_mine_blocks_of_their_own_and_write_the_bytes_of_one(monkeypatch, folder):
    """Two sources with more queries than a block."""
    for name in ("one", "two"):
        rows = [{"query": f"{name} {i}", "positive": f"text {i * 7 % 50}"} for i in range(45)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = ["--top", "20", "--skip", "1", "--keep", "3", "--max-score", "off", "--relative", "off"]
    options = ["--input", f"{folder}/one.jsonl", f"{folder}/two.jsonl", "--model", f"{folder}/model", *rules]
    written = {}
    for processes in (1, 2):
        output = folder / f"mined-{processes}"
        ended = run(monkeypatch, ["-c", MINE, *options, "--output", str(output)], processes, devices=2)
        assert [code for code, _, _ in ended] == [0] * processes, ended
        assert ["90 of 90 rows" in text for _, text, _ in ended] == [True] + [False] * (processes - 1), ended
        written[processes] = {path.name: path.read_bytes() for path in output.iterdir()}
    assert written[1] == written[2] and {"one.parquet", "two.parquet"} < written[1].keys()
    again = run(monkeypatch, ["-c", MINE, *options, "--output", f"{folder}/mined-1"], 2, devices=2)
    assert [(code, "is complete" in text) for code, text, _ in again] == [(0, True), (0, False)], again
    assert {path.name: path.read_bytes() for path in (folder / "mined-1").iterdir()} == written[1]
