"""The attention kernel of rows up to 2,048 positions, compiled for three chips by the TPU compiler; no TPU needed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from f2jax.model.attention import attention
from f2jax.plan.hlo import program_cost
from f2jax.plan.run import topology_devices

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of the `tpu` extra")


@pytest.mark.parametrize(
    "topology,heads,kv_heads,length", [("v5p:2x2x1", 16, 8, 1024), ("v5e:2x2", 2, 2, 384), ("v6e:2x2", 5, 1, 2048)]
)
def test_it_compiles_and_a_plan_finds_both_passes(topology, heads, kv_heads, length):
    where = SingleDeviceSharding(topology_devices(topology)[0])

    def array(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    def loss(q, k, v, segments):
        return attention(q, k, v, segments, "segments").astype(jnp.float32).sum()

    arrays = array(2, length, heads, 128), array(2, length, kv_heads, 128), array(2, length, kv_heads, 128)
    lowered = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arrays, array(2, length, dtype=jnp.int32))
    text = lowered.compile().as_text()
    kernels = sorted((name, shape) for name, shape, _ in program_cost(text).kernels)
    assert [shape for _, shape in kernels] == [(2, heads, length, 128)] * 2
    assert "attention_forward" in kernels[0][0] and "attention_backward" in kernels[1][0]
    assert f"{length},{length}]" not in text  # no array of scores [.., T, T]
