"""Contrastive losses as pure functions on embeddings (recipe 2.4). All compute in float32. Distillation: `distill`.

The loss of a batch is a weighted sum of `TERMS`, each taken at every Matryoshka size. A new term is one function with
the arguments of `hard_term`, and one line in `TERMS`.

Letters: b rows (queries) of the batch, c documents they meet (the positives of all rows), j negatives of a row, k any
candidates of a row, e embedding dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from f2jax.data.record import KINDS
from f2jax.errors import UserError, did_you_mean

WEIGHTS = ("sqrt_rank", "uniform")
PAIRED = tuple(kind for kind in KINDS if kind != "texts")  # whose rows have a positive
MASKED = -1e30  # the logit of a masked candidate; finite, so that no gradient is NaN


@dataclass(frozen=True)
class LossConfig:
    """What the loss of a batch depends on: the fields of `config.loss`, where configs/common.py has their defaults and
    comments, and the two that the architecture decides.
    """

    contrastive_weight: float
    temperature: float
    matryoshka_weights: str
    passage_gradient: bool
    label_mask: bool
    mask_duplicates: bool
    mask_margin: float
    spread_weight: float
    nested_ranks: bool
    distill: str
    distill_weight: float
    distill_matryoshka: bool
    distill_hard_weight: float
    distill_in_batch_weight: float
    distill_texts_weight: float
    distill_temperature: float
    distill_teacher_temperature: float
    matryoshka_dims: tuple[int, ...]  # nested sizes, largest first; (): the full width alone
    exits: tuple[int, ...]  # layers after which the loss is taken, the last one included; (): the last one alone

    @classmethod
    def of(cls, group: Mapping[str, Any], matryoshka_dims: tuple[int, ...] = (), exits: tuple[int, ...] = ()):
        """Returns the loss of the group `loss` of a config.

        >>> LossConfig.of(config.loss, matryoshka_dims(1024)).temperature
        0.05
        """
        derived: dict[str, Any] = {"matryoshka_dims": matryoshka_dims, "exits": exits}
        return cls(**{field.name: group[field.name] for field in fields(cls) if field.name not in derived} | derived)


@dataclass(frozen=True)
class Masks:
    """Which rows count, and which candidates are negatives of a row: False for the others."""

    row_b: jax.Array  # the last batch of an epoch has fewer rows
    own_bj: jax.Array  # its own negatives
    in_batch_bc: jax.Array  # positives of other rows; its own column is left to `target_b`
    apart_bc: jax.Array  # pairs of rows that share neither label nor positive

    @classmethod
    def of(cls, config: LossConfig, *, n_mask_bj, row_mask_b, label_b, positive_b, negative_bj) -> "Masks":
        """Returns the masks of a batch; the arguments are those of `contrastive_loss`."""
        in_batch_bc = row_mask_b[None, :]
        unlike_bc, distinct_bc = label_mask(label_b, label_b), duplicate_mask(positive_b, positive_b[None, :])
        apart_bc = in_batch_bc & row_mask_b[:, None] & unlike_bc & distinct_bc
        if config.label_mask:
            in_batch_bc = in_batch_bc & unlike_bc
        if config.mask_duplicates:
            in_batch_bc, n_mask_bj = in_batch_bc & distinct_bc, n_mask_bj & duplicate_mask(positive_b, negative_bj)
        return cls(row_mask_b, n_mask_bj, in_batch_bc, apart_bc)


def l2_normalize(x, eps: float = 1e-12):
    """Returns unit vectors along the last axis; a zero vector stays zero, with a finite gradient.

    >>> l2_normalize(jnp.array([3.0, 4.0]))
    [0.6, 0.8]
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), eps**2))


def temperature_scores(spec: str, *arrays):
    """Returns dot products in true float32: accelerators round the factors, and 1 / temperature magnifies that."""
    return jnp.einsum(spec, *(x.astype(jnp.float32) for x in arrays), precision="highest")


def hard_logits(q_be, p_be, n_bje, n_mask_bj, temperature: float, margin: float = -1.0):
    """Returns the logits ([B], [B, J]) of each row's positive and of the row's own negatives.

    >>> positive_b, negative_bj = hard_logits(q_be, p_be, n_bje, n_mask_bj, temperature=0.05)

    Args:
        q_be, p_be, n_bje: unit vectors; J may be 0. n_mask_bj: False where a slot holds no negative.
        margin: leave out negatives that score above the positive plus this (`within_margin`); below 0: off.
    """
    positive_b = temperature_scores("be,be->b", q_be, p_be)
    negative_bj = temperature_scores("be,bje->bj", q_be, n_bje)
    if margin >= 0:
        n_mask_bj = n_mask_bj & within_margin(negative_bj, positive_b, margin)
    return positive_b / temperature, jnp.where(n_mask_bj, negative_bj / temperature, MASKED)


