"""One training step: (state, batch) → (state, metrics), a pure function to be jitted.

Its arrays are global, whatever the mesh: each query meets the positives of the whole batch, on all devices and hosts,
and the gradients are those of one device.
"""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import optax

from f2jax.checkpoints.orbax import TrainState
from f2jax.data.packing import PACKED
from f2jax.model.nested import draw_rank
from f2jax.model.qwen3 import Qwen3, pool
from f2jax.parallel.sharding import shard_activation
from f2jax.train.distill import PROJECTION, distill_loss
from f2jax.train.losses import LossConfig, contrastive_loss


@flax.struct.dataclass
class Teacher:
    """A frozen model that sees the same tokens as the student."""

    params: dict
    model: Qwen3 = flax.struct.field(pytree_node=False)


def embed(model: Qwen3, params, batch, exits: tuple[int, ...] = (), rank=None):
    """Raw (not normalized) embeddings of a packed batch: q [B, D], p [B, D], n [B, J, D], behind each exit.

    Args:
        exits: numbers of layers, counted from 1; (): the last one alone.
        rank: of the token table, see `Qwen3`.
    """
    encode = encode_chunks if "place_s" in batch else encode_all
    e_sxd = encode(partial(encode_rows, model, params, exits or (model.config.layers,), rank), batch)
    return [by_role(e_sxd[:, x], batch) for x in range(e_sxd.shape[1])]


def encode_rows(model: Qwen3, params, exits: tuple[int, ...], rank, packed, row_s, col_s):
    """Embeddings [S, X, D] in float32 of packed rows, behind each exit."""
    if exits == (model.config.layers,):
        hidden_btd = model.apply({"params": params}, *packed, rank=rank)
        return pool(hidden_btd, row_s, col_s).astype(jnp.float32)[:, None]
    ends_lsd = model.apply({"params": params}, *packed, ends=(row_s, col_s), rank=rank)
    return ends_lsd[jnp.array(exits) - 1].astype(jnp.float32).swapaxes(0, 1)


def by_role(e_sd, batch):
    """Vectors [S, D] of all sequences → q [B, D], p [B, D], n [B, J, D], each device its rows of them."""
    rows, slots = batch["negative_mask_bj"].shape
    q_bd, p_bd, n_sd = jnp.split(e_sd, [rows, 2 * rows])
    return tuple(shard_activation(x, "rows") for x in (q_bd, p_bd, n_sd.reshape(rows, slots, e_sd.shape[-1])))


def encode_all(encode, batch):
    """Embeddings [S, X, D] of all sequences, at once."""
    return encode([batch[name] for name in PACKED], batch["row_s"], batch["col_s"])


def encode_chunks(encode, batch):
    """The same, one chunk of rows after the other (`packing.Chunks`); the backward pass encodes each chunk again.

    So the activations in memory are those of one chunk, whatever the batch: GradCache (https://arxiv.org/abs/2101.06983).
    """
    chunks = batch["chunk_row_cm"].shape[0]
    packed = [batch[name].reshape(-1, chunks, batch[name].shape[-1]).swapaxes(0, 1) for name in PACKED]
    packed = [shard_activation(x_cbt, None, "rows") for x_cbt in packed]
    encode = jax.checkpoint(encode, prevent_cse=False)  # inside a scan nothing can be shared anyway
    e_cmxd = jax.lax.map(lambda x: encode(*x), (packed, batch["chunk_row_cm"], batch["chunk_col_cm"]))
    return e_cmxd.reshape(-1, *e_cmxd.shape[2:])[batch["place_s"]]


def loss_fn(params, batch, teacher: Teacher | None, *, model: Qwen3, kind: str, config: LossConfig, rank=None):
    """Loss of a batch (recipe 2.4, 2.5) and its metrics: contrastive, plus distillation where there is a
    teacher, or its cached vectors in the batch.

    With `config.exits` it is the mean over the exits, each distilled from the teacher's of the same layer, the last one
    from its last (recipe 6.10). Metrics are those of the whole model, but for `loss`.

    Args:
        rank: of the token table, see `Qwen3`; None: all of it.
    """
    by_exit = embed(model, params, batch, config.exits, rank)
    teacher_by_exit = [None] * len(by_exit)
    if "teacher_se" in batch:
        teacher_by_exit = [by_role(batch["teacher_se"], batch)]
    elif teacher is not None:
        exits = config.exits and (*config.exits[:-1], teacher.model.config.layers)
        teacher_by_exit = embed(teacher.model, teacher.params, batch, exits)
    total = 0.0
    for student, target in zip(by_exit, teacher_by_exit, strict=True):
        loss, metrics = contrastive_loss(
            *student,
            kind=kind,
            config=config,
            n_mask_bj=batch["negative_mask_bj"],
            row_mask_b=batch["row_mask_b"],
            label_b=batch["label_b"],
            positive_b=batch["positive_b"],
            negative_bj=batch["negative_bj"],
        )
        if target is not None:
            distill, values = distill_loss(
                student,
                target,
                config=config,
                n_mask_bj=batch["negative_mask_bj"],
                row_mask_b=batch["row_mask_b"],
                projection_et=params.get(PROJECTION),
            )
            loss, metrics = loss + distill, metrics | values
        total += loss / len(by_exit)
    return total, metrics | {"loss": total}


def train_step(state: TrainState, batch, teacher=None, *, model, kind: str, config: LossConfig, tx, seed: int = 0):
    """One optimizer step; the metrics also hold the global gradient norm before clipping.

    Args:
        seed: of the rank of the token table, which `config.nested_ranks` draws for each step.
    """
    rank = draw_rank(model.config.table_rank, seed, state.step) if config.nested_ranks else None
    grad_fn = jax.value_and_grad(partial(loss_fn, model=model, kind=kind, config=config, rank=rank), has_aux=True)
    (_, metrics), grads = grad_fn(state.params, batch, teacher)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return TrainState(state.step + 1, params, opt_state), metrics


def eval_step(params, batch, teacher=None, *, model, kind: str, config: LossConfig):
    """Metrics of a held-out batch."""
    return loss_fn(params, batch, teacher, model=model, kind=kind, config=config)[1]
