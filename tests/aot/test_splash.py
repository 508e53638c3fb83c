"""The TPU attention kernel, forward and backward, compiled by the TPU compiler for a real topology; no TPU needed."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from f2jax.model.attention import attention

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, from the `tpu` extra"),
]


@pytest.fixture(scope="module")
def device():
    """One abstract chip of a v5e slice."""
    settings = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    os.environ.update(settings)
    from jax.experimental import topologies

    yield topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    for name in settings:
        del os.environ[name]


@pytest.mark.parametrize("heads,kv_heads", [(16, 8), (40, 8)])
def test_splash_compiles_for_v5e_and_is_in_the_program(device, heads, kv_heads):
    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    def loss(q, k, v, segments):
        return attention(q, k, v, segments, "splash").astype(jnp.float32).sum()

    arrays = array(2, 1024, heads, 128), array(2, 1024, kv_heads, 128), array(2, 1024, kv_heads, 128)
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays, array(2, 1024, dtype=jnp.int32))
    program = lowered.compile().as_text()
    assert program.count('custom_call_target="tpu_custom_call"') == 3  # forward, and both backward
    assert "1024,1024]" not in program  # no array of logits [.., T, T]
