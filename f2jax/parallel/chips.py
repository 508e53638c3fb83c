"""Figures of TPU chips for planning, per device that JAX sees."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from f2jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Chip:
    """Figures of one device as the compiler lists it: a chip, or one of the two cores of a v4 or tpu7x chip.

    Peak and bandwidth: https://cloud.google.com/tpu/docs/v4, …/v5e, …/v5p, …/v6e, …/tpu7x. Memory: what the TPU
    compiler lets a program use; the runtime reserves the rest of the chip's. The clock follows from the peak: matrix
    units × side² × 2 operations per cycle. Links: one-way bandwidth of one link, from
    https://jax-ml.github.io/scaling-book/tpus (v4 to v6e); for tpu7x, from 1,200 GB/s both ways over a chip's links.
    """

    name: str
    accelerator: str  # its name in TPU_ACCELERATOR_TYPE
    device_kind: str  # its name in JAX
    peak: float  # bfloat16 operations per second
    clock: float  # cycles per second
    hbm: float  # GiB of memory for programs
    hbm_bandwidth: float  # bytes per second
    link: float  # bytes per second, one way over one link
    ring: int  # an axis of a slice is a ring if its length is a multiple of this
    unit: int = 128  # side of a matrix unit
    cores: int = 1  # devices per chip
    dims: int = 3  # axes of a slice
    flags: Mapping[str, str] = field(default_factory=dict)  # compiler options for train steps
    wide: int = 0  # width of a model from which these options make its steps faster

    @property
    def counted(self) -> int:
        """How much each chip adds to the number in an accelerator type: 1 in flat slices, else 2, for its cores."""
        return 1 if self.dims == 2 else 2

    @property
    def memory(self) -> int:
        """Bytes of memory for programs."""
        return int(self.hbm * GIB)


GIB = 2**30
VMEM = {"xla_tpu_scoped_vmem_limit_kib": "65536"}  # on-chip memory of an operation, for larger tiles in matrix products
# US dollars per chip-hour on demand in the USA, from https://cloud.google.com/tpu/pricing as others cited it in 2025.
PRICES = {"v4": 3.22, "v5e": 1.2, "v5p": 4.2, "v6e": 2.7}
CHIPS = {
    chip.name: chip
    for chip in (
        # each device has 4 matrix units, but a v5p has 8
        Chip("v4", "v4", "TPU v4", 137.5e12, 1.05e9, 15.25, 6e11, 2.25e10, 4, cores=2),
        Chip("v5e", "v5litepod", "TPU v5 lite", 197e12, 1.5e9, 15.75, 8.1e11, 4.5e10, 16, dims=2, flags=VMEM),
        Chip("v5p", "v5p", "TPU v5", 459e12, 1.75e9, 95.74, 2.765e12, 9e10, 4, flags=VMEM),
        Chip("v6e", "v6e", "TPU v6 lite", 918e12, 1.75e9, 31.25, 1.6e12, 9e10, 16, 256, dims=2, flags=VMEM, wide=2048),
        Chip("tpu7x", "tpu7x", "TPU7x", 1153.5e12, 2.2e9, 94.75, 3.69e12, 5e10, 4, 256, cores=2),
    )
}


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology such as `v5e:16x16`.

    Raises:
        UserError: there is no such chip.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise UserError(f"There is no chip '{name}' to plan for{did_you_mean(name, CHIPS)}")
    return CHIPS[name]


def chip_of_kind(device_kind: str) -> Chip | None:
    """Returns the chip of a device that JAX calls `device_kind`; None if it is not in the table."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)


def compiler_options(device_kind: str, width: int, changes: Iterable[str] = ()) -> dict[str, str | bool]:
    """Returns XLA's options for train steps on a device: those of its chip, with some added, changed or removed.

    >>> compiler_options("TPU v5 lite", 1024, ["xla_tpu_scoped_vmem_limit_kib=", "xla_enable_async_all_reduce=true"])
    {'xla_enable_async_all_reduce': True}

    Args:
        width: width of the model.
        changes: NAME=VALUE adds or changes an option, NAME= removes it.

    Raises:
        UserError: a change does not have this form.
    """
    chip = chip_of_kind(device_kind)
    options = dict(chip.flags) if chip and width >= chip.wide else {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not name or not equals:
            raise UserError(f"The compiler option '{change}' should be NAME=VALUE, or NAME= to remove it.")
        options[name] = value
    flags = {"true": True, "false": False}
    return {name: flags.get(value.lower(), value) for name, value in options.items() if value}


def canonical_topology(text: str) -> str:
    """Returns the chip and shape of a slice, which may also be given as a number of chips or an accelerator type.

    A number of chips stands for Google Cloud's default shape with that number. The number in an accelerator type counts
    chips for v5e and v6e, and cores, two per chip, for the others.

    >>> canonical_topology("v5e:16"), canonical_topology("v5litepod-16"), canonical_topology("v5p-128")
    ('v5e:4x4', 'v5e:4x4', 'v5p:4x4x4')

    Raises:
        UserError: there is no such chip, or it is followed by neither a shape nor a number with a default shape.
    """
    separator = ":" if ":" in text else "-"
    name, _, size = text.strip().lower().partition(separator)
    name = next((chip.name for chip in CHIPS.values() if name == chip.accelerator), name)
    chip = chip_of(name)
    if separator == ":" and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", size):
        return f"{name}:{size}"
    count = int(size) if size.isdecimal() else 0
    chips, rest = divmod(count, 1 if separator == ":" else chip.counted)
    if rest or chips < 1 or chips & (chips - 1):
        raise UserError(
            f"The topology '{text}' should be a chip and the shape of its slice, such as "
            f"{name}:{default_shape(chip, 16)}, or a number of chips that is a power of two, such as {name}:16."
        )
    return f"{name}:{default_shape(chip, chips)}"


def default_shape(chip: Chip, chips: int) -> str:
    """Returns the default shape of a slice with this many chips, which are a power of two.

    Its sides are as equal as possible, the shortest first.

    >>> default_shape(CHIPS["v5p"], 32)
    '2x4x4'
    """
    doublings = chips.bit_length() - 1
    if chip.dims == 3 and doublings < 3:  # small slices are flat, with 1 as the last side
        return "x".join(str(side) for side in (*((1, 1), (1, 2), (2, 2))[doublings], 1))
    sides = [2 ** ((doublings + i) // chip.dims) for i in range(chip.dims)]
    return "x".join(map(str, sides))
