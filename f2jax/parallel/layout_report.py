"""Describes the layout of a model on a mesh: a table of the weights, and whether chips have enough tokens."""

import math

import jax
from jax.sharding import Mesh

from f2jax.parallel.chips import chip_of_kind
from f2jax.parallel.mesh import ROW_AXES


def weight_rows(params) -> list[tuple[str, tuple[int, ...], str, float]]:
    """Returns (name, shape, mesh axes, MB on each device) of each weight in a tree of arrays or sharded shapes."""
    rows = []
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path)
        bytes_held = math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        rows.append((name, x.shape, ", ".join(str(axis or "-") for axis in x.sharding.spec), bytes_held / 1e6))
    return rows


def weight_table(params) -> str:
    """Returns the `weight_rows` as a table with their total; on a single device, only the names and the total."""
    rows = weight_rows(params)
    if len(jax.tree.leaves(params)[0].sharding.device_set) == 1:
        return f"Weights, {sum(mb for *_, mb in rows):,.2f} MB: {', '.join(name for name, *_ in rows)}."
    lines = [f"{'weight':<24} {'shape':<24} {'split over':<30} {'MB a device':>12}"]
    lines += [f"{name:<24} {' × '.join(map(str, shape)):<24} {axes:<30} {mb:>12,.2f}" for name, shape, axes, mb in rows]
    return "\n".join([*lines, f"{'all':<80} {sum(mb for *_, mb in rows):>12,.2f}"])


def tokens_summary(mesh: Mesh, tokens: int) -> str:
    """Returns a sentence about the mesh, if it has several devices, and about the tokens per step on each chip.

    It also says whether matrix products on a known chip wait for memory. A bfloat16 weight of 2 bytes is read once for
    2 operations per token, so a chip needs at least as many tokens as the operations that it does while it reads a byte
    (https://jax-ml.github.io/scaling-book/roofline).

    Args:
        tokens: tokens per step on all devices together.
    """
    tokens_each = tokens // math.prod(mesh.shape[axis] for axis in ROW_AXES)
    kind = mesh.devices.flat[0].device_kind
    shape = " × ".join(f"{axis} {length}" for axis, length in mesh.shape.items())
    line = f"about {tokens_each:,} tokens a step"
    line = f"Mesh {shape}: {line} on each chip" if mesh.size > 1 else line.capitalize()
    chip = chip_of_kind(kind)
    if chip is None:
        return f"{line}."
    needed = round(chip.peak / chip.hbm_bandwidth)
    verdict = "enough" if tokens_each >= needed else "too few"
    return f"{line}; {verdict} for {kind}, whose matmuls wait for memory below {needed:,}."
