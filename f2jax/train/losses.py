"""Contrastive losses as pure functions on embeddings (recipe 2.4). All compute in float32. Distillation: `distill`.

Letters: b rows (queries), c in-batch candidates, j hard-negative slots of a row, e embedding dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from f2jax.errors import UserError, did_you_mean

WEIGHTS = ("sqrt_rank", "uniform")
MASKED = -1e30  # a logit that takes no part; finite, so that no gradient is NaN


@dataclass(frozen=True)
class LossConfig:
    """What the loss of a batch depends on; the defaults are the reference's."""

    temperature: float = 0.05  # of all softmaxes over cosine similarities
    matryoshka_dims: tuple[int, ...] = ()  # nested sizes, largest first; (): the full width alone
    matryoshka_weights: str = "sqrt_rank"  # a name in WEIGHTS
    passage_gradient: bool = False  # passages learn from the in-batch term too (recipe 0.2)
    mask_duplicates: bool = False  # a candidate equal to the row's positive is no negative
    mask_margin: float | None = None  # drop negatives that score above the positive plus this
    spread_weight: float = 0.0  # of the spread-out term
    distill: str = "mse"  # distance of embeddings to the teacher's, a name in distill.DISTANCES
    distill_weight: float = 1.0  # of that term
    distill_matryoshka: bool = False  # take it, and the score terms, at the nested sizes too
    distill_hard_weight: float = 0.0  # of the teacher's scores over each row's own candidates
    distill_in_batch_weight: float = 0.0  # of its scores over the positives of the batch
    distill_temperature: float = 0.05  # of the softmaxes over scores
    exits: tuple[int, ...] = ()  # layers behind which the loss is taken, the last one too; (): there alone
    nested_ranks: bool = False  # each step uses the token table at a rank that is drawn


def l2_normalize(x, eps: float = 1e-12):
    """Unit vectors along the last axis; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), eps**2))


def temperature_scores(spec: str, *arrays):
    """Dot products in true float32: accelerators would round the factors, and 1 / temperature magnifies that."""
    return jnp.einsum(spec, *(x.astype(jnp.float32) for x in arrays), precision="highest")


def hard_logits(q_be, p_be, n_bje, n_mask_bj, temperature: float, margin: float | None = None):
    """Logits ([B], [B, J]) of each row's positive and of the row's own negatives.

    Args:
        q_be, p_be, n_bje: unit vectors; J may be 0. n_mask_bj: False where a slot is no negative.
        margin: leave out negatives that score above the positive plus this (`within_margin`).
    """
    positive_b = temperature_scores("be,be->b", q_be, p_be)
    negative_bj = temperature_scores("be,bje->bj", q_be, n_bje)
    if margin is not None:
        n_mask_bj = n_mask_bj & within_margin(negative_bj, positive_b, margin)
    return positive_b / temperature, jnp.where(n_mask_bj, negative_bj / temperature, MASKED)


def in_batch_logits(q_be, p_ce, target_b, mask_bc, temperature: float, margin: float | None = None):
    """Logits ([B], [B, C]) of each row's positive and of the other rows' positives; the own column is masked.

    Args:
        q_be, p_ce: unit vectors; p_ce may hold more rows than q_be, such as those of other devices.
        target_b: the row of p_ce that is each query's positive.
        mask_bc: False where a candidate is no negative of a row.
        margin: as in `hard_logits`.
    """
    similarity_bc = temperature_scores("be,ce->bc", q_be, p_ce)
    positive_b = jnp.take_along_axis(similarity_bc, target_b[:, None], axis=1)[:, 0]
    mask_bc = mask_bc & (target_b[:, None] != jnp.arange(p_ce.shape[0]))
    if margin is not None:
        mask_bc = mask_bc & within_margin(similarity_bc, positive_b, margin)
    return positive_b / temperature, jnp.where(mask_bc, similarity_bc / temperature, MASKED)


def infonce(positive_b, negative_bk):
    """Cross-entropy of the positive among itself and the negatives, from their logits; [B]. 0 without negatives.

    Taken as log(1 + Σ exp(negative - positive)), which keeps its digits where the loss is small.
    """
    return jax.nn.softplus(jax.nn.logsumexp(negative_bk - positive_b[:, None], axis=1))


def ranked_first(positive_b, negative_bk):
    """True where the positive scores above every negative; [B]."""
    return positive_b > jnp.max(negative_bk, axis=1, initial=MASKED)


def hard_infonce(q_be, p_be, n_bje, n_mask_bj, temperature: float, margin: float | None = None):
    """Cross-entropy of each row's positive among it and the row's own negatives; [B]. Arguments: `hard_logits`."""
    return infonce(*hard_logits(q_be, p_be, n_bje, n_mask_bj, temperature, margin))


def in_batch_infonce(q_be, p_ce, target_b, mask_bc, temperature: float, margin: float | None = None):
    """Cross-entropy of each row's positive among all positives of the batch; [B]. Arguments: `in_batch_logits`."""
    return infonce(*in_batch_logits(q_be, p_ce, target_b, mask_bc, temperature, margin))


