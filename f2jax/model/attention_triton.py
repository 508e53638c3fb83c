"""Attention on an NVIDIA GPU that computes only the tiles of a row that texts cover: Pallas kernels for Triton.

As in `attention_segments`, a position sees those from the start of its segment to itself. The program for a block of
queries loops over the blocks of keys from the first one that it sees; for the gradients of keys and values, the program
for a block of keys loops over the blocks of queries up to the last one that sees it.

In the names of arrays, g stands for the query heads that share a key/value head, i and j for the blocks of queries and
of keys, and t and u for their positions.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from f2jax.model.attention_segments import LOWEST, first_seen, product

BLOCK = 64  # positions on a side of a tile; the length of a row is a multiple of it
WARPS, STAGES = 4, 2  # of a program: groups of 32 threads, and pipeline stages that load tiles ahead


def attention_on_gpu(q_btnh, k_btkh, v_btkh, segments_bt, interpret: bool = False):
    """Returns attention like `attention.attention`, on one device, for rows whose length is a multiple of `BLOCK`."""
    return attention_of_ranges(q_btnh, k_btkh, v_btkh, first_seen(segments_bt), last_seeing(segments_bt), interpret)


def last_seeing(segments_bt):
    """Returns the last position that sees each position, int32 [B, T]: its segment's end, or itself for padding."""
    backwards_bt = first_seen(segments_bt[:, ::-1])[:, ::-1]
    return segments_bt.shape[1] - 1 - backwards_bt


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention_of_ranges(q_btnh, k_btkh, v_btkh, first_bt, last_bt, interpret: bool):
    """Returns attention [B, T, N, H] for scaled queries; each position sees those from its `first_bt` to itself."""
    return _forward(q_btnh, k_btkh, v_btkh, first_bt, last_bt, interpret)[0]


