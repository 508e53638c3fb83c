"""Smaller models nested in a model: fewer layers, and a token table of smaller rank (3-D Matryoshka, recipe 6.10).

The third dimension, the size of embeddings, is reduced by truncating the vectors themselves. In the names of
arrays, r is the rank of a factorized token table.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config

EXITS = (1, 2, 4, 8, 16, 24, 32, 40, 48)  # layers after which a model is trained to exit early
MIN_RANK = 64  # the smallest nested rank of a token table


def exit_layers(layers: int) -> tuple[int, ...]:
    """Returns the layers, counted from 1, after which a model is trained to exit; the last one is `layers`.

    >>> exit_layers(28)
    (1, 2, 4, 8, 16, 24, 28)
    """
    return (*(layer for layer in EXITS if layer < layers), layers)


def table_ranks(rank: int) -> tuple[int, ...]:
    """Returns the nested ranks of a factorized token table: 64, 128, 256 … below `rank`, and `rank`.

    >>> table_ranks(320)
    (64, 128, 256, 320)
    """
    return (*_doubled(MIN_RANK, rank), rank)


def matryoshka_dims(width: int, smallest: int = 8) -> tuple[int, ...]:
    """Returns the nested embedding sizes, largest first: the width, then … 4 · `smallest`, 2 · `smallest`, `smallest`.

    >>> matryoshka_dims(320)
    (320, 256, 128, 64, 32, 16, 8)

    Raises:
        UserError: `smallest` is below 1.
    """
    if smallest < 1:
        raise UserError(f"loss.matryoshka_min={smallest} should be at least 1.")
    return (width, *reversed(_doubled(smallest, width)))


def _doubled(first: int, limit: int) -> list[int]:
    """Returns `first`, 2 · `first`, 4 · `first` … below `limit`."""
    return [first << i for i in range(limit.bit_length()) if first << i < limit]


def draw_rank(rank: int, seed: int, step):
    """Returns the nested rank of a training step, an int32 scalar sampled with probability proportional to the rank."""
    ranks = jnp.asarray(table_ranks(rank), jnp.int32)
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.choice(key, ranks, p=ranks / ranks.sum())


def factorize_table(params, rank: int):
    """Returns the parameters with the token table [V, D] factorized into `token_table` [V, R] and `table_basis` [R, D].

    The product is the closest table of that rank in the Frobenius norm, and the product of the first columns and rows
    is the closest of each smaller rank (Eckart and Young, https://doi.org/10.1007/BF02288367). The singular value
    decomposition is computed from the D × D matrix of inner products, so that it works for a vocabulary of any size.
    """
    table_vd = params["token_table"].astype(jnp.float32)
    inner_dd = jnp.matmul(table_vd.T, table_vd, precision="highest")
    basis_rd = jnp.linalg.eigh(inner_dd)[1].T[::-1][:rank]  # eigenvalues are in ascending order
    table_vr = jnp.einsum("vd,rd->vr", table_vd, basis_rd, precision="highest")
    dtype = params["token_table"].dtype
    return params | {"token_table": table_vr.astype(dtype), "table_basis": basis_rd.astype(dtype)}


def cut_nested(architecture: Qwen3Config, params, layers: int | None = None, rank: int | None = None):
    """Returns the architecture and parameters of a smaller model: the first layers, and the token table multiplied out.

    Args:
        layers: number of layers to keep; None: all.
        rank: rank at which to use a factorized token table; None: its full rank.

    Raises:
        UserError: a number is out of range, or a rank is given and the token table is not factorized.
    """
    layers = architecture.layers if layers is None else layers
    if not 1 <= layers <= architecture.layers:
        raise UserError(f"truncate_layers={layers} is out of range; this model has 1 to {architecture.layers} layers.")
    if rank is not None and not architecture.table_rank:
        raise UserError(f"table_rank={rank} is given and this model's token table is not factorized; leave it out.")
    rank = architecture.table_rank if rank is None else rank
    if architecture.table_rank and not 1 <= rank <= architecture.table_rank:
        raise UserError(
            f"table_rank={rank} is out of range; this token table has ranks 1 to {architecture.table_rank}."
        )

    params = params | {"layers": jax.tree.map(lambda x: x[:layers], params["layers"])}
    if architecture.table_rank:
        basis_rd = params.pop("table_basis")
        factors = params["token_table"][:, :rank], basis_rd[:rank]
        params["token_table"] = jnp.einsum("vr,rd->vd", *factors, precision="highest")
    return replace(architecture, layers=layers, table_rank=0), params
