"""The training step: (state, batch) → (state, metrics), a pure function to be jitted.

Its arrays are global on any mesh: each query is compared with the positives of the whole batch, on all devices and
hosts, and the gradients equal those of a single device.

Letters: s sequences, l exits (layers whose states are embeddings), e embedding dimensions, g chunks of rows that are
encoded one after another; the others as in `losses`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from f2jax.checkpoints.orbax import TrainState
from f2jax.model.nested import draw_rank
from f2jax.model.qwen3 import Qwen3, pool
from f2jax.parallel.sharding import for_each_copy, shard_activation
from f2jax.train.distill import PROJECTION
from f2jax.train.losses import TEMPERATURES, LossConfig
from f2jax.train.optim import NO_RULES, WeightRules, joined
from f2jax.train.terms import batch_loss


@flax.struct.dataclass
class Teacher:
    """A frozen model that sees the same tokens as the student."""

    params: dict
    model: Qwen3 = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class DeviceBatch:
    """The arrays of a `packing.Batch` on the devices, or their shapes and shardings."""

    tokens_bt: Any
    segments_bt: Any
    positions_bt: Any
    row_s: Any
    col_s: Any
    row_mask_b: Any
    negative_mask_bj: Any
    label_b: Any
    positive_b: Any
    negative_bj: Any
    teacher_se: Any = None  # a cached teacher's vectors, and zeros at the end; None: there is no cache
    score_bk: Any = None  # a reranker's scores; None: they are not learned from
    chunk_mask_c: Any = None  # which chunks have rows; None: all rows are encoded at once

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "DeviceBatch":
        """Returns the batch of `packing.Batch.arrays`.

        >>> DeviceBatch.of(batch.arrays()).tokens_bt.shape
        (608, 1024)
        """
        return cls(**arrays)

    @property
    def packed(self) -> tuple[Any, Any, Any]:
        """What a model reads: tokens, segments and positions."""
        return self.tokens_bt, self.segments_bt, self.positions_bt

    @property
    def text_s(self) -> Any:
        """Returns the position of each sequence as a single number, which equal sequences share."""
        return self.row_s * self.tokens_bt.shape[1] + self.col_s


def embed(
    model: Qwen3, params, batch: DeviceBatch, exits: tuple[int, ...] = (), rank=None, gradient_dtype=None
) -> list[tuple]:
    """Returns the embeddings of a batch after each exit, not normalized: q [B, E], p [B, E], n [B, J, E].

    >>> ((q_be, p_be, n_bje),) = embed(model, params, batch)

    Args:
        exits: numbers of layers, counted from 1; (): only the last one.
        rank: rank of the token table, see `Qwen3`.
        gradient_dtype: see `encode_chunks`.
    """
    encode = partial(encode_rows, model, exits or (model.config.layers,))
    if batch.chunk_mask_c is None:
        vectors_sle = encode(params, rank, batch.packed, batch.row_s, batch.col_s)
    else:
        vectors_sle = encode_chunks(encode, params, rank, batch, gradient_dtype)
    return [by_role(vectors_sle[:, exit_], batch) for exit_ in range(vectors_sle.shape[1])]


def encode_rows(model: Qwen3, exits: tuple[int, ...], params, rank, packed: Sequence, row_s, col_s) -> jax.Array:
    """Returns the embeddings [S, L, E] of packed rows after each exit, in float32."""
    if exits == (model.config.layers,):
        hidden_btd: Any = model.apply({"params": params}, *packed, rank=rank)
        return pool(hidden_btd, row_s, col_s).astype(jnp.float32)[:, None]
    ends_lse: Any = model.apply({"params": params}, *packed, ends=(row_s, col_s), rank=rank)
    return ends_lse[jnp.array(exits) - 1].astype(jnp.float32).swapaxes(0, 1)


def by_role(vectors_se, batch: DeviceBatch) -> tuple[jax.Array, ...]:
    """Splits the vectors of all sequences into q [B, E], p [B, E] and n [B, J, E], sharded by rows.

    A batch of the kind `texts` has only queries, so p is [0, E].
    """
    rows, slots = batch.negative_mask_bj.shape
    q_be, p_be, n_se = jnp.split(vectors_se, [rows, len(vectors_se) - rows * slots])
    return tuple(shard_activation(x, "rows") for x in (q_be, p_be, n_se.reshape(rows, slots, vectors_se.shape[-1])))


def encode_chunks(encode: Callable, params, rank, batch: DeviceBatch, gradient_dtype=None) -> jax.Array:
    """Returns embeddings [S, L, E], encoding one chunk of rows after another; the backward pass encodes each again.

    Memory thus holds the activations of a single chunk (GradCache, https://arxiv.org/abs/2101.06983). The number of
    chunks is a value, so one program serves batches of all sizes up to that of its arrays. Each replica accumulates the
    gradients of its own rows, and they are summed over the replicas once at the end.

    Args:
        encode: (params, rank, packed, row_s, col_s) → [S, L, E].
        gradient_dtype: dtype in which replicas exchange their gradients; None: unchanged.
    """
    slots = batch.chunk_mask_c.shape[0]

    def for_each_chunk(function, start, first, packed, row_s, count):
        """Folds `value = function(value, rows of the chunk, row_s in it, mask of its sequences)` over the chunks."""
        here_s = (row_s >= first) & (row_s < first + len(packed[0]))
        row_s = jnp.where(here_s, row_s - first, 0)
        groups = [x_bt.reshape(-1, slots, x_bt.shape[-1]).swapaxes(0, 1) for x_bt in packed]
        groups = [shard_activation(x_gbt, None, "rows") for x_gbt in groups]

        def body(carry):
            g, value = carry
            rows = [jax.lax.dynamic_index_in_dim(x_gbt, g, keepdims=False) for x_gbt in groups]
            return g + 1, function(value, rows, row_s // slots, here_s & (row_s % slots == g))

        def has_more(carry):  # the constant tells `plan` how often the loop runs if all slots are filled
            return (carry[0] < count) & (carry[0] < slots)

        return jax.lax.while_loop(has_more, body, (jnp.zeros((), jnp.int32), start))[1]

    @jax.custom_vjp
    def encode_all(params, rank, packed, row_s, col_s, count):
        def of_copy(first, packed, params, rank, row_s, col_s, count):
            def add(vectors_sle, rows, row_in_chunk_s, is_here_s):
                found_sle = encode(params, rank, rows, row_in_chunk_s, col_s)
                return jnp.where(is_here_s[:, None, None], found_sle, vectors_sle)

            chunk = [x_bt[: len(x_bt) // slots] for x_bt in packed]
            shape = jax.eval_shape(lambda: encode(params, rank, chunk, row_s, col_s))
            return for_each_chunk(add, jnp.zeros(shape.shape, shape.dtype), first, packed, row_s, count)

        return for_each_copy(of_copy, params, rank, row_s, col_s, count, rows=packed)

    def forward(*arguments):
        return encode_all(*arguments), arguments

    def backward(arguments, gradient_sle):
        params, rank, packed, row_s, col_s, count = arguments

        def of_copy(first, packed, params, rank, row_s, col_s, count, gradient_sle):
            def add(gradients, rows, row_in_chunk_s, is_here_s):
                pull = jax.vjp(lambda params: encode(params, rank, rows, row_in_chunk_s, col_s), params)[1]
                (more,) = pull(jnp.where(is_here_s[:, None, None], gradient_sle, 0))
                return jax.tree.map(jnp.add, gradients, more)

            return for_each_chunk(add, jax.tree.map(jnp.zeros_like, params), first, packed, row_s, count)

        shared = params, rank, row_s, col_s, count, gradient_sle
        gradients = for_each_copy(of_copy, *shared, rows=packed, dtype=gradient_dtype)
        return gradients, None, None, None, None, None

    encode_all.defvjp(forward, backward)
    count = jnp.sum(batch.chunk_mask_c, dtype=jnp.int32)
    return encode_all(params, rank, batch.packed, batch.row_s, batch.col_s, count)


def loss_fn(
    params,
    batch: DeviceBatch,
    teacher: Teacher | None,
    *,
    model: Qwen3,
    kind: str,
    config: LossConfig,
    rank=None,
    gradient_dtype=None,
    dims: tuple[int, ...] = (),
):
    """Returns the loss of a batch (recipe 2.4, 2.5) and its metrics: contrastive terms, and distillation from a teacher
    or its cached vectors.

    With `config.exits`, the loss is the mean over the exits, each distilled from the teacher's same layer, and the last
    one from the teacher's last (recipe 6.10). All metrics except `loss` are those of the complete model.

    Args:
        rank: rank of the token table, see `Qwen3`; None: its full rank.
        gradient_dtype: see `encode_chunks`.
        dims: add metrics `loss/<size>` and `accuracy/<size>` of the complete model's vectors truncated to these sizes.
    """
    by_exit = embed(model, params, batch, config.exits, rank, gradient_dtype)
    teacher_by_exit: list[tuple] = [()] * len(by_exit)
    if batch.teacher_se is not None:
        teacher_by_exit = [by_role(batch.teacher_se[: len(batch.row_s)], batch)]
    elif teacher is not None:
        exits = config.exits and (*config.exits[:-1], teacher.model.config.layers)
        teacher_by_exit = [*embed(teacher.model, teacher.params, batch, exits)]
    total: Any = 0.0

    def loss_of(student, target, config: LossConfig):
        return batch_loss(
            student,
            kind=kind,
            config=config,
            teacher=target,
            projection_er=params.get(PROJECTION),
            exponents=params.get(TEMPERATURES),
            n_mask_bj=batch.negative_mask_bj,
            row_mask_b=batch.row_mask_b,
            label_b=batch.label_b,
            positive_b=batch.positive_b,
            negative_bj=batch.negative_bj,
            text_s=batch.text_s,
            score_bk=batch.score_bk,
        )

    for student, target in zip(by_exit, teacher_by_exit, strict=True):
        loss, metrics = loss_of(student, target, config)
        total += loss / len(by_exit)
    for dim in dims:
        cut = tuple(x[..., :dim] for x in student)
        loss, of_cut = loss_of(cut, target, replace(config, matryoshka_dims=()))
        metrics[f"loss/{dim}"] = loss
        if "accuracy" in of_cut:
            metrics[f"accuracy/{dim}"] = of_cut["accuracy"]
    return total, metrics | {"loss": total}


def train_step(
    state: TrainState,
    batch: DeviceBatch,
    teacher: Teacher | None = None,
    *,
    model: Qwen3,
    kind: str,
    config: LossConfig,
    tx: optax.GradientTransformation,
    rules: WeightRules = NO_RULES,
    seed: int = 0,
    gradient_dtype=None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes an optimizer step; the metrics include the norm of the gradient of all trained weights before clipping.

    Args:
        tx: see `make_optimizer`. rules: say which weights are trained.
        seed: of the rank of the token table, which `config.nested_ranks` draws for each step.
        gradient_dtype: see `encode_chunks`.
    """
    rank = draw_rank(model.config.table_rank, seed, state.step) if config.nested_ranks else None
    trained, frozen = rules.split(state.params)

    def loss_of(trained):
        options: dict[str, Any] = {"config": config, "rank": rank, "gradient_dtype": gradient_dtype}
        return loss_fn(joined(trained, frozen), batch, teacher, model=model, kind=kind, **options)

    (_, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    params = joined(optax.apply_updates(trained, updates), frozen)
    metrics["grad_norm"] = optax.tree.norm(grads)
    return TrainState(state.step + 1, params, opt_state), metrics


def eval_step(
    params,
    batch: DeviceBatch,
    teacher: Teacher | None = None,
    *,
    model: Qwen3,
    kind: str,
    config: LossConfig,
    dims: tuple[int, ...] = (),
) -> dict[str, jax.Array]:
    """Returns the metrics of a held-out batch, with `dims` as in `loss_fn`."""
    return loss_fn(params, batch, teacher, model=model, kind=kind, config=config, dims=dims)[1]
