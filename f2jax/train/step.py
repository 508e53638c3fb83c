"""One training step: (state, batch) → (state, metrics), a pure function to be jitted."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import optax

from f2jax.model.qwen3 import Qwen3, pool
from f2jax.train.distill import PROJECTION, distill_loss
from f2jax.train.losses import LossConfig, contrastive_loss


@flax.struct.dataclass
class TrainState:
    """All that a resume needs: the step alone decides the batches."""

    step: jax.Array  # int32 scalar: optimizer steps taken
    params: dict
    opt_state: optax.OptState


@flax.struct.dataclass
class Teacher:
    """A frozen model that sees the same tokens as the student."""

    params: dict
    model: Qwen3 = flax.struct.field(pytree_node=False)


def embed(model: Qwen3, params, batch):
    """Raw (not normalized) embeddings of a packed batch: q [B, D], p [B, D], n [B, J, D]."""
    hidden_btd = model.apply({"params": params}, batch["tokens_bt"], batch["segments_bt"], batch["positions_bt"])
    e_sd = pool(hidden_btd, batch["row_s"], batch["col_s"]).astype(jnp.float32)
    return by_role(e_sd, batch)


def by_role(e_sd, batch):
    """Vectors [S, D] of all sequences → q [B, D], p [B, D], n [B, J, D]."""
    rows, slots = batch["negative_mask_bj"].shape
    q_bd, p_bd, n_sd = jnp.split(e_sd, [rows, 2 * rows])
    return q_bd, p_bd, n_sd.reshape(rows, slots, e_sd.shape[-1])


def loss_fn(params, batch, teacher: Teacher | None, *, model: Qwen3, kind: str, config: LossConfig):
    """Loss of a batch (recipe 2.4, 2.5) and its metrics: contrastive, plus distillation where there is a
    teacher, or its cached vectors in the batch."""
    q_be, p_be, n_bje = embed(model, params, batch)
    loss, metrics = contrastive_loss(
        q_be,
        p_be,
        n_bje,
        kind=kind,
        config=config,
        n_mask_bj=batch["negative_mask_bj"],
        row_mask_b=batch["row_mask_b"],
        label_b=batch["label_b"],
        positive_b=batch["positive_b"],
        negative_bj=batch["negative_bj"],
    )
    cached = "teacher_se" in batch
    if cached or teacher is not None:
        distill, values = distill_loss(
            (q_be, p_be, n_bje),
            by_role(batch["teacher_se"], batch) if cached else embed(teacher.model, teacher.params, batch),
            config=config,
            n_mask_bj=batch["negative_mask_bj"],
            row_mask_b=batch["row_mask_b"],
            projection_et=params.get(PROJECTION),
        )
        loss, metrics = loss + distill, metrics | values
    return loss, metrics | {"loss": loss}


def train_step(state: TrainState, batch, teacher=None, *, model, kind: str, config: LossConfig, tx):
    """One optimizer step; the metrics also hold the global gradient norm before clipping."""
    grad_fn = jax.value_and_grad(partial(loss_fn, model=model, kind=kind, config=config), has_aux=True)
    (_, metrics), grads = grad_fn(state.params, batch, teacher)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return TrainState(state.step + 1, params, opt_state), metrics


def eval_step(params, batch, teacher=None, *, model, kind: str, config: LossConfig):
    """Metrics of a held-out batch."""
    return loss_fn(params, batch, teacher, model=model, kind=kind, config=config)[1]
