"""Causal attention within segments: one function, and the kernels that implement it.

Every kernel lets position t attend to the positions u ≤ t of its own segment. Padding is segment 0, which no other
segment attends to, so a padded position never affects a result. In the names of arrays, u stands for the positions of
keys and values, and g for the query heads that share a key/value head (N = K × G).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from f2jax.errors import UserError, did_you_mean
from f2jax.model.attention_blocks import attention_in_blocks
from f2jax.model.attention_segments import LANES, LONGEST, attention_by_segments
from f2jax.model.attention_triton import attention_on_gpu
from f2jax.model.matmul import contiguous_on_cpu, float32_product, transposed_product
from f2jax.parallel import sharding

LONG_ROW = 1_280  # tokens; a CPU computes rows of at least this length in blocks, shorter ones faster without


def attention(q_btnh, k_btkh, v_btkh, segments_bt, kernel: str = "auto"):
    """Returns causal attention within segments, with grouped query heads (recipe 6.1).

    Args:
        q_btnh: queries [B, T, N, H], already multiplied by H^-0.5.
        k_btkh: keys [B, T, K, H], where K divides N.
        v_btkh: values [B, T, K, H].
        segments_bt: int32 [B, T]; 0 is padding.
        kernel: `auto`, or a name in `KERNELS`.

    Returns:
        [B, T, N, H] in the type of the queries; the softmax is computed in float32.

    Raises:
        UserError: the kernel is unknown, or does not support these shapes.
    """
    return KERNELS[choose_kernel(kernel, q_btnh)](q_btnh, k_btkh, v_btkh, segments_bt)


def check_kernel(kernel: str) -> None:
    """Raises UserError if there is no attention kernel of this name."""
    if kernel != "auto" and kernel not in KERNELS:
        raise UserError(f"There is no attention kernel '{kernel}'{did_you_mean(kernel, ['auto', *KERNELS])}")


def check_kernel_fits(kernel: str, head_dim: int, platform: str | None = None) -> None:
    """Raises UserError if a kernel does not support the platform that is compiled for, or heads of this size."""
    platform = platform or sharding.platform()
    if (needed := PLATFORMS.get(kernel, platform)) != platform:
        raise UserError(
            f"The attention kernel '{kernel}' is for a {needed.upper()}, not for a {platform.upper()}; choose auto."
        )
    if kernel == "triton" and head_dim & (head_dim - 1):
        raise UserError(f"The attention kernel 'triton' needs a power of two as head_dim, not {head_dim}; choose auto.")


def choose_kernel(kernel: str, q_btnh, platform: str | None = None) -> str:
    """Returns the name of the kernel, with `auto` replaced by the fastest one that supports this platform and shape.

    Raises:
        UserError: the kernel is unknown.
    """
    check_kernel(kernel)
    if kernel != "auto":
        return kernel
    platform = platform or sharding.platform()
    _, length, _, head_dim = q_btnh.shape
    if platform == "tpu" and length >= LANES and head_dim % LANES == 0:
        return "segments" if length <= LONGEST else "splash"
    if platform == "gpu" and q_btnh.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0:
        return "cudnn"
    if platform == "cpu" and length >= LONG_ROW:
        return "blocks"
    return "xla"


def segment_mask(segments_bt, start: int, end: int):
    """Returns a bool mask [B, end - start, end]: whether position t, from `start` to `end`, attends to position u."""
    causal_tu = jnp.arange(start, end)[:, None] >= jnp.arange(end)
    return causal_tu & (segments_bt[:, start:end, None] == segments_bt[:, None, :end])


def _xla(q_btnh, k_btkh, v_btkh, segments_bt):
    """Computes attention in plain XLA on any platform, in the layout that is fastest on a CPU.

    Heads come before positions, and the queries of a group are the rows (g, t) of one product. On a CPU the queries
    are split into about four blocks, each with the keys up to its end, so three eighths of the scores are never
    computed, and those of a block stay in the processor's cache.
    """
    batch, length, heads, head_dim = q_btnh.shape
    kv_heads = k_btkh.shape[2]
    block = max(64, length // 4) if sharding.platform() == "cpu" else length
    sizes = [min(block, length - start) for start in range(0, length, block)]
    q_btkgh = q_btnh.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    q_blocks = jax.lax.split(contiguous_on_cpu(q_btkgh.transpose(0, 2, 3, 1, 4)), sizes, axis=3)
    k_blocks, v_blocks = (jax.lax.split(contiguous_on_cpu(x.swapaxes(1, 2)), sizes, axis=2) for x in (k_btkh, v_btkh))
    out_blocks, start = [], 0
    for i, q_bkgth in enumerate(q_blocks):
        end = start + sizes[i]
        k_bkuh, v_bkuh = (jnp.concatenate(blocks[: i + 1], axis=2) for blocks in (k_blocks, v_blocks))
        seen_btu = segment_mask(segments_bt, start, end)
        out_blocks.append(_attend(q_bkgth.reshape(batch, kv_heads, -1, head_dim), k_bkuh, v_bkuh, seen_btu))
        start = end
    out_bkgth = jnp.concatenate([out.reshape(q.shape) for out, q in zip(out_blocks, q_blocks, strict=True)], axis=3)
    return out_bkgth.transpose(0, 3, 1, 2, 4).reshape(q_btnh.shape)


@jax.custom_vjp
def _attend(q_bkxh, k_bkuh, v_bkuh, seen_btu):
    """Returns the attention [B, K, X, H] of the rows x = (g, t) of queries, of which t sees the keys `seen_btu`.

    The backward pass reads the weights in the type of the queries, not yet divided by their sums, and no scores: the
    sums of weights times their gradients follow from the output (FlashAttention, https://arxiv.org/abs/2205.14135,
    appendix B.4).
    """
    return _attend_forward(q_bkxh, k_bkuh, v_bkuh, seen_btu)[0]


def _attend_forward(q_bkxh, k_bkuh, v_bkuh, seen_btu):
    scores_bkxu = float32_product(q_bkxh, k_bkuh, transposed=True)
    batch, kv_heads, _, keys = scores_bkxu.shape
    scores_bkgtu = scores_bkxu.reshape(batch, kv_heads, -1, seen_btu.shape[1], keys)
    scores_bkgtu = jnp.where(seen_btu[:, None, None], scores_bkgtu, jnp.finfo(jnp.float32).min)
    weights_bkgtu = jnp.exp(scores_bkgtu - scores_bkgtu.max(axis=-1, keepdims=True))
    sum_bkx1 = weights_bkgtu.sum(axis=-1).reshape(batch, kv_heads, -1, 1)
    weights_bkxu = weights_bkgtu.astype(q_bkxh.dtype).reshape(scores_bkxu.shape)
    out_bkxh = (float32_product(weights_bkxu, v_bkuh) / sum_bkx1).astype(q_bkxh.dtype)
    out_bkxh = checkpoint_name(out_bkxh, "attention")
    return out_bkxh, (q_bkxh, k_bkuh, v_bkuh, weights_bkxu, sum_bkx1, out_bkxh)


def _attend_backward(saved, dout_bkxh):
    q_bkxh, k_bkuh, v_bkuh, weights_bkxu, sum_bkx1, out_bkxh = saved
    dtype = q_bkxh.dtype
    dout32_bkxh = dout_bkxh.astype(jnp.float32)
    inner_bkx1 = jnp.sum(dout32_bkxh * out_bkxh.astype(jnp.float32), axis=-1, keepdims=True)
    dweights_bkxu = float32_product(dout_bkxh, v_bkuh, transposed=True)
    dscores_bkxu = (weights_bkxu.astype(jnp.float32) * ((dweights_bkxu - inner_bkx1) / sum_bkx1)).astype(dtype)
    dq_bkxh = float32_product(dscores_bkxu, k_bkuh)
    dk_bkuh = transposed_product(dscores_bkxu, q_bkxh)
    dv_bkuh = transposed_product(weights_bkxu, (dout32_bkxh / sum_bkx1).astype(dtype))
    return dq_bkxh.astype(dtype), dk_bkuh.astype(dtype), dv_bkuh.astype(dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def _cudnn(q_btnh, k_btkh, v_btkh, segments_bt):
    """Computes attention with cuDNN on an NVIDIA GPU.

    `is_causal` in addition to the mask lets the kernel skip half of the tiles. The remat policies recognise its results
    by the name of the primitive, because the backward pass needs more than the output, and only that could be named
    here.
    """
    same_bntu = (segments_bt[:, :, None] == segments_bt[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_btnh, k_btkh, v_btkh, mask=same_bntu, scale=1.0, is_causal=True, implementation="cudnn"
    )


def on_each_device(kernel: Callable, interpret: bool, q_btnh, k_btkh, v_btkh, segments_bt):
    """Runs a Pallas kernel on each device with its own rows and heads, because the compiler cannot split a kernel.

    Rows whose length is not a multiple of a TPU's lanes are padded for the kernel only.
    """
    length = q_btnh.shape[1]
    run = functools.partial(kernel, interpret=interpret)
    arrays = tuple(pad_to_lanes(x) for x in (q_btnh, k_btkh, v_btkh, segments_bt))
    if jax.sharding.get_abstract_mesh().empty:
        return run(*arrays)[:, :length]
    by_head = sharding.activation_spec(k_btkh.shape, ("rows", None, "heads"))
    specs = (by_head, by_head, by_head, sharding.activation_spec(segments_bt.shape, ("rows",)))
    return jax.shard_map(run, in_specs=specs, out_specs=by_head, check_vma=False)(*arrays)[:, :length]


def pad_to_lanes(x_bt):
    """Returns an array [B, T, …] with zeros at the end of its rows, up to a multiple of the TPU's lanes."""
    widths = [(0, 0)] * x_bt.ndim
    widths[1] = (0, -x_bt.shape[1] % LANES)
    return jnp.pad(x_bt, widths)


