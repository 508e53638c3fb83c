"""Estimates the seconds of a compiled step: cycles by the clock, kernels by their operations, collectives by links."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from f2jax.model.attention import splash_block
from f2jax.parallel.chips import Chip
from f2jax.plan.hlo import Collective, Cost

SPLASH_EFFICIENCY = {"fwd": 0.46, "dq": 0.8, "dkv": 0.8}  # share of the peak on visited tiles, by its bundles for v5p
TILE = 256  # positions along a side of a tile of segment attention
# Cycles of a core for a tile of one head of 128, on the diagonal and below it, by benchmarks/kernel_cycles.py.
TILE_CYCLES = {
    "v5p": {"forward": (511, 406), "backward": (695, 656)},
    "v5e": {"forward": (503, 386), "backward": (694, 612)},
    "v6e": {"forward": (404, 263), "backward": (522, 441)},
}
TILE_CYCLES |= {"v4": TILE_CYCLES["v5p"], "tpu7x": TILE_CYCLES["v6e"]}  # chips with the same matrix units
ROTATION_CYCLES = {"fwd": 8.7, "bwd": 13.9}  # cycles of a core for 1,024 numbers, likewise, for v5p; v6e takes fewer
CORE_UNITS = 4  # matrix units in a core
HOP_SECONDS = 1e-6  # latency from a chip to the next
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}  # matrix products of T × T × H in each attention kernel


@dataclass(frozen=True)
class StepSeconds:
    """The parts of the time of one step."""

    compute: float  # operations and attention kernels
    links: float  # collectives that run concurrently with computation
    exposed: float  # collectives that computation waits for

    @property
    def step(self) -> float:
        """The time of the step."""
        return max(self.compute, self.links) + self.exposed


def step_seconds(
    cost: Cost, chip: Chip, coordinates: Sequence[Sequence[int]], tiles_below: float | None = None
) -> StepSeconds:
    """Returns the estimated time of a step.

    Args:
        cost: cost of one run, as returned by `program_cost`.
        coordinates: position of each device along each axis of the slice, in the order of the mesh.
        tiles_below: see `kernel_seconds`.
    """
    compute = cost.cycles / chip.clock + cost.moved / chip.hbm_bandwidth
    compute += sum(runs * kernel_seconds(name, shape, chip, tiles_below) for name, shape, runs in cost.kernels)
    links, exposed = 0.0, 0.0
    for collective in cost.collectives:
        spent = collective.runs * collective_seconds(collective, chip, coordinates)
        links, exposed = (links + spent, exposed) if collective.overlaps else (links, exposed + spent)
    return StepSeconds(compute, links, exposed)


def kernel_seconds(name: str, shape: Sequence[int], chip: Chip, tiles_below: float | None = None) -> float:
    """Returns the time of a kernel, judged by its instruction bundles, since the compiler estimates none.

    Args:
        shape: shape of the queries, or of the heads that are rotated: rows, heads, T, H.
        tiles_below: tiles below the diagonal of a row that segment attention visits; None: all.
    """
    rows, heads, length, head_dim = shape
    cores = chip.peak / (2 * chip.unit**2 * chip.clock) / CORE_UNITS
    if "normed_rotation" in name:
        return math.prod(shape) / 1024 * ROTATION_CYCLES["bwd" if "_bwd" in name else "fwd"] / cores / chip.clock
    if "segment_attention" in name:
        on_diagonal, below = TILE_CYCLES[chip.name]["backward" if "_backward" in name else "forward"]
        tiles = length / TILE
        cycles = tiles * on_diagonal + (tiles * (tiles - 1) / 2 if tiles_below is None else tiles_below) * below
        return rows * heads * head_dim / 128 * cycles / cores / chip.clock
    part = next((part for part in PRODUCTS if f"_{part}_" in f"_{name}_"), "fwd")
    tiles = length // splash_block(length)
    visited = (tiles + 1) / (2 * tiles)
    operations = 2 * PRODUCTS[part] * rows * heads * length**2 * visited * head_dim
    return operations / (SPLASH_EFFICIENCY[part] * min(1.0, head_dim / chip.unit) * chip.peak)


def collective_seconds(collective: Collective, chip: Chip, coordinates: Sequence[Sequence[int]]) -> float:
    """Returns the time of a collective, which uses all links along the axes of the slice over which its group extends.

    A gather or a scatter sends (n - 1) / n of the bytes through each chip, a reduction twice that, and an all-to-all on
    a ring of n chips sends n / 4 of a chip's bytes over each of its links
    (https://jax-ml.github.io/scaling-book/sharding).
    """
    group = [coordinates[device] for device in collective.group or range(len(coordinates))]
    spread = [len(set(places)) for places in zip(*group, strict=True)]
    slice_sizes = [len(set(places)) for places in zip(*coordinates, strict=True)]
    n = len(group)
    if n == 1:
        return 0.0
    rates = []  # bytes a second into a chip along each axis over which the group extends
    for size, slice_size in zip(spread, slice_sizes, strict=True):
        if size > 1:
            rates.append(chip.link * (2 if size == slice_size and size % chip.ring == 0 else 1))
    rates = rates or [6 * chip.link]  # the cores of one chip
    hops = sum(size // 2 for size in spread) or 1
    if collective.kind == "collective-permute":
        moving = collective.bytes / chip.link
    elif collective.kind == "all-to-all":
        sizes = [size for size in spread if size > 1] or [n]
        moving = max(collective.bytes * size / 4 / rate for size, rate in zip(sizes, rates, strict=True))
    else:
        passes = 2 if collective.kind == "all-reduce" else 1
        moving = passes * (n - 1) / n * collective.bytes / sum(rates)
    return moving + hops * HOP_SECONDS
