"""What lies where, in words: a table of the weights, and whether the chips have enough to do."""

import math

import jax
from jax.sharding import Mesh

from f2jax.parallel.chips import CHIPS
from f2jax.parallel.mesh import ROW_AXES

KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}  # by JAX's name


def weight_rows(params) -> list[tuple[str, tuple[int, ...], str, float]]:
    """(name, shape, mesh axes, MB on each device) of every weight of a tree of arrays or shapes with shardings."""
    rows = []
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path)
        held = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        rows.append((name, x.shape, ", ".join(str(axis or "-") for axis in x.sharding.spec), held / 1e6))
    return rows


def weight_table(params) -> str:
    """`weights` in columns, with their sum."""
    rows = weight_rows(params)
    lines = [f"{'weight':<24} {'shape':<24} {'split over':<30} {'MB a device':>12}"]
    lines += [f"{name:<24} {' × '.join(map(str, shape)):<24} {axes:<30} {mb:>12,.2f}" for name, shape, axes, mb in rows]
    return "\n".join([*lines, f"{'all':<80} {sum(mb for *_, mb in rows):>12,.2f}"])


def tokens_summary(mesh: Mesh, tokens: int) -> str:
    """Tokens of a step on each chip, beside what it takes to keep its matmuls from waiting for memory.

    A bfloat16 weight of 2 bytes is read for 2 FLOPs a token, so a chip is busy from peak FLOP/s ÷ bytes/s tokens on.
    """
    each = tokens // math.prod(mesh.shape[axis] for axis in ROW_AXES)
    kind = mesh.devices.flat[0].device_kind
    shape = " × ".join(f"{axis} {length}" for axis, length in mesh.shape.items())
    line = f"Mesh {shape}: about {each:,} tokens a step on each chip"
    if kind not in KINDS:
        return f"{line}."
    chip = CHIPS[KINDS[kind]]
    needed = round(chip.peak / chip.hbm_bandwidth)
    verdict = "enough" if each >= needed else "too few"
    return f"{line}; {verdict} for {kind}, whose matmuls wait for memory below {needed:,}."
