"""Distillation losses as pure functions on the student's and the teacher's embeddings (recipe 2.5, 6.3, 6.4).

The recipe's term is the mean squared error of raw states; the others are options. A new term is one function with the
arguments of `embedding_term`, and one line in `TERMS`. Letters as in `losses`; s are the texts of a batch (queries,
positives, then negatives row by row), r the dimensions of a teacher's embeddings, as many as the student's or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from f2jax.data.record import KINDS
from f2jax.errors import UserError, did_you_mean
from f2jax.train.losses import (
    MASKED,
    LossConfig,
    Term,
    l2_normalize,
    masked_mean,
    matryoshka_weights,
    nested_sum,
    temperature_scores,
)

PROJECTION = "distill_projection"  # its name among the trained weights; no model has it


def squared_error(student_be, teacher_be):
    """Returns the mean over the dimensions of the squared differences, the distance of the recipe (2.5)."""
    return jnp.mean(jnp.square(student_be - teacher_be), axis=-1)


def cosine_distance(student_be, teacher_be):
    """Returns 1 - cosine (jina-embeddings-v5, recipe 6.4): unlike `squared_error` it ignores lengths."""
    return 1 - jnp.sum(l2_normalize(student_be) * l2_normalize(teacher_be), axis=-1)


DISTANCES = {"mse": squared_error, "cosine": cosine_distance}


def fresh_projection(width: int, teacher_width: int, dtype):
    """Returns the identity [E, R]: training begins as the recipe's term on the coordinates that both have."""
    return jnp.eye(width, teacher_width, dtype=dtype)


def check_distance(name: str) -> None:
    """Raises UserError for a name that is not in `DISTANCES`."""
    if name not in DISTANCES:
        raise UserError(f"There is no distillation loss '{name}'{did_you_mean(name, DISTANCES)}")


def embedding_loss(student_be, teacher_br, mask_b, *, distance: str = "mse", projection_er=None):
    """Returns the mean over the mask of the distance of raw embeddings to the teacher's; 0 for an empty mask.

        distance(s, t[:E])   or, with a projection,   distance(s · P[:E], t)

    >>> embedding_loss(student_be, teacher_br, row_mask_b, distance="cosine")

    Args:
        student_be, teacher_br: [B, E] and [B, R] with a mask [B], or [B, J, E] and [B, J, R] with a mask [B, J].
        distance: a name in `DISTANCES`.
        projection_er: of the student on all of the teacher's dimensions; of its rows the first E are used.
    """
    dim = student_be.shape[-1]
    student, target = student_be.astype(jnp.float32), teacher_br.astype(jnp.float32)
    if projection_er is None:
        target = target[..., :dim]
    else:
        student = jnp.dot(student, projection_er[:dim], precision="highest")
    return masked_mean(DISTANCES[distance](student, target), mask_b)


def score_loss(student_bk, teacher_bk, mask_bk, row_mask_b, temperature: float, teacher_temperature: float):
    """Returns the mean over the rows of the KL divergence of the teacher's softmax over candidates from the student's.

        Σₖ tₖ (log tₖ - log sₖ),   s, t = softmax(cosines / temperature of each)

    Unlike `infonce` it needs no positive: the teacher says how near each candidate is.

    >>> score_loss(own_scores(*student), own_scores(*teacher), mask_bk, row_mask_b, 0.05, 0.02)

    Args:
        student_bk, teacher_bk: cosine similarities [B, K]. mask_bk: False where a slot holds no candidate.
    """
    log_s, log_t = (
        jax.nn.log_softmax(jnp.where(mask_bk, x / divisor, MASKED), axis=1)
        for x, divisor in ((student_bk, temperature), (teacher_bk, teacher_temperature))
    )
    return masked_mean(jnp.sum(jnp.where(mask_bk, jnp.exp(log_t) * (log_t - log_s), 0.0), axis=1), row_mask_b)


def own_scores(q_be, p_be, n_bje):
    """Returns cosine similarities [B, 1 + J] of each query to its positive and to its own negatives."""
    q, p, n = (l2_normalize(x) for x in (q_be, p_be, n_bje))
    return jnp.concatenate(
        [temperature_scores("be,be->b", q, p)[:, None], temperature_scores("be,bje->bj", q, n)], axis=1
    )


def in_batch_scores(q_be, p_be, n_bje):
    """Returns cosine similarities [B, C] of each query to all positives of the batch."""
    return temperature_scores("be,ce->bc", l2_normalize(q_be), l2_normalize(p_be))


def text_scores(q_be, p_be, n_bje):
    """Returns cosine similarities [S, S] among all texts of the batch."""
    x_se = l2_normalize(jnp.concatenate([q_be, p_be, n_bje.reshape(-1, n_bje.shape[-1])]))
    return temperature_scores("se,ce->sc", x_se, x_se)


def first_occurrences(number_s, mask_s):
    """Returns True for the first of the texts in the mask that have the same number.

    >>> first_occurrences(jnp.array([7, 7, 5, 7]), jnp.array([False, True, True, True]))
    [False, True, True, False]
    """
    same_ss = (number_s[:, None] == number_s[None, :]) & mask_s[None, :]
    return mask_s & (jnp.argmax(same_ss, axis=1) == jnp.arange(number_s.size))


