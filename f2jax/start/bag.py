"""Distils a token table from a teacher's vectors, with each text as a bag of its tokens.

The vector of a text is the weighted sum of its tokens' unit rows, normalized. This model has no layers, so it learns
from hundreds of thousands of texts in minutes. It is a good start for training, because the meanings of tokens in all
languages are most of what a small model has to learn.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from f2jax.errors import UserError
from f2jax.start.options import BagOptions


def embed_bags(params: dict, tokens_n, text_n, texts: int):
    """Returns unit vectors [I, E] of texts, from all their tokens [N] and the text number of each token, in order.

    Tokens of text number I are padding.
    """
    rows_ne = _unit(params["rows_ve"][tokens_n]) * jax.nn.sigmoid(params["logits_v"][tokens_n])[:, None]
    return _unit(jax.ops.segment_sum(rows_ne, text_n, texts + 1, indices_are_sorted=True)[:texts])


def bag_loss(params: dict, tokens_n, text_n, teacher_ie, options: BagOptions):
    """Returns the loss of a batch: the distance to the teacher's vectors, and to its ranking of the texts.

    The first term is 1 - cosine. The second is the KL divergence between the softmaxes of each text's scores over all
    other texts in the batch (as in recipe 6.4, for queries and documents). Both are computed at the full width, and at
    a half and a quarter of it, where the student should rank like the complete teacher.
    """
    student_ie = embed_bags(params, tokens_n, text_n, len(teacher_ie))
    width = teacher_ie.shape[1]
    itself = jnp.eye(len(teacher_ie), dtype=bool)

    def log_shares(x_ie):
        return jax.nn.log_softmax(jnp.where(itself, -jnp.inf, x_ie @ x_ie.T / options.temperature), axis=1)

    def distance(dim: int):
        nested_ie = _unit(student_ie[:, :dim])
        cosine = 1 - jnp.einsum("ie,ie->i", nested_ie, _unit(teacher_ie[:, :dim])).mean()
        gap_ii = jnp.where(itself, 0.0, teacher_ii - jnp.where(itself, 0.0, log_shares(nested_ie)))
        return options.cosine_weight * cosine + options.scores_weight * (shares_ii * gap_ii).sum(axis=1).mean()

    teacher_ii = log_shares(teacher_ie)
    shares_ii = jnp.exp(teacher_ii)
    nested = sum(distance(-(-width // part)) for part in (2, 4)) if options.nested_weight else 0.0
    return (distance(width) + options.nested_weight * nested) / (1 + 2 * options.nested_weight)


def distil_bag(
    sequences: Sequence[np.ndarray],
    vectors_ie: np.ndarray,
    vocab_size: int,
    options: BagOptions,
    progress: Callable[[float], None] = lambda loss: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit rows, float32 [V, E], and a weight between 0 and 1 for each token, float32 [V].

    Tokens that occur in no text keep a random row, and get the lowest weight.

    Args:
        sequences: token ids of each text, without the end token.
        vectors_ie: the teacher's vector of each text, normalized.
        progress: called with the loss of each step.

    Raises:
        UserError: there are fewer texts than a batch holds.
    """
    if len(sequences) < options.batch_size:
        raise UserError(f"There are {len(sequences)} texts for batches of {options.batch_size}; lower --batch-size.")
    width = vectors_ie.shape[1]
    rng = np.random.default_rng(options.seed)
    params = {
        "rows_ve": jnp.asarray(rng.normal(0, width**-0.5, (vocab_size, width)), jnp.float32),
        "logits_v": jnp.zeros(vocab_size, jnp.float32),
    }
    warmup = max(options.steps // 10, 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, options.peak_lr, warmup, max(options.steps, warmup + 1))
    tx = optax.adam(rate, b2=0.98)
    step = jax.jit(partial(_step, tx=tx, options=options), donate_argnums=(0, 1))
    state = tx.init(params)
    order = np.array([], np.int64)
    for _ in range(options.steps):
        if len(order) < options.batch_size:
            order = np.concatenate([order, rng.permutation(len(sequences))])
        chosen, order = order[: options.batch_size], order[options.batch_size :]
        flat = _flatten([sequences[i][: options.max_length] for i in chosen])
        params, state, loss = step(params, state, *flat, np.asarray(vectors_ie[chosen], np.float32))
        progress(loss)
    rows_ve, weight_v = np.asarray(_unit(params["rows_ve"])), np.array(jax.nn.sigmoid(params["logits_v"]))
    seen = np.zeros(vocab_size, bool)
    for sequence in sequences:
        seen[sequence[: options.max_length]] = True
    weight_v[~seen] = weight_v[seen].min()
    return rows_ve, weight_v


def _step(params, state, tokens_n, text_n, teacher_ie, *, tx, options: BagOptions):
    loss, grads = jax.value_and_grad(bag_loss)(params, tokens_n, text_n, teacher_ie, options)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def _flatten(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of all texts and the text number of each, int32 [N]; padding allows for few programs."""
    lengths = [len(sequence) for sequence in sequences]
    step = max(1, (1 << max(sum(lengths) - 1, 0).bit_length()) // 16)
    size = -(-sum(lengths) // step) * step
    tokens_n, text_n = np.zeros(size, np.int32), np.full(size, len(sequences), np.int32)
    tokens_n[: sum(lengths)] = np.concatenate(sequences)
    text_n[: sum(lengths)] = np.repeat(np.arange(len(sequences)), lengths)
    return tokens_n, text_n


def _unit(x_ie):
    return x_ie * jax.lax.rsqrt(jnp.square(x_ie).sum(axis=-1, keepdims=True) + 1e-12)
