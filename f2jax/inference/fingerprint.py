"""A hash of a model's weights, computed on the devices that hold them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict


def weights_hash(params: dict) -> str:
    """Returns 64 hex digits that change with any bit, position, name, shape or dtype of a weight.

    They do not depend on how the weights are sharded. If several processes share the weights, all of them call this.
    """
    digest = hashlib.sha256()
    for path, weight in sorted(flatten_dict(params).items()):
        digest.update(f"{'/'.join(path)} {weight.shape} {weight.dtype}".encode())
        digest.update(np.asarray(_hash_bits(weight)).tobytes())
    return digest.hexdigest()


@jax.jit
def _hash_bits(weight: jax.Array) -> jax.Array:
    """Returns two sums modulo 2^32, uint32 [2], of all elements' bits mixed with their positions, in any order."""
    unsigned = jnp.dtype(f"uint{8 * weight.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(weight, unsigned).astype(jnp.uint32)
    position = jnp.zeros((), jnp.uint32)
    for axis, length in enumerate(weight.shape):
        position = position * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, weight.shape, axis)
    x = bits ^ (position * jnp.uint32(0x9E3779B9))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finalizer
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x = x ^ (x >> 16)
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32), jnp.sum((x ^ (x >> 15)) * (x | 1), dtype=jnp.uint32)])
