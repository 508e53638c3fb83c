"""The device mesh: `replica` and `data` split rows, `fsdp` splits rows and weights, `tensor` splits heads and MLP.

Communication increases from the first axis to the last: `replica` uses the slow network between the slices of a TPU
pod, and `tensor` uses the links between nearest neighbours.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from f2jax.errors import UserError

MESH_AXES = ("replica", "data", "fsdp", "tensor")
ROW_AXES = ("replica", "data", "fsdp")  # the axes over which the rows of a batch are split


def make_mesh(replica: int = -1, data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """Returns a mesh over all devices.

    >>> make_mesh(fsdp=4).shape  # on 8 devices of one slice
    OrderedDict({'replica': 1, 'data': 2, 'fsdp': 4, 'tensor': 1})

    Args:
        replica: a multiple of the number of slices; -1: the number of slices.
        data: length of this axis. One of data, fsdp and tensor may be -1, for the devices that the other axes leave.
        fsdp: see `data`.
        tensor: see `data`.
        devices: the devices to use; None: all.

    Raises:
        UserError: the product of the axes is not the number of devices, or `replica` does not fit the slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", None) for device in devices})
    sizes = mesh_sizes([replica, data, fsdp, tensor], len(devices), slices)
    return Mesh(_arrange(sizes, slices, devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(sizes: Sequence[int], devices: int, slices: int = 1) -> list[int]:
    """Returns the lengths of the axes of a mesh, with the numbers that -1 stands for (see `make_mesh`).

    >>> mesh_sizes([-1, -1, 4, 1], devices=8)
    [1, 2, 4, 1]

    Raises:
        UserError: as in `make_mesh`.
    """
    sizes = [slices if sizes[0] == -1 else sizes[0], *sizes[1:]]
    named = ", ".join(f"{axis}={length}" for axis, length in zip(MESH_AXES, sizes, strict=True))
    problem = f"mesh {named} does not fit {devices} device(s)"
    if sizes.count(-1) > 1 or any(length == 0 or length < -1 for length in sizes):
        raise UserError(f"{problem}; give positive sizes and at most one -1.")
    fixed = math.prod(length for length in sizes if length != -1)
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise UserError(f"{problem}; the sizes must multiply to {devices}.")
    if sizes[0] % slices:
        raise UserError(f"mesh.replica={sizes[0]} does not fit {slices} slices; give a multiple of {slices}, or -1.")
    return [devices // fixed if length == -1 else length for length in sizes]


def _arrange(sizes: list[int], slices: int, devices) -> np.ndarray:
    """Returns the devices in the shape of the mesh, with neighbours adjacent and only the first axis across slices."""
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    inside = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)


def process_share(mesh: Mesh) -> tuple[int, tuple[int, ...]]:
    """Returns the number of equal parts into which packed rows are split, and which of them this process holds."""
    parts = mesh.devices.reshape(math.prod(mesh.shape[axis] for axis in ROW_AXES), -1)
    process = jax.process_index()
    held = tuple(i for i, part in enumerate(parts) if any(device.process_index == process for device in part))
    return len(parts), held
