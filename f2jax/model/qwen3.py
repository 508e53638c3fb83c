"""Qwen3 as an encoder, in functional Flax Linen: token ids in, final hidden states out (recipe 6.1).

Each weight is declared once, with logical axis names (`layers`, `embed`, `q_heads`, `kv_heads`, `head_dim`, `mlp`,
`vocab`, `rank`). Sharding, pruning, Hugging Face conversion and the parameter table all follow from that declaration.
Arrays carry the letters of docs/layout.md as a suffix; here r is the rank of a factorized token table.
"""

import functools
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from f2jax.errors import UserError, did_you_mean
from f2jax.model import rotary_kernel
from f2jax.model.attention import TPU_KERNELS, attention, check_kernel, check_kernel_fits, choose_kernel
from f2jax.model.matmul import in_memory_order, operand_axes, project, swap_halves, swiglu
from f2jax.model.sizes import Qwen3Config
from f2jax.parallel.sharding import shard_activation


def _save_names(*names: str):
    """Returns a remat policy that saves values with these names, and the results of cuDNN's attention kernel."""
    is_named = jax.checkpoint_policies.save_only_these_names(*names)

    def save(primitive, *args, **params):
        return primitive.name.startswith("dot_product_attention_fwd") or is_named(primitive, *args, **params)

    return save


REMAT_POLICIES = {  # what the backward pass recomputes, from least to most
    "none": None,  # nothing
    "dots": _save_names("qkv", "attention", "middle", "wide"),  # norms, angles and gates, but no matrix product
    "mlp": _save_names("qkv", "attention", "middle"),  # the gate and up products of the MLP too
    "qkv": _save_names("attention", "middle"),  # queries, keys and values too
    "full": jax.checkpoint_policies.nothing_saveable,  # everything but the inputs of the layers
}

SPLIT_WEIGHT_AXES = ("q_heads", "kv_heads", "mlp")  # axes over which weights stay split while a layer runs


def check_execution(kernel: str, remat: str) -> None:
    """Raises UserError if the attention kernel or the remat policy does not exist."""
    check_kernel(kernel)
    if remat not in REMAT_POLICIES:
        raise UserError(f"There is no remat policy '{remat}'{did_you_mean(remat, REMAT_POLICIES)}")


def rms_norm(x, scale_d, eps: float):
    """Returns `x` divided by its root mean square over the last axis and scaled, in the type of `x`.

    It is computed in float32 (https://arxiv.org/abs/1910.07467).
    """
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale_d.astype(jnp.float32)).astype(x.dtype)


def rotary_angles(positions_bt, head_dim: int, theta: float):
    """Returns cos and sin of the rotary angles, float32 [B, T, 1, H] each (RoFormer, https://arxiv.org/abs/2104.09864).

    Both halves of a head have the same angles; the sine of the first half is negative, as `rotate` expects.
    """
    frequency_h = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_bt[:, :, None, None].astype(jnp.float32) * frequency_h
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(x_btnh, cos, sin):
    """Returns the heads with their pairs (i, i + H/2) rotated, computed in float32, in the type of `x_btnh`.

    It works on complete heads with swapped halves, because a TPU processes 128 lanes at once, and half a head would
    leave lanes idle.
    """
    return (x_btnh.astype(jnp.float32) * cos + swap_halves(x_btnh) * sin).astype(x_btnh.dtype)


def turn_heads(x_btnh, scale_h, cos, sin, eps: float, kernel: str, factor: float = 1.0):
    """Returns query or key heads after their RMSNorm and rotation, multiplied by a factor.

    If attention runs in a TPU kernel, this does too, because XLA would pass over memory several times.
    """
    name, _, interpret = choose_kernel(kernel, x_btnh).partition("_")
    if name in TPU_KERNELS and rotary_kernel.fits(x_btnh):
        scale_h = scale_h.astype(jnp.float32) * factor
        return rotary_kernel.normed_rotation(x_btnh, scale_h, cos, sin, eps, bool(interpret))
    # With the factor in the scale, bfloat16 would round differently on different numbers of devices.
    return rotate(rms_norm(x_btnh, scale_h, eps), cos, sin) * factor


