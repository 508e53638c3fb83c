"""Which mesh axes the axes of weights, batches and activations are split over.

`WEIGHT_AXES` names the mesh axis of each logical axis of the weights, `ACTIVATION_AXES` those of activations on the
mesh of `jax.set_mesh`. Without constraints on its activations the compiler is free to gather a batch, or a token
table, whole on each device.
"""

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import UserError
from f2jax.parallel.mesh import ROW_AXES

WEIGHT_AXES: dict[str, str | None] = {
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
ROW_SPEC = PartitionSpec(ROW_AXES)  # of a batch

ACTIVATION_AXES: dict[str | None, tuple[str, ...]] = {
    "rows": ROW_AXES,
    "groups": ("replica", "data"),  # rows that share one copy of the weights
    "split": ("fsdp",),
    "heads": ("tensor",),
    None: (),
}


def param_shardings(boxes, mesh: Mesh, rules: dict[str, str | None] = WEIGHT_AXES):
    """A tree like the parameters with the `NamedSharding` of each weight.

    Args:
        boxes: of `qwen3.abstract_params`: the shape of each weight, with its logical axes.

    Raises:
        UserError: a logical axis has no rule, or its length is no multiple of the mesh axis that it is split over.
    """

    def one(path, box: nn.Partitioned):
        name = "/".join(key.key for key in path)
        for axis, length in zip(box.names, box.value.shape, strict=True):
            if axis not in rules:
                raise UserError(f"No sharding rule covers the axis '{axis}' of {name}; add one to the rules.")
            devices = mesh.shape[rules[axis]] if rules[axis] else 1
            if length % devices:
                raise UserError(
                    f"{name} cannot be split: its axis '{axis}' of {length} is no multiple of "
                    f"mesh.{rules[axis]}={devices}; choose a divisor."
                )
        return NamedSharding(mesh, PartitionSpec(*(rules[axis] for axis in box.names)))

    return jax.tree_util.tree_map_with_path(one, boxes, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def shard_batch(arrays: dict[str, np.ndarray], rows: int, mesh: Mesh) -> dict[str, jax.Array]:
    """The arrays of a batch on the devices: its packed `rows` (names in `_bt`) shared, each process giving its own;
    the others whole.
    """

    def one(name, x):
        packed = name.endswith("_bt")
        spec, shape = (ROW_SPEC, (rows, *x.shape[1:])) if packed else (PartitionSpec(), x.shape)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x, shape)

    return {name: one(name, x) for name, x in arrays.items()}


def optimizer_shardings(tree, params_shardings, mesh: Mesh):
    """Shardings for an optimizer state: a leaf whose path ends like a weight's is split like it, others are whole."""
    flat = jax.tree_util.tree_flatten_with_path(params_shardings)[0]
    by_path = {tuple(str(key) for key in path): sharding for path, sharding in flat}
    whole = NamedSharding(mesh, PartitionSpec())

    def one(path, _):
        keys = tuple(str(key) for key in path)
        return next((by_path[keys[i:]] for i in range(len(keys)) if keys[i:] in by_path), whole)

    return jax.tree_util.tree_map_with_path(one, tree)


def activation_spec(shape: tuple[int, ...], names: tuple[str | None, ...]) -> PartitionSpec:
    """The mesh axes for the first axes of an array, by their names in `ACTIVATION_AXES`.

    An axis whose length the devices do not divide stays whole, such as the one row that fresh weights are made with.
    """
    mesh = jax.sharding.get_abstract_mesh()
    found = []
    for length, name in zip(shape, names, strict=False):
        axes = tuple(axis for axis in ACTIVATION_AXES[name] if mesh.shape.get(axis, 1) > 1)
        devices = 1
        for axis in axes:
            devices *= mesh.shape[axis]
        found.append(axes if axes and length % devices == 0 else None)
    return PartitionSpec(*found)


def shard_activation(x, *names: str | None):
    """`x` with its first axes split over the devices as `names` say (see `ACTIVATION_AXES`), the others whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, activation_spec(x.shape, names))


def platform() -> str:
    """What the computation is compiled for: the platform of the mesh, or the default one without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform
