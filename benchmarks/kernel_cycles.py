"""Counts the cycles of our kernels from the instruction bundles that the TPU compiler makes; no TPU needed.

The compiler gives no estimate for a kernel, but writes its final bundles, of which a core starts one per cycle. The
bundles of a loop count as often as it runs; data are assumed to arrive in time.

python -m benchmarks.kernel_cycles --topology v5p:2x2x1
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

ROWS, KV_HEADS, GROUP, LENGTH, HEAD_DIM = 2, 8, 2, 1024, 128


def compile_into(folder: str, topology: str) -> None:
    """Compiles the kernels for one chip, which writes their bundles to a folder."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from f2jax.model.attention_segments import attention_of_spans, spans
    from f2jax.model.rotary_kernel import normed_rotation
    from f2jax.plan.run import topology_devices

    where = SingleDeviceSharding(topology_devices(topology)[0])

    def array(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    def kernels(q_bkgth, k_bkth, segments_bt, scale_h, cos, sin):
        def turned(x_bnth, scale_h):
            return jnp.swapaxes(normed_rotation(jnp.swapaxes(x_bnth, 1, 2), scale_h, cos, sin, 1e-6), 1, 2)

        heads = q_bkgth.reshape(ROWS, -1, LENGTH, HEAD_DIM)
        out, back = jax.vjp(attention_of_spans, q_bkgth, k_bkth, k_bkth, spans(segments_bt), False)
        turned_heads, turned_back = jax.vjp(turned, heads, scale_h)
        return back(out)[:3], turned_back(turned_heads)

    q_bkgth, k_bkth = (array(ROWS, KV_HEADS, *group, LENGTH, HEAD_DIM) for group in ((GROUP,), ()))
    angle = array(ROWS, LENGTH, 1, HEAD_DIM, dtype=jnp.float32)
    others = array(ROWS, LENGTH, dtype=jnp.int32), array(HEAD_DIM, dtype=jnp.float32), angle, angle
    jax.jit(kernels).lower(q_bkgth, k_bkth, *others).compile()


def bundles_by_depth(folder: str, kernel: str) -> list[int]:
    """Returns the numbers of bundles of a kernel in loops of depth 0, 1, 2 and 3."""
    (path,) = (path for path in Path(folder).glob(f"*{kernel}*-final_bundles.txt") if "schedule" not in path.name)
    marks = re.findall(r"^\s*(?:0x[0-9a-f]+|0)\s+(?:\w\w)?\s*:\s*(>*)\s*\{", path.read_text(), re.MULTILINE)
    return [sum(len(mark) == depth for mark in marks) for depth in range(4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="v5p:2x2x1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compile_into(folder, args.topology)
        names = [f"normed_rotation_{part}" for part in ("fwd", "bwd")]
        names += [f"segment_attention_{part}" for part in ("forward", "backward")]
        bundles = {name: bundles_by_depth(folder, name) for name in names}

    from f2jax.model.rotary_kernel import CHUNK, HEADS, POSITIONS

    chunks, heads = POSITIONS // CHUNK, KV_HEADS * GROUP
    trips = 0, 1, chunks, chunks * -(-heads // HEADS)  # in one program of the grid
    for name in names[:2]:
        cycles = sum(n * times for n, times in zip(bundles[name], trips, strict=True))
        print(f"{args.topology} {name}: {cycles / (heads * POSITIONS * HEAD_DIM / 1024):.1f} cycles for 1,024 numbers")
    for name in names[2:]:
        on_diagonal, below = (n / GROUP for n in bundles[name][2:])  # the heads of a group are computed at once
        print(f"{args.topology} {name}: {on_diagonal:.0f} cycles for a tile on the diagonal, {below:.0f} below")


if __name__ == "__main__":
    main()
