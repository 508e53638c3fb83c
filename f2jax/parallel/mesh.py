"""The device mesh: `data` shares rows, `fsdp` shares rows and weights, `tensor` splits heads and MLP."""

import jax
from jax.sharding import AxisType, Mesh

from f2jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    asked = f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {len(devices)} device(s)"
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"{asked}; give positive sizes and at most one -1.")
    fixed = 1
    for axis_size in sizes:
        fixed *= 1 if axis_size == -1 else axis_size
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        raise UserError(f"{asked}; the sizes must multiply to {len(devices)}.")
    sizes = [len(devices) // fixed if axis_size == -1 else axis_size for axis_size in sizes]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
