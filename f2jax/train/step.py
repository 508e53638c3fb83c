"""One training step: (state, batch) → (state, metrics), a pure function to be jitted.

Its arrays are global, whatever the mesh: each query meets the positives of the whole batch, on all devices and hosts,
and the gradients are those of one device.
"""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import optax

from f2jax.data.packing import PACKED
from f2jax.model.qwen3 import Qwen3, pool
from f2jax.parallel.activations import place
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
    encode = encode_chunks if "place_s" in batch else encode_all
    return by_role(encode(model, params, batch), batch)


def by_role(e_sd, batch):
    """Vectors [S, D] of all sequences → q [B, D], p [B, D], n [B, J, D], each device its rows of them."""
    rows, slots = batch["negative_mask_bj"].shape
    q_bd, p_bd, n_sd = jnp.split(e_sd, [rows, 2 * rows])
    return tuple(place(x, "rows") for x in (q_bd, p_bd, n_sd.reshape(rows, slots, e_sd.shape[-1])))


def encode_all(model: Qwen3, params, batch):
    """Embeddings [S, D] in float32 of all sequences, at once."""
    packed = (batch[name] for name in PACKED)
    return pool(model.apply({"params": params}, *packed), batch["row_s"], batch["col_s"]).astype(jnp.float32)


def encode_chunks(model: Qwen3, params, batch):
    """The same, one chunk of rows after the other (`packing.Chunks`); the backward pass encodes each chunk again.

    So the activations in memory are those of one chunk, whatever the batch: GradCache (https://arxiv.org/abs/2101.06983).
    """
    chunks = batch["chunk_row_cm"].shape[0]

    @partial(jax.checkpoint, prevent_cse=False)  # inside a scan nothing can be shared anyway
    def encode(packed, row_m, col_m):
        return pool(model.apply({"params": params}, *packed), row_m, col_m).astype(jnp.float32)

    packed = [batch[name].reshape(-1, chunks, batch[name].shape[-1]).swapaxes(0, 1) for name in PACKED]
    packed = [place(x_cbt, None, "rows") for x_cbt in packed]
    e_cmd = jax.lax.map(lambda x: encode(*x), (packed, batch["chunk_row_cm"], batch["chunk_col_cm"]))
    return e_cmd.reshape(-1, e_cmd.shape[-1])[batch["place_s"]]


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