def in_batch_logits(q_be, p_ce, target_b, mask_bc, temperature: float, margin: float = -1.0):
    """Returns the logits ([B], [B, C]) of each row's positive and of the other rows' positives.

    >>> positive_b, negative_bc = in_batch_logits(q_be, p_be, jnp.arange(len(q_be)), mask_bc, temperature=0.05)

    Args:
        q_be, p_ce: unit vectors; p_ce may hold more rows than q_be, such as those of other devices.
        target_b: the row of p_ce that is each query's positive; it is masked among the negatives.
        mask_bc: False where a candidate is no negative of a row.
        margin: as in `hard_logits`.
    """
    similarity_bc = temperature_scores("be,ce->bc", q_be, p_ce)
    positive_b = jnp.take_along_axis(similarity_bc, target_b[:, None], axis=1)[:, 0]
    mask_bc = mask_bc & (target_b[:, None] != jnp.arange(p_ce.shape[0]))
    if margin >= 0:
        mask_bc = mask_bc & within_margin(similarity_bc, positive_b, margin)
    return positive_b / temperature, jnp.where(mask_bc, similarity_bc / temperature, MASKED)


def infonce(positive_b, negative_bk):
    """Returns the InfoNCE loss [B] (https://arxiv.org/abs/1807.03748) from logits; 0 for a row without negatives.

        -log(exp(s⁺) / (exp(s⁺) + Σₖ exp(sₖ⁻))) = log(1 + Σₖ exp(sₖ⁻ - s⁺))

    It is computed as on the right, which keeps its digits where the loss is small.

    >>> infonce(jnp.array([1.0]), jnp.array([[0.0]]))  # log(1 + 1/e)
    [0.3133]
    """
    return jax.nn.softplus(jax.nn.logsumexp(negative_bk - positive_b[:, None], axis=1))


def ranked_first(positive_b, negative_bk):
    """Returns True for each row [B] whose positive scores above every negative."""
    return positive_b > jnp.max(negative_bk, axis=1, initial=MASKED)


def within_margin(similarity_bk, positive_b, margin: float):
    """Returns True where a negative scores at most `margin` above the row's positive (Qwen3-Embedding, recipe 6.2)."""
    return jax.lax.stop_gradient(similarity_bk) <= jax.lax.stop_gradient(positive_b)[:, None] + margin


def label_mask(label_b, label_c):
    """Returns True where row and candidate have no label in common; a label below 0 is none."""
    return (label_b[:, None] != label_c[None, :]) | (label_b[:, None] < 0)


def duplicate_mask(id_b, id_bk):
    """Returns True where a candidate is another document than the row's positive."""
    return id_b[:, None] != id_bk


def masked_mean(x, mask):
    """Returns the mean of x over the mask; 0 for an empty mask."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def spread_out(x_be, mask_bc):
    """Returns the mean squared cosine of the pairs of unit vectors in the mask.

        mean over pairs b, c of (x_b · x_c)²

    It is near 1 / E for vectors that fill the sphere, and 1 if all are the same (GOR, recipe 6.3, 6.4).

    >>> spread_out(jnp.eye(2), jnp.ones((2, 2), bool))
    0.5
    """
    return masked_mean(jnp.square(temperature_scores("be,ce->bc", x_be, x_be)), mask_bc)


def hard_term(q_be, p_be, n_bje, masks: Masks, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and its own negatives (recipe 2.4).

    It trains queries and documents, for rows of all kinds; `in_batch_term` adds the positives of other rows, in a
    softmax of its own (recipe 0.1).

    >>> hard_term(l2_normalize(q_be), l2_normalize(p_be), l2_normalize(n_bje), masks, config)

    Args:
        q_be, p_be, n_bje: unit vectors of one Matryoshka size.
    """
    logits = hard_logits(q_be, p_be, n_bje, masks.own_bj, config.temperature, config.mask_margin)
    return masked_mean(infonce(*logits), masks.row_b)


