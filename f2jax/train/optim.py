"""Optimizers and schedules by their names in the config, as optax chains (recipe 2.2)."""

import jax
import jax.numpy as jnp
import optax

from f2jax.errors import UserError, did_you_mean

SCHEDULES = ("cosine", "linear", "constant", "wsd")
OPTIMIZERS = ("adamw", "sgd")


def make_schedule(config, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up from 0 to `peak_lr`, then down to `end_lr` at `steps`.

    `wsd`, warm-up, stable, decay (https://arxiv.org/abs/2404.06395), stays at `peak_lr` until the last `decay_steps`,
    in which it falls linearly: runs of other lengths branch off before, with `resume_from`.

    >>> make_schedule(config.optim, steps=1000)(500)
    1e-05

    Raises:
        UserError: unknown schedule, or warm-up and decay that are longer than the training.
    """
    warmup = config.warmup_steps
    if steps <= warmup and config.schedule != "constant":
        raise UserError(f"optim.warmup_steps={warmup} leaves nothing of {steps} steps; lower it.")
    decay = max(steps - warmup, 1)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.peak_lr, decay, alpha=config.end_lr / config.peak_lr)
    elif config.schedule == "linear":
        after = optax.linear_schedule(config.peak_lr, config.end_lr, decay)
    elif config.schedule == "constant":
        after = optax.constant_schedule(config.peak_lr)
    elif config.schedule == "wsd":
        if not 1 <= config.decay_steps <= decay:
            raise UserError(
                f"optim.decay_steps={config.decay_steps} should be from 1 to the {decay} steps after the warm-up."
            )
        after = optax.linear_schedule(config.peak_lr, config.end_lr, config.decay_steps, decay - config.decay_steps)
    else:
        raise UserError(f"There is no schedule '{config.schedule}'{did_you_mean(config.schedule, SCHEDULES)}")
    return optax.join_schedules([optax.linear_schedule(0.0, config.peak_lr, warmup), after], [warmup])


def make_optimizer(config, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer named in the config, after clipping by the global norm, with its state in `state_dtype`.

    >>> make_optimizer(config.optim, steps=1000).init(params)

    Raises:
        UserError: unknown optimizer or schedule.
    """
    rate = make_schedule(config, steps)
    if config.name == "adamw":
        update = optax.adamw(rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay)
    elif config.name == "sgd":
        decay = optax.add_decayed_weights(config.weight_decay)  # not part of the momentum, as in AdamW
        update = optax.chain(optax.trace(config.b1), decay, optax.scale_by_learning_rate(rate))
    else:
        raise UserError(f"There is no optimizer '{config.name}'{did_you_mean(config.name, OPTIMIZERS)}")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, store_as(update, jnp.dtype(config.state_dtype)))


def store_as(inner: optax.GradientTransformation, dtype) -> optax.GradientTransformation:
    """Returns `inner` with its floating-point state kept in `dtype` between steps; it computes in float32."""

    def cast(state, to):
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def init(params):
        return cast(inner.init(params), dtype)

    def update(grads, state, params=None):
        updates, state = inner.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)
