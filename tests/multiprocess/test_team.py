"""Texts are encoded on all devices of all processes: the vectors and scores are those of one device."""

import json
import re
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


@pytest.mark.parametrize("processes,devices,fsdp", [(1, 4, 2), (2, 2, 2), (2, 2, 4)])
def test_the_vectors_are_those_of_one_device(monkeypatch, folder, expected, processes, devices, fsdp):
    name = f"{processes}-{devices}-{fsdp}"
    ended = run(monkeypatch, ["-m", "f2jax", "encode", *command(folder, name), "--fsdp", str(fsdp)], processes, devices)
    assert [code for code, _, _ in ended] == [0] * processes, ended
    told = ["vectors of 64" in output for _, output, _ in ended]  # not all there is: Gloo's threads print as well
    assert told == [True] + [False] * (processes - 1), ended
    np.testing.assert_allclose(np.load(folder / f"{name}.npy"), expected, atol=1e-5)


PIECES = """
import os, sys
from f2jax.commands import encode
from f2jax.inference import encode_file, vectors
vectors.PIECE = 7
stop, here = int(sys.argv[1]), os.environ.get("JAX_PROCESS_ID", "0")
write = encode_file._Pieces.write
def write_and_tell(pieces, number, *content):
    write(pieces, number, *content)
    print("process", here, "wrote piece", number, flush=True)
    if stop == number:
        os._exit(9)
encode_file._Pieces.write = write_and_tell
encode.main(sys.argv[2:])
"""


def written(ended) -> dict[str, list[int]]:
    """The pieces that each process says it wrote."""
    text = "".join(output for _, output, _ in ended)
    found = re.findall(r"process (\d) wrote piece (\d)", text)
    processes = sorted({process for process, _ in found})
    return {here: [int(number) for process, number in found if process == here] for here in processes}


def test_each_host_encodes_every_second_piece_and_goes_on_with_those_of_one_that_died(monkeypatch, folder, expected):
    """40 texts in pieces of seven: one process writes two of them and dies, two others share the four that are left."""
    ended = run(monkeypatch, ["-c", PIECES, "1", *command(folder, "pieces")], 1, 1)
    assert (ended[0][0], written(ended)) == (9, {"0": [0, 1]})
    ended = run(monkeypatch, ["-c", PIECES, "-1", *command(folder, "pieces")], 2, 1)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert written(ended) == {"0": [2, 4], "1": [3, 5]}
    np.testing.assert_allclose(np.load(folder / "pieces.npy"), expected, atol=1e-5)
    assert not (folder / "pieces.npy.partial").exists()


@pytest.mark.slow
def test_a_folder_of_one_host_alone_is_refused(monkeypatch, folder):
    """Each process has a working directory of its own, as hosts have disks of their own."""
    script = "import os, sys, tempfile; os.chdir(tempfile.mkdtemp()); from f2jax import cli; sys.exit(cli.main())"
    arguments = command(folder, "none")
    arguments[arguments.index("--output") + 1] = "here.npy"
    (first, _, _), (second, _, errors) = run(monkeypatch, ["-c", script, "encode", *arguments], 2, 1)
    assert second == 1 and "here.npy is in a folder that only this host can see; give one that all hosts can" in errors
    assert first != 0


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


TOGETHER = """
import sys
import jax
from f2jax import Embedder
from f2jax.errors import UserError
from f2jax.inference import multihost
from f2jax.parallel import hosts
hosts.start()
multihost.ROUND = 3
embedder = Embedder.from_pretrained(sys.argv[1], max_length=8)
here, seen, tokenize = jax.process_index(), [], embedder._tokenize
embedder._tokenize = lambda texts, limit: seen.extend(texts) or tokenize(texts, limit)
def job():
    vectors = embedder.encode_query(["red river " * n for n in range(20)], truncate_dim=16)
    one = embedder.encode("one").shape
    return vectors.tolist(), one, dict(vars(embedder.truncation))
result = multihost.follow_first(embedder, job)
print(f"process {here} tokenized {len(seen)};", flush=True)
if here == 0:
    alone = embedder.encode_query(["red river " * n for n in range(20)], truncate_dim=16)
    print("differs by", abs(alone - result[0]).max(), result[1:], flush=True)
"""


BROKEN = """
import sys
from f2jax import Embedder
from f2jax.errors import UserError
from f2jax.inference import multihost
from f2jax.inference.encode import NotFiniteError
from f2jax.parallel import hosts
hosts.start()
embedder = Embedder.from_pretrained(sys.argv[1])
whole = embedder.encode_whole
def broken(texts, *rest):
    if "bad" in texts:
        raise NotFiniteError(texts.index("bad"))
    return whole(texts, *rest)
embedder.encode_whole = broken
try:
    multihost.follow_first(embedder, lambda: embedder.encode(["a longer one", "bad"], prompt=""))
except UserError as error:
    print("told:", error, flush=True)
    raise
"""


def test_all_hosts_tokenize_and_encode_a_part_of_what_the_first_encodes(monkeypatch, folder):
    """Twenty texts and one: in rounds of six, each has three; of what is left over, the first has as much or more."""
    ended = run(monkeypatch, ["-c", TOGETHER, f"{folder}/model"], 2, 1)
    assert [code for code, _, _ in ended] == [0, 0], ended
    output = "".join(text for _, text, _ in ended)
    assert "process 0 tokenized 11;" in output and "process 1 tokenized 10;" in output, output
    assert float(re.search(r"differs by (\S+)", output)[1]) < 1e-5
    counts = re.search(r"\(64,\), {'texts': (\d+), 'tokens': \d+, 'cut_texts': (\d+), ", output)
    assert counts and int(counts[1]) == 21 and 10 < int(counts[2]) < 21, output


@pytest.mark.slow
def test_a_vector_that_is_not_finite_on_another_host_is_named_by_all(monkeypatch, folder):
    """The second host has the shorter of two texts."""
    ended = run(monkeypatch, ["-c", BROKEN, f"{folder}/model"], 2, 1)
    assert [code for code, _, _ in ended] == [1, 1], ended
    assert "told: The model gives no finite vector for the text 'bad'" in ended[0][1], ended


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
