"""Contrastive losses as pure functions on embeddings (recipe 2.4). All compute in float32. Distillation: `distill`.

`terms` has the list of all of them, and their sum.

Letters: b rows (queries) of the batch, c rows that they meet, j negatives of a row, k any candidates of a row, s texts
of a batch (queries, positives, then negatives row by row), e embedding dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from f2jax.data.mixture import named_number
from f2jax.data.record import KINDS
from f2jax.errors import UserError, did_you_mean

WEIGHTS = ("sqrt_rank", "uniform")
PAIRED = tuple(kind for kind in KINDS if kind != "texts")  # whose rows have a positive
TEMPERATURES = "loss_temperatures"  # their name among the trained weights; no model has it
LEAST_TEMPERATURE = 0.01  # of a trained one
MASKED = -1e30  # the logit of a masked candidate; finite, so that no gradient is NaN


@dataclass(frozen=True)
class LossConfig:
    """What the loss of a batch depends on: the fields of `config.loss`, where configs/common.py has their defaults and
    comments, and the two that the architecture decides.
    """

    contrastive_weight: float
    temperature: float
    kind_temperatures: tuple[str, ...]
    matryoshka_weights: str
    passage_gradient: bool
    label_mask: bool
    mask_duplicates: bool
    mask_margin: float
    shared_negatives_weight: float
    query_query_weight: float
    document_document_weight: float
    spread_weight: float
    score_weight: float
    score_margin_weight: float
    score_temperature: float
    nested_ranks: bool
    distill: str
    distill_weight: float
    distill_matryoshka: bool
    distill_hard_weight: float
    distill_margin_weight: float
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
class Relations:
    """What the terms know of a batch besides the student's embeddings. Masks are False for what does not count."""

    row_b: jax.Array  # the last batch of an epoch has fewer rows
    here_bj: jax.Array  # a row's negatives
    own_bj: jax.Array  # without copies of its positive, if `mask_duplicates` says so
    in_batch_bc: jax.Array  # a row and the positives of other rows
    shared_bk: jax.Array  # a row and the negatives of all rows, K = B · J
    apart_bc: jax.Array  # pairs of rows that share neither label nor positive
    queries_bc: jax.Array  # those of them that do not share the query either
    text_s: jax.Array  # numbers of the texts: equal ones have equal numbers
    temperature: Any  # of the softmaxes over cosines
    teacher: Sequence[jax.Array] = ()  # the teacher's raw embeddings (q_br, p_br, n_bjr); (): there is none
    projection_er: jax.Array | None = None  # see `distill.embedding_loss`
    score_bk: Any = None  # a reranker's, of positive and negatives; NaN: none; None: of no row

    @classmethod
    def of(
        cls, config: LossConfig, *, n_mask_bj, row_mask_b, label_b, positive_b, negative_bj, text_s, **others
    ) -> "Relations":
        """Returns those of a batch; the arguments are those of `terms.batch_loss`."""
        both_bc = row_mask_b[:, None] & row_mask_b[None, :]
        unlike_bc, distinct_bc = label_mask(label_b, label_b), duplicate_mask(positive_b, positive_b[None, :])
        apart_bc = both_bc & unlike_bc & distinct_bc
        in_batch_bc = both_bc & ~jnp.eye(len(row_mask_b), dtype=bool)
        here_bj = own_bj = n_mask_bj & row_mask_b[:, None]
        shared_bk = here_bj.ravel()[None, :] & duplicate_mask(positive_b, negative_bj.ravel()[None, :])
        if config.label_mask:
            in_batch_bc = in_batch_bc & unlike_bc
        if config.mask_duplicates:
            in_batch_bc, own_bj = in_batch_bc & distinct_bc, own_bj & duplicate_mask(positive_b, negative_bj)
        query_b = text_s[: len(row_mask_b)]
        queries_bc = apart_bc & duplicate_mask(query_b, query_b[None, :])
        return cls(row_mask_b, here_bj, own_bj, in_batch_bc, shared_bk, apart_bc, queries_bc, text_s, **others)


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


def softmax_logits(positive_b, similarity_bk, mask_bk, temperature, margin: float = -1.0):
    """Returns the logits ([B], [B, K]) of each row's positive and of its negatives.

    >>> positive_b, negative_bk = softmax_logits(positive_b, similarity_bk, mask_bk, temperature=0.05)

    Args:
        positive_b, similarity_bk: cosines. mask_bk: False where a candidate is no negative of a row.
        margin: leave out negatives that score above the positive plus this (`within_margin`); below 0: off.
    """
    if margin >= 0:
        mask_bk = mask_bk & within_margin(similarity_bk, positive_b, margin)
    return positive_b / temperature, jnp.where(mask_bk, similarity_bk / temperature, MASKED)


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


def own_candidates(q_be, p_be, n_bje, relations: Relations, config: LossConfig):
    """Returns the logits of each row's positive and of its own negatives, see `softmax_logits`."""
    similarity_bj = temperature_scores("be,bje->bj", q_be, n_bje)
    return _logits(q_be, p_be, similarity_bj, relations.own_bj, relations, config)


def in_batch_candidates(q_be, p_be, relations: Relations, config: LossConfig):
    """Returns the logits of each row's positive and of those of the other rows, see `softmax_logits`."""
    similarity_bc = temperature_scores("be,ce->bc", q_be, p_be)
    return _logits(q_be, p_be, similarity_bc, relations.in_batch_bc, relations, config)