def channel_moments(x_btd, segments_bt):
    """Returns the means of `abs(x)`, x and x² of each channel over the tokens of a row, float32 [B, 3, D].

    Padding does not count. The channels d may also be those inside the MLP.
    """
    x_btd, mask_bt = x_btd.astype(jnp.float32), segments_bt > 0
    sums = [jnp.einsum("btd,bt->bd", f(x_btd), mask_bt, precision="highest") for f in (jnp.abs, jnp.array, jnp.square)]
    return jnp.stack(sums, axis=1) / jnp.maximum(mask_bt.sum(axis=1), 1)[:, None, None]


def record_moments(module: nn.Module, name: str, x_btd, segments_bt) -> None:
    """Stores the `channel_moments` of an activation under `name`, if the caller asks for them.

    >>> model.apply(variables, tokens_bt, segments_bt, positions_bt, mutable=["moments"])  # as pruning does
    """
    if module.is_mutable_collection("moments") and not module.is_initializing():
        sums = channel_moments(x_btd, segments_bt)
        module.sow("moments", name, sums, reduce_fn=lambda _, new: new, init_fn=lambda: None)


class Block(nn.Module):
    """One pre-norm decoder layer: attention with an RMSNorm on each query and key head, then SwiGLU."""

    config: Qwen3Config
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    kernel: str = "auto"
    inputs_last: bool = False  # whether matrices have the axes of their inputs last, which suits few tokens on a CPU

    def weight(self, name: str, axes: tuple[str, ...]):
        """Returns the weight `name`, declared with one logical name per axis; matrices are cast to the compute type."""
        init = nn.initializers.ones if len(axes) == 1 else nn.initializers.normal(0.02)
        shape = _axis_lengths(self.config, axes)
        value: Any = self.param(name, nn.with_logical_partitioning(init, axes), shape, self.param_dtype)  # unboxed
        if len(axes) == 1:
            return value
        return shard_activation(
            value.astype(self.dtype), *("heads" if axis in SPLIT_WEIGHT_AXES else None for axis in axes)
        )

    def product(self, spec: str, x, name: str, axes: tuple[str, ...]):
        """Returns the product of `x` and the matrix `name`; `spec` and `axes` have the axes of its input first."""
        if self.inputs_last:
            _, letters, inputs = operand_axes(spec)
            spec = spec.replace(letters, letters[inputs:] + letters[:inputs])
            axes = axes[inputs:] + axes[:inputs]
        return project(spec, x, self.weight(name, axes))

    @nn.compact
    def __call__(self, x_btd, segments_bt, cos, sin, ends):
        eps = self.config.rms_norm_eps

        with jax.named_scope("attention"):
            record_moments(self, "attention_stream", x_btd, segments_bt)
            h_btd = rms_norm(x_btd, self.weight("attention_norm", ("embed",)), eps)
            record_moments(self, "attention_input", h_btd, segments_bt)
            q_btnh = self.product("btd,dnh->btnh", h_btd, "query", ("embed", "q_heads", "head_dim"))
            k_btkh = self.product("btd,dkh->btkh", h_btd, "key", ("embed", "kv_heads", "head_dim"))
            v_btkh = self.product("btd,dkh->btkh", h_btd, "value", ("embed", "kv_heads", "head_dim"))
            q_btnh, k_btkh, v_btkh = (checkpoint_name(x, "qkv") for x in (q_btnh, k_btkh, v_btkh))
            turn = functools.partial(turn_heads, cos=cos, sin=sin, eps=eps, kernel=self.kernel)
            q_btnh = turn(q_btnh, self.weight("query_norm", ("head_dim",)), factor=self.config.head_dim**-0.5)
            k_btkh = turn(k_btkh, self.weight("key_norm", ("head_dim",)))
            a_btnh = attention(q_btnh, k_btkh, v_btkh, segments_bt, self.kernel)
            a_btnh = in_memory_order(a_btnh, (0, 2, 1, 3), ("rows", None, "heads"))  # that of the TPU kernels' results
            x_btd += self.product("btnh,nhd->btd", a_btnh, "output", ("q_heads", "head_dim", "embed"))
            x_btd = checkpoint_name(in_memory_order(shard_activation(x_btd, "rows"), (0, 1, 2), ("rows",)), "middle")

        with jax.named_scope("mlp"):
            record_moments(self, "mlp_stream", x_btd, segments_bt)
            h_btd = rms_norm(x_btd, self.weight("mlp_norm", ("embed",)), eps)
            record_moments(self, "mlp_input", h_btd, segments_bt)
            gate_btf = self.product("btd,df->btf", h_btd, "gate", ("embed", "mlp"))
            up_btf = self.product("btd,df->btf", h_btd, "up", ("embed", "mlp"))
            gate_btf, up_btf = (checkpoint_name(x, "wide") for x in (gate_btf, up_btf))
            inner_btf = swiglu(gate_btf, up_btf)
            record_moments(self, "mlp_inner", inner_btf, segments_bt)
            x_btd += self.product("btf,fd->btd", inner_btf, "down", ("mlp", "embed"))
        x_btd = in_memory_order(shard_activation(x_btd, "rows"), (0, 1, 2), ("rows",))
        return x_btd, None if ends is None else x_btd[ends]


