"""The time of another tool's program, worked out by hand for one written here."""

import importlib.util
import sys

import pytest

from benchmarks import program_time

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, from the `tpu` extra")

# On four chips of v5p (1.75e9 cycles and 9e10 bytes a second over a link, 459e12 operations): 3.5e9 cycles of products,
# two trips of 0.875e9 other ones, a kernel, and exchanges of 1.8e11 bytes: a gather beside that, a reduction after it.
PROGRAM = """HloModule jit_train_step, is_scheduled=true

%product (a: f32[8,8]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  ROOT %conv = f32[8,8]{1,0} convolution(%a, %a), dim_labels=bf_io->bf
}

%body (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %state = (s32[], f32[8,8]{1,0}) parameter(0)
  %f = f32[8,8]{1,0} fusion(%x), kind=kLoop, calls=%other, backend_config={"estimated_cycles":"875000000"}
  ROOT %next = (s32[], f32[8,8]) tuple(%i, %f)
}

%condition (state.1: (s32[], f32[8,8])) -> pred[] {
  %limit = s32[] constant(2)
  %state.1 = (s32[], f32[8,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  %start = (f32[22500000000]{0}, f32[45000000000]{0}) all-gather-start(%p), channel_id=1, replica_groups={{0,1},{2,3}}
  %f.1 = f32[8,8]{1,0} fusion(%p), kind=kOutput, calls=%product, backend_config={"estimated_cycles":"3500000000"}
  %w = (s32[], f32[8,8]{1,0}) while(%init), condition=%condition, body=%body
  %fwd.1 = bf16[3000,5,4096,128]{3,2,1,0} custom-call(%f.1), custom_call_target="tpu_custom_call", \
operand_layout_constraints={bf16[3000,5,4096,128]{3,2,1,0}}, metadata={op_name="jit(step)/splash"}
  ROOT %sum = f32[45000000000]{0} all-reduce(%p), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""


def test_the_parts_of_a_step_and_its_share_of_the_peak(tmp_path, monkeypatch, capsys):
    (tmp_path / "step.after_codegen.txt").write_text(PROGRAM)
    options = ["--topology", "v5p:2x2x1", "--mesh", "2", "2", "--tflop", "918"]
    monkeypatch.setattr(sys, "argv", ["program_time", str(tmp_path / "step.after_codegen.txt"), *options])
    program_time.main()
    kernel = 2 * 2 * 3000 * 5 * 4096**2 * 9 / 16 * 128 / (0.46 * 459e12)  # 9 of 16 parts, at 46 % of the peak
    step = 2 + 2 * 0.5 + kernel + 2
    assert capsys.readouterr().out.splitlines() == [
        f"step {step:.3f} s: {step - 2:.3f} computing, of which 2.000 in",
        f"matrix products and {kernel:.3f} in 1 runs of kernels;",
        "exchanges 1.000 s beside that, and 2.000 s that it waits for",
        f"{918 / step:.0f} TFLOP/s a device, MFU {918 / step / 459:.1%}",
    ]
