"""A backbone that is initialized as a bag of tokens: its embedding is the weighted mean of rows of its token table.

RMSNorm gives all states the same length, so a row cannot be short. Instead, each row [weight × unit vector, filler] has
the same length: the last coordinate, the filler, takes what the token's weight leaves. The final norm almost removes
the filler; the rest changes cosines by a hundred-thousandth, and gives an empty text a direction of its own. Uniform
attention then computes the mean: each layer adds the mean of some coordinates, as many as its values have, to the state
of the end token, whose own row is only filler.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config

STD = 1.0  # of a row's entries; with the usual 0.02, ten steps at a usual learning rate would undo the initialization
SHARP = 0.1  # scale of the queries, with which attention is nearly uniform but has a gradient
EMPTY = 1e-4  # share of the filler that the final norm keeps
GAIN = 0.3  # length that a layer adds, in units of a row: other tokens' states change little until the last layer


def average_params(config: Qwen3Config, rows_ve: np.ndarray, weight_v: np.ndarray, end_id: int, seed: int = 0) -> dict:
    """Returns parameters of a model whose embedding is, up to its length, the weighted mean of a text's rows.

    Args:
        rows_ve: unit rows, float32 [V, D - 1].
        weight_v: weight of each token, between 0 and 1.
        end_id: id of the token whose state is the embedding.

    Raises:
        UserError: the layers cannot carry all coordinates, or the token table is factorized.
    """
    kept = config.width - 1
    carried = config.layers * config.kv_heads * config.head_dim
    if config.table_rank:
        raise UserError("A start needs a token table that is not factorized; leave model.table_rank at 0.")
    if rows_ve.shape != (config.vocab_size, kept):
        raise UserError(f"The rows are {rows_ve.shape}; this model takes {(config.vocab_size, kept)}.")
    if carried < kept:
        raise UserError(
            f"{config.layers} layers of {config.kv_heads} key/value heads of {config.head_dim} carry {carried} "
            f"coordinates and the width has {kept}; choose a size with more layers or heads."
        )
    weight_v = np.array(weight_v, np.float32)
    weight_v[end_id] = 0
    table_vd = np.concatenate([rows_ve * weight_v[:, None], np.sqrt(1 - weight_v**2)[:, None]], axis=1)

    flat = flatten_dict(jax.tree.map(np.array, init_params(Qwen3(config), seed)))
    flat["token_table",] = table_vd * STD * config.width**0.5
    flat["final_norm",][-1] = EMPTY
    layers = {name: flat["layers", name] for name in ("value", "output", "down", "query_norm")}
    value_ldkh, output_lnhd = layers["value"], layers["output"]
    for weights in (value_ldkh, output_lnhd, layers["down"]):
        weights[:] = 0
    layers["query_norm"][:] = SHARP
    times = np.bincount(np.arange(carried) % kept, minlength=kept)  # that a coordinate is carried
    group = config.heads // config.kv_heads
    for slot, coordinate in enumerate(np.arange(carried) % kept):
        layer, head, channel = np.unravel_index(slot, (config.layers, config.kv_heads, config.head_dim))
        value_ldkh[layer, coordinate, head, channel] = 1
        share = GAIN * STD / (group * times[coordinate])  # each query head that reads this value adds one
        output_lnhd[layer, head * group : (head + 1) * group, channel, coordinate] = share
    return jax.tree.map(jnp.asarray, unflatten_dict(flat))
