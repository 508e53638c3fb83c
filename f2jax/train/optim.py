"""Optimizers and schedules as optax chains (recipe 2.2), with rules for individual weights.

Weights have the names that are printed at the start of a run, such as `layers/query`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from f2jax.data.mixture import named_number
from f2jax.errors import UserError, did_you_mean

SCHEDULES = ("cosine", "linear", "constant", "wsd")
OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class WeightRules:
    """Weights that are trained differently from the others, by name."""

    frozen: frozenset[str] = frozenset()  # they have no gradient and no state of the optimizer
    factors: Mapping[str, float] = field(default_factory=dict)  # of the learning rate, weight decay included
    undecayed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config, params: Mapping) -> "WeightRules":
        """Returns the rules for these weights from the fields `freeze`, `rate_factors` and `no_decay` of `optim`.

        >>> WeightRules.of(config.optim, params).frozen
        frozenset({'token_table'})

        Raises:
            UserError: a pattern matches no weight, a factor is not above 0, or no weight is left to train.
        """
        names = tuple(flatten_dict(params, sep="/"))
        frozen, undecayed = (
            frozenset(name for pattern in config[key] for name in matching(pattern, names, key))
            for key in ("freeze", "no_decay")
        )
        if frozen == set(names):
            raise UserError("optim.freeze leaves no weights to train; freeze fewer.")
        factors: dict[str, float] = {}
        for item in config.rate_factors:
            pattern, factor = parse_factor(item)
            for name in matching(pattern, names, "rate_factors"):
                factors[name] = factors.get(name, 1.0) * factor
        return cls(frozen, factors, undecayed)

    def split(self, params: Mapping) -> tuple[dict, dict]:
        """Returns the weights that are trained, and those that are not."""
        flat = flatten_dict(params, sep="/")
        parts: tuple[dict, dict] = {}, {}
        for name, weight in flat.items():
            parts[name in self.frozen][name] = weight
        return unflatten_dict(parts[0], sep="/"), unflatten_dict(parts[1], sep="/")


NO_RULES = WeightRules()


def joined(trained: Mapping, frozen: Mapping) -> dict:
    """Joins the two parts of `WeightRules.split`."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def matching(pattern: str, names: Sequence[str], key: str) -> list[str]:
    """Returns the names that match a pattern of a field of `optim`.

    Raises:
        UserError: there is none.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(f"No weight is named '{pattern}' (optim.{key}); they are {', '.join(sorted(names))}.")
    return found


def parse_factor(item: str) -> tuple[str, float]:
    """Returns the pattern and the factor of PATTERN=FACTOR.

    Raises:
        UserError: it is not of that form.
    """
    pattern, factor = named_number(item)
    if not pattern or not factor:
        raise UserError(
            f"'{item}' in optim.rate_factors should be PATTERN=FACTOR, with a factor above 0; use "
            "optim.freeze for weights that should not change."
        )
    return pattern, factor


def make_schedule(config, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up from 0 to `peak_lr`, then a decay to `end_lr` at `steps`.

    `wsd` (warm-up, stable, decay; https://arxiv.org/abs/2404.06395) stays at `peak_lr` until the last `decay_steps`, in
    which it falls linearly, so that runs of other lengths can branch off before with `resume_from`.

    >>> make_schedule(config.optim, steps=1000)(500)
    1e-05

    Raises:
        UserError: unknown schedule, or warm-up and decay that are longer than the training.
    """
    key = "warmup_share" if config.warmup_share else "warmup_steps"
    warmup = round(config.warmup_share * steps) if config.warmup_share else config.warmup_steps
    if steps <= warmup and config.schedule != "constant":
        raise UserError(f"optim.{key}={config[key]} leaves nothing of {steps} steps; lower it.")
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


def make_optimizer(config, steps: int, rules: WeightRules = NO_RULES) -> optax.GradientTransformation:
    """Returns the optimizer of the config, with clipping by the global norm and its state in `state_dtype`.

    It is for the trained weights, `rules.split(params)[0]`.

    >>> make_optimizer(config.optim, steps=1000).init(params)

    Raises:
        UserError: unknown optimizer or schedule.
    """
    if config.name == "adamw":
        direction = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    elif config.name == "sgd":
        direction = optax.trace(config.b1)
    else:
        raise UserError(f"There is no optimizer '{config.name}'{did_you_mean(config.name, OPTIMIZERS)}")
    rate = optax.scale_by_learning_rate(make_schedule(config, steps))
    update = optax.chain(direction, decay_and_scale(config.weight_decay, rules), rate)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, store_as(update, jnp.dtype(config.state_dtype)))


def decay_and_scale(weight_decay: float, rules: WeightRules) -> optax.GradientTransformation:
    """Returns (update + decay · weight) · factor for each weight; as in AdamW, the decay does not enter the moments."""

    def change(path, update, weight):
        name = "/".join(key.key for key in path)
        if weight_decay and name not in rules.undecayed:
            update = update + weight_decay * weight
        return update * rules.factors[name] if name in rules.factors else update

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(change, updates, params))


def store_as(inner: optax.GradientTransformation, dtype) -> optax.GradientTransformation:
    """Returns `inner` with its floating-point state stored in `dtype` between steps; it computes in float32."""

    def cast(state, to):
        return jax.tree.map(lambda x: x.astype(to) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)

    def init(params):
        return cast(inner.init(params), dtype)

    def update(grads, state, params=None):
        updates, state = inner.update(grads, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)
