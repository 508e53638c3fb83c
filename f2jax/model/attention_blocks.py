"""Attention in blocks with a running softmax: memory grows with the length of a row, not with its square.

The scores of a block of queries and a block of keys exist only while they are needed, in the processor's cache; blocks
of keys after the queries are skipped. The backward pass recomputes the scores and turns them into weights with the
saved log-sum-exp of each query (FlashAttention-2, https://arxiv.org/abs/2307.08691).

In the names of arrays, c stands for the blocks of a row, t for the positions of queries in a block, u for those of
keys, g for the query heads that share a key/value head, and x for the rows (g, t) of one product.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from f2jax.model.matmul import contiguous_on_cpu, float32_product, transposed_product

BLOCK = 256  # positions in a block; faster on a CPU than 128, and in float32 than 512
LOWEST = jnp.finfo(jnp.float32).min


@jax.custom_vjp
def attention_in_blocks(q_btnh, k_btkh, v_btkh, segments_bt):
    """Returns causal attention within segments like `attention`; there are no forward-mode derivatives."""
    return _forward(q_btnh, k_btkh, v_btkh, segments_bt)[0]


def _forward(q_btnh, k_btkh, v_btkh, segments_bt):
    q_cbkxh, k_cbkuh, v_cbkuh, segments_cbt = _blocks(q_btnh, k_btkh, v_btkh, segments_bt)

    def attend(i):
        def add_keys(j, state):
            top_bkx, sum_bkx, out_bkxh = state
            scores_bkxu = _scores(q_cbkxh[i], k_cbkuh[j], segments_cbt, i, j)
            new_bkx = jnp.maximum(top_bkx, scores_bkxu.max(axis=-1))
            weights_bkxu, shrink_bkx = jnp.exp(scores_bkxu - new_bkx[..., None]), jnp.exp(top_bkx - new_bkx)
            out_bkxh *= shrink_bkx[..., None]
            out_bkxh += float32_product(weights_bkxu.astype(v_btkh.dtype), v_cbkuh[j])
            return new_bkx, sum_bkx * shrink_bkx + weights_bkxu.sum(axis=-1), out_bkxh

        start = jnp.zeros(q_cbkxh.shape[1:], jnp.float32)
        top_bkx, sum_bkx, out_bkxh = jax.lax.fori_loop(
            0, i + 1, add_keys, (start[..., 0] + LOWEST, start[..., 0], start)
        )
        return (out_bkxh / sum_bkx[..., None]).astype(q_btnh.dtype), top_bkx + jnp.log(sum_bkx)

    out_cbkxh, logsum_cbkx = jax.lax.map(attend, jnp.arange(len(q_cbkxh)))
    out_cbkxh, logsum_cbkx = (checkpoint_name(x, "attention") for x in (out_cbkxh, logsum_cbkx))
    saved = q_btnh, k_btkh, v_btkh, segments_bt, out_cbkxh, logsum_cbkx
    return _positions(out_cbkxh, q_btnh.shape), saved


def _backward(saved, gradient_btnh):
    q_btnh, k_btkh, v_btkh, segments_bt, out_cbkxh, logsum_cbkx = saved
    q_cbkxh, k_cbkuh, v_cbkuh, segments_cbt = _blocks(q_btnh, k_btkh, v_btkh, segments_bt)
    dout_cbkxh = _query_blocks(gradient_btnh.astype(q_btnh.dtype), k_btkh.shape[2])
    inner_cbkx = jnp.sum(dout_cbkxh.astype(jnp.float32) * out_cbkxh.astype(jnp.float32), axis=-1)

    def attend(gradients, i):
        def add_keys(j, gradients):
            dq_bkxh, dk_cbkuh, dv_cbkuh = gradients
            scores_bkxu = _scores(q_cbkxh[i], k_cbkuh[j], segments_cbt, i, j)
            weights_bkxu = jnp.exp(scores_bkxu - logsum_cbkx[i][..., None])
            dweights_bkxu = float32_product(dout_cbkxh[i], v_cbkuh[j], transposed=True)
            dscores_bkxu = (weights_bkxu * (dweights_bkxu - inner_cbkx[i][..., None])).astype(q_btnh.dtype)
            dq_bkxh += float32_product(dscores_bkxu, k_cbkuh[j])
            dk_cbkuh = dk_cbkuh.at[j].add(transposed_product(dscores_bkxu, q_cbkxh[i]))
            weights_bkxu = weights_bkxu.astype(q_btnh.dtype)
            dv_cbkuh = dv_cbkuh.at[j].add(transposed_product(weights_bkxu, dout_cbkxh[i]))
            return dq_bkxh, dk_cbkuh, dv_cbkuh

        start = jnp.zeros(q_cbkxh.shape[1:], jnp.float32), *gradients
        dq_bkxh, *gradients = jax.lax.fori_loop(0, i + 1, add_keys, start)
        return tuple(gradients), dq_bkxh

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k_cbkuh, v_cbkuh))
    (dk_cbkuh, dv_cbkuh), dq_cbkxh = jax.lax.scan(attend, start, jnp.arange(len(q_cbkxh)))
    dq_btnh = _positions(dq_cbkxh, q_btnh.shape)
    dk_btkh, dv_btkh = _positions(dk_cbkuh, k_btkh.shape), _positions(dv_cbkuh, v_btkh.shape)
    return dq_btnh.astype(q_btnh.dtype), dk_btkh.astype(k_btkh.dtype), dv_btkh.astype(v_btkh.dtype), None


attention_in_blocks.defvjp(_forward, _backward)


def _blocks(q_btnh, k_btkh, v_btkh, segments_bt):
    """Returns queries, keys, values and segments in blocks, with heads before positions."""
    kv_heads = k_btkh.shape[2]
    q_cbkxh, k_cbkuh, v_cbkuh = (_query_blocks(x, kv_heads) for x in (q_btnh, k_btkh, v_btkh))
    segments_bt = _padded(segments_bt)
    return q_cbkxh, k_cbkuh, v_cbkuh, segments_bt.reshape(len(segments_bt), -1, BLOCK).swapaxes(0, 1)


def _query_blocks(x_btnh, kv_heads: int):
    """Returns blocks [C, B, K, G × T, H]; for keys and values, G is 1."""
    x_btnh = _padded(x_btnh)
    batch, length, heads, head_dim = x_btnh.shape
    x_bctkgh = x_btnh.reshape(batch, length // BLOCK, BLOCK, kv_heads, heads // kv_heads, head_dim)
    x_cbkgth = contiguous_on_cpu(x_bctkgh.transpose(1, 0, 3, 4, 2, 5))
    return x_cbkgth.reshape(*x_cbkgth.shape[:3], -1, head_dim)


def _positions(x_cbkxh, shape):
    """Returns blocks [C, B, K, G × T, H] in the shape [B, T, N, H] that they were made from."""
    batch, length, _, head_dim = shape
    blocks, _, kv_heads, _, _ = x_cbkxh.shape
    x_bctkgh = x_cbkxh.reshape(blocks, batch, kv_heads, -1, BLOCK, head_dim).transpose(1, 0, 4, 2, 3, 5)
    return x_bctkgh.reshape(batch, blocks * BLOCK, *shape[2:])[:, :length]


def _padded(x_bt):
    """Returns the array with zeros appended up to a whole number of blocks; segment 0 is padding."""
    return jnp.pad(x_bt, [(0, 0), (0, -x_bt.shape[1] % BLOCK)] + [(0, 0)] * (x_bt.ndim - 2))


def _scores(q_bkxh, k_bkuh, segments_cbt, i, j):
    """Returns the scores of query block `i` and key block `j`, float32 [B, K, X, U]; masked ones are `LOWEST`."""
    scores_bkxu = float32_product(q_bkxh, k_bkuh, transposed=True)
    step = jnp.arange(BLOCK)
    causal_tu = (i * BLOCK + step)[:, None] >= j * BLOCK + step
    seen_btu = causal_tu & (segments_cbt[i][:, :, None] == segments_cbt[j][:, None])
    shape = *scores_bkxu.shape[:2], -1, BLOCK, BLOCK
    return jnp.where(seen_btu[:, None, None], scores_bkxu.reshape(shape), LOWEST).reshape(scores_bkxu.shape)