class Qwen3(nn.Module):
    """The backbone: token table, L scanned layers and a final RMSNorm, without a language-model head.

    >>> model = Qwen3(size("tiny"))
    >>> hidden_btd = model.apply({"params": params}, tokens_bt, segments_bt, positions_bt)
    """

    config: Qwen3Config
    dtype: jnp.dtype = field(default=jnp.float32)  # of activations and products; norms, angles and softmax use float32
    param_dtype: jnp.dtype = field(default=jnp.float32)  # of the stored weights
    kernel: str = "auto"  # attention kernel, see attention.KERNELS
    remat: str = "none"  # what the backward pass recomputes, see REMAT_POLICIES
    unroll: int = 1  # layers per step of the scan over layers

    @nn.compact
    def __call__(self, tokens_bt, segments_bt, positions_bt, ends=None, rank=None):
        """Returns hidden states after the final RMSNorm: of all tokens after the last layer, or of some tokens after
        each layer.

        Args:
            tokens_bt: int32 token ids [B, T].
            segments_bt: int32 [B, T], number of the segment within its row; 0 is padding.
            positions_bt: int32 [B, T], position within the segment, from 0.
            ends: (rows, columns), int32 [S] each: the tokens whose states after each layer are returned.
            rank: int32 scalar, number of columns of a factorized token table to use; None: all.

        Returns:
            [B, T, D], or [L, S, D] with `ends`.

        Raises:
            UserError: the attention kernel or the remat policy is unknown, or the kernel does not support the platform
                or the shapes.
        """
        config = self.config
        check_execution(self.kernel, self.remat)
        check_kernel_fits(self.kernel, config.head_dim)
        x_btd = token_states(self.table(), tokens_bt, self.dtype, rank)
        cos, sin = rotary_angles(positions_bt, config.head_dim, config.rope_theta)

        block = Block
        if self.remat != "none":
            unrolled = self.unroll >= config.layers  # then XLA would take what the forward pass has, and keep it
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=unrolled)
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "moments": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 4,
            length=config.layers,
            unroll=min(self.unroll, config.layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, self.dtype, self.param_dtype, self.kernel, name="layers")
        x_btd, ends_lsd = layers(x_btd, segments_bt, cos, sin, ends)

        norm_init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale_d = self.param("final_norm", norm_init, (config.width,), self.param_dtype)
        record_moments(self, "final_stream", x_btd, segments_bt)
        if ends is not None:
            return rms_norm(ends_lsd, scale_d, config.rms_norm_eps)
        x_btd = rms_norm(x_btd, scale_d, config.rms_norm_eps)
        record_moments(self, "final_output", x_btd, segments_bt)
        return x_btd

    def table(self):
        """Returns the weights of the token table, complete [V, D] or in two factors [V, R] and [R, D]."""
        config = self.config
        normal = nn.initializers.normal
        columns, axis = (config.table_rank, "rank") if config.table_rank else (config.width, "embed")
        table_init = nn.with_logical_partitioning(normal(0.02), ("vocab", axis))
        table = {"token_table": self.param("token_table", table_init, (config.vocab_size, columns), self.param_dtype)}
        if config.table_rank:
            basis_init = nn.with_logical_partitioning(normal(config.table_rank**-0.5), ("table_rank", "embed"))
            table["table_basis"] = self.param("table_basis", basis_init, (columns, config.width), self.param_dtype)
        return table


