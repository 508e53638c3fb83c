"""What a run compiles: model, optimizer, shardings and the two jitted functions, from a config and a mesh.

`train` runs it with arrays; a plan lowers the same functions with shapes.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from f2jax.checkpoints.orbax import TrainState
from f2jax.data.loader import learns_scores
from f2jax.data.packing import PACKED, Batch, texts_of_row
from f2jax.data.shapes import RowShape
from f2jax.data.teacher_vectors import read_info
from f2jax.errors import UserError
from f2jax.model.nested import exit_layers, matryoshka_dims
from f2jax.model.qwen3 import Qwen3, abstract_params, init_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import compiler_options
from f2jax.parallel.sharding import ROW_SPEC, batch_spec, optimizer_shardings, param_shardings, shard_batch
from f2jax.train import distill, optim
from f2jax.train.losses import PAIRED, TEMPERATURES, LossConfig, kind_temperature, matryoshka_weights
from f2jax.train.step import DeviceBatch, eval_step, train_step


class Program:
    """The compiled side of a run. Call its functions inside `jax.set_mesh(mesh)`.

    >>> program = Program(config, size("80m"), make_mesh(), steps=1000)
    >>> state, metrics = program.step(program.start(params), program.put(batch), None, kind="retrieval")

    Args:
        config: of a training run, see configs/common.py.
        steps: of the complete run; the learning rate follows from it.
        teacher_width: dimensions of the teacher; read if a projection on it is trained.

    Attributes:
        state: a `TrainState` of `jax.ShapeDtypeStruct`, each with its sharding.
        step: `(state, batch, teacher, kind=…) → (state, metrics)`; reuses the memory of the state that it takes.
        evaluate: `(params, batch, teacher, kind=…) → metrics`.
    """

    def __init__(
        self, config: ConfigDict, architecture: Qwen3Config, mesh: Mesh, steps: int, teacher_width: int = 0
    ) -> None:
        self.mesh = mesh
        self.extra = extra_weights(config, architecture.width, teacher_width)
        self.model = Qwen3(
            architecture,
            dtype=jnp.dtype(config.model.dtype),
            param_dtype=jnp.dtype(config.model.param_dtype),
            kernel=config.model.kernel,
            remat=config.model.remat,
            unroll=config.model.unroll,
        )
        params = self._abstract_params()
        self.rules = optim.WeightRules.of(config.optim, params)
        self.tx = optim.make_optimizer(config.optim, steps, self.rules)
        self.state = self._abstract_state(params)
        loss = loss_config(config.loss, architecture)
        kind = mesh.devices.flat[0].device_kind
        options = compiler_options(kind, architecture.width, config.model.compiler_options)
        if config.model.compiler_options:
            check_compiler_options(options, mesh)
        self.step = jax.jit(
            partial(
                train_step,
                model=self.model,
                config=loss,
                tx=self.tx,
                rules=self.rules,
                seed=config.seed,
                gradient_dtype=jnp.dtype(config.model.gradient_dtype),
            ),
            compiler_options=options,
            static_argnames="kind",
            donate_argnums=0,
            out_shardings=(_shardings(self.state), NamedSharding(mesh, PartitionSpec())),
        )
        dims = measured_dims(config, architecture.width)
        self.evaluate = jax.jit(
            partial(eval_step, model=self.model, config=loss, dims=dims),
            compiler_options=options,
            static_argnames="kind",
        )

    def _abstract_params(self) -> dict:
        shardings = param_shardings(abstract_params(self.model.config), self.mesh)
        shapes = nn.meta.unbox(abstract_params(self.model.config, self.model.param_dtype))
        shapes |= {name: jax.eval_shape(make) for name, make in self.extra.items()}
        shardings |= dict.fromkeys(self.extra, NamedSharding(self.mesh, PartitionSpec()))
        return _placed(shapes, shardings)

    def _abstract_state(self, params: dict) -> TrainState:
        opt_shapes = jax.eval_shape(self.init_optimizer, params)
        opt_state = _placed(opt_shapes, optimizer_shardings(opt_shapes, _shardings(params), self.mesh))
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(self.mesh, PartitionSpec()))
        return TrainState(step, params, opt_state)

    def init_optimizer(self, params: dict) -> optax.OptState:
        """Returns the state of the optimizer before the first step, that of trained weights alone."""
        return self.tx.init(self.rules.split(params)[0])

    @property
    def model_shardings(self) -> dict:
        """The sharding of each weight of the model."""
        return {name: _shardings(tree) for name, tree in self.state.params.items() if name not in self.extra}

    def fresh_params(self, seed: int) -> dict:
        """Returns fresh weights of the model, each created in its sharding."""
        return jax.jit(partial(init_params, self.model), out_shardings=self.model_shardings)(seed)

    def start(self, params: dict) -> TrainState:
        """Returns the state before the first step, from the weights of the model."""
        extra = {
            name: jax.jit(make, out_shardings=self.state.params[name].sharding)() for name, make in self.extra.items()
        }
        params = params | extra
        step = jax.make_array_from_process_local_data(self.state.step.sharding, np.zeros((), np.int32))
        init = jax.jit(self.init_optimizer, out_shardings=_shardings(self.state.opt_state))
        return TrainState(step, params, init(params))

    def put(self, batch: Batch) -> DeviceBatch:
        """Returns the arrays of a batch on the devices, see `sharding.shard_batch`."""
        return DeviceBatch.of(shard_batch(batch.arrays(), self.mesh))


def abstract_batch(config: ConfigDict, mesh: Mesh, kind: str, negatives: int, shape: RowShape) -> DeviceBatch:
    """Returns shapes and shardings of a batch of a kind, whose devices have rows of the given shape."""
    parts = math.prod(mesh.shape[axis] for axis in ROW_SPEC[0])
    b, j = config.data.batch_size, negatives
    s = b * texts_of_row(kind, j)
    integers: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(PACKED, (parts * shape.rows * shape.slots, shape.length)),
        **dict.fromkeys(("row_s", "col_s"), (s,)),
        **dict.fromkeys(("label_b", "positive_b"), (b,)),
        "negative_bj": (b, j),
    }
    shapes: dict[str, tuple] = {name: (size, jnp.int32) for name, size in integers.items()}
    if config.teacher.cache:
        info = read_info(config.teacher.cache)
        shapes["teacher_se"] = ((-(-s // parts) * parts, info.width), jnp.dtype(info.dtype))
    shapes |= {"row_mask_b": ((b,), jnp.bool_), "negative_mask_bj": ((b, j), jnp.bool_)}
    if learns_scores(config) and kind in PAIRED:
        shapes["score_bk"] = ((b, 1 + j), jnp.float32)
    if shape.slots > 1:
        shapes["chunk_mask_c"] = ((shape.slots,), jnp.bool_)

    def abstract(name, size, dtype):
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, batch_spec(name)))

    return DeviceBatch.of({name: abstract(name, *size) for name, size in shapes.items()})


def check_settings(config: ConfigDict, architecture: Qwen3Config) -> None:
    """Raises UserError for settings of the loss and the optimizer that a program could not be made of.

    It needs neither data nor devices; where the data decide how many steps there are, they are taken to be enough.
    """
    loss_config(config.loss, architecture)
    weights = abstract_params(architecture) | extra_weights(config, architecture.width, architecture.width)
    rules = optim.WeightRules.of(config.optim, weights)
    optim.make_optimizer(config.optim, config.steps or 2**31, rules)


def extra_weights(config: ConfigDict, width: int, teacher_width: int) -> dict[str, Callable[[], jax.Array]]:
    """Returns how each trained weight is made that is not the model's, by name."""
    extra: dict[str, Callable[[], jax.Array]] = {}
    dtype = jnp.dtype(config.model.param_dtype)
    if config.loss.distill_projection:
        extra[distill.PROJECTION] = partial(distill.fresh_projection, width, teacher_width, dtype)
    if config.loss.trained_temperatures:
        extra[TEMPERATURES] = partial(jnp.zeros, len(PAIRED), dtype)
    return extra


