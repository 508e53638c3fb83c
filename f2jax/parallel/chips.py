"""What TPU chips can do, per device that JAX sees: one table for planning."""

from dataclasses import dataclass

from f2jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Chip:
    """Figures of one device as the compiler lists it: a chip, or one of the two cores of a v4 or tpu7x chip.

    Peak, memory and bandwidth: https://cloud.google.com/tpu/docs/v4, …/v5e, …/v5p, …/v6e, …/tpu7x. The clock follows
    from the peak: matrix units × side² × 2 operations a cycle. Links: one-way bandwidth of one link, from
    https://jax-ml.github.io/scaling-book/tpus (v4 to v6e); 1,200 GB/s both ways over the links of a tpu7x chip.
    """

    name: str
    accelerator: str  # its name in TPU_ACCELERATOR_TYPE
    device_kind: str  # its name in JAX
    peak: float  # bfloat16 operations a second
    clock: float  # cycles a second
    hbm: int  # bytes of memory
    hbm_bandwidth: float  # bytes a second
    link: float  # bytes a second one way over one link
    ring: int  # an axis of a slice is a ring if its length is a multiple of this
    unit: int = 128  # side of a matrix unit
    cores: int = 1  # devices of a chip


GIB = 2**30
CHIPS = {
    chip.name: chip
    for chip in (
        # 4 matrix units each, but 8 of a v5p
        Chip("v4", "v4", "TPU v4", 137.5e12, 1.05e9, 16 * GIB, 6e11, 2.25e10, ring=4, cores=2),
        Chip("v5e", "v5litepod", "TPU v5 lite", 197e12, 1.5e9, 16 * GIB, 8.1e11, 4.5e10, ring=16),
        Chip("v5p", "v5p", "TPU v5", 459e12, 1.75e9, 95 * GIB, 2.765e12, 9e10, ring=4),
        Chip("v6e", "v6e", "TPU v6 lite", 918e12, 1.75e9, 32 * GIB, 1.6e12, 9e10, ring=16, unit=256),
        Chip("tpu7x", "tpu7x", "TPU7x", 1153.5e12, 2.2e9, 96 * GIB, 3.69e12, 5e10, ring=4, unit=256, cores=2),
    )
}


def chip(topology: str) -> Chip:
    """The chip of a topology such as `v5e:16x16`.

    Raises:
        UserError: unknown chip.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise UserError(f"There is no chip '{name}' to plan for{did_you_mean(name, CHIPS)}")
    return CHIPS[name]
