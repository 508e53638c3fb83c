"""The kernel of norm and rotation, both passes, compiled for three chips by the TPU compiler; no TPU needed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from f2jax.model.rotary_kernel import normed_rotation
from f2jax.plan.hlo import program_cost
from f2jax.plan.run import topology_devices

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of the `tpu` extra")


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize("heads,head_dim,dtype", [(40, 128, "bfloat16"), (1, 256, "float32")])
def test_it_compiles_and_a_plan_finds_both_passes(topology, heads, head_dim, dtype):
    where = SingleDeviceSharding(topology_devices(topology)[0])

    def array(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    def loss(x_btnh, scale_h, cos, sin):
        return normed_rotation(x_btnh, scale_h, cos, sin, 1e-6).astype(jnp.float32).sum()

    angle = array(2, 256, 1, head_dim)
    arguments = array(2, 256, heads, head_dim, dtype=dtype), array(head_dim), angle, angle
    text = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile().as_text()
    kernels = sorted((name, shape) for name, shape, _ in program_cost(text).kernels)
    assert [shape for _, shape in kernels] == [(2, heads, 256, head_dim)] * 2
    assert ["normed_rotation_fwd" in kernels[0][0], "normed_rotation_bwd" in kernels[1][0]] == [True, True]
