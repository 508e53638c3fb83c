"""A hash of all bytes of a model's weights, computed on the devices that hold them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict


def weights_hash(params: dict) -> str:
    """Returns 64 hex digits that change with any bit, place, name, shape or type of a weight.

    How the weights are sharded makes no difference. If several processes share them, all call this together.
    """
    digest = hashlib.sha256()
    for path, weight in sorted(flatten_dict(params).items()):
        digest.update(f"{'/'.join(path)} {weight.shape} {weight.dtype}".encode())
        digest.update(np.asarray(_hash_bits(weight)).tobytes())
    return digest.hexdigest()


@jax.jit
def _hash_bits(weight: jax.Array) -> jax.Array:
    """uint32 [2]: sums, modulo 2^32, over each element's bits mixed with its position; no order of summing matters."""
    unsigned = jnp.dtype(f"uint{8 * weight.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(weight, unsigned).astype(jnp.uint32)
    position = jnp.zeros((), jnp.uint32)
    for axis, length in enumerate(weight.shape):
        position = position * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, weight.shape, axis)
    x = bits ^ (position * jnp.uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)  # the finalizer of MurmurHash3 spreads each bit over all
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32), jnp.sum((x ^ (x >> 15)) * (x | 1), dtype=jnp.uint32)])