def within_margin(similarity_bk, positive_b, margin: float):
    """True where a negative scores at most `margin` above the row's positive (Qwen3-Embedding, recipe 6.2)."""
    return jax.lax.stop_gradient(similarity_bk) <= jax.lax.stop_gradient(positive_b)[:, None] + margin


def label_mask(label_b, label_c):
    """True where row and candidate have no label in common; a label below 0 is none."""
    return (label_b[:, None] != label_c[None, :]) | (label_b[:, None] < 0)


def duplicate_mask(id_b, id_bk):
    """True where a candidate is another document than the row's positive."""
    return id_b[:, None] != id_bk


def matryoshka_weights(dims: Sequence[int], scheme: str = "sqrt_rank") -> tuple[float, ...]:
    """One weight for each size: `sqrt(dim / width) / rank` with rank 1 for the largest (recipe 0.3), or 1.

    Raises:
        UserError: unknown scheme.
    """
    if scheme == "sqrt_rank":
        return tuple((dim / dims[0]) ** 0.5 / rank for rank, dim in enumerate(dims, 1))
    if scheme == "uniform":
        return (1.0,) * len(dims)
    raise UserError(f"There are no Matryoshka weights '{scheme}'{did_you_mean(scheme, WEIGHTS)}")


def matryoshka(loss: Callable, embeddings: Sequence, dims: Sequence[int], weights: Sequence[float]):
    """Weighted sum of `loss` over nested sizes: slice, then normalize (https://arxiv.org/abs/2205.13147)."""
    terms = (loss(*(l2_normalize(x[..., :dim]) for x in embeddings)) for dim in dims)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def spread_out(x_be, mask_bc):
    """Mean squared cosine of the pairs in the mask: near 1 / E where vectors fill the sphere (GOR, recipe 6.3, 6.4).

    x_be: unit vectors.
    """
    return masked_mean(jnp.square(temperature_scores("be,ce->bc", x_be, x_be)), mask_bc)


def masked_mean(x, mask):
    """Mean of x over the mask; 0 where the mask is empty."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def contrastive_loss(
    q_be, p_be, n_bje, *, kind: str, config: LossConfig, n_mask_bj, row_mask_b, label_b, positive_b, negative_bj
):
    """The loss of a batch, routed by its kind (recipe 2.4), and its metrics.

    `retrieval`: own negatives plus in-batch; `clustering`, `classification`: own negatives alone. Mean over the rows.
    With a weight for it, queries and positives are spread out: pairs of rows that share no label and no positive.
    Metrics, all at the full width: `loss_hard`, `loss_in_batch` (retrieval), `loss_spread` and `accuracy`, the share of
    rows whose positive scores above all other positives (retrieval) or above the row's negatives (the other kinds).

    Args:
        q_be, p_be, n_bje: raw embeddings of queries, positives and negatives.
        n_mask_bj, row_mask_b: False where a slot or a row is absent.
        label_b: label numbers, -1 for none. positive_b, negative_bj: document numbers.
    """
    q_be, p_be, n_bje = (x.astype(jnp.float32) for x in (q_be, p_be, n_bje))  # gradients of all terms add up in it too
    dims = config.matryoshka_dims or (q_be.shape[-1],)
    weights = matryoshka_weights(dims, config.matryoshka_weights)
    options = {"temperature": config.temperature, "margin": config.mask_margin}
    target_b = jnp.arange(q_be.shape[0])
    mask_bc = row_mask_b[None, :] & label_mask(label_b, label_b)
    if config.mask_duplicates:
        mask_bc = mask_bc & duplicate_mask(positive_b, positive_b[None, :])
        n_mask_bj = n_mask_bj & duplicate_mask(positive_b, negative_bj)

    def hard(q_be, p_be, n_bje):
        return masked_mean(hard_infonce(q_be, p_be, n_bje, n_mask_bj, **options), row_mask_b)

    def in_batch(q_be, p_ce):
        p_ce = p_ce if config.passage_gradient else jax.lax.stop_gradient(p_ce)
        return masked_mean(in_batch_infonce(q_be, p_ce, target_b, mask_bc, **options), row_mask_b)

    q_unit, p_unit, n_unit = (l2_normalize(x) for x in (q_be, p_be, n_bje))
    loss = matryoshka(hard, (q_be, p_be, n_bje), dims, weights)
    logits = hard_logits(q_unit, p_unit, n_unit, n_mask_bj, **options)
    metrics = {"loss_hard": hard(q_unit, p_unit, n_unit)}
    if kind == "retrieval":
        loss += matryoshka(in_batch, (q_be, p_be), dims, weights)
        logits = in_batch_logits(q_unit, p_unit, target_b, mask_bc, **options)
        metrics["loss_in_batch"] = in_batch(q_unit, p_unit)
    if config.spread_weight:
        apart_bc = row_mask_b[:, None] & mask_bc & duplicate_mask(positive_b, positive_b[None, :])

        def spread(q_be, p_be):
            return spread_out(q_be, apart_bc) + spread_out(p_be, apart_bc)

        loss += config.spread_weight * matryoshka(spread, (q_be, p_be), dims, weights)
        metrics["loss_spread"] = spread(q_unit, p_unit)
    metrics["accuracy"] = masked_mean(ranked_first(*logits), row_mask_b)
    return loss, metrics
