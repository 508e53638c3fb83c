"""Seconds of exchanges and kernels, worked by hand; the operations of the model, against XLA's own count."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from f2jax.model.operations import model_operations
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import CHIPS
from f2jax.plan.hlo import Collective, Cost
from f2jax.plan.step_time import HOP_SECONDS, collective_seconds, kernel_seconds, step_seconds

V5P = CHIPS["v5p"]
CUBE = list(product(range(4), range(4), range(4)))  # a v5p slice of 4 x 4 x 4
LINE = CUBE.index((0, 0, 1)), CUBE.index((0, 1, 0)), CUBE.index((1, 0, 0))


@pytest.mark.parametrize(
    "kind,group,moving,hops",
    [
        ("all-gather", range(4), 3 / 4 / (2 * V5P.link), 2),  # one axis, a ring: both ways
        ("all-gather", range(2), 1 / 2 / V5P.link, 1),  # half of an axis: no ring
        ("all-gather", range(64), 63 / 64 / (6 * V5P.link), 6),  # all three axes at once
        ("all-reduce", range(4), 2 * 3 / 4 / (2 * V5P.link), 2),  # a scatter, then a gather
        ("reduce-scatter", range(4), 3 / 4 / (2 * V5P.link), 2),
        ("all-to-all", range(4), 4 / 4 / (2 * V5P.link), 2),
        ("collective-permute", (0, 1), 1 / V5P.link, 1),
        ("all-gather", (0,), 0, 0),  # alone
        ("all-gather", (), 63 / 64 / (6 * V5P.link), 6),  # all devices
    ],
)
def test_an_exchange_takes_its_bytes_over_the_links_of_its_axes(kind, group, moving, hops):
    found = collective_seconds(Collective(kind, 10**9, tuple(group), False), V5P, CUBE)
    assert found == pytest.approx(10**9 * moving + hops * HOP_SECONDS)


def test_splash_attention_takes_its_causal_tiles_at_the_share_of_the_peak_that_its_bundles_reach():
    peak = 2 * (3 * 5) * 4096**2 * 128 * (9 / 16) / V5P.peak  # of one product, in 36 of 64 tiles of 512 x 512
    for part, count, share in (("fwd", 2, 0.46), ("dq", 3, 0.8), ("dkv", 4, 0.8)):
        found = kernel_seconds(f"splash_mha_{part}_segmented.2", (3, 5, 4096, 128), V5P)
        assert found == pytest.approx(count * peak / share)
    half_a_unit = replace(V5P, unit=256)
    assert kernel_seconds("fwd", (3, 5, 4096, 128), half_a_unit) == pytest.approx(4 * peak / 0.46)


@pytest.mark.parametrize("tiles_below,below", [(None, 6), (0.0, 0), (2.5, 2.5)])
def test_segment_attention_takes_the_tiles_that_it_visits(tiles_below, below):
    forward, backward = 4 * 511 + below * 406, 4 * 695 + below * 656  # two cores; 4 tiles on the diagonal
    names = "jvp_segment_attention_forward_.1", "transpose_jvp_segment_attention_backward__.1"
    for name, cycles in zip(names, (forward, backward), strict=True):
        found = kernel_seconds(name, (3, 8, 1024, 128), V5P, tiles_below)
        assert found == pytest.approx(3 * 8 * cycles / 2 / 1.75e9, rel=0.01)


def test_norm_and_rotation_take_the_cycles_of_their_bundles_on_each_core():
    shape, blocks = (3, 8, 1024, 128), 3 * 8 * 128  # of 8 x 128 numbers; a v5p has two cores, a v5e one
    forward = kernel_seconds("jvp_normed_rotation_fwd_.1", shape, V5P)
    assert forward == pytest.approx(blocks * 8.7 / 2 / 1.75e9, rel=0.01)
    backward = kernel_seconds("transpose_jvp_normed_rotation_bwd__.1", shape, CHIPS["v5e"])
    assert backward == pytest.approx(blocks * 13.9 / 1.5e9, rel=0.01)


def test_a_step_is_the_longer_of_computing_and_exchanging_beside_it_plus_what_it_waits_for():
    beside, alone = (Collective("all-gather", 10**9, (0, 1, 2, 3), overlaps, runs=2) for overlaps in (True, False))
    each = 2 * collective_seconds(beside, V5P, CUBE)
    found = step_seconds(Cost(cycles=V5P.clock * 3, collectives=[beside, alone], moved=V5P.hbm_bandwidth), V5P, CUBE)
    assert (found.compute, found.links, found.exposed) == (pytest.approx(4), pytest.approx(each), pytest.approx(each))
    assert found.step == pytest.approx(4 + each)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_the_operations_of_a_forward_pass_are_what_xla_counts_in_its_unrolled_program(kv_heads):
    architecture = Qwen3Config(128, 512, 2, 4, kv_heads, head_dim=64, vocab_size=64)
    model, row = Qwen3(architecture, kernel="xla", unroll=2), jax.ShapeDtypeStruct((2, 32), jnp.int32)
    params = nn.meta.unbox(abstract_params(architecture))
    counted = jax.jit(lambda p, x: model.apply({"params": p}, x, x, x)).lower(params, row).cost_analysis()["flops"]
    whole_square = 2 * 32  # the plain kernel computes both halves of the causal square
    expected = model_operations(architecture, tokens=64, length=whole_square, passes=1)
    assert counted == pytest.approx(expected, rel=0.06)  # XLA counts norms, angles and softmax too
    assert counted > expected
