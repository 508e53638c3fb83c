"""The compiled programs that turn a packed batch into embeddings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.model.qwen3 import Block, Qwen3, pool, rms_norm, rotary_angles, token_states


def make_embed(model: Qwen3, mesh: Mesh | None = None, all_tokens: bool = False) -> Callable:
    """Returns a function (params, tokens, segments, positions, row_s, col_s) → float32 [s, d], not normalized.

    It is compiled for each shape of a batch. `params` is a parameter tree or `weights.Weights.to_encode`.

    Args:
        mesh: devices that encode together; each gets the vectors of all texts. None: one device.
        all_tokens: return the hidden states of all tokens, float32 [b, t, d], instead.
    """

    def choose(hidden_btd, row_s, col_s):
        return hidden_btd if all_tokens else pool(hidden_btd, row_s, col_s)

    whole, by_layer = _whole(model, choose, mesh), _by_layer(model, choose)

    def embed(params, *batch):
        return (by_layer if isinstance(params["layers"], list) else whole)(params, *batch)

    return embed


def _whole(model: Qwen3, choose: Callable, mesh: Mesh | None) -> Callable:
    """Returns one program of all layers."""

    @partial(jax.jit, out_shardings=mesh and NamedSharding(mesh, PartitionSpec()))
    def embed(params, tokens_bt, segments_bt, positions_bt, row_s, col_s):
        hidden_btd: Any = model.apply({"params": params}, tokens_bt, segments_bt, positions_bt)
        return choose(hidden_btd, row_s, col_s).astype("float32")

    return embed


def _by_layer(model: Qwen3, choose: Callable) -> Callable:
    """Returns a function that calls the program of a layer for each of them, so that no weights are copied."""
    config = model.config
    block = Block(config, model.dtype, model.param_dtype, model.kernel, inputs_last=True)

    @jax.jit
    def first(params, tokens_bt, positions_bt):
        angles = rotary_angles(positions_bt, config.head_dim, config.rope_theta)
        return token_states(params, tokens_bt, model.dtype), *angles

    @jax.jit
    def layer(weights, x_btd, segments_bt, cos, sin):
        return block.apply({"params": weights}, x_btd, segments_bt, cos, sin, None)[0]

    @jax.jit
    def last(scale_d, x_btd, row_s, col_s):
        return rms_norm(choose(x_btd, row_s, col_s), scale_d, config.rms_norm_eps).astype("float32")

    def embed(params, tokens_bt, segments_bt, positions_bt, row_s, col_s):
        others = {name: value for name, value in params.items() if name != "layers"}
        x_btd, cos, sin = first(others, tokens_bt, positions_bt)
        for weights in params["layers"]:
            x_btd = layer(weights, x_btd, segments_bt, cos, sin)
        return last(params["final_norm"], x_btd, row_s, col_s)

    return embed
