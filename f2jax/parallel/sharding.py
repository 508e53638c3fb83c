"""The mesh axes over which weights, batches and activations are split.

`WEIGHT_AXES` maps each logical axis of the weights to a mesh axis, `ACTIVATION_AXES` maps the axes of activations to
those of the mesh of `jax.set_mesh`. Without constraints on activations, the compiler would be free to gather a complete
batch, or a complete token table, on each device.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import UserError
from f2jax.parallel.mesh import ROW_AXES, process_share

WEIGHT_AXES: dict[str | None, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "rank": "fsdp",
    "table_rank": None,
    "q_heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
}
COPY_AXES = ("replica", "data")  # axes whose devices hold copies of the weights
ROW_SPEC = PartitionSpec(ROW_AXES)  # of the packed rows of a batch

ACTIVATION_AXES: dict[str | None, tuple[str, ...]] = {
    "rows": ROW_AXES,
    "groups": ("replica", "data"),  # rows that share a copy of the weights
    "split": ("fsdp",),
    "heads": ("tensor",),
    None: (),
}


def param_shardings(boxes, mesh: Mesh, rules: dict[str | None, str | None] = WEIGHT_AXES):
    """Returns a tree like the parameters with the `NamedSharding` of each weight.

    Args:
        boxes: the result of `qwen3.abstract_params`: the shape and logical axes of each weight.

    Raises:
        UserError: a logical axis has no rule, or its length is not a multiple of the mesh axis that splits it.
    """

    def sharding_of(path, box: nn.Partitioned):
        name = "/".join(key.key for key in path)
        for axis, length in zip(box.names, box.value.shape, strict=True):
            if axis not in rules:
                raise UserError(f"No sharding rule covers the axis '{axis}' of {name}; add one to the rules.")
            mesh_axis = rules[axis]
            devices = mesh.shape[mesh_axis] if mesh_axis else 1
            if length % devices:
                raise UserError(
                    f"{name} cannot be split: its axis '{axis}' of {length} is not a multiple of "
                    f"mesh.{mesh_axis}={devices}; choose a divisor."
                )
        return NamedSharding(mesh, PartitionSpec(*(rules[axis] for axis in box.names)))

    return jax.tree_util.tree_map_with_path(sharding_of, boxes, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def batch_spec(name: str) -> PartitionSpec:
    """Returns how an array of a batch is split: packed rows and a teacher's vectors by rows, others not at all."""
    return ROW_SPEC if name.endswith(("_bt", "_se")) else PartitionSpec()


