"""One attention function, with the kernels that can stand behind it.

All kernels compute causal attention inside each segment: position t sees the positions s ≤ t of its own segment.
Padding is segment 0, which no other segment sees, so a padded position never reaches a result.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from f2jax.errors import UserError, did_you_mean
from f2jax.model.matmul import in_memory, matmul, matmul_transposed
from f2jax.parallel import sharding

SPLASH_BLOCK = 128  # rows must be a multiple of the TPU's lane count


def attention(q_btnh, k_btkh, v_btkh, segments_bt, kernel: str = "auto"):
    """Causal, segment-wise attention with grouped query heads.

    Args:
        q_btnh: queries [B, T, N, H]; k_btkh, v_btkh: keys and values [B, T, K, H], where K divides N.
        segments_bt: int32 [B, T]; 0 is padding.
        kernel: `auto`, or a name in `KERNELS`.

    Returns:
        [B, T, N, H] in the type of the queries; the softmax runs in float32.

    Raises:
        UserError: unknown kernel, or shapes and types that the kernel cannot do.
    """
    kernel = choose(kernel, q_btnh)
    return KERNELS[kernel](q_btnh, k_btkh, v_btkh, segments_bt)


def choose(kernel: str, q_btnh, platform: str | None = None) -> str:
    """The kernel that `auto` stands for: by platform, and by what its kernel can do with this shape and type."""
    if kernel != "auto":
        if kernel not in KERNELS:
            raise UserError(f"There is no attention kernel '{kernel}'{did_you_mean(kernel, ['auto', *KERNELS])}")
        return kernel
    platform = platform or sharding.platform()
    _, length, _, head_dim = q_btnh.shape
    if platform == "tpu" and length % SPLASH_BLOCK == 0 and head_dim % 128 == 0:
        return "splash"
    if platform == "gpu" and q_btnh.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0:
        return "cudnn"
    return "xla"


def segment_mask(segments_bt, start: int, end: int):
    """[B, end - start, end] bool: may position t (axis 1), from `start` to `end`, see position s (axis 2)?"""
    causal_ts = jnp.arange(start, end)[:, None] >= jnp.arange(end)
    return causal_ts & (segments_bt[:, start:end, None] == segments_bt[:, None, :end])


def _xla(q_btnh, k_btkh, v_btkh, segments_bt):
    """Heads before positions, and the queries of a group (g, t) as the rows r of one product: fastest on a CPU.

    There also in blocks of queries, at most about four, each with the keys up to its last one: of a long row three of
    eight scores are never computed, and those of a block stay in the processor's cache.
    """
    batch, length, heads, head_dim = q_btnh.shape
    kv_heads = k_btkh.shape[2]
    block = max(64, length // 4) if sharding.platform() == "cpu" else length
    sizes = [min(block, length - start) for start in range(0, length, block)]
    q_btkgh = (q_btnh * head_dim**-0.5).reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    q_blocks = jax.lax.split(in_memory(q_btkgh.transpose(0, 2, 3, 1, 4)), sizes, axis=3)
    k_blocks, v_blocks = (jax.lax.split(in_memory(x.swapaxes(1, 2)), sizes, axis=2) for x in (k_btkh, v_btkh))
    out_blocks, start = [], 0
    for i, q_bkgth in enumerate(q_blocks):
        end = start + sizes[i]
        k_bksh, v_bksh = (jnp.concatenate(blocks[: i + 1], axis=2) for blocks in (k_blocks, v_blocks))
        logits_bkrs = matmul_transposed(q_bkgth.reshape(batch, kv_heads, -1, head_dim), k_bksh)
        logits_bkgts = logits_bkrs.reshape(batch, kv_heads, -1, sizes[i], end)
        mask_bts = segment_mask(segments_bt, start, end)
        logits_bkgts = jnp.where(mask_bts[:, None, None], logits_bkgts, jnp.finfo(jnp.float32).min)
        weights_bkgts = jax.nn.softmax(logits_bkgts, axis=-1).astype(q_btnh.dtype)
        out_bkrh = matmul(weights_bkgts.reshape(logits_bkrs.shape), v_bksh)
        out_blocks.append(out_bkrh.reshape(q_bkgth.shape))
        start = end
    out_bkgth = jnp.concatenate(out_blocks, axis=3)
    return checkpoint_name(out_bkgth.transpose(0, 3, 1, 2, 4).reshape(q_btnh.shape), "attention")


def _cudnn(q_btnh, k_btkh, v_btkh, segments_bt):
    """Told that it is causal, apart from the mask, the kernel skips half of the tiles. Remat keeps its results by the
    name of the kernel: its backward pass needs more than the output that could be named here.
    """
    same_bnts = (segments_bt[:, :, None] == segments_bt[:, None, :])[:, None]
    return jax.nn.dot_product_attention(q_btnh, k_btkh, v_btkh, mask=same_bnts, is_causal=True, implementation="cudnn")


def _splash(q_btnh, k_btkh, v_btkh, segments_bt, interpret: bool = False):
    """Each device runs the kernel on its own rows and heads: the compiler cannot split a kernel by itself."""
    length = q_btnh.shape[1]
    if length % SPLASH_BLOCK:
        raise UserError(
            f"Splash attention needs rows of a multiple of {SPLASH_BLOCK} tokens, not {length}; "
            "change data.row_length or use the attention kernel 'xla'."
        )
    kernel = functools.partial(_splash_on_device, interpret=interpret)
    arrays = q_btnh, k_btkh, v_btkh, segments_bt
    if jax.sharding.get_abstract_mesh().empty:
        return kernel(*arrays)
    by_head = sharding.activation_spec(k_btkh.shape, ("rows", None, "heads"))
    specs = (by_head, by_head, by_head, sharding.activation_spec(segments_bt.shape, ("rows",)))
    return jax.shard_map(kernel, in_specs=specs, out_specs=by_head, check_vma=False)(*arrays)


def _splash_on_device(q_btnh, k_btkh, v_btkh, segments_bt, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, length, heads, head_dim = q_btnh.shape
    tiles = [name for name in splash.BlockSizes.__dataclass_fields__ if name.startswith("block_")]
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    kernel = splash.make_splash_mha(
        mask,
        block_sizes=splash.BlockSizes(**dict.fromkeys(tiles, splash_block(length))),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention",  # what its backward pass needs, for the remat policies
        interpret=interpret,
    )
    q_bnth, k_bkth, v_bkth = (jnp.swapaxes(x, 1, 2) for x in (q_btnh * head_dim**-0.5, k_btkh, v_btkh))
    segments = splash.SegmentIds(q=segments_bt, kv=segments_bt)
    return jnp.swapaxes(jax.vmap(kernel)(q_bnth, k_bkth, v_bkth, segments), 1, 2).astype(q_btnh.dtype)


def splash_block(length: int) -> int:
    """Side of a tile of positions: fewer, larger steps than the kernel's default of 128, that still fit its memory."""
    return next(block for block in (512, 384, 256, 128) if length % block == 0)


KERNELS = {
    "xla": _xla,  # any platform, any shape
    "cudnn": _cudnn,  # NVIDIA GPU, 16-bit types
    "splash": _splash,  # TPU, Pallas
    "splash_interpret": functools.partial(_splash, interpret=True),  # the TPU kernel, run by any platform; for tests
}