@dataclass(frozen=True)
class Target:
    """What the student is held to: the teacher's raw embeddings (q_br, p_br, n_bjr), and which of them count."""

    embeddings: Sequence[jax.Array]
    n_mask_bj: jax.Array
    row_mask_b: jax.Array
    p_mask_b: jax.Array  # as `row_mask_b`; [0] where the batch has texts alone
    text_s: jax.Array  # numbers of the texts: equal ones have equal numbers
    projection_er: jax.Array | None


def embedding_term(student, target: Target, config: LossConfig):
    """Returns `embedding_loss` of the queries, plus that of the positives and that of the negatives (recipe 2.5).

    Args:
        student: raw embeddings (q_be, p_be, n_bje) of one Matryoshka size.
    """
    masks = target.row_mask_b, target.p_mask_b, target.n_mask_bj
    parts = zip(student, target.embeddings, masks, strict=True)
    return sum(embedding_loss(*part, distance=config.distill, projection_er=target.projection_er) for part in parts)


def hard_score_term(student, target: Target, config: LossConfig):
    """Returns `score_loss` over each row's positive and own negatives: the soft sibling of `losses.hard_term`."""
    mask_bk = jnp.concatenate([target.row_mask_b[:, None], target.n_mask_bj], axis=1)
    scores = own_scores(*student), own_scores(*target.embeddings)
    return score_loss(*scores, mask_bk, target.row_mask_b, *temperatures(config))


def in_batch_score_term(student, target: Target, config: LossConfig):
    """Returns `score_loss` over the positives of the batch: the soft sibling of `losses.in_batch_term`."""
    mask_bc = jnp.broadcast_to(target.row_mask_b[None, :], (target.row_mask_b.size,) * 2)
    scores = in_batch_scores(*student), in_batch_scores(*target.embeddings)
    return score_loss(*scores, mask_bc, target.row_mask_b, *temperatures(config))


def text_score_term(student, target: Target, config: LossConfig):
    """Returns `score_loss` of each text over all others of the batch, of any role; it needs no pairs (recipe 6.6).

    A text that comes several times counts once: it would be its own nearest neighbour.
    """
    mask_s = jnp.concatenate([target.row_mask_b, target.p_mask_b, target.n_mask_bj.ravel()])
    mask_s = first_occurrences(target.text_s, mask_s)
    mask_ss = mask_s[None, :] & ~jnp.eye(mask_s.size, dtype=bool)
    scores = text_scores(*student), text_scores(*target.embeddings)
    return score_loss(*scores, mask_ss, mask_s, *temperatures(config))


def temperatures(config: LossConfig) -> tuple[float, float]:
    """Returns those of the student's and of the teacher's softmaxes over scores."""
    return config.distill_temperature, config.distill_teacher_temperature or config.distill_temperature


TERMS = (
    Term("distill", embedding_term, "distill_weight", KINDS),
    Term("distill_hard", hard_score_term, "distill_hard_weight"),
    Term("distill_in_batch", in_batch_score_term, "distill_in_batch_weight"),
    Term("distill_texts", text_score_term, "distill_texts_weight", KINDS),
)


def check_texts(group: Mapping[str, Any], kinds: Mapping[str, str], has_teacher: bool) -> None:
    """Raises UserError where a data set has texts alone and no term learns from them.

    Args:
        group: `loss` of a config.
        kinds: of the rows of each data set.
    """
    alone = [name for name, kind in kinds.items() if kind == "texts"]
    weights = [term.weight for term in TERMS if "texts" in term.kinds]
    if alone and not (has_teacher and any(group[weight] for weight in weights)):
        raise UserError(
            f"The data set {alone[0]} has texts alone, from which only a teacher's terms learn; set teacher.path or "
            f"teacher.cache, and {' or '.join(f'loss.{weight}' for weight in weights)}, or leave it out by "
            "data.exclude."
        )


def distill_loss(student, teacher, *, kind: str, config: LossConfig, n_mask_bj, row_mask_b, text_s, projection_er=None):
    """Returns the weighted sum of all `TERMS` that have a weight, and their values before it as metrics.

    With `distill_matryoshka` each term is taken at the nested sizes of the student, with their weights. All kinds of
    pairs are treated alike: the teacher, not a label, says which candidates are near. `texts` take no part in the terms
    that need pairs.

    >>> loss, metrics = distill_loss(student, teacher, kind="retrieval", config=config, **masks_and_numbers)

    Args:
        student, teacher: raw embeddings (q_be, p_be, n_bje) and (q_br, p_br, n_bjr); p is [0, E] for texts alone.
        n_mask_bj, row_mask_b: False where a slot or a row is absent.
        text_s: numbers of all these texts, int32 [S]; equal ones have equal numbers.
        projection_er: see `embedding_loss`.
    """
    width = student[0].shape[-1]
    dims = config.matryoshka_dims if config.distill_matryoshka and config.matryoshka_dims else (width,)
    weights = matryoshka_weights(dims, config.matryoshka_weights)
    p_mask_b = row_mask_b[: len(student[1])]
    target = Target(jax.lax.stop_gradient(teacher), n_mask_bj, row_mask_b, p_mask_b, text_s, projection_er)
    loss: Any = 0.0
    metrics: dict[str, jax.Array] = {}
    for term in TERMS:
        weight = term.weight_of(kind, config)
        if weight:
            value = nested_sum(lambda *cut, term=term: term.loss(cut, target, config), student, dims, weights)
            loss, metrics[f"loss_{term.name}"] = loss + weight * value, value
    return loss, metrics