def _splash(q_btnh, k_btkh, v_btkh, segments_bt, interpret: bool):
    """Runs JAX's splash attention kernel on one device."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, length, heads, _ = q_btnh.shape
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    block = splash_block(length)
    kernel = splash.make_splash_mha(
        mask,
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",  # names what the backward pass needs, for the remat policies
        interpret=interpret,
    )
    q_bnth, k_bkth, v_bkth = (jnp.swapaxes(x, 1, 2) for x in (q_btnh, k_btkh, v_btkh))
    segments = splash.SegmentIds(q=segments_bt, kv=segments_bt)
    return jnp.swapaxes(jax.vmap(kernel)(q_bnth, k_bkth, v_bkth, segments), 1, 2).astype(q_btnh.dtype)


def splash_block(length: int) -> int:
    """Returns the side of a tile in positions: larger than the kernel's default where possible, and within its memory.

    >>> splash_block(768)
    384
    """
    return next(block for block in (512, 384, 256, 128) if length % block == 0)


TPU_KERNELS: dict[str, Callable] = {
    "segments": attention_by_segments,  # computes only the tiles that texts cover
    "splash": _splash,  # from JAX; computes all tiles below the diagonal, in rows of any length
}
PALLAS_KERNELS = TPU_KERNELS | {"triton": attention_on_gpu}  # NVIDIA GPU; only the tiles that texts cover
PLATFORMS = dict.fromkeys(TPU_KERNELS, "tpu") | {"triton": "gpu"}  # the only one that each is compiled for
KERNELS: dict[str, Callable] = {
    "xla": _xla,  # any platform, any shape
    "blocks": attention_in_blocks,  # likewise; memory grows linearly with the length of a row
    "cudnn": _cudnn,  # NVIDIA GPU, 16-bit types
    **{name: functools.partial(on_each_device, kernel, False) for name, kernel in PALLAS_KERNELS.items()},
    # any platform; for tests
    **{f"{name}_interpret": functools.partial(on_each_device, kernel, True) for name, kernel in PALLAS_KERNELS.items()},
}
