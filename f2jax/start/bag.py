"""A token table distilled from a teacher's vectors, each text being a bag of its tokens.

The vector of a text is the sum of its tokens' unit rows, each times the token's weight, scaled to length 1. That model
has no layers, so it learns from hundreds of thousands of texts in minutes, and it is where training should begin: what
a token means in any language is most of what a small model has to learn.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from f2jax.errors import UserError
from f2jax.start.options import BagOptions


def embed_bags(params: dict, tokens_it, mask_it):
    """Unit vectors [I, E] of texts, from their token ids [I, T] and which of these count."""
    rows_ite = params["rows_ve"][tokens_it]
    rows_ite *= jax.lax.rsqrt(jnp.square(rows_ite).sum(axis=-1, keepdims=True) + 1e-12)
    weight_it = jax.nn.sigmoid(params["logits_v"][tokens_it]) * mask_it
    return _unit(jnp.einsum("ite,it->ie", rows_ite, weight_it))


def bag_loss(params: dict, tokens_it, mask_it, teacher_ie, options: BagOptions):
    """Distance of a batch's vectors to the teacher's: their cosines, and how the texts rank each other.

    The second term is the KL divergence between the softmaxes of each text's scores over all other texts of the batch
    (recipe 6.4 has the same term for queries and documents).
    """
    student_ie = embed_bags(params, tokens_it, mask_it)
    cosine = 1 - jnp.einsum("ie,ie->i", student_ie, teacher_ie).mean()
    itself = jnp.eye(len(student_ie), dtype=bool)
    student_ii, teacher_ii = (
        jax.nn.log_softmax(jnp.where(itself, -jnp.inf, x_ie @ x_ie.T / options.temperature), axis=1)
        for x_ie in (student_ie, teacher_ie)
    )
    gap_ii = jnp.where(itself, 0.0, teacher_ii - jnp.where(itself, 0.0, student_ii))
    divergence = (jnp.exp(teacher_ii) * gap_ii).sum(axis=1).mean()
    return options.cosine_weight * cosine + options.scores_weight * divergence


def distil_bag(
    sequences: Sequence[np.ndarray],
    vectors_ie: np.ndarray,
    vocab_size: int,
    options: BagOptions,
    progress: Callable[[float], None] = lambda loss: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(unit rows float32 [V, E], weight of each token float32 [V] between 0 and 1).

    A token that no text has keeps a random row, and the lowest weight of all.

    Args:
        sequences: token ids of each text, without its end token.
        vectors_ie: the teacher's vector of each text, of length 1.
        progress: is told the loss of each step.

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
        batch = *_pad([sequences[i] for i in chosen], options.max_length), np.asarray(vectors_ie[chosen], np.float32)
        params, state, loss = step(params, state, *batch)
        progress(loss)
    rows_ve, weight_v = np.asarray(_unit(params["rows_ve"])), np.array(jax.nn.sigmoid(params["logits_v"]))
    seen = np.zeros(vocab_size, bool)
    for sequence in sequences:
        seen[sequence[: options.max_length]] = True
    weight_v[~seen] = weight_v[seen].min()
    return rows_ve, weight_v


def _step(params, state, tokens_it, mask_it, teacher_ie, *, tx, options: BagOptions):
    loss, grads = jax.value_and_grad(bag_loss)(params, tokens_it, mask_it, teacher_ie, options)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def _pad(sequences: Sequence[np.ndarray], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32 [I, T] and their mask float32; T is a power of two, so that few programs are compiled."""
    longest = max(1, min(max_length, max(map(len, sequences))))
    length = 1 << (longest - 1).bit_length()
    tokens_it, mask_it = np.zeros((len(sequences), length), np.int32), np.zeros((len(sequences), length), np.float32)
    for i, sequence in enumerate(sequences):
        cut = sequence[:max_length]
        tokens_it[i, : len(cut)], mask_it[i, : len(cut)] = cut, 1
    return tokens_it, mask_it


def _unit(x_ie):
    return x_ie * jax.lax.rsqrt(jnp.square(x_ie).sum(axis=-1, keepdims=True) + 1e-12)
