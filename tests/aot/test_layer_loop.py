"""The loop over layers as the TPU compiler leaves it, for four chips; no TPU needed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding

from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import ROW_SPEC, param_shardings
from f2jax.plan.hlo import arrays, parse_hlo, program_cost
from f2jax.plan.run import topology_devices

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, from the `tpu` extra"),
]
ROWS, SIDE = 8, 128  # rows of a chip; the width and the length of a row, whose order the compiler may then choose
ARCHITECTURE = Qwen3Config(SIDE, 2 * SIDE, 3, 4, 2, head_dim=128, vocab_size=256)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(fsdp=4, devices=topology_devices("v5p:2x2x1"))


def gradient_program(mesh, **options) -> str:
    """Returns the optimized program of a gradient with respect to the weights."""
    boxes = abstract_params(ARCHITECTURE)
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        nn.meta.unbox(boxes),
        param_shardings(boxes, mesh),
    )
    row_bt = jax.ShapeDtypeStruct((4 * ROWS, SIDE), jnp.int32, sharding=NamedSharding(mesh, ROW_SPEC))

    def loss(params, *rows):
        hidden_btd = Qwen3(ARCHITECTURE, dtype=jnp.bfloat16, **options).apply({"params": params}, *rows)
        return jnp.sum(jnp.square(hidden_btd.astype(jnp.float32)))

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss)).lower(params, row_bt, row_bt, row_bt).compile().as_text()


def test_no_activation_is_copied_into_another_order(mesh):
    computations, entry = parse_hlo(gradient_program(mesh, remat="dots"))
    bodies = [computations[x.called("body")] for x in computations[entry] if x.op == "while"]
    assert len(bodies) == 2, "one loop forward, one backward"
    kept = [dims for body in bodies for x in body if x.op == "fusion" for _, dims in arrays(x.shape) if ROWS in dims]
    copied = [x.shape for body in bodies for x in body if x.op == "copy" for _, dims in arrays(x.shape) if ROWS in dims]
    assert kept and not copied


@pytest.mark.parametrize("remat,kernels", [("none", 6), ("full", 9)])
def test_remat_holds_for_unrolled_layers_too(mesh, remat, kernels):
    """Attention and the rotations of queries and keys, forward and backward; `full` runs the forward ones again."""
    cost = program_cost(gradient_program(mesh, remat=remat, unroll=ARCHITECTURE.layers), 1)
    assert len(cost.kernels) == kernels * ARCHITECTURE.layers