def token_states(params, tokens_bt, dtype, rank=None):
    """Returns the rows of the token table for all tokens, [B, T, D] in `dtype`.

    A factorized table is a product [V, R] × [R, D]. The first columns of the first factor and the first rows of the
    second form a table of smaller rank (recipe 6.10).
    """
    x_btd = look_up(params["token_table"], tokens_bt, dtype)
    if "table_basis" not in params:
        return x_btd
    basis_rd = params["table_basis"]
    h_btr = x_btd if rank is None else jnp.where(jnp.arange(basis_rd.shape[0]) < rank, x_btd, 0)
    return project("btr,rd->btd", h_btr, basis_rd.astype(dtype))


def look_up(table_vd, tokens_bt, dtype):
    """Returns the rows of the token table for all tokens, [B, T, D] in `dtype`.

    The devices that share a copy of the weights each hold some columns of the table. Each looks up the tokens of the
    whole group; then they exchange columns for rows, so that no device ever gathers the complete table.
    """
    tokens_bt = shard_activation(tokens_bt, "groups")
    x_btd = shard_activation(table_vd[tokens_bt].astype(dtype), "groups", None, "split")
    return shard_activation(x_btd, "rows")


def abstract_params(config: Qwen3Config, param_dtype=jnp.float32):
    """Returns the shapes and logical axes of weights, as a tree of boxed `jax.ShapeDtypeStruct`; compiles nothing."""
    row_bt = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    model = Qwen3(config, param_dtype=param_dtype, kernel="xla")
    return jax.eval_shape(lambda row_bt: model.init(jax.random.key(0), row_bt, row_bt, row_bt), row_bt)["params"]


def logical_axes(config: Qwen3Config):
    """Returns the tree of the parameters with a tuple of logical axis names instead of each weight."""
    return jax.tree.map(lambda box: box.names, abstract_params(config), is_leaf=lambda x: isinstance(x, nn.Partitioned))


def init_params(model: Qwen3, seed: int):
    """Returns new weights as a plain tree of arrays: matrices drawn from normal(0.02), norms of 1.

    The second factor of a factorized token table is drawn from normal(R^-0.5).
    """
    row_bt = jnp.ones((1, 8), jnp.int32)
    return nn.meta.unbox(
        jax.jit(model.clone(kernel="xla").init)(jax.random.key(seed), row_bt, row_bt, row_bt)["params"]
    )


def pool(hidden_btd, row_s, col_s):
    """Returns embeddings [S, D]: the hidden state of each sequence's end token, at (row, column)."""
    return hidden_btd[row_s, col_s]


def _axis_lengths(config: Qwen3Config, axes: tuple[str, ...]) -> tuple[int, ...]:
    lengths = {
        "embed": config.width,
        "q_heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.mlp,
    }
    return tuple(lengths[axis] for axis in axes)
