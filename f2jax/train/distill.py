"""Distillation losses as pure functions on the student's and the teacher's embeddings (recipe 2.5, 6.3, 6.4).

The recipe's term is the mean squared error of raw states; the others are options, all of them in `terms`. Letters as in
`losses`; r are the dimensions of a teacher's embeddings, as many as the student's or more.
"""

from typing import Any

import jax
import jax.numpy as jnp

from f2jax.errors import UserError, did_you_mean
from f2jax.train.losses import (
    MASKED,
    LossConfig,
    Relations,
    l2_normalize,
    masked_mean,
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


def margin_loss(student_bk, teacher_bk, mask_bj):
    """Returns the mean over the negatives in the mask of the squared difference of the margins of student and teacher.

        ((s⁺ - sⱼ) - (t⁺ - tⱼ))²   (margin-MSE, https://arxiv.org/abs/2010.02666)

    Unlike `score_loss` it keeps the size of the teacher's differences, and of each negative alone.

    Args:
        student_bk, teacher_bk: logits [B, 1 + J] of the positive and the negatives.
    """
    student_bj, teacher_bj = (x[:, :1] - x[:, 1:] for x in (student_bk, teacher_bk))
    return masked_mean(jnp.square(student_bj - teacher_bj), mask_bj)


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


def embedding_term(student, relations: Relations, config: LossConfig):
    """Returns `embedding_loss` of the queries, plus that of the positives and that of the negatives (recipe 2.5).

    Args:
        student: raw embeddings (q_be, p_be, n_bje) of one Matryoshka size.
    """
    masks = relations.row_b, relations.row_b[: len(student[1])], relations.here_bj
    options: dict[str, Any] = {"distance": config.distill, "projection_er": relations.projection_er}
    parts = zip(student, relations.teacher, masks, strict=True)
    return sum(embedding_loss(*part, **options) for part in parts)


def hard_score_term(student, relations: Relations, config: LossConfig):
    """Returns `score_loss` over each row's positive and own negatives: the soft sibling of `losses.hard_term`."""
    mask_bk = jnp.concatenate([relations.row_b[:, None], relations.here_bj], axis=1)
    scores = own_scores(*student), own_scores(*relations.teacher)
    return score_loss(*scores, mask_bk, relations.row_b, *temperatures(config))


def margin_term(student, relations: Relations, config: LossConfig):
    """Returns `margin_loss` of the cosines over their temperatures: those of `hard_score_term`."""
    divisor, teacher_divisor = temperatures(config)
    logits = own_scores(*student) / divisor, own_scores(*relations.teacher) / teacher_divisor
    return margin_loss(*logits, relations.here_bj)


def in_batch_score_term(student, relations: Relations, config: LossConfig):
    """Returns `score_loss` over the positives of the batch: the soft sibling of `losses.in_batch_term`."""
    mask_bc = jnp.broadcast_to(relations.row_b[None, :], (relations.row_b.size,) * 2)
    scores = in_batch_scores(*student), in_batch_scores(*relations.teacher)
    return score_loss(*scores, mask_bc, relations.row_b, *temperatures(config))


def given_score_term(student, relations: Relations, config: LossConfig):
    """Returns `score_loss` to the scores that the rows bring, of any reranker, over their positive and own negatives.

        softmax(score / score_temperature) against softmax(cosine / temperature), the temperature of InfoNCE

    It is the mean over the rows with at least two scored candidates; 0 if there is none. Rerankers give logits, whose
    softmax is that of temperature 1 (so distils RocketQAv2, https://arxiv.org/abs/2110.07367).
    """
    here_bk = jnp.concatenate([relations.row_b[:, None], relations.here_bj], axis=1)
    mask_bk = here_bk & ~jnp.isnan(relations.score_bk)
    score_bk = jnp.where(mask_bk, relations.score_bk, 0.0)
    scored_b = jnp.sum(mask_bk, axis=1) > 1
    divisors = relations.temperature, config.score_temperature
    return score_loss(own_scores(*student), score_bk, mask_bk, scored_b, *divisors)


def given_margin_term(student, relations: Relations, config: LossConfig):
    """Returns `margin_loss` to the scores that the rows bring, over their temperatures: those of `given_score_term`.

    It is the mean over the negatives that have a score and whose positive has one; 0 if there is none.
    """
    there_bk = ~jnp.isnan(relations.score_bk)
    mask_bj = relations.here_bj & there_bk[:, :1] & there_bk[:, 1:]
    score_bk = jnp.where(there_bk, relations.score_bk, 0.0)
    return margin_loss(own_scores(*student) / relations.temperature, score_bk / config.score_temperature, mask_bj)


def text_score_term(student, relations: Relations, config: LossConfig):
    """Returns `score_loss` of each text over all others of the batch, of any role; it needs no pairs (recipe 6.6).

    A text that comes several times counts once: it would be its own nearest neighbour.
    """
    masks = relations.row_b, relations.row_b[: len(student[1])], relations.here_bj.ravel()
    mask_s = first_occurrences(relations.text_s, jnp.concatenate(masks))
    mask_ss = mask_s[None, :] & ~jnp.eye(mask_s.size, dtype=bool)
    scores = text_scores(*student), text_scores(*relations.teacher)
    return score_loss(*scores, mask_ss, mask_s, *temperatures(config))


def temperatures(config: LossConfig) -> tuple[float, float]:
    """Returns those of the student's and of the teacher's softmaxes over scores."""
    return config.distill_temperature, config.distill_teacher_temperature or config.distill_temperature
