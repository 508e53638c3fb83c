"""What a run compiles: the types that its config asks for."""

import jax
import jax.numpy as jnp
import pytest

from f2jax.configs import common
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from f2jax.train.program import Program


def float_types(tree) -> set[str]:
    return {str(x.dtype) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}


@pytest.mark.parametrize("params", ["float32", "bfloat16"])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_types_of_parameters_state_and_compute_are_set_separately(params, state, compute):
    config = common.get_config("size=tiny")
    config.model.update(param_dtype=params, dtype=compute)
    config.optim.state_dtype = state
    program = Program(config, size("tiny"), make_mesh(devices=jax.devices()[:1]), steps=1000)
    assert float_types(program.state.params) == {params}
    assert float_types(program.state.opt_state) == {state}
    packed = [jnp.zeros((1, 8), jnp.int32)] * 3
    hidden = jax.eval_shape(lambda p: program.model.apply({"params": p}, *packed), program.state.params)
    assert str(hidden.dtype) == compute
