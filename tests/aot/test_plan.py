"""Small train steps compiled by the TPU compiler for slices of several chips; no TPU needed."""

import importlib.util
import json

import pytest

from f2jax import cli
from tests.tiny import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, from the `tpu` extra"),
]
TINY = [
    "--config.model.size=tiny",
    "--config.loss.matryoshka=False",
    "--config.data.batch_size=16",
    "--config.data.negatives.retrieval=2",
    "--config.data.max_length=64",
    "--config.data.row_length=64",
    "--config.steps=1000",
]
TABLE = 512 * 64 * 4  # bytes of the token table of `tiny` in float32


def make_plan(folder, topology: str, *overrides: str) -> dict:
    path = folder / "plan.json"
    argv = ["--config", f"{ROOT}/configs/stage2.py:size=80m,teacher=none", "--topology", topology, "--json", str(path)]
    assert cli.main(["plan", *argv, *TINY, *overrides]) == 0
    return json.loads(path.read_text())[0]


def test_weights_shared_by_four_chips_lie_there_in_quarters_and_are_gathered_layer_by_layer(tmp_path, capsys):
    found = make_plan(tmp_path, "v5e:2x2", "--config.mesh.fsdp=4")
    assert "limited by" in capsys.readouterr().out
    assert found["fits"] and found["chips"] == 4 and found["rows"] == 64
    layer_norms = 4 * (2 * 2 * 64 + 64) + 4 * 2 * 2 * 32  # may be whole on each
    assert found["memory"]["parameters"] < 4 * 115_000 / 4 + layer_norms
    gathers = [one for one in found["collectives"] if one["kind"] == "all-gather" and one["devices"] == 4]
    assert sum(one["runs"] for one in gathers) >= 2 * 2 * 7  # 7 weights in 2 layers, forward and backward
    assert sum(one["bytes"] for one in gathers) < 2 * 2 * 2 * 50_000 + TABLE  # layers twice in bfloat16; no table
    assert 0 < found["mfu"] < 1 and found["seconds"]["step"] > 0


def test_a_step_without_room_is_an_answer(tmp_path, capsys):
    huge = ["--config.data.batch_size=262144", "--config.mesh.data=1"]
    found = make_plan(tmp_path, "v5e:1x1", *huge)
    assert not found["fits"] and found["needed"] > found["hbm"]
    assert "does not fit; " in capsys.readouterr().out