def _logits(q_be, p_be, similarity_bk, mask_bk, relations: Relations, config: LossConfig):
    positive_b = temperature_scores("be,be->b", q_be, p_be)
    return softmax_logits(positive_b, similarity_bk, mask_bk, relations.temperature, config.mask_margin)


def _mean_infonce(logits, relations: Relations):
    return masked_mean(infonce(*logits), relations.row_b)


def hard_term(student, relations: Relations, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and its own negatives (recipe 2.4).

    It trains queries and documents, for rows of all kinds; `in_batch_term` adds the positives of other rows, in a
    softmax of its own (recipe 0.1).

    >>> hard_term((q_be, p_be, n_bje), relations, config)

    Args:
        student: raw embeddings (q_be, p_be, n_bje) of one Matryoshka size.
    """
    q_be, p_be, n_bje = map(l2_normalize, student)
    return _mean_infonce(own_candidates(q_be, p_be, n_bje, relations, config), relations)


def in_batch_term(student, relations: Relations, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and those of the other rows (recipe 2.4).

    Without `passage_gradient` it trains queries alone, as the reference does on several GPUs (recipe 0.2). Arguments
    are those of `hard_term`, here as below.
    """
    q_be, p_be, _ = map(l2_normalize, student)
    p_be = p_be if config.passage_gradient else jax.lax.stop_gradient(p_be)
    return _mean_infonce(in_batch_candidates(q_be, p_be, relations, config), relations)


def shared_term(student, relations: Relations, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and the negatives of all rows.

    A copy of the row's positive is none of its negatives. It trains queries and documents, for retrieval: a negative of
    another row may well belong to a row's class or cluster.
    """
    q_be, p_be, n_bje = map(l2_normalize, student)
    similarity_bk = temperature_scores("be,ke->bk", q_be, n_bje.reshape(-1, n_bje.shape[-1]))
    return _mean_infonce(_logits(q_be, p_be, similarity_bk, relations.shared_bk, relations, config), relations)


def query_term(student, relations: Relations, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's positive and the other rows' queries (recipe 6.2).

        -log(exp(q·p / T) / (exp(q·p / T) + Σ exp(q·q' / T)))    over the queries q' of other rows

    Rows that share label, positive or query are not told apart. It is a term of GTE (https://arxiv.org/abs/2308.03281)
    and Qwen3-Embedding, there in one softmax with others; for retrieval.
    """
    q_be, p_be, _ = map(l2_normalize, student)
    similarity_bc = temperature_scores("be,ce->bc", q_be, q_be)
    return _mean_infonce(_logits(q_be, p_be, similarity_bc, relations.queries_bc, relations, config), relations)


def document_term(student, relations: Relations, config: LossConfig):
    """Returns the mean over the rows of InfoNCE among a row's query and the other rows' positives, as its positive sees
    them (recipe 6.2).

        -log(exp(q·p / T) / (exp(q·p / T) + Σ exp(p·p' / T)))    over the positives p' of other rows

    See `query_term`.
    """
    q_be, p_be, _ = map(l2_normalize, student)
    similarity_bc = temperature_scores("be,ce->bc", p_be, p_be)
    return _mean_infonce(_logits(q_be, p_be, similarity_bc, relations.apart_bc, relations, config), relations)


def spread_term(student, relations: Relations, config: LossConfig):
    """Returns `spread_out` of the queries plus that of the positives (recipe 6.3, 6.4).

    It needs no positives or negatives: it regularizes the other terms.
    """
    q_be, p_be, _ = map(l2_normalize, student)
    return sum(spread_out(x_ie, relations.apart_bc[: len(x_ie), : len(x_ie)]) for x_ie in (q_be, p_be))


def accuracy(student, relations: Relations, kind: str, config: LossConfig):
    """Returns the share of rows whose positive scores above its candidates: all other positives for retrieval, its own
    negatives for the other kinds."""
    q_be, p_be, n_bje = map(l2_normalize, student)
    if kind == "retrieval":
        logits = in_batch_candidates(q_be, p_be, relations, config)
    else:
        logits = own_candidates(q_be, p_be, n_bje, relations, config)
    return masked_mean(ranked_first(*logits), relations.row_b)


def kind_temperature(kind: str, config: LossConfig) -> float:
    """Returns the temperature of the rows of a kind, before any training: its own, or that of all.

    Raises:
        UserError: an item of `kind_temperatures` is not KIND=TEMPERATURE.
    """
    found = config.temperature
    for item in config.kind_temperatures:
        name, value = named_number(item)
        if name not in PAIRED or not value:
            raise UserError(
                f"'{item}' in loss.kind_temperatures should be KIND=TEMPERATURE, a number above 0 and one of the kinds "
                f"{', '.join(PAIRED)}."
            )
        found = value if name == kind else found
    return found


def trained_temperature(kind: str, config: LossConfig, exponents):
    """Returns the temperature of a kind that is trained: `kind_temperature` · exp(x), at least `LEAST_TEMPERATURE`.

    Training begins, and weight decay pulls, at x = 0. The bound is that of CLIP (https://arxiv.org/abs/2103.00020).

    Args:
        exponents: x of each kind, in the order of `PAIRED`.
    """
    return jnp.maximum(kind_temperature(kind, config) * jnp.exp(exponents[PAIRED.index(kind)]), LEAST_TEMPERATURE)


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
