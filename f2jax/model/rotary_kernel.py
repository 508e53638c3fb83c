"""The RMSNorm and the rotation of query or key heads in one pass over memory: a Pallas kernel for TPUs.

XLA needs several passes, because a norm sums over the lanes of a head and a rotation swaps its halves. In the names
of arrays, p stands for the programs of a kernel's grid.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from f2jax.parallel import sharding

LANES = 128  # of a TPU; the size of a head is a multiple of it
POSITIONS = 128  # positions of a row in one program of the grid
CHUNK, HEADS = 64, 2  # positions and heads that are computed at once, few enough to stay in registers


def fits(x_btnh) -> bool:
    """Returns whether the kernel supports heads of this shape."""
    return x_btnh.shape[1] % POSITIONS == 0 and x_btnh.shape[3] % LANES == 0


def normed_rotation(x_btnh, scale_h, cos, sin, eps: float, interpret: bool = False):
    """Returns `rotate(rms_norm(x_btnh, scale_h, eps), cos, sin)`, rounded only once, at the end.

    Each device runs the kernel on its own rows and heads, because the compiler cannot split a kernel.

    Args:
        x_btnh: heads for which `fits` holds.
        cos: float32 [B, T, 1, H], without a gradient; see `rotary_angles`.
        sin: likewise.
        interpret: run on any platform, for tests.
    """
    head_dim = x_btnh.shape[3]
    kernel = functools.partial(_on_device, eps * head_dim, interpret)
    scale_h = scale_h.astype(jnp.float32) * head_dim**0.5  # the kernel scales heads to length 1
    arrays = jnp.swapaxes(x_btnh, 1, 2), scale_h, cos[:, :, 0], sin[:, :, 0]
    if not jax.sharding.get_abstract_mesh().empty:
        by_head = sharding.activation_spec(arrays[0].shape, ("rows", "heads"))
        by_row = sharding.activation_spec(cos.shape, ("rows",))
        specs = by_head, jax.sharding.PartitionSpec(), by_row, by_row
        kernel = jax.shard_map(kernel, in_specs=specs, out_specs=by_head, check_vma=False)
    return jnp.swapaxes(kernel(*arrays), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _on_device(eps: float, interpret: bool, x_bnth, scale_h, cos_bth, sin_bth):
    out = jax.ShapeDtypeStruct(x_bnth.shape, x_bnth.dtype)
    return _call(functools.partial(_forward_kernel, eps), interpret, out, (x_bnth,), scale_h, cos_bth, sin_bth)


def _forward(eps: float, interpret: bool, x_bnth, scale_h, cos_bth, sin_bth):
    return _on_device(eps, interpret, x_bnth, scale_h, cos_bth, sin_bth), (x_bnth, scale_h, cos_bth, sin_bth)


def _backward(eps: float, interpret: bool, saved, dy_bnth):
    x_bnth, *rest = saved
    batch, _, length, head_dim = x_bnth.shape
    sums = jax.ShapeDtypeStruct((batch, length // POSITIONS, 8, head_dim), jnp.float32)
    out = jax.ShapeDtypeStruct(x_bnth.shape, x_bnth.dtype), sums
    kernel = functools.partial(_backward_kernel, eps)
    dx_bnth, sums = _call(kernel, interpret, out, (x_bnth, dy_bnth.astype(x_bnth.dtype)), *rest)
    return dx_bnth, sums.sum(axis=(0, 1, 2)), None, None


_on_device.defvjp(_forward, _backward)


def _call(kernel, interpret: bool, out, heads, scale_h, cos_bth, sin_bth):
    """Runs a kernel over the grid (rows, parts of a row); all heads of the same positions share their angles."""
    batch, count, length, head_dim = heads[0].shape
    of_heads = pl.BlockSpec((1, count, POSITIONS, head_dim), lambda b, p: (b, 0, p, 0))
    of_angles = pl.BlockSpec((1, POSITIONS, head_dim), lambda b, p: (b, p, 0))
    of_scale = pl.BlockSpec((1, head_dim), lambda b, p: (0, 0))
    of_sums = pl.BlockSpec((1, 1, 8, head_dim), lambda b, p: (b, p, 0, 0))
    return pl.pallas_call(
        kernel,
        grid=(batch, length // POSITIONS),
        in_specs=[*[of_heads] * len(heads), of_scale, of_angles, of_angles],
        out_specs=(of_heads, of_sums) if isinstance(out, tuple) else of_heads,
        out_shape=out,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=f"normed_rotation_{'bwd' if isinstance(out, tuple) else 'fwd'}",
    )(*heads, scale_h[None], cos_bth, sin_bth)


def _forward_kernel(eps, x_ref, scale_ref, cos_ref, sin_ref, y_ref):
    def chunk(c, _):
        at = pl.ds(c * CHUNK, CHUNK)
        cos, sin = cos_ref[0, at] * scale_ref[...], sin_ref[0, at] * _swap(scale_ref[...])

        def head(n, _):
            x = x_ref[0, n, at].astype(jnp.float32)
            unit = x * _inverse_length(x, eps)
            y_ref[0, n, at] = (unit * cos + _swap(unit) * sin).astype(y_ref.dtype)

        jax.lax.fori_loop(0, x_ref.shape[1], head, None, unroll=HEADS)

    jax.lax.fori_loop(0, POSITIONS // CHUNK, chunk, None)


def _backward_kernel(eps, x_ref, dy_ref, scale_ref, cos_ref, sin_ref, dx_ref, sums_ref):
    """Computes the gradients of the heads, and in `sums` partial sums of the scale's gradient."""
    head_dim = x_ref.shape[3]

    def chunk(c, sums):
        at = pl.ds(c * CHUNK, CHUNK)
        cos, sin, scale = cos_ref[0, at], sin_ref[0, at], scale_ref[...]

        def head(n, sums):
            x, dy = (ref[0, n, at].astype(jnp.float32) for ref in (x_ref, dy_ref))
            inverse = _inverse_length(x, eps)
            unit = x * inverse
            back = dy * cos + _swap(dy * sin)
            scaled = back * scale
            along = jnp.sum(scaled * unit, axis=-1, keepdims=True)
            dx_ref[0, n, at] = (inverse * (scaled - along * unit)).astype(dx_ref.dtype)
            return sums + (back * unit).reshape(-1, 8, head_dim).sum(axis=0)

        return jax.lax.fori_loop(0, x_ref.shape[1], head, sums, unroll=HEADS)

    sums_ref[0, 0] = jax.lax.fori_loop(0, POSITIONS // CHUNK, chunk, jnp.zeros((8, head_dim), jnp.float32))


def _inverse_length(x, eps):
    return jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


def _swap(x):
    """Returns heads with their second half before the first; this operation is its own transpose."""
    return pltpu.roll(x, x.shape[-1] // 2, x.ndim - 1)
