"""Smaller models inside a model: fewer layers, and a token table of smaller rank (3-D Matryoshka, recipe 6.10).

The third dimension, that of the embedding, is cut from the vectors themselves.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config

EXITS = (1, 2, 4, 8, 16, 24, 32, 40, 48)  # layers behind which a model is trained to end early
SMALLEST_RANK = 64


def exit_layers(layers: int) -> tuple[int, ...]:
    """The layers, counted from 1, behind which a model of so many is trained; the last one is the whole model.

    >>> exit_layers(28)
    (1, 2, 4, 8, 16, 24, 28)
    """
    return (*(layer for layer in EXITS if layer < layers), layers)


def table_ranks(rank: int) -> tuple[int, ...]:
    """The nested ranks of a factorized token table: 64, 128, 256 … and all of it.

    >>> table_ranks(320)
    (64, 128, 256, 320)
    """
    ranks, nested = [], SMALLEST_RANK
    while nested < rank:
        ranks.append(nested)
        nested *= 2
    return (*ranks, rank)


def matryoshka_dims(width: int, smallest: int = 8) -> tuple[int, ...]:
    """The nested sizes, largest first: the width, then those of `smallest`, 2 · `smallest`, 4 · `smallest` … below it.

    >>> matryoshka_dims(320)
    (320, 256, 128, 64, 32, 16, 8)

    Raises:
        UserError: `smallest` is below 1.
    """
    if smallest < 1:
        raise UserError(f"loss.matryoshka_min={smallest} should be at least 1.")
    powers, dim = [], smallest
    while dim < width:
        powers.append(dim)
        dim *= 2
    return (width, *reversed(powers))


def draw_rank(rank: int, seed: int, step):
    """int32 scalar: the nested rank of a training step, each drawn as often as it is large."""
    ranks = jnp.asarray(table_ranks(rank), jnp.int32)
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.choice(key, ranks, p=ranks / ranks.sum())


def factorize_table(params, rank: int):
    """The parameters with the token table [V, D] as `token_table` [V, R] times `table_basis` [R, D].

    The product is the nearest table of that rank, and so is that of the first r columns and rows for each r < R
    (singular value decomposition; from the D × D matrix of inner products, which any table size allows).
    """
    table_vd = params["token_table"].astype(jnp.float32)
    inner_dd = jnp.einsum("vd,ve->de", table_vd, table_vd, precision="highest")
    basis_rd = jnp.linalg.eigh(inner_dd)[1].T[::-1][:rank]  # eigenvalues come smallest first
    table_vr = jnp.einsum("vd,rd->vr", table_vd, basis_rd, precision="highest")
    dtype = params["token_table"].dtype
    return params | {"token_table": table_vr.astype(dtype), "table_basis": basis_rd.astype(dtype)}


def cut_nested(architecture: Qwen3Config, params, layers: int | None = None, rank: int | None = None):
    """The architecture and the parameters of the first layers, with one whole token table, multiplied out.

    Args:
        layers: how many of them; None: all.
        rank: of a factorized token table; None: its own.

    Raises:
        UserError: a number is out of range, or a rank is given and the token table is not factorized.
    """
    layers = architecture.layers if layers is None else layers
    if not 1 <= layers <= architecture.layers:
        raise UserError(f"truncate_layers={layers} is out of range; this model has 1 to {architecture.layers} layers.")
    if rank is not None and not architecture.table_rank:
        raise UserError(f"table_rank={rank} is given and this model has one whole token table; leave it out.")
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
