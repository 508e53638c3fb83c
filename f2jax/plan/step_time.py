"""From the cost of a compiled step to seconds: cycles by the clock, kernels by operations, exchanges by links."""

from collections.abc import Sequence
from dataclasses import dataclass

from f2jax.model.attention import splash_block
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import Chip
from f2jax.plan.hlo import Collective, Cost

KERNEL_EFFICIENCY = 0.5  # of peak on the tiles that an attention kernel visits: the softmax takes the rest
HOP = 1e-6  # seconds that the first byte takes from a chip to the next
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}  # matrix products of T x T x H in each attention kernel


@dataclass(frozen=True)
class Seconds:
    """Where the time of one step goes."""

    compute: float  # operations and attention kernels
    links: float  # exchanges that run beside the computation
    exposed: float  # exchanges that it waits for

    @property
    def step(self) -> float:
        return max(self.compute, self.links) + self.exposed


def seconds(cost: Cost, chip: Chip, coordinates: Sequence[Sequence[int]]) -> Seconds:
    """The estimated time of a step.

    Args:
        cost: of one run, see `plan_hlo.cost`.
        coordinates: of each device in the order of the mesh: its place along each axis of the slice.
    """
    compute = cost.cycles / chip.clock + cost.moved / chip.hbm_bandwidth
    compute += sum(runs * kernel_seconds(name, shape, chip) for name, shape, runs in cost.kernels)
    links, exposed = 0.0, 0.0
    for collective in cost.collectives:
        time = collective.runs * collective_seconds(collective, chip, coordinates)
        links, exposed = (links + time, exposed) if collective.overlaps else (links, exposed + time)
    return Seconds(compute, links, exposed)


def kernel_seconds(name: str, shape: Sequence[int], chip: Chip) -> float:
    """An attention kernel on queries of `shape` (rows, heads, T, H): its causal tiles, at half of the chip's peak."""
    rows, heads, length, head_dim = shape
    products = next((count for part, count in PRODUCTS.items() if f"_{part}_" in f"_{name}_"), 2)
    tiles = length // splash_block(length)
    visited = (tiles + 1) / (2 * tiles)
    operations = 2 * products * rows * heads * length**2 * visited * head_dim
    return operations / (KERNEL_EFFICIENCY * min(1.0, head_dim / chip.unit) * chip.peak)


def collective_seconds(collective: Collective, chip: Chip, coordinates: Sequence[Sequence[int]]) -> float:
    """One exchange over the axes of the slice that its group spreads over, all links of those axes at work.

    A gather or a scatter passes (n - 1) / n of the bytes through each chip, a reduction twice that; an all-to-all over
    a ring of n passes n / 4 of each chip's bytes over each of its links
    (https://jax-ml.github.io/scaling-book/sharding).
    """
    group = [coordinates[device] for device in collective.group or range(len(coordinates))]
    spread = [len(set(places)) for places in zip(*group, strict=True)]
    slice_sizes = [len(set(places)) for places in zip(*coordinates, strict=True)]
    n = len(group)
    if n == 1:
        return 0.0
    rates = []  # bytes a second into a chip along each axis that the group spreads over
    for size, whole in zip(spread, slice_sizes, strict=True):
        if size > 1:
            rates.append(chip.link * (2 if size == whole and size % chip.ring == 0 else 1))
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
    return moving + hops * HOP


def model_operations(architecture: Qwen3Config, tokens: float, length: float, passes: int) -> float:
    """Operations that the model needs for `tokens` tokens in texts of `length`: the numerator of MFU.

    2 for each weight outside the token table and each token, and the causal half of the two products of attention.

    Args:
        passes: 1 for a forward pass, 3 for training; what is computed again does not count.
    """
    weights = architecture.parameters - architecture.vocab_size * (architecture.table_rank or architecture.width)
    attention = 2 * architecture.layers * length * architecture.heads * architecture.head_dim
    return passes * tokens * (2 * weights + attention)