def shard_batch(arrays: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the arrays of a batch on the devices; each process passes its own parts of those that are split."""
    parts, own = process_share(mesh)

    def on_devices(name, x):
        spec = batch_spec(name)
        shape = (len(x) // len(own) * parts, *x.shape[1:]) if spec else x.shape
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x, shape)

    return {name: on_devices(name, x) for name, x in arrays.items()}


def optimizer_shardings(tree, params_shardings, mesh: Mesh):
    """Returns the shardings of an optimizer state: a leaf whose path ends in that of a weight is split like the weight,
    and other leaves are replicated.
    """
    flat = jax.tree_util.tree_flatten_with_path(params_shardings)[0]
    by_path = {tuple(str(key) for key in path): sharding for path, sharding in flat}
    replicated = NamedSharding(mesh, PartitionSpec())

    def sharding_of(path, _):
        keys = tuple(str(key) for key in path)
        return next((by_path[keys[i:]] for i in range(len(keys)) if keys[i:] in by_path), replicated)

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def path_name(path) -> str:
    """Returns the keys on the path to a leaf of a tree as one string, for dicts, tuples and named tuples alike."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def copy_axes(x) -> tuple[str, ...]:
    """Returns the mesh axes whose devices hold copies of an array."""
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return ()
    used = jax.tree.leaves(tuple(sharding.spec))
    return tuple(axis for axis, length in sharding.mesh.shape.items() if length > 1 and axis not in used)


def without_copies(tree, chunks: Mapping[str, Sequence[int]]):
    """Returns the shapes of a tree, each also split over the mesh axes whose devices would otherwise hold copies of it.

    Each is split along the first axis that gives every device whole chunks. Leaves without such an axis stay as they
    are.

    Args:
        chunks: shape of the pieces in which each array is stored, by `path_name`.
    """

    def split(path, x):
        axes, chunk = copy_axes(x), chunks.get(path_name(path))
        if not axes or chunk is None:
            return x
        mesh, spec = x.sharding.mesh, [*x.sharding.spec, *[None] * (len(x.shape) - len(x.sharding.spec))]
        copies = math.prod(mesh.shape[axis] for axis in axes)
        for place, length in enumerate(x.sharding.shard_shape(x.shape)):
            if length and length % (copies * chunk[place]) == 0:
                spec[place] = (*jax.tree.leaves(spec[place]), *axes)
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        return x

    return jax.tree_util.tree_map_with_path(split, tree)


def with_copies(arrays, like):
    """Returns arrays with the shardings of the tree `like`; all processes must call it, since devices exchange data."""
    found, structure = jax.tree.flatten(arrays)
    targets = [getattr(x, "sharding", None) for x in jax.tree.leaves(like)]
    moved = [i for i, target in enumerate(targets) if isinstance(target, NamedSharding) and found[i].sharding != target]
    if moved:
        copy = jax.jit(lambda xs: xs, out_shardings=[targets[i] for i in moved])
        for i, x in zip(moved, copy([found[i] for i in moved]), strict=True):
            found[i] = x
    return jax.tree.unflatten(structure, found)


def activation_spec(shape: tuple[int, ...], names: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the mesh axes for the first axes of an array, given their names in `ACTIVATION_AXES`.

    An axis is not split if its length is not a multiple of the number of devices, such as the single row that
    initializes weights. Inside `for_each_copy`, the axes between copies are left out, because each copy has its own
    arrays.
    """
    mesh = jax.sharding.get_abstract_mesh()
    mesh_axes: list[tuple[str, ...] | None] = []
    for length, name in zip(shape, names, strict=False):
        named = (axis for axis in ACTIVATION_AXES[name] if axis not in mesh.manual_axes)
        axes = tuple(axis for axis in named if mesh.shape.get(axis, 1) > 1)
        devices = math.prod(mesh.shape[axis] for axis in axes)
        mesh_axes.append(axes if axes and length % devices == 0 else None)
    return PartitionSpec(*mesh_axes)


def shard_activation(x, *names: str | None):
    """Returns `x` with its first axes split over the devices as `names` say (see `ACTIVATION_AXES`).

    >>> x_btd = shard_activation(x_btd, "rows")
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, names))


def for_each_copy(function: Callable, *arrays, rows: Sequence[jax.Array], dtype=None) -> Any:
    """Returns the sum of `function(first row, rows, *arrays)` over the copies of the weights, each with its own rows.

    What the function adds up stays on the devices of its copy; the copies exchange their sums once, at the end.

    Args:
        arrays: trees of arrays that all copies share.
        rows: arrays whose first axis is the packed rows of a batch; their number is a multiple of the number of copies.
        dtype: type in which the sums are exchanged; None: their own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in COPY_AXES if mesh.shape.get(axis, 1) > 1)
    if not axes:
        return function(jnp.zeros((), jnp.int32), rows, *arrays)
    copies = math.prod(mesh.shape[axis] for axis in axes)
    first_rows = jnp.arange(copies, dtype=jnp.int32) * (len(rows[0]) // copies)

    def of_copy(first, rows, arrays):
        return jax.tree.map(lambda x: x[None], function(first[0], rows, *arrays))

    def total(x):  # not jnp.sum, which would exchange bfloat16 as float32
        narrow = x.astype(dtype or x.dtype)
        return jax.lax.reduce(narrow, jnp.zeros((), narrow.dtype), jax.lax.add, (0,)).astype(x.dtype)

    own, everywhere = PartitionSpec(axes), PartitionSpec()
    by_copy = jax.shard_map(
        of_copy, in_specs=(own, own, everywhere), out_specs=own, axis_names=set(axes), check_vma=False
    )
    return jax.tree.map(total, by_copy(first_rows, list(rows), arrays))


def platform() -> str:
    """Returns the platform that a computation is compiled for: that of the mesh, or the default one without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform
