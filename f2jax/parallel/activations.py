"""Where activations lie on the mesh of `jax.set_mesh`: rows over the devices that share a batch, heads over `tensor`.

Without these constraints the compiler is free to gather a batch, or a token table, whole on each device.
"""

import jax
from jax.sharding import PartitionSpec

from f2jax.parallel.mesh import ROW_AXES

AXES: dict[str | None, tuple[str, ...]] = {
    "rows": ROW_AXES,
    "groups": ("replica", "data"),  # rows that share one copy of the weights
    "split": ("fsdp",),
    "heads": ("tensor",),
    None: (),
}


def spec(shape: tuple[int, ...], names: tuple[str | None, ...]) -> PartitionSpec:
    """The mesh axes for the first axes of an array, by their names in `AXES`; an axis that does not divide stays whole.

    That happens for the one row that fresh weights are made with.
    """
    mesh = jax.sharding.get_abstract_mesh()
    found = []
    for length, name in zip(shape, names, strict=False):
        axes = tuple(axis for axis in AXES[name] if mesh.shape.get(axis, 1) > 1)
        devices = 1
        for axis in axes:
            devices *= mesh.shape[axis]
        found.append(axes if axes and length % devices == 0 else None)
    return PartitionSpec(*found)


def place(x, *names: str | None):
    """`x` with its first axes split over the devices as `names` say (see `AXES`), the others whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(x.shape, names))


def platform() -> str:
    """What the computation is compiled for: the platform of the mesh, or the default one without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform
