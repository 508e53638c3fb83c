"""The device mesh: `replica` and `data` share rows, `fsdp` shares rows and weights, `tensor` splits heads and MLP.

From left to right the axes talk more, so `replica` runs over the slow network between the slices of a TPU pod, and
`tensor` over the nearest neighbours.
"""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from f2jax.errors import UserError

MESH_AXES = ("replica", "data", "fsdp", "tensor")
ROW_AXES = ("replica", "data", "fsdp")  # those that share the rows of a batch


def make_mesh(replica: int = -1, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over all devices.

    Args:
        replica: a multiple of the slices; -1: the number of slices.
        data, fsdp, tensor: one may be -1 and takes what the others leave.
        devices: default: all.

    Raises:
        UserError: the axes do not multiply to the number of devices, or `replica` does not fit the slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", None) for device in devices})
    replica = slices if replica == -1 else replica
    sizes = [replica, data, fsdp, tensor]
    named = ", ".join(f"{axis}={length}" for axis, length in zip(MESH_AXES, sizes, strict=True))
    asked = f"mesh {named} does not fit {len(devices)} device(s)"
    if sizes.count(-1) > 1 or any(length == 0 or length < -1 for length in sizes):
        raise UserError(f"{asked}; give positive sizes and at most one -1.")
    fixed = math.prod(length for length in sizes if length != -1)
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        raise UserError(f"{asked}; the sizes must multiply to {len(devices)}.")
    if replica % slices:
        raise UserError(f"mesh.replica={replica} does not fit {slices} slices; give a multiple of {slices}, or -1.")
    sizes = [len(devices) // fixed if length == -1 else length for length in sizes]
    return Mesh(_arrange(sizes, slices, devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _arrange(sizes: list[int], slices: int, devices) -> np.ndarray:
    """The devices in the shape of the mesh: near ones next to each other, no axis but the first across slices."""
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    inside = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)


def process_share(mesh: Mesh) -> tuple[int, tuple[int, ...]]:
    """The packed rows that the devices of this process hold: of so many equal parts, those of these numbers."""
    by_part = mesh.devices.reshape(math.prod(mesh.shape[axis] for axis in ROW_AXES), -1)
    me = jax.process_index()
    own = tuple(i for i, part in enumerate(by_part) if any(device.process_index == me for device in part))
    return len(by_part), own
