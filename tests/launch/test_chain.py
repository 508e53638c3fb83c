"""The family from raw files to packages and a page of scores, by `family.sh` itself, at a tiny scale."""

import json
import re
import sys

import pytest

from tests import tiny, tiny_model
from tests.launch.conftest import ROOT

pytest.importorskip("mteb", reason="the report at the end needs mteb")

# Python reads this when it starts: the two sizes are smaller than they are, in every process of the chain.
SMALL = """
from f2jax.model import sizes
shape = dict(heads=4, kv_heads=2, head_dim=32, vocab_size=512, max_length=2048)
sizes.SIZES["0.6b"] = sizes.Qwen3Config(64, 160, 2, **shape)
sizes.SIZES["80m"] = sizes.Qwen3Config(48, 96, 1, **shape)
"""
RUN = {
    "model.dtype": "float32",
    "model.remat": "none",
    "steps": 4,
    "data.batch_size": 8,
    "data.programs": 2,
    "data.negatives.retrieval": 1,
    "data.negatives.clustering": 1,
    "optim.warmup_steps": 1,
    "checkpoint.tail_steps": 2,
    "checkpoint.tail_every": 1,
    "log.validate_every": 0,
    "log.tensorboard": False,
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_chain_from_raw_files_to_a_page_of_scores(launch, tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SMALL)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/site:{ROOT}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    launch.program(launch.cloud / "bin/f2jax", f'echo "$@" >>"$CLOUD/ran"; exec {sys.executable} -m f2jax "$@"')
    tiny_model.make_embedder(tmp_path / "pieces").save_pretrained(launch.checkout / "Qwen/Qwen3-0.6B")
    launch.program(launch.cloud / "bin/hf", f'mkdir -p "${{@: -1}}" && cp {tmp_path}/pieces/* "${{@: -1}}"')
    pairs, colours = tiny.write_rows(tmp_path, rows=24)
    options = [f"--config.{name}={value}" for name, value in RUN.items()]
    where = ["--stage1", pairs, "--stage2", f"{pairs} {colours}", "--output", f"{tmp_path}/out"]
    argv = ["family.sh", "--local", *where, "--sizes", "0.6b 80m", "--merge", "2", "--benchmarks", "builtin"]

    started = launch.start(*argv, "--", *options, PYTHON=sys.executable, OMP_NUM_THREADS="1")
    done = launch.end(started, seconds=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [line.split()[0] for line in launch.read("ran")]
    of_size = ["merge", "export", "verify"]
    assert steps == ["prepare", "prepare", "train", "prune", *2 * ["train", *of_size], "evaluate", "evaluate", "report"]

    out = tmp_path / "out"
    for size, width in (("0.6b", 64), ("80m", 48)):
        config = json.loads((out / f"release/{size}/config.json").read_text())
        assert config["hidden_size"] == width
        tasks = json.loads((out / f"results/{size}/results.json").read_text())["tasks"]
        assert {"cldr-names", "stdlib-code"} <= set(tasks)
    taught = json.loads((out / "80m-2/config.json").read_text())
    assert taught["teacher"]["path"] == f"{out}/0.6b-2" and taught["init_from"] == f"{out}/80m-1"
    page = (out / "report/index.html").read_text()
    assert all(re.search(rf"f2jax/{re.escape(size)}\b", page) for size in ("0.6b", "80m"))
    assert "The corpora take at least" in done.stderr

    again = launch(*argv, "--", *options, PYTHON=sys.executable)
    repeated = [line.split()[0] for line in launch.read("ran")[len(steps) :]]
    assert again.returncode == 0 and repeated == ["report"], "what is done is skipped"