def in_batch_term(q_be, p_be, n_bje, masks: Masks, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and those of the other rows (recipe 2.4).

    Without `passage_gradient` it trains queries alone, as the reference does on several GPUs (recipe 0.2). Use and
    arguments are those of `hard_term`; `n_bje` is not used.
    """
    p_ce = p_be if config.passage_gradient else jax.lax.stop_gradient(p_be)
    target_b = jnp.arange(q_be.shape[0])
    logits = in_batch_logits(q_be, p_ce, target_b, masks.in_batch_bc, config.temperature, config.mask_margin)
    return masked_mean(infonce(*logits), masks.row_b)


def spread_term(q_be, p_be, n_bje, masks: Masks, config: LossConfig):
    """Returns `spread_out` of the queries plus that of the positives (recipe 6.3, 6.4).

    It needs no positives or negatives: it regularizes the other terms. Use and arguments are those of `hard_term`;
    `n_bje` is not used.
    """
    return sum(spread_out(x_ie, masks.apart_bc[: len(x_ie), : len(x_ie)]) for x_ie in (q_be, p_be))


@dataclass(frozen=True)
class Term:
    """A part of the loss of a batch; its metric is `loss_<name>`, without the weight."""

    name: str
    loss: Callable  # (q_be, p_be, n_bje, masks, config) → scalar; of distillation: (student, target, config)
    weight: str  # the field of `LossConfig` that holds it; 0: the term is not computed
    kinds: tuple[str, ...] = PAIRED  # of the rows that it is taken of

    def weight_of(self, kind: str, config: LossConfig) -> float:
        """Returns its weight in the loss of rows of a kind."""
        return getattr(config, self.weight) if kind in self.kinds else 0.0


TERMS = (
    Term("hard", hard_term, "contrastive_weight"),
    Term("in_batch", in_batch_term, "contrastive_weight", ("retrieval",)),
    Term("spread", spread_term, "spread_weight", KINDS),
)


def matryoshka_weights(dims: Sequence[int], scheme: str = "sqrt_rank") -> tuple[float, ...]:
    """Returns one weight for each size: `sqrt(dim / width) / rank` with rank 1 for the largest (recipe 0.3), or 1.

    >>> matryoshka_weights((16, 4))
    (1.0, 0.25)

    Raises:
        UserError: unknown scheme.
    """
    if scheme == "sqrt_rank":
        return tuple((dim / dims[0]) ** 0.5 / rank for rank, dim in enumerate(dims, 1))
    if scheme == "uniform":
        return (1.0,) * len(dims)
    raise UserError(f"There are no Matryoshka weights '{scheme}'{did_you_mean(scheme, WEIGHTS)}")


def nested_sum(loss: Callable, embeddings: Sequence, dims: Sequence[int], weights: Sequence[float]):
    """Returns the Matryoshka loss (https://arxiv.org/abs/2205.13147), Σ weight · loss(first `dim` dimensions).

    >>> nested_sum(lambda q_be, p_be: …, (q_be, p_be), dims=(64, 8), weights=(1.0, 0.5))
    """
    terms = (loss(*(x[..., :dim] for x in embeddings)) for dim in dims)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def contrastive_loss(
    q_be, p_be, n_bje, *, kind: str, config: LossConfig, n_mask_bj, row_mask_b, label_b, positive_b, negative_bj
):
    """Returns the loss of a batch and its metrics.

        Σ over TERMS of weight · Σ over Matryoshka sizes of sqrt(dim / width) / rank · term

    The kind of the rows decides on the terms (recipe 2.4): `retrieval` learns from own negatives and in-batch,
    `clustering` and `classification` from own negatives alone; `texts` have no pairs and take no part.
    `distill_loss` is added to it where there is a teacher.
    Metrics, all at the full width: `loss_<term>`, and `accuracy`, the share of rows whose positive scores above all
    other positives (retrieval) or above the row's negatives (the other kinds).

    >>> loss, metrics = contrastive_loss(q_be, p_be, n_bje, kind="retrieval", config=config, **masks_and_ids)

    Args:
        q_be, p_be, n_bje: raw embeddings of queries, positives and negatives; of the kind `texts` p is [0, E].
        n_mask_bj, row_mask_b: False where a slot or a row is absent.
        label_b: label numbers, -1 for none. positive_b, negative_bj: document numbers.
    """
    embeddings = [x.astype(jnp.float32) for x in (q_be, p_be, n_bje)]  # the gradients of all terms add up in it too
    dims = config.matryoshka_dims or (q_be.shape[-1],)
    weights = matryoshka_weights(dims, config.matryoshka_weights)
    masks = Masks.of(
        config,
        n_mask_bj=n_mask_bj,
        row_mask_b=row_mask_b,
        label_b=label_b,
        positive_b=positive_b,
        negative_bj=negative_bj,
    )
    loss: Any = 0.0
    metrics: dict[str, jax.Array] = {}
    for term in TERMS:
        weight = term.weight_of(kind, config)
        if weight:

            def at_size(*cut, term=term):
                return term.loss(*map(l2_normalize, cut), masks, config)

            loss += weight * nested_sum(at_size, embeddings, dims, weights)
            metrics[f"loss_{term.name}"] = at_size(*embeddings)
    if kind in PAIRED:
        q_be, p_be, n_bje = map(l2_normalize, embeddings)
        metrics["accuracy"] = accuracy(q_be, p_be, n_bje, masks, kind, config)
    return loss, metrics


def accuracy(q_be, p_be, n_bje, masks: Masks, kind: str, config: LossConfig):
    """Returns the share of rows whose positive scores above its candidates: see `contrastive_loss`."""
    if kind == "retrieval":
        target_b = jnp.arange(q_be.shape[0])
        logits = in_batch_logits(q_be, p_be, target_b, masks.in_batch_bc, config.temperature, config.mask_margin)
    else:
        logits = hard_logits(q_be, p_be, n_bje, masks.own_bj, config.temperature, config.mask_margin)
    return masked_mean(ranked_first(*logits), masks.row_b)
