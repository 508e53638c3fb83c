"""Distillation losses as pure functions on the student's and the teacher's embeddings (recipe 2.5, 6.3, 6.4).

The recipe's term is the mean squared error of raw states; the others are options. Letters as in `losses`; a teacher's
embeddings may be wider than the student's.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from f2jax.errors import UserError, did_you_mean
from f2jax.train.losses import MASKED, LossConfig, l2_normalize, masked_mean, matryoshka_weights, temperature_scores


def squared_error(student_be, teacher_be):
    """Mean over the dimensions of the squared differences."""
    return jnp.mean(jnp.square(student_be - teacher_be), axis=-1)


def cosine_distance(student_be, teacher_be):
    """1 - cosine (jina-embeddings-v5, recipe 6.4)."""
    return 1 - jnp.sum(l2_normalize(student_be) * l2_normalize(teacher_be), axis=-1)


PROJECTION = "distill_projection"  # its name among the trained weights; no model has it

DISTANCES = {"mse": squared_error, "cosine": cosine_distance}


def fresh_projection(width: int, teacher_width: int, dtype):
    """[E, T]: the identity, so that training begins as the recipe's term on the coordinates that both have."""
    return jnp.eye(width, teacher_width, dtype=dtype)


def check_distance(name: str) -> None:
    """Raises UserError for a name that is not in `DISTANCES`."""
    if name not in DISTANCES:
        raise UserError(f"There is no distillation loss '{name}'{did_you_mean(name, DISTANCES)}")


def embedding_loss(
    student_be, teacher_be, mask_b, *, distance: str = "mse", dims: Sequence[int] = (), weights=(), projection_et=None
):
    """Distance of raw embeddings to the teacher's, mean over the rows in the mask; 0 where the mask is empty.

    The teacher is cut to the student's width; with a projection [E, T] it is whole, and the student is projected on it.

    Args:
        student_be, teacher_be: any shape of rows, [B, E] with a mask [B] or [B, J, E] with a mask [B, J].
        distance: a name in `DISTANCES`.
        dims, weights: nested sizes of the student, and the weight of each; (): its full width.
    """
    student_be, teacher_be = student_be.astype(jnp.float32), teacher_be.astype(jnp.float32)
    total = 0.0
    for dim, weight in zip(dims or (student_be.shape[-1],), weights or (1.0,), strict=True):
        student, target = student_be[..., :dim], teacher_be[..., :dim]
        if projection_et is not None:
            student, target = jnp.dot(student, projection_et[:dim], precision="highest"), teacher_be
        total += weight * masked_mean(DISTANCES[distance](student, target), mask_b)
    return total


def score_loss(student_bk, teacher_bk, mask_bk, row_mask_b, temperature: float):
    """KL divergence from the teacher's softmax over each row's candidates to the student's; mean over the rows.

    Args:
        student_bk, teacher_bk: cosine similarities [B, K]. mask_bk: False where a slot holds no candidate.
    """
    log_s, log_t = (
        jax.nn.log_softmax(jnp.where(mask_bk, x / temperature, MASKED), axis=1) for x in (student_bk, teacher_bk)
    )
    return masked_mean(jnp.sum(jnp.where(mask_bk, jnp.exp(log_t) * (log_t - log_s), 0.0), axis=1), row_mask_b)


def own_scores(q_be, p_be, n_bje):
    """Cosine similarities [B, 1 + J] of each query to its positive and to its own negatives."""
    q, p, n = (l2_normalize(x) for x in (q_be, p_be, n_bje))
    return jnp.concatenate(
        [temperature_scores("be,be->b", q, p)[:, None], temperature_scores("be,bje->bj", q, n)], axis=1
    )


def in_batch_scores(q_be, p_be, n_bje):
    """Cosine similarities [B, C] of each query to all positives of the batch."""
    return temperature_scores("be,ce->bc", l2_normalize(q_be), l2_normalize(p_be))


def distill_loss(student, teacher, *, config: LossConfig, n_mask_bj, row_mask_b, projection_et=None):
    """All distillation terms of a batch that have a weight, and their values before it as metrics.

    Scores are compared in all kinds of rows: the teacher, not a label, says which candidates are near.

    Args:
        student, teacher: (q_be, p_be, n_bje) each, raw.
        n_mask_bj, row_mask_b: False where a slot or a row is absent.
        projection_et: see `embedding_loss`.
    """
    teacher = jax.lax.stop_gradient(teacher)
    dims = (student[0].shape[-1],)
    if config.distill_matryoshka:
        dims = config.matryoshka_dims or dims
    weights = matryoshka_weights(dims, config.matryoshka_weights)
    masks = (row_mask_b, row_mask_b, n_mask_bj)
    options = {"distance": config.distill, "dims": dims, "weights": weights, "projection_et": projection_et}

    def scores(of, mask_bk):
        """Of the nested sizes of the student, to the teacher's of full width."""
        target_bk = of(*teacher)
        terms = (of(*(x[..., :dim] for x in student)) for dim in dims)
        return sum(
            weight * score_loss(term, target_bk, mask_bk, row_mask_b, config.distill_temperature)
            for weight, term in zip(weights, terms, strict=True)
        )

    loss, metrics = 0.0, {}

    def add(name: str, weight: float, value) -> None:
        nonlocal loss
        loss, metrics[name] = loss + weight * value, value

    if config.distill_weight:
        parts = zip(student, teacher, masks, strict=True)
        add("loss_distill", config.distill_weight, sum(embedding_loss(*part, **options) for part in parts))
    if config.distill_hard_weight:
        own_mask_bk = jnp.concatenate([row_mask_b[:, None], n_mask_bj], axis=1)
        add("loss_distill_hard", config.distill_hard_weight, scores(own_scores, own_mask_bk))
    if config.distill_in_batch_weight:
        mask_bc = jnp.broadcast_to(row_mask_b[None, :], (row_mask_b.size,) * 2)
        add("loss_distill_in_batch", config.distill_in_batch_weight, scores(in_batch_scores, mask_bc))
    return loss, metrics