def _shardings(tree):
    return jax.tree.map(lambda x: x.sharding, tree)


def _placed(tree, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def check_compiler_options(options: dict[str, str | bool], mesh: Mesh) -> None:
    """Raises UserError if the compiler for the devices of the mesh does not know an option, or refuses its value."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(scalar).compile()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"The compiler refuses model.compiler_options ({reason}); correct the option.") from error


def measured_dims(config: ConfigDict, width: int) -> tuple[int, ...]:
    """Returns the sizes of cut vectors at which held-out rows are measured too, where the loss trains them."""
    return tuple(size for size in config.log.validation_dims if size < width) if config.loss.matryoshka else ()


def loss_config(group: ConfigDict, architecture: Qwen3Config) -> LossConfig:
    """Returns the loss of a run, from the group `loss` of its config.

    Raises:
        UserError: unknown name of a distillation loss or of Matryoshka weights, no temperature of a kind, or nested
            ranks of a token table that is not factorized.
    """
    distill.check_distance(group.distill)
    if group.nested_ranks and not architecture.table_rank:
        raise UserError("loss.nested_ranks is on and the token table is not factorized; set model.table_rank.")
    width = architecture.width
    dims = matryoshka_dims(width, group.matryoshka_min) if group.matryoshka else (width,)
    matryoshka_weights(dims, group.matryoshka_weights)  # as `kind_temperature` below, refuses what it cannot read
    config = LossConfig.of(group, dims, exit_layers(architecture.layers) if group.exits else ())
    for kind in PAIRED:
        kind_temperature(kind, config)
    return config
