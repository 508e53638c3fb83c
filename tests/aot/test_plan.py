"""Small train steps compiled by the TPU compiler for slices of several chips; no TPU needed."""

import functools
import importlib.util
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from f2jax import cli
from f2jax.model.sizes import size
from f2jax.plan.hlo import program_cost
from f2jax.plan.run import bytes_used, topology_devices
from tests.plan.test_hlo import chunked_batch, loss_in_chunks
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


@functools.cache
def make_plan(topology: str, *overrides: str) -> dict:
    """What the command writes with --json; each is compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/plan.json"
        argv = ["--config", f"{ROOT}/configs/stage2.py:size=80m,teacher=none", "--topology", topology, "--json", path]
        assert cli.main(["plan", *argv, *TINY, *overrides]) == 0
        return json.loads(Path(path).read_text())[0]


def test_weights_shared_by_four_chips_lie_there_in_quarters_and_are_gathered_layer_by_layer():
    found = make_plan("v5e:2x2", "--config.mesh.fsdp=4")
    assert found["fits"] and found["chips"] == 4 and found["rows"] == 64
    whole = 4 * (2 * 2 * 64 + 64 + 2 * 2 * 32)  # norms, at most
    assert found["memory"]["parameters"] <= size("tiny").parameters + whole  # of four bytes, a quarter
    gathers = [one for one in found["collectives"] if one["kind"] == "all-gather" and one["devices"] == 4]
    layers = size("tiny").parameters - 512 * 64 - 64
    twice_in_bfloat16, tokens = 2 * 2 * layers, 64 * 64 * 4
    assert sum(one["runs"] for one in gathers) >= 2 * 2 * 7  # 7 weights in 2 layers, forward and backward
    gathered = sum(one["bytes"] for one in gathers)
    assert 0.95 * twice_in_bfloat16 <= gathered < 1.05 * (twice_in_bfloat16 + tokens)  # without the table
    assert 0 < found["mfu"] < 1 and found["seconds"]["step"] > 0


@pytest.mark.parametrize("layout", [["fsdp=4"], ["fsdp=2", "tensor=2"]], ids=" ".join)
def test_no_chip_gathers_the_token_table_or_the_activations(layout):
    found = make_plan("v5e:2x2", *(f"--config.mesh.{axis}" for axis in layout))
    a_layer_weight, tokens, half_a_table = 2 * 64 * 160, 4 * 64 * 64, 2 * 512 * 64 // 2
    largest = max(one["largest"] for one in found["collectives"] if one["kind"] == "all-gather")
    assert largest <= max(a_layer_weight, tokens) < half_a_table


def test_weights_without_room_are_an_answer(capsys):
    found = make_plan("v5e:2x2", "--config.model.size=14b")
    assert not found["fits"] and found["needed"] > found["hbm"]
    assert "v5e:2x2 does not fit; split the weights over more devices: mesh.fsdp=2 or more." in capsys.readouterr().out


def test_the_complaint_of_the_compiler_says_how_much_it_would_take():
    whole = SingleDeviceSharding(topology_devices("v5e:2x2")[0])
    twenty_gib = jax.ShapeDtypeStruct((5, 2**30), jnp.float32, sharding=whole)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as complaint:
        jax.jit(lambda x: x + 1, donate_argnums=0).lower(twenty_gib).compile()
    assert bytes_used(str(complaint.value), arguments=20 * 2**30) >= 20 * 2**30 + 20 * 2**30


def test_a_program_of_many_chunks_is_planned_for_those_that_have_rows():
    whole = SingleDeviceSharding(topology_devices("v5e:2x2")[0])
    weight, batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), (jnp.ones((4, 4)), chunked_batch(slots=8))
    )
    text = jax.jit(jax.value_and_grad(loss_in_chunks)).lower(weight, batch).compile().as_text()
    cycles = [program_cost(text, chunks).cycles for chunks in (0, 2, 4, 8, None)]
    assert cycles[1] > cycles[0] and cycles[3] == cycles[4]
    assert cycles[3] - cycles[2] == 2 * (cycles[2] - cycles[1]) == 2 * (cycles[1] - cycles[0])


def test_a_step_in_chunks_is_planned():
    """16 texts of a chip, each as long as a row, are 3 chunks of 6 rows, in arrays with room for 4 chunks."""
    found = make_plan("v5e:2x2", "--config.model.chunk_rows=6")
    assert (found["chunks"], found["rows"], found["fits"]) == (3, 4 * 3 * 6, True)
    assert 0 < found["mfu"] < 1
