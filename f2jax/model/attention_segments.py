"""Attention on a TPU that computes only the tiles of a row that texts cover: a Pallas kernel, forward and backward.

Segments of a packed row are contiguous, so a position sees those from the start of its segment to itself, and a block
of queries sees the blocks of keys from one that is looked up to its own. Scores are stored transposed, keys by queries:
their maxima and sums then run over sublanes, which is cheaper on a TPU than over lanes, and an array with one number
per query is a row.

In the names of arrays, g stands for the query heads that share a key/value head, i for the blocks of a row, u for the
keys of a block, and t for the queries of a block, of several heads side by side.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128  # of a TPU; the length of a row is a multiple of it
HEADS = 2  # heads of a group that are computed at once
LONGEST = 2_048  # most positions in a row, which is held in on-chip memory as a whole
LOWEST = -1e30
VMEM = 48 * 2**20  # bytes of on-chip memory that a kernel may use


def block_length(length: int) -> int:
    """Returns the length of a block in a row whose length is a multiple of `LANES`; longer blocks are faster."""
    return LANES if length % (2 * LANES) else 2 * LANES


def attention_by_segments(q_btnh, k_btkh, v_btkh, segments_bt, interpret: bool = False):
    """Returns attention like `attention.attention`, on one device, for rows whose length is a multiple of 128."""
    batch, length, _, head_dim = q_btnh.shape
    q_bnth, k_bkth, v_bkth = (jnp.swapaxes(x, 1, 2) for x in (q_btnh, k_btkh, v_btkh))
    q_bkgth = q_bnth.reshape(batch, k_bkth.shape[1], -1, length, head_dim)
    out_bkgth = attention_of_spans(q_bkgth, k_bkth, v_bkth, spans(segments_bt), interpret)
    return jnp.swapaxes(out_bkgth.reshape(q_bnth.shape), 1, 2)


def spans(segments_bt):
    """Returns the first position that each position sees, int32 [B, 1, T], and the first block that each block sees,
    int32 [B, I].
    """
    start_bt, block = first_seen(segments_bt), block_length(segments_bt.shape[1])
    return start_bt[:, None], start_bt[:, ::block] // block


def first_seen(segments_bt):
    """Returns the first position that each position sees, int32 [B, T]: its segment's start, or itself for padding."""
    column_t = jnp.arange(segments_bt.shape[1], dtype=jnp.int32)
    begins_bt = segments_bt != jnp.pad(segments_bt, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return jax.lax.cummax(jnp.where(begins_bt | (segments_bt == 0), column_t, 0), axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention_of_spans(q_bkgth, k_bkth, v_bkth, spans, interpret: bool):
    """Returns attention [B, K, G, T, H] for scaled queries; the result of `spans` says what each position sees."""
    return _forward(q_bkgth, k_bkth, v_bkth, spans, interpret)[0]


def _forward(q_bkgth, k_bkth, v_bkth, spans, interpret: bool):
    logsum = jax.ShapeDtypeStruct(q_bkgth.shape[:4], jnp.float32)
    out, logsum = _call(_forward_kernel, interpret, spans, (q_bkgth, k_bkth, v_bkth), (q_bkgth, logsum))
    out, logsum = (checkpoint_name(x, "attention") for x in (out, logsum))
    return out, (q_bkgth, k_bkth, v_bkth, spans, out, logsum)


def _backward(interpret: bool, saved, dout_bkgth):
    q_bkgth, k_bkth, v_bkth, spans, out, logsum = saved
    arrays = q_bkgth, k_bkth, v_bkth, out, dout_bkgth.astype(out.dtype), logsum
    length, head_dim = k_bkth.shape[2:]
    scratch = [pltpu.VMEM((length, head_dim), jnp.float32)] * 2
    return *_call(_backward_kernel, interpret, spans, arrays, (q_bkgth, k_bkth, v_bkth), scratch), None


attention_of_spans.defvjp(_forward, _backward)


def _call(kernel, interpret: bool, spans, arrays, results, scratch=()):
    """Runs a kernel over the grid (rows, key/value heads); each program has whole rows of its group of heads."""
    start_b1t, first_bi = spans

    def block(x):
        return pl.BlockSpec((1, 1, *x.shape[2:]), lambda b, k, _: (b, k, *[0] * (len(x.shape) - 2)))

    of_start = pl.BlockSpec((1, 1, start_b1t.shape[2]), lambda b, k, _: (b, 0, 0))
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=1,
        grid=arrays[1].shape[:2],
        in_specs=[of_start, *map(block, arrays)],
        out_specs=[*map(block, results)],
        scratch_shapes=scratch,
    )
    return pl.pallas_call(
        kernel,
        grid_spec=grid,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM),
        interpret=interpret,
        name="segment_attention" + kernel.__name__.removesuffix("_kernel"),
    )(first_bi, start_b1t, *arrays)


