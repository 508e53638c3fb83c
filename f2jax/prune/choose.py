"""Structured pruning: width, MLP and layers of a model cut down, each weight sliced along its logical axes (recipe 1).

Heads and head size stay. What is kept is chosen first (`choose`), then cut out (`cut`); both are pure functions.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from f2jax.errors import UserError
from f2jax.model.qwen3 import logical_axes
from f2jax.model.sizes import Qwen3Config
from f2jax.prune.importance import Importance
from f2jax.prune.options import ChannelChoice


@dataclass(frozen=True)
class KeptChannels:
    """What stays of each logical axis, as numbers in the old model and in the order of the new one."""

    layers: np.ndarray  # [L']
    embed: np.ndarray  # [D'] channels
    mlp: np.ndarray  # [L', F'] neurons: each layer keeps its own
    vocab: np.ndarray | None = None  # [V'] rows of the token table; None: all


def target_architecture(old: Qwen3Config, width: int = 0, mlp: int = 0, layers: int = 0) -> Qwen3Config:
    """The smaller architecture; 0 leaves an axis as it is.

    Raises:
        UserError: an axis would grow, or nothing is left of it.
    """
    wanted = {"width": width or old.width, "mlp": mlp or old.mlp, "layers": layers or old.layers}
    for name, value in wanted.items():
        if not 1 <= value <= getattr(old, name):
            raise UserError(f"{name}={value} is out of range; this model can be pruned to 1 … {getattr(old, name)}.")
    return replace(old, **wanted)


def choose_channels(
    old: Qwen3Config, new: Qwen3Config, choice: ChannelChoice, importance: Importance | None
) -> KeptChannels:
    """What to keep of `old` for the shape `new`.

    Channels are scored over the kept layers together, neurons in each layer by themselves.

    Args:
        importance: of `calibrate`; None where no choice asks for it.

    Raises:
        UserError: a layer is named that is not there, or a score is needed and `importance` is None.
    """
    rng = np.random.default_rng(choice.seed)
    layers = _layers(old, new.layers, choice, importance, rng)

    def pick(count: int, of: int, rule: str, score) -> np.ndarray:
        if count == of:
            return np.arange(of)
        if rule == "first":
            return np.arange(count)
        if rule == "random":
            return np.sort(rng.choice(of, count, replace=False))
        return np.sort(np.argsort(-score, kind="stable")[:count])

    if importance is None:
        scored = [choice.channels if new.width < old.width else "", choice.neurons if new.mlp < old.mlp else ""]
        if "importance" in (*scored, choice.order):
            raise UserError("Importance is measured on texts; name some with --data.")
        channel_d, neuron_lf = None, [None] * old.layers
    else:
        rows = layers if len(importance.channels_ld) == old.layers else slice(None)
        channel_d, neuron_lf = importance.channels_ld[rows].sum(axis=0), importance.neurons_lf
    embed = pick(new.width, old.width, choice.channels, channel_d)
    if choice.order == "importance":
        embed = embed[np.argsort(-channel_d[embed], kind="stable")]
    mlp = np.stack([pick(new.mlp, old.mlp, choice.neurons, neuron_lf[layer]) for layer in layers])
    return KeptChannels(layers, embed, mlp)


def _layers(old: Qwen3Config, count: int, choice: ChannelChoice, importance: Importance | None, rng) -> np.ndarray:
    if choice.keep_layers:
        layers = np.array(choice.keep_layers, int)
        if len(layers) != count or (np.diff(layers) <= 0).any() or layers[0] < 0 or layers[-1] >= old.layers:
            raise UserError(f"The layers to keep should be {count} rising numbers from 0 to {old.layers - 1}.")
        return layers
    if choice.layers_by == "even":
        return np.round(np.linspace(0, old.layers - 1, count)).astype(int)
    if choice.layers_by == "random":
        return np.sort(rng.choice(old.layers, count, replace=False))
    if choice.layers_by == "norm_change" and count < old.layers:
        if importance is None:
            raise UserError("The change of the norm is measured on texts; name some with --data.")
        return np.sort(np.argsort(-importance.norm_change_l, kind="stable")[:count])
    return np.arange(count)


def cut_weights(old: Qwen3Config, params, kept: KeptChannels, importance: Importance | None = None):
    """The weights of the smaller model, each sliced along its logical axes.

    RMSNorm divides by the root mean square over all channels, and that changes when some go. With `importance` it is
    made good: the scale of each norm is multiplied by sqrt(share · D / D'), where `share` is that of the energy of its
    input in the kept channels. So the mean length of what it gives stays, and pruning zero channels (share 1) changes
    no output. (eps stays: it is one number of the model, for the heads' norms too, and far below any mean square.)
    Without it the weights are sliced as they are, as the reference seems to do.
    """
    factors = {}
    if importance is not None and len(kept.embed) < old.width:
        energies = {
            "attention_norm": importance.attention_energy_ld[kept.layers],
            "mlp_norm": importance.mlp_energy_ld[kept.layers],
            "final_norm": importance.final_energy_d,
        }
        for name, energy in energies.items():
            factors[name] = np.sqrt(energy[..., kept.embed].mean(-1, keepdims=True) / energy.mean(-1, keepdims=True))

    def one(path, weight, axes):
        weight = _take(weight, axes, kept)
        name = path[-1].key
        return (weight * factors[name]).astype(weight.dtype) if name in factors else weight

    return jax.tree_util.tree_map_with_path(one, params, logical_axes(old))


def _take(weight, axes: tuple[str, ...], kept: KeptChannels):
    """One weight, sliced along each of its logical axes that something goes from."""
    for axis, name in enumerate(axes):
        numbers = getattr(kept, name, None)
        if numbers is None:
            continue
        if name == "mlp":  # behind `layers`, whose layers have numbers of their own
            weight = jax.vmap(lambda one, which, axis=axis: jnp.take(one, which, axis - 1))(weight, numbers)
        else:
            weight = jnp.take(weight, numbers, axis)
    return weight
