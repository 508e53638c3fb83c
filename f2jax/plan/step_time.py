"""Estimates the seconds of a compiled step: cycles by the clock, kernels by their operations, collectives by links."""

from collections.abc import Sequence
from dataclasses import dataclass

from f2jax.model.attention import has_fused_backward, splash_block
from f2jax.parallel.chips import Chip
from f2jax.plan.hlo import Collective, Cost

KERNEL_EFFICIENCY = 0.5  # of peak on the tiles that an attention kernel visits; the softmax takes the rest
HOP_SECONDS = 1e-6  # latency from a chip to the next
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}  # matrix products of T × T × H in each attention kernel
FUSED_PRODUCTS = PRODUCTS | {"dkv": 5}  # where it computes the gradient of the queries too


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


def step_seconds(cost: Cost, chip: Chip, coordinates: Sequence[Sequence[int]]) -> StepSeconds:
    """Returns the estimated time of a step.

    Args:
        cost: of one run, as `program_cost` returns it.
        coordinates: position of each device along each axis of the slice, in the order of the mesh.
    """
    compute = cost.cycles / chip.clock + cost.moved / chip.hbm_bandwidth
    compute += sum(runs * kernel_seconds(name, shape, chip) for name, shape, runs in cost.kernels)
    links, exposed = 0.0, 0.0
    for collective in cost.collectives:
        spent = collective.runs * collective_seconds(collective, chip, coordinates)
        links, exposed = (links + spent, exposed) if collective.overlaps else (links, exposed + spent)
    return StepSeconds(compute, links, exposed)


def kernel_seconds(name: str, shape: Sequence[int], chip: Chip) -> float:
    """Returns the time of an attention kernel: the operations of its causal tiles at `KERNEL_EFFICIENCY` of the peak.

    Args:
        shape: of the queries: rows, heads, T, H.
    """
    rows, heads, length, head_dim = shape
    counts = FUSED_PRODUCTS if has_fused_backward(length) else PRODUCTS
    products = next((count for part, count in counts.items() if f"_{part}_" in f"_{name}_"), 2)
    tiles = length // splash_block(length)
    visited = (tiles + 1) / (2 * tiles)
    operations = 2 * products * rows * heads * length**2 * visited * head_dim
    return operations / (KERNEL_EFFICIENCY * min(1.0, head_dim / chip.unit) * chip.peak)


def collective_seconds(collective: Collective, chip: Chip, coordinates: Sequence[Sequence[int]]) -> float:
    """Returns the time of one collective that uses all links along the axes of the slice over which its group extends.

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
