"""What a compiled program costs, against sums by hand over small programs written here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.plan.hlo import (
    Instruction,
    array_bytes,
    first_group,
    loops,
    parse_hlo,
    program_cost,
    scope,
    trip_count,
)
from f2jax.train.step import DeviceBatch, encode_chunks

PROGRAM = """HloModule jit_step, is_scheduled=true

%gather_part (p: bf16[8,4]) -> (f32[2], bf16[16,4]) {
  %p = bf16[8,4]{1,0} parameter(0)
  %inner = bf16[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups={{0,1},{2,3}}, \
frontend_attributes={chain_id="1"}
  ROOT %t = (f32[2], bf16[16,4]) tuple(%c, %inner)
}

%all-reduce-scatter.1 (q: bf16[32,4]) -> bf16[16,4] {
  %q = bf16[32,4]{1,0} parameter(0)
  ROOT %sum = bf16[32,4]{1,0} all-reduce(%q), channel_id=4, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%product (a: f32[8,8]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  ROOT %conv = f32[8,8]{1,0} convolution(%a, %a), dim_labels=bf_io->bf
}

%body (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %state = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %f.1 = f32[8,8]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%product, \
metadata={op_name="jit(step)/jvp(Qwen3)/while/body/layers/mlp/dot_general"}, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %f.2 = (f32[2], bf16[16,4]) fusion(%f.1), kind=kLoop, calls=%gather_part, \
backend_config={"window_config":{"estimated_cycles":"30"}}
  %f.3 = (f32[2], bf16[16,4]) fusion(%f.2), kind=kLoop, calls=%gather_part, \
backend_config={"window_config":{"estimated_cycles":"7"}}
  %rs = bf16[16,4]{1,0} fusion(%f.3), kind=kCustom, calls=%all-reduce-scatter.1
  %fwd.1 = (bf16[2,4,512,128]{3,2,1,0}, f32[2,4,512]{2,1,0}) custom-call(%f.3, %f.3), \
custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[2,4,512,128]{3,2,1,0}, bf16[2,2,512,128]\
{3,2,1,0}}, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash"}
  ROOT %next = (s32[], f32[8,8]) tuple(%i, %f.3)
}

%condition (state.1: (s32[], f32[8,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(28)
  %state.1 = (s32[], f32[8,8]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (table: f32[100,8]) -> f32[8,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %rows = f32[10,8]{1,0} fusion(%table), kind=kCustom, calls=%looked_up
  %w = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) while(%init), condition=%condition, body=%body
  %start = (f32[4]{0}, f32[16]{0}) all-gather-start(%small), channel_id=9, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %last = f32[8,8]{1,0} fusion(%w), kind=kLoop, calls=%other, \
metadata={op_name="jit(step)/transpose(jvp(Qwen3))/while/body/checkpoint/rematted_computation/layers/attention/mul"}, \
backend_config={"window_config":{"estimated_cycles":"500"}}
}
"""


def test_cycles_are_summed_with_the_runs_of_each_loop():
    found = program_cost(PROGRAM)
    assert found.cycles == 28 * (1000 + 30 + 7) + 500
    assert found.products == 28 * 1000
    assert dict(found.by_scope) == {"forward mlp": 28_000, "forward other": 28 * 37, "recompute attention": 500}


def test_an_exchange_that_several_operations_carry_forward_counts_once():
    by_kind = {one.kind: one for one in program_cost(PROGRAM).collectives if one.runs == 28}
    gather, scatter = by_kind["all-gather"], by_kind["reduce-scatter"]
    assert (gather.bytes, gather.group, gather.overlaps) == (16 * 4 * 2, (0, 1), True)
    assert (scatter.bytes, scatter.group, scatter.overlaps) == (32 * 4 * 2, (0, 1), False)


def test_a_started_exchange_counts_its_result_alone():
    (one,) = [one for one in program_cost(PROGRAM).collectives if one.runs == 1]
    assert (one.kind, one.bytes, one.group, one.overlaps) == ("all-gather", 16 * 4, (0, 1, 2, 3), True)


def test_kernels_and_look_ups_are_kept_apart_because_they_have_no_cycles():
    found = program_cost(PROGRAM)
    assert found.kernels == [("fwd.1", (2, 4, 512, 128), 28)]
    assert found.moved == 2 * 10 * 8 * 4


@pytest.mark.parametrize(
    "path,part",
    [
        ("jit(step)/jvp(Qwen3)/while/body/jit(dynamic_update_index_in_dim)/dynamic_update_slice", "forward stacks"),
        ("jit(step)/transpose(jvp(Qwen3))/while/body/dynamic_slice", "backward stacks"),
        ("jit(step)/jvp(Qwen3)/while/body/layers/mlp/dynamic_slice", "forward mlp"),
        ("jit(step)/jvp(Qwen3)/while/body/add", "forward other"),
        ("jit(step)/dynamic_slice", "forward other"),
    ],
)
def test_copies_into_and_out_of_the_stacks_of_a_loop_are_a_part_of_the_step(path, part):
    assert scope(Instruction("f", "fusion", "f32[2]", f'%x), metadata={{op_name="{path}"}}')) == part


def test_one_iteration_of_each_loop():
    ((runs, cost_of_one),) = loops(PROGRAM)
    assert (runs, cost_of_one.cycles) == (28, 1037)


@pytest.mark.parametrize("step,runs", [(1, 16), (2, 8), (3, 6)])
def test_a_loop_whose_counter_grows_by_several_runs_less_often(step, runs):
    text = """ENTRY %main (p: s32[]) -> (f32[8], u32[]) {
  ROOT %w = (f32[8]{0}, u32[]{:T(128)}) while(%start), condition=%more, body=%pieces
}

%more (s.1: (f32[8], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(16), metadata={op_name="limit"}
  %s.1 = (f32[8]{0}, u32[]{:T(128)}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%s.1), index=1, metadata={op_name="i"}
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

%pieces (s.2: (f32[8], u32[])) -> (f32[8], u32[]) {
  %one = u32[]{:T(128)} constant(1)
  %grows = u32[]{:T(128)} constant(STEP), metadata={op_name="grows"}
  %s.2 = (f32[8]{0}, u32[]{:T(128)}) parameter(0)
  %i.2 = u32[]{:T(128)} get-tuple-element(%s.2), index=1
  %neighbor = u32[]{:T(128)} add(%i.2, %one)
  %x = f32[8]{0} fusion(%s.2, %neighbor), kind=kLoop, calls=%y, backend_config={"estimated_cycles":"10"}
  %next = u32[]{:T(128)} add(%i.2, %grows), metadata={op_name="next"}
  ROOT %t = (f32[8]{0}, u32[]{:T(128)}) tuple(%x, %next)
}
"""
    assert program_cost(text.replace("STEP", str(step))).cycles == runs * 10


def test_a_branch_counts_as_its_dearest():
    text = """ENTRY %main (p: s32[]) -> f32[8] {
  ROOT %c = f32[8]{0} conditional(%p), branch_computations={%short, %long}
}

%short (a: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} fusion(%a), kind=kLoop, calls=%y, backend_config={"estimated_cycles":"5"}
}

%long (b: f32[8]) -> f32[8] {
  ROOT %z = f32[8]{0} fusion(%b), kind=kLoop, calls=%y, backend_config={"estimated_cycles":"50"}
}
"""
    assert program_cost(text).cycles == 50


@pytest.mark.parametrize(
    "text,devices",
    [
        ("replica_groups={{0,2,4},{1,3,5}}, use_global_device_ids=true", (0, 2, 4)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4,'axis_2'=2] {'axis_1'}, dimensions={1}", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, to_apply=%add", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2], device_ids=([2,2]T(1,0)) {'a'}, dimensions={0}", (0, 1)),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2], device_ids=([2,2]T(1,0)) {'c'}, dimensions={0}", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}, dimensions={0}", (3, 1)),
        ("replica_groups=[4,4]<=[8,2]T(1,0), dimensions={0}", (0, 2, 4, 6)),
        ("replica_groups=[2,4]<=[8], dimensions={0}", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", (0, 4)),
        ("source_target_pairs={{0,1},{1,0}}", (0, 1)),
    ],
)
def test_the_first_group_of_devices_in_each_notation(text, devices):
    assert first_group(text) == devices


def test_the_bytes_of_a_shape_are_those_of_all_its_arrays():
    assert array_bytes("(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, pred[3]{0}, u32[]{:S(2)})") == 4 * 8 * 2 + 3 + 4


def test_a_loop_runs_to_the_constant_that_its_condition_compares_with():
    assert trip_count(parse_hlo(PROGRAM)[0], "condition", chunks=3) == 28


def test_a_loop_without_a_constant_is_an_error():
    with pytest.raises(ValueError, match="condition runs an unknown number of times"):
        program_cost(PROGRAM.replace("constant(28)", "copy(%x)"))


TWO_LIMITS = PROGRAM.replace(
    "  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT",
    """  %count = s32[]{:T(128)} get-tuple-element(%state.1), index=2
  %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
  %lt.1 = pred[]{:T(512)} compare(%i.1, %count), direction=LT
  ROOT %both = pred[]{:T(512)} and(%lt, %lt.1)""",
).replace("tuple(%i, %f.3)", "tuple(%i, %f.3, %n)")


@pytest.mark.parametrize("chunks,trips", [(None, 28), (1, 1), (5, 5), (40, 28)])
def test_a_loop_over_chunks_runs_for_those_that_have_rows(chunks, trips):
    assert program_cost(TWO_LIMITS, chunks).cycles == trips * 1037 + 500


@pytest.mark.parametrize("chunks", [1, 6])
def test_the_loops_of_a_step_in_chunks_are_known_as_such(chunks):
    """Forward and backward; in the text that this machine's compiler writes for the code that training runs."""
    compiled = jax.jit(jax.value_and_grad(loss_in_chunks)).lower(jnp.ones((4, 4)), chunked_batch(slots=8)).compile()
    computations, _ = parse_hlo(compiled.as_text())
    conditions = [x.called("condition") for part in computations.values() for x in part if x.op == "while"]
    assert [trip_count(computations, condition, chunks) for condition in conditions] == [chunks] * 2
    assert [trip_count(computations, condition, None) for condition in conditions] == [8] * 2


def chunked_batch(slots: int) -> DeviceBatch:
    """Rows of 4 tokens, one in each chunk, with one text in each."""
    empty = dict.fromkeys(DeviceBatch.__dataclass_fields__)
    rows_bt, places_s = np.ones((slots, 4), np.int32), np.arange(slots, dtype=np.int32)
    packed = dict.fromkeys(("tokens_bt", "segments_bt", "positions_bt"), rows_bt)
    mask_c = np.ones(slots, bool)
    return DeviceBatch(**empty | packed | {"row_s": places_s, "col_s": 0 * places_s, "chunk_mask_c": mask_c})


def loss_in_chunks(weight, batch: DeviceBatch):
    """A sum over texts, encoded by one layer instead of a model."""

    def encode(weight, rank, packed, row_s, col_s):
        return jnp.tanh(packed[0].astype(jnp.float32) @ weight)[row_s][:, None]

    return encode_chunks(encode, weight, None, batch).sum()