def _forward(q_btnh, k_btkh, v_btkh, first_bt, last_bt, interpret: bool):
    batch, length, heads, head_dim = q_btnh.shape
    group = heads // k_btkh.shape[2]
    of_queries, of_logsum = _block(head_dim, 1), pl.BlockSpec((None, None, BLOCK), lambda i, b, n: (b, n, i))
    out_btnh, logsum_bnt = _call(
        _forward_kernel,
        interpret,
        (length // BLOCK, batch, heads),
        (first_bt, _of_block()),
        (q_btnh, of_queries),
        *((x, _row(length, head_dim, group)) for x in (k_btkh, v_btkh)),
        results=((q_btnh, of_queries), (_float32(batch, heads, length), of_logsum)),
    )
    out_btnh, logsum_bnt = (checkpoint_name(x, "attention") for x in (out_btnh, logsum_bnt))
    return out_btnh, (q_btnh, k_btkh, v_btkh, first_bt, last_bt, out_btnh, logsum_bnt)


def _backward(interpret: bool, saved, dout_btnh):
    q_btnh, k_btkh, v_btkh, first_bt, last_bt, out_btnh, logsum_bnt = saved
    batch, length, heads, head_dim = q_btnh.shape
    kv_heads = k_btkh.shape[2]
    group = heads // kv_heads
    dout_btnh = dout_btnh.astype(q_btnh.dtype)
    inner_bnt = jnp.einsum("btnh,btnh->bnt", out_btnh, dout_btnh, preferred_element_type=jnp.float32)
    of_queries, of_numbers = _block(head_dim, 1), pl.BlockSpec((None, None, BLOCK), lambda i, b, n: (b, n, i))
    (dq_btnh,) = _call(
        _queries_kernel,
        interpret,
        (length // BLOCK, batch, heads),
        (first_bt, _of_block()),
        (q_btnh, of_queries),
        *((x, _row(length, head_dim, group)) for x in (k_btkh, v_btkh)),
        (dout_btnh, of_queries),
        *((x, of_numbers) for x in (logsum_bnt, inner_bnt)),
        results=((q_btnh, of_queries),),
    )
    of_keys = _block(head_dim, 1)
    of_group = pl.BlockSpec((None, length, group, head_dim), lambda j, b, k: (b, 0, k, 0))
    of_numbers = pl.BlockSpec((None, group, length), lambda j, b, k: (b, k, 0))
    dk_btkh, dv_btkh = _call(
        _keys_kernel,
        interpret,
        (length // BLOCK, batch, kv_heads),
        (first_bt, pl.BlockSpec((None, length), lambda j, b, k: (b, 0))),
        (last_bt, _of_block()),
        (q_btnh, of_group),
        *((x, of_keys) for x in (k_btkh, v_btkh)),
        (dout_btnh, of_group),
        *((x, of_numbers) for x in (logsum_bnt, inner_bnt)),
        results=((k_btkh, of_keys), (v_btkh, of_keys)),
    )
    return dq_btnh, dk_btkh, dv_btkh, None, None


attention_of_ranges.defvjp(_forward, _backward)


def _block(head_dim: int, group: int):
    """Returns the spec for a block of positions of one head of [B, T, N, H], in a grid (blocks, rows, heads)."""
    return pl.BlockSpec((None, BLOCK, None, head_dim), lambda i, b, n: (b, i, n // group, 0))


def _row(length: int, head_dim: int, group: int):
    """Returns the spec for all positions of a query head's key/value head, in the same grid."""
    return pl.BlockSpec((None, length, None, head_dim), lambda i, b, n: (b, 0, n // group, 0))


def _of_block():
    return pl.BlockSpec((None, BLOCK), lambda i, b, n: (b, i))


def _float32(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _call(kernel, interpret: bool, grid, *arguments, results):
    """Runs a kernel on arrays, each with its `BlockSpec`, and returns arrays like those of `results`."""
    arrays, specs = zip(*arguments, strict=True)
    shapes, out_specs = zip(*results, strict=True)
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="segment_attention" + kernel.__name__.removesuffix("_kernel"),
    )(*arrays)


def _forward_kernel(first_ref, q_ref, k_ref, v_ref, out_ref, logsum_ref):
    i, q_th, first_t = pl.program_id(0), q_ref[...], first_ref[...]

    def add_keys(j, state, on_diagonal=False):
        top_t, total_t, out_th = state
        at = pl.ds(j * BLOCK, BLOCK)
        scores_tu = jnp.where(_seen(first_t, i, j, on_diagonal), product(q_th, k_ref[at], (1, 1)), LOWEST)
        new_t = jnp.maximum(top_t, scores_tu.max(axis=1))
        weights_tu, shrink_t = jnp.exp(scores_tu - new_t[:, None]), jnp.exp(top_t - new_t)
        out_th = out_th * shrink_t[:, None] + product(weights_tu.astype(v_ref.dtype), v_ref[at], (1, 0))
        return new_t, total_t * shrink_t + weights_tu.sum(axis=1), out_th

    state = jnp.full(BLOCK, LOWEST, jnp.float32), jnp.zeros(BLOCK, jnp.float32), jnp.zeros(q_th.shape, jnp.float32)
    state = add_keys(i, state, on_diagonal=True)
    top_t, total_t, out_th = jax.lax.fori_loop(first_ref[0] // BLOCK, i, add_keys, state)
    out_ref[...] = (out_th / total_t[:, None]).astype(out_ref.dtype)
    logsum_ref[...] = top_t + jnp.log(total_t)


def _queries_kernel(first_ref, q_ref, k_ref, v_ref, dout_ref, logsum_ref, inner_ref, dq_ref):
    i, first_t = pl.program_id(0), first_ref[...]
    of_queries = q_ref[...], dout_ref[...], logsum_ref[...], inner_ref[...]

    def add_keys(j, dq_th, on_diagonal=False):
        at = pl.ds(j * BLOCK, BLOCK)
        k_uh = k_ref[at]
        _, dscores_tu = _gradients(_seen(first_t, i, j, on_diagonal), *of_queries, k_uh, v_ref[at])
        return dq_th + product(dscores_tu, k_uh, (1, 0))

    dq_th = add_keys(i, jnp.zeros(dq_ref.shape, jnp.float32), on_diagonal=True)
    dq_ref[...] = jax.lax.fori_loop(first_ref[0] // BLOCK, i, add_keys, dq_th).astype(dq_ref.dtype)


def _keys_kernel(first_ref, last_ref, q_ref, k_ref, v_ref, dout_ref, logsum_ref, inner_ref, dk_ref, dv_ref):
    j, k_uh, v_uh = pl.program_id(0), k_ref[...], v_ref[...]
    sums = (jnp.zeros(dk_ref.shape, jnp.float32),) * 2
    for g in range(q_ref.shape[1]):

        def add_queries(i, sums, g=g, on_diagonal=False):
            at = pl.ds(i * BLOCK, BLOCK)
            q_th, dout_th = q_ref[at, g], dout_ref[at, g]
            seen = _seen(first_ref[at], i, j, on_diagonal)
            weights_tu, dscores_tu = _gradients(seen, q_th, dout_th, logsum_ref[g, at], inner_ref[g, at], k_uh, v_uh)
            return sums[0] + product(dscores_tu, q_th, (0, 0)), sums[1] + product(weights_tu, dout_th, (0, 0))

        sums = add_queries(j, sums, on_diagonal=True)
        sums = jax.lax.fori_loop(j + 1, last_ref[BLOCK - 1] // BLOCK + 1, add_queries, sums)
    dk_ref[...], dv_ref[...] = (x.astype(dk_ref.dtype) for x in sums)


def _gradients(seen, q_th, dout_th, logsum_t, inner_t, k_uh, v_uh):
    """Returns the weights of a tile [T, U] and the gradients of its scores, in the type of the queries."""
    scores_tu = jnp.where(seen, product(q_th, k_uh, (1, 1)), LOWEST)
    weights_tu = jnp.exp(scores_tu - logsum_t[:, None])
    dscores_tu = weights_tu * (product(dout_th, v_uh, (1, 1)) - inner_t[:, None])
    return weights_tu.astype(q_th.dtype), dscores_tu.astype(q_th.dtype)


def _seen(first_t, i, j, on_diagonal: bool):
    """Returns which keys of block j each query of block i sees, [T, U]."""
    u = j * BLOCK + jnp.arange(BLOCK)
    seen = u >= first_t[:, None]
    return seen & (u <= i * BLOCK + jnp.arange(BLOCK)[:, None]) if on_diagonal else seen