def _forward_kernel(first_ref, start_ref, q_ref, k_ref, v_ref, out_ref, logsum_ref):
    block, firsts = block_length(k_ref.shape[2]), first_ref.at[pl.program_id(0)]

    def attend(i, heads):
        start = jnp.concatenate([start_ref[0, :, _positions(i, block)]] * len(heads), axis=1)
        q_th = _side_by_side(q_ref, i, heads, block)

        def add_keys(j, state, on_diagonal=False):
            top, total, out_ht = state
            at = _positions(j, block)
            scores_ut = jnp.where(
                _seen(start, i, j, block, on_diagonal), product(k_ref[0, 0, at], q_th, (1, 1)), LOWEST
            )
            new = jnp.maximum(top, scores_ut.max(axis=0, keepdims=True))
            weights_ut, shrink = jnp.exp(scores_ut - new), jnp.exp(top - new)
            out_ht = out_ht * shrink + product(v_ref[0, 0, at], weights_ut.astype(v_ref.dtype), (0, 0))
            return new, total * shrink + weights_ut.sum(axis=0, keepdims=True), out_ht

        state = jnp.full(start.shape, LOWEST, jnp.float32), jnp.zeros(start.shape), jnp.zeros(q_th.shape[::-1])
        state = add_keys(i, state, on_diagonal=True)
        top, total, out_ht = jax.lax.fori_loop(firsts[i], i, add_keys, state)
        out_th, logsum = (out_ht / total).T, top + jnp.log(total)
        for n, g in enumerate(heads):
            part = slice(n * block, (n + 1) * block)
            out_ref[0, 0, g, _positions(i, block)] = out_th[part].astype(out_ref.dtype)
            logsum_ref[0, 0, pl.ds(g, 1), _positions(i, block)] = logsum[:, part]

    _each_block(q_ref, attend)


def _backward_kernel(
    first_ref, start_ref, q_ref, k_ref, v_ref, out_ref, dout_ref, logsum_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum
):
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

    block, firsts = block_length(k_ref.shape[2]), first_ref.at[pl.program_id(0)]

    def attend(i, heads):
        start = jnp.concatenate([start_ref[0, :, _positions(i, block)]] * len(heads), axis=1)
        q_th, out_th, dout_th = (_side_by_side(ref, i, heads, block) for ref in (q_ref, out_ref, dout_ref))
        logsum = jnp.concatenate([logsum_ref[0, 0, pl.ds(g, 1), _positions(i, block)] for g in heads], axis=1)
        inner_th = out_th.astype(jnp.float32) * dout_th.astype(jnp.float32)
        inner = inner_th.T.sum(axis=0, keepdims=True)

        def add_keys(j, dq_ht, on_diagonal=False):
            at = _positions(j, block)
            k_uh, v_uh = k_ref[0, 0, at], v_ref[0, 0, at]
            scores_ut = jnp.where(_seen(start, i, j, block, on_diagonal), product(k_uh, q_th, (1, 1)), LOWEST)
            weights_ut = jnp.exp(scores_ut - logsum)
            dv_sum[at] += product(weights_ut.astype(v_uh.dtype), dout_th, (1, 0))
            dscores_ut = weights_ut * (product(v_uh, dout_th, (1, 1)) - inner)
            dscores_ut = dscores_ut.astype(k_uh.dtype)
            dk_sum[at] += product(dscores_ut, q_th, (1, 0))
            return dq_ht + product(k_uh, dscores_ut, (0, 0))

        dq_ht = add_keys(i, jnp.zeros(q_th.shape[::-1]), on_diagonal=True)
        dq_th = jax.lax.fori_loop(firsts[i], i, add_keys, dq_ht).T
        for n, g in enumerate(heads):
            dq_ref[0, 0, g, _positions(i, block)] = dq_th[n * block : (n + 1) * block].astype(dq_ref.dtype)

    _each_block(q_ref, attend)
    dk_ref[0, 0] = dk_sum[...].astype(dk_ref.dtype)
    dv_ref[0, 0] = dv_sum[...].astype(dv_ref.dtype)


def _each_block(q_ref, attend) -> None:
    """Calls `attend` for each block of queries, with a few heads of the group at a time."""
    group, length = q_ref.shape[2:4]

    def of_block(i, _):
        for g in range(0, group, HEADS):
            attend(i, range(g, min(g + HEADS, group)))

    jax.lax.fori_loop(0, length // block_length(length), of_block, None)


def _positions(i, block: int):
    return pl.ds(pl.multiple_of(i * block, block), block)


def _side_by_side(ref, i, heads, block: int):
    """Returns block i of some heads, one after another, [T, H]."""
    return jnp.concatenate([ref[0, 0, g, _positions(i, block)] for g in heads], axis=0)


def _seen(start, i, j, block: int, on_diagonal: bool):
    """Returns which keys of block j each query of block i sees, [U, T]; the text of a query begins at `start`."""
    shape = block, start.shape[1]
    u = j * block + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    seen = u >= start
    if on_diagonal:
        seen &= u <= i * block + jax.lax.broadcasted_iota(jnp.int32, shape, 1) % block
    return seen


def product(a, b, contracted: tuple[int, int]):
    """Returns the product of two matrices in float32, summed over the given axis of each."""
    dimensions = (contracted[:1], contracted[1:]), ((), ())
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
