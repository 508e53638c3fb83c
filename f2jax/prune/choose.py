"""Structured pruning of width, MLP and layers: each weight is sliced along its logical axes (recipe 1).

Heads and their size stay. `choose_channels` decides what to keep, and `cut_weights` slices the weights; both are pure
functions. Letters: l layers, d width, f MLP, v vocabulary, and primed (l', d', f', v') those of the smaller model.
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
    """The indices to keep on each logical axis, in the order of the new model."""

    layers: np.ndarray  # [l']
    embed: np.ndarray  # [d'] channels
    mlp: np.ndarray  # [l', f'] neurons: each layer keeps its own
    vocab: np.ndarray | None = None  # [v'] rows of the token table; None: all


def target_architecture(old: Qwen3Config, width: int = 0, mlp: int = 0, layers: int = 0) -> Qwen3Config:
    """Returns the smaller architecture; 0 leaves an axis as it is.

    Raises:
        UserError: an axis would grow, or nothing is left of it.
    """
    new = replace(old, width=width or old.width, mlp=mlp or old.mlp, layers=layers or old.layers)
    for name in ("width", "mlp", "layers"):
        value, largest = getattr(new, name), getattr(old, name)
        if not 1 <= value <= largest:
            raise UserError(f"{name}={value} is out of range; this model can be pruned to 1 … {largest}.")
    return new


def check_measured(old: Qwen3Config, new: Qwen3Config, choice: ChannelChoice, rescale: bool = False) -> None:
    """Raises UserError if these options need activations on texts; the message names options that do not."""
    narrower = new.width < old.width
    needs_texts = {
        "--channels first": narrower and choice.channels == "importance",
        "--neurons first": new.mlp < old.mlp and choice.neurons == "importance",
        "--order original": choice.order == "importance",
        "--layers-by first": new.layers < old.layers and choice.layers_by == "norm_change" and not choice.keep_layers,
        "--no-rescale": narrower and rescale,
    }
    if any(needs_texts.values()):
        without = " ".join(option for option, needed in needs_texts.items() if needed)
        raise UserError(f"This pruning needs texts to measure; name some with --input, or do without: {without}.")


def choose_channels(
    old: Qwen3Config, new: Qwen3Config, choice: ChannelChoice, importance: Importance | None
) -> KeptChannels:
    """Returns what to keep of the architecture `old` for the architecture `new`.

    Channels are scored over the kept layers together, neurons in each layer separately.

    Args:
        importance: result of `calibrate`; None if no choice needs it.

    Raises:
        UserError: a given layer does not exist, or a score is needed and `importance` is None.
    """
    rng = np.random.default_rng(choice.seed)
    if importance is None:
        check_measured(old, new, choice)
        zeros_ld, zeros_lf = np.zeros((old.layers, old.width)), np.zeros((old.layers, old.mlp))
        importance = Importance(zeros_ld, zeros_lf, zeros_ld, zeros_ld, zeros_ld[0])  # not looked at
    layers = _choose_layers(old, new.layers, choice, importance, rng)

    def pick(count: int, total: int, rule: str, scores: np.ndarray) -> np.ndarray:
        if count == total:
            return np.arange(total)
        if rule == "first":
            return np.arange(count)
        if rule == "random":
            return np.sort(rng.choice(total, count, replace=False))
        return np.sort(np.argsort(-scores, kind="stable")[:count])

    rows = layers if len(importance.channels_ld) == old.layers else slice(None)
    channel_d = importance.channels_ld[rows].sum(axis=0)
    embed = pick(new.width, old.width, choice.channels, channel_d)
    if choice.order == "importance":
        embed = embed[np.argsort(-channel_d[embed], kind="stable")]
    mlp = np.stack([pick(new.mlp, old.mlp, choice.neurons, importance.neurons_lf[layer]) for layer in layers])
    return KeptChannels(layers, embed, mlp)


def _choose_layers(
    old: Qwen3Config, count: int, choice: ChannelChoice, importance: Importance, rng: np.random.Generator
) -> np.ndarray:
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
        return np.sort(np.argsort(-importance.norm_change_l, kind="stable")[:count])
    return np.arange(count)


def cut_weights(old: Qwen3Config, params, kept: KeptChannels, importance: Importance | None = None):
    """Returns the weights of the smaller model, each sliced along its logical axes.

    RMSNorm divides by the root mean square over all channels, which changes when channels are removed. With
    `importance`, the scale of each norm is multiplied by sqrt(share · d / d') to compensate, where `share` is the share
    of the kept channels in the energy of its input. The mean length of its output then stays the same, and removing
    channels that are zero (share 1) changes no output. (eps is not changed: it is far below any mean square.) Without
    `importance`, weights are only sliced, as the reference seems to do.
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

    def cut(path, weight, axes):
        weight = _take(weight, axes, kept)
        name = path[-1].key
        return (weight * factors[name]).astype(weight.dtype) if name in factors else weight

    return jax.tree_util.tree_map_with_path(cut, params, logical_axes(old))


def _take(weight, axes: tuple[str, ...], kept: KeptChannels):
    """Returns one weight sliced along each of its logical axes."""
    for axis, name in enumerate(axes):
        indices = getattr(kept, name, None)
        if indices is None:
            continue
        if name == "mlp":  # each layer has its own indices; `layers` is the first axis
            weight = jax.vmap(lambda layer, chosen, axis=axis: jnp.take(layer, chosen, axis - 1))(weight, indices)
        else:
            weight = jnp.take(weight, indices, axis)
    return weight
