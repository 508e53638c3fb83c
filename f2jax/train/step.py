"""One training step: (state, batch) → (state, metrics), a pure function to be jitted."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import optax

from f2jax.model.qwen3 import Qwen3, pool
from f2jax.train.losses import LossConfig, contrastive_loss, distill_mse


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
    rows, slots = batch["negative_mask_bj"].shape
    q_bd, p_bd, n_sd = jnp.split(e_sd, [rows, 2 * rows])
    return q_bd, p_bd, n_sd.reshape(rows, slots, e_sd.shape[-1])


def loss_fn(params, batch, teacher: Teacher | None, *, model: Qwen3, kind: str, config: LossConfig):
    """Loss of a batch (recipe 2.4, 2.5) and its metrics: contrastive, plus distillation where there is a teacher."""
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
    if teacher is not None:
        states = embed(teacher.model, teacher.params, batch)
        masks = (batch["row_mask_b"], batch["row_mask_b"], batch["negative_mask_bj"])
        parts = zip((q_be, p_be, n_bje), jax.lax.stop_gradient(states), masks, strict=True)
        distill = sum(distill_mse(student, target, mask) for student, target, mask in parts)
        metrics["loss_distill"] = distill
        loss += config.distill_weight * distill
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
