"""What a TPU chip can do, per device that JAX sees: one table for planning."""

from dataclasses import dataclass

from f2jax.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Chip:
    """Figures of one device as the compiler lists them: a chip, or one of the two cores of a v4 or tpu7x chip.

    Peak, memory and bandwidth: https://cloud.google.com/tpu/docs/v4, …/v5e, …/v5p, …/v6e, …/tpu7x. The clock follows
    from the peak: matrix units x their sides x 2 operations in a cycle. Links: what one link carries one way, from
    https://jax-ml.github.io/scaling-book/tpus (v4 to v6e); 1,200 GB/s both ways over the links of a tpu7x chip.
    """

    name: str
    accelerator: str  # what TPU_ACCELERATOR_TYPE calls it
    peak: float  # bfloat16 operations a second
    clock: float  # cycles a second
    hbm: int  # bytes of memory
    hbm_bandwidth: float  # bytes a second
    link: float  # bytes a second one way over one link
    ring: int  # slices wrap around into a ring along axes of a multiple of this
    unit: int = 128  # side of a matrix unit
    cores: int = 1  # devices of a chip


GIB = 2**30
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "v4", 137.5e12, 1.05e9, 16 * GIB, 6e11, 2.25e10, ring=4, cores=2),  # 4 units
        Chip("v5e", "v5litepod", 197e12, 1.5e9, 16 * GIB, 8.1e11, 4.5e10, ring=16),  # 4 units
        Chip("v5p", "v5p", 459e12, 1.75e9, 95 * GIB, 2.765e12, 9e10, ring=4),  # 8 units
        Chip("v6e", "v6e", 918e12, 1.75e9, 32 * GIB, 1.6e12, 9e10, ring=16, unit=256),  # 4 units
        Chip("tpu7x", "tpu7x", 1153.5e12, 2.2e9, 96 * GIB, 3.69e12, 5e10, ring=4, unit=256, cores=2),  # 4 units
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
