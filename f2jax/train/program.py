"""What a run compiles: model, optimizer, shardings and the two jitted functions, from a config and a mesh.

`train` runs it with arrays; a plan lowers the same functions with shapes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.checkpoints.orbax import TrainState
from f2jax.data.packing import Batch
from f2jax.errors import UserError
from f2jax.model.nested import exit_layers, matryoshka_dims
from f2jax.model.qwen3 import Qwen3, abstract_params, init_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.chips import compiler_options
from f2jax.parallel.sharding import optimizer_shardings, param_shardings, shard_batch
from f2jax.train import distill, losses, optim
from f2jax.train.step import eval_step, train_step


class Program:
    """The compiled side of a run. Call its functions inside `jax.set_mesh(mesh)`.

    Args:
        config: of a training run, see configs/common.py.
        steps: of the whole run; the learning rate follows from it.
        teacher_width: dimensions of the teacher; read where a projection on it is trained.

    Attributes:
        state: a `TrainState` of `jax.ShapeDtypeStruct`, each with its sharding.
        step: `(state, batch, teacher, kind=…) → (state, metrics)`; gives up the memory of the state that it takes.
        evaluate: `(params, batch, teacher, kind=…) → metrics`.
    """

    def __init__(self, config, architecture: Qwen3Config, mesh: Mesh, steps: int, teacher_width: int = 0):
        self.mesh = mesh
        self.extra = {}  # trained weights that are not the model's: how each is made
        if config.loss.distill_projection:
            sizes = architecture.width, teacher_width
            self.extra[distill.PROJECTION] = partial(
                distill.fresh_projection, *sizes, jnp.dtype(config.model.param_dtype)
            )
        self.model = Qwen3(
            architecture,
            dtype=jnp.dtype(config.model.dtype),
            param_dtype=jnp.dtype(config.model.param_dtype),
            kernel=config.model.kernel,
            remat=config.model.remat,
            unroll=config.model.unroll,
        )
        self.tx = optim.make_optimizer(config.optim, steps)
        self.state = self._abstract_state()
        shared = {"model": self.model, "config": loss_config(config.loss, architecture)}
        options = compiler_options(mesh.devices.flat[0].device_kind, config.model.compiler_options)
        if config.model.compiler_options:
            check_compiler_options(options, mesh)
        self.step = jax.jit(
            partial(train_step, tx=self.tx, seed=config.seed, **shared),
            compiler_options=options,
            static_argnames="kind",
            donate_argnums=0,
            out_shardings=(_shardings(self.state), NamedSharding(mesh, PartitionSpec())),
        )
        self.evaluate = jax.jit(partial(eval_step, **shared), compiler_options=options, static_argnames="kind")

    def _abstract_state(self) -> TrainState:
        def placed(tree, where):
            return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)

        shardings = param_shardings(abstract_params(self.model.config), self.mesh)
        shapes = nn.meta.unbox(abstract_params(self.model.config, self.model.param_dtype))
        whole = NamedSharding(self.mesh, PartitionSpec())
        shapes |= {name: jax.eval_shape(make) for name, make in self.extra.items()}
        shardings |= dict.fromkeys(self.extra, whole)
        opt_shapes = jax.eval_shape(self.tx.init, shapes)
        opt_state = placed(opt_shapes, optimizer_shardings(opt_shapes, shardings, self.mesh))
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        return TrainState(step, placed(shapes, shardings), opt_state)

    @property
    def model_shardings(self):
        """The sharding of each weight of the model."""
        return {name: _shardings(tree) for name, tree in self.state.params.items() if name not in self.extra}

    def fresh_params(self, seed: int):
        """Fresh weights of the model, each born in its sharding."""
        return jax.jit(partial(init_params, self.model), out_shardings=self.model_shardings)(seed)

    def start(self, params) -> TrainState:
        """The state before the first step, from the weights of the model."""
        made = {n: jax.jit(make, out_shardings=self.state.params[n].sharding)() for n, make in self.extra.items()}
        params = params | made
        step = jax.make_array_from_process_local_data(self.state.step.sharding, np.zeros((), np.int32))
        return TrainState(step, params, jax.jit(self.tx.init, out_shardings=_shardings(self.state.opt_state))(params))

    def put(self, batch: Batch) -> dict[str, jax.Array]:
        """The arrays of a batch on the devices, see `rules.put`."""
        return shard_batch(batch.arrays(), batch.rows, self.mesh)


def _shardings(tree):
    return jax.tree.map(lambda x: x.sharding, tree)


def check_compiler_options(options: dict[str, str | bool], mesh: Mesh) -> None:
    """Raises UserError if the compiler for the devices of the mesh does not know an option, or refuses its value."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(scalar).compile()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"The compiler refuses model.compiler_options ({reason}); correct the option.") from error


def loss_config(config, architecture: Qwen3Config) -> losses.LossConfig:
    """The loss of a run, from the group `loss` of its config.

    Raises:
        UserError: unknown name of a distillation loss, or nested ranks of a token table that is not factorized.
    """
    distill.check_distance(config.distill)
    if config.nested_ranks and not architecture.table_rank:
        raise UserError("loss.nested_ranks is on and the token table is whole; set model.table_rank.")
    width = architecture.width
    dims = matryoshka_dims(width, config.matryoshka_min) if config.matryoshka else (width,)
    return losses.LossConfig(
        temperature=config.temperature,
        matryoshka_dims=dims,
        matryoshka_weights=config.matryoshka_weights,
        passage_gradient=config.passage_gradient,
        mask_duplicates=config.mask_duplicates,
        mask_margin=config.mask_margin if config.mask_margin >= 0 else None,
        spread_weight=config.spread_weight,
        distill=config.distill,
        distill_weight=config.distill_weight,
        distill_matryoshka=config.distill_matryoshka,
        distill_hard_weight=config.distill_hard_weight,
        distill_in_batch_weight=config.distill_in_batch_weight,
        distill_temperature=config.distill_temperature,
        exits=exit_layers(architecture.layers) if config.exits else (),
        nested_ranks=config.nested_ranks,
    )
