"""Small train steps compiled by the TPU compiler for slices of several chips; no TPU needed."""

import importlib.util
import json

import pytest

from f2jax import cli
from f2jax.model.sizes import size
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


def make_plan(folder, topology: str, *overrides: str) -> dict:
    path = folder / "plan.json"
    argv = ["--config", f"{ROOT}/configs/stage2.py:size=80m,teacher=none", "--topology", topology, "--json", str(path)]
    assert cli.main(["plan", *argv, *TINY, *overrides]) == 0
    return json.loads(path.read_text())[0]


def test_weights_shared_by_four_chips_lie_there_in_quarters_and_are_gathered_layer_by_layer(tmp_path, capsys):
    found = make_plan(tmp_path, "v5e:2x2", "--config.mesh.fsdp=4")
    assert "limited by" in capsys.readouterr().out
    assert found["fits"] and found["chips"] == 4 and found["rows"] == 64
    whole = 4 * (2 * 2 * 64 + 64 + 2 * 2 * 32)  # norms, at most
    assert found["memory"]["parameters"] <= size("tiny").parameters + whole  # of four bytes, a quarter
    gathers = [one for one in found["collectives"] if one["kind"] == "all-gather" and one["devices"] == 4]
    layers = size("tiny").parameters - 512 * 64 - 64
    twice_in_bfloat16, tokens = 2 * 2 * layers, 64 * 64 * 4
    assert sum(one["runs"] for one in gathers) >= 2 * 2 * 7  # 7 weights in 2 layers, forward and backward
    gathered = sum(one["bytes"] for one in gathers)
    assert twice_in_bfloat16 <= gathered < 1.05 * (twice_in_bfloat16 + tokens)  # the table is not among them
    assert 0 < found["mfu"] < 1 and found["seconds"]["step"] > 0


def test_a_step_without_room_is_an_answer(tmp_path, capsys):
    huge = ["--config.data.batch_size=262144", "--config.mesh.data=1"]
    found = make_plan(tmp_path, "v5e:1x1", *huge)
    assert not found["fits"] and found["needed"] > found["hbm"]
    assert "does not fit; " in capsys.readouterr().out
