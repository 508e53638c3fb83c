"""Pruning: what does nothing can go without a trace, scores are those of the definition, counts are exact."""

from dataclasses import replace
from functools import partial

import flax
import jax
import numpy as np
import pytest
from flax import linen as nn

from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, abstract_params
from f2jax.model.sizes import Qwen3Config, size
from f2jax.prune.choose import ChannelChoice, KeptChannels, choose_channels, cut_weights, target_architecture
from f2jax.prune.importance import Importance, Scoring, calibrate
from tests import tiny_model

OLD = Qwen3Config(24, 20, 4, 4, 2, head_dim=8, vocab_size=50, rms_norm_eps=1e-12)
LENGTH = 16
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(0, 50, n).astype(np.int32) for n in (5, 16, 3, 12, 9)]


def silenced(channels=(), neurons=(), layers=()) -> dict:
    """Random weights in which these channels, neurons (in every layer) and layers do nothing."""
    params = jax.tree.map(np.array, tiny_model.random_params(OLD))
    params["token_table"][:, list(channels)] = 0
    for name in ("output", "down"):
        params["layers"][name][..., list(channels)] = 0
        params["layers"][name][list(layers)] = 0
    params["layers"]["up"][..., list(neurons)] = 0
    return params


@partial(jax.jit, static_argnums=0)
def forward(config, params, tokens_bt):
    segments_bt, positions_bt = np.ones((1, LENGTH), np.int32), np.arange(LENGTH)[None]
    return Qwen3(config).apply({"params": params}, tokens_bt, segments_bt, positions_bt)


def states(config, params, ids) -> np.ndarray:
    """Of each token; those behind it change nothing, as attention is causal."""
    return np.asarray(forward(config, params, np.pad(ids, (0, LENGTH - len(ids)))[None])[0, : len(ids)])


def measured(params, scoring=None) -> Importance:
    return calibrate(Qwen3(OLD), params, TEXTS, scoring or Scoring())


@pytest.mark.parametrize(
    "channels,neurons,layers",
    [({0, 3, 17, 23}, set(), set()), (set(), {2, 19}, {3}), (set(range(1, 24, 2)), set(range(12)), {0, 2})],
)
def test_what_does_nothing_is_pruned_without_a_change_of_the_output(channels, neurons, layers):
    """The names of what is silent are nowhere told to the pruning: the scores must find it."""
    params = silenced(channels, neurons, layers)
    importance = measured(params)
    new = target_architecture(OLD, 24 - len(channels), 20 - len(neurons), 4 - len(layers))
    kept = choose_channels(OLD, new, ChannelChoice(layers_by="norm_change"), importance)
    assert set(kept.layers) == set(range(4)) - layers
    assert set(kept.embed) == set(range(24)) - channels
    assert all(set(row) == set(range(20)) - neurons for row in kept.mlp)
    small = cut_weights(OLD, params, kept, importance)
    for ids in TEXTS:
        before = states(OLD, params, ids)
        assert np.abs(np.delete(before, kept.embed, axis=1)).max(initial=0) == 0
        np.testing.assert_allclose(states(new, small, ids), before[:, kept.embed], rtol=2e-4, atol=2e-5)


def test_without_rescaling_the_same_pruning_changes_the_output():
    """RMSNorm over 12 channels of 24, with the same energy: vectors are shorter by the root of two in each norm."""
    params = silenced(channels=range(0, 24, 2))
    importance = measured(params)
    new = target_architecture(OLD, width=12)
    kept = choose_channels(OLD, new, ChannelChoice(), importance)
    before = states(OLD, params, TEXTS[1])[:, kept.embed]
    plain = states(new, cut_weights(OLD, params, kept), TEXTS[1])
    assert np.abs(plain - before).max() > 0.1
    final = np.asarray(cut_weights(OLD, params, kept)["final_norm"])
    np.testing.assert_array_equal(final, params["final_norm"][kept.embed])


def test_rescaling_keeps_the_mean_square_where_channels_with_energy_go():
    """Of what the first norm gives, whose input is the token table alone. A text counts once, whatever its length."""
    params = silenced()
    importance = measured(params)
    kept = choose_channels(OLD, target_architecture(OLD, width=8), ChannelChoice(), importance)
    small = cut_weights(OLD, params, kept, importance)
    table = params["token_table"].astype(np.float64)
    energy = np.mean([np.square(table[ids]).mean(0) for ids in TEXTS], axis=0)
    factor = np.asarray(small["layers"]["attention_norm"][0]) / params["layers"]["attention_norm"][0, kept.embed]
    np.testing.assert_allclose(factor**2 * energy.mean(), energy[kept.embed].mean(), rtol=1e-5)


# Scores


def oracle_inner(params, layer: int) -> list[np.ndarray]:
    """The MLP's inner activations of each text, by cutting the model off: the layers before, then NumPy."""
    found = []
    for ids in TEXTS:
        weights = {k: np.asarray(v[layer]) for k, v in params["layers"].items()}
        below = flax.core.copy(params) | {"layers": {k: v[: layer + 1].copy() for k, v in params["layers"].items()}}
        below["layers"]["down"][layer] = 0  # the stream after attention, which the final norm must not touch
        below["final_norm"] = weights["mlp_norm"]
        h = states(replace(OLD, layers=layer + 1), below, ids)
        gate = h @ weights["gate"]
        found.append(gate / (1 + np.exp(-gate)) * (h @ weights["up"]))
    return found


@pytest.mark.parametrize("texts", ["mean", "l2", "variance"])
@pytest.mark.parametrize("tokens", ["mean", "l2", "variance"])
def test_scores_of_neurons_are_those_of_the_definition(tokens, texts):
    params = silenced()
    found = measured(params, Scoring(tokens, texts)).neurons_lf
    over_tokens = {
        "mean": lambda x: np.abs(x).mean(0),
        "l2": lambda x: np.sqrt((x**2).mean(0)),
        "variance": lambda x: x.var(0),
    }
    over_texts = {"mean": lambda x: x.mean(0), "l2": lambda x: np.sqrt((x**2).mean(0)), "variance": lambda x: x.var(0)}
    for layer in (0, 3):
        expected = over_texts[texts](np.stack([over_tokens[tokens](x) for x in oracle_inner(params, layer)]))
        np.testing.assert_allclose(found[layer], expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_scores_of_channels_at_the_output_are_those_of_the_definition():
    params = silenced()
    found = measured(params, Scoring("mean", "l2", "final")).channels_ld
    per_text = np.stack([np.abs(states(OLD, params, ids)).mean(0) for ids in TEXTS])
    np.testing.assert_allclose(found, np.sqrt((per_text**2).mean(0))[None], rtol=1e-4)


def test_scores_at_the_stream_begin_with_the_token_table():
    params = silenced()
    found = measured(params, Scoring("l2", "mean", "stream")).channels_ld
    first = np.mean([np.sqrt((params["token_table"][ids] ** 2).mean(0)) for ids in TEXTS], axis=0)
    assert found.shape == (4, 24) and (found[0] > first).all()  # the stream before the MLP is added


def test_scores_do_not_depend_on_the_order_of_the_texts_or_on_padding():
    params = silenced()
    together = measured(params)
    again = calibrate(Qwen3(OLD), params, TEXTS[::-1], Scoring())
    np.testing.assert_allclose(again.channels_ld, together.channels_ld, rtol=1e-6)
    alone = [calibrate(Qwen3(OLD), params, [ids], Scoring("mean", "mean")).neurons_lf for ids in TEXTS]
    np.testing.assert_allclose(np.mean(alone, 0), measured(params, Scoring("mean", "mean")).neurons_lf, rtol=1e-5)


# Choices


def importance(channels=None) -> Importance:
    """Known scores: channel 23 and neuron 19 matter most, layer 2 changes the norm most, then 0."""
    energy = np.array([1.0, 4.0, 4.1, 9.0])[:, None] * np.ones((4, 24))
    channels = np.arange(24.0) if channels is None else channels
    return Importance(np.tile(channels, (4, 1)), np.tile(np.arange(20.0), (4, 1)), energy, energy, 9.5 * np.ones(24))


@pytest.mark.parametrize(
    "choice,expected",
    [
        (ChannelChoice(), [[0, 1], [21, 22, 23], [18, 19]]),
        (ChannelChoice(order="importance"), [[0, 1], [23, 22, 21], [18, 19]]),
        (ChannelChoice(channels="first", neurons="first"), [[0, 1], [0, 1, 2], [0, 1]]),
        (ChannelChoice(layers_by="norm_change"), [[0, 2], [21, 22, 23], [18, 19]]),
        (ChannelChoice(layers_by="even"), [[0, 3], [21, 22, 23], [18, 19]]),
        (ChannelChoice(keep_layers=(1, 3)), [[1, 3], [21, 22, 23], [18, 19]]),
    ],
    ids=str,
)
def test_choices(choice, expected):
    kept = choose_channels(OLD, target_architecture(OLD, 3, 2, 2), choice, importance())
    layers, embed, mlp = expected
    assert (kept.layers.tolist(), kept.embed.tolist(), kept.mlp.tolist()) == (layers, embed, [mlp, mlp])


def test_channels_are_scored_over_the_kept_layers_alone():
    scores = np.zeros((4, 24))
    scores[0, 5], scores[3, 7] = 1, 9
    found = Importance(
        scores, *(getattr(importance(), name) for name in Importance.__dataclass_fields__ if name != "channels_ld")
    )
    assert choose_channels(OLD, target_architecture(OLD, width=1, layers=2), ChannelChoice(), found).embed.tolist() == [
        5
    ]
    assert choose_channels(OLD, target_architecture(OLD, width=1), ChannelChoice(), found).embed.tolist() == [7]


def test_random_choices_follow_the_seed():
    def drawn(seed):
        rules = ChannelChoice(channels="random", neurons="random", layers_by="random", seed=seed)
        kept = choose_channels(OLD, target_architecture(OLD, 12, 10, 2), rules, None)
        return [x.tolist() for x in (kept.layers, kept.embed, kept.mlp)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert all(row == sorted(row) for row in drawn(1)[2])


@pytest.mark.parametrize("name", ["330m", "160m", "80m"])
def test_a_0_6b_is_cut_to_the_sizes_of_the_recipe_exactly(name):
    """Shapes alone: no weight is made. The counts are those of the recipe (tests/model/test_sizes.py)."""
    old, new = size("0.6b"), size(name)
    kept = KeptChannels(np.arange(new.layers), np.arange(new.width), np.tile(np.arange(new.mlp), (new.layers, 1)))
    made = jax.eval_shape(partial(cut_weights, old, kept=kept), nn.meta.unbox(abstract_params(old)))
    assert made == nn.meta.unbox(abstract_params(new))
    assert sum(x.size for x in jax.tree.leaves(made)) == new.parameters


def test_every_axis_is_sliced_where_it_belongs():
    """Weights that carry their own indices: what is left says where it came from."""
    params = jax.tree.map(lambda x: np.arange(x.size, dtype=np.float64).reshape(x.shape), silenced())
    mlp = np.array([[4, 7], [1, 2], [0, 19]])
    kept = KeptChannels(np.array([0, 2, 3]), np.array([9, 5]), mlp, vocab=np.array([49, 3, 3]))
    made = cut_weights(OLD, params, kept)
    old = params["layers"]
    for i, layer in enumerate((0, 2, 3)):
        np.testing.assert_array_equal(made["layers"]["gate"][i], old["gate"][layer][[9, 5]][:, mlp[i]])
        np.testing.assert_array_equal(made["layers"]["down"][i], old["down"][layer][mlp[i]][:, [9, 5]])
        np.testing.assert_array_equal(made["layers"]["query"][i], old["query"][layer][[9, 5]])
        np.testing.assert_array_equal(made["layers"]["output"][i], old["output"][layer][..., [9, 5]])
        np.testing.assert_array_equal(made["layers"]["query_norm"][i], old["query_norm"][layer])
    np.testing.assert_array_equal(made["token_table"], params["token_table"][[49, 3, 3]][:, [9, 5]])


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: target_architecture(OLD, width=25), "width=25 is out of range; this model can be pruned to 1 … 24"),
        (lambda: target_architecture(OLD, layers=-1), "layers=-1 is out of range"),
        (lambda: ChannelChoice(channels="importence"), "did you mean 'importance'"),
        (lambda: ChannelChoice(layers_by="last"), "layers_by='last' is not a choice"),
        (lambda: Scoring(token_score="max"), "token_score='max' is not a choice"),
        (
            lambda: choose_channels(OLD, target_architecture(OLD, layers=2), ChannelChoice(keep_layers=(0, 4)), None),
            "2 rising numbers from 0 to 3",
        ),
        (
            lambda: choose_channels(OLD, target_architecture(OLD, width=2), ChannelChoice(), None),
            "name some with --input",
        ),
        (
            lambda: choose_channels(
                OLD, target_architecture(OLD, layers=2), ChannelChoice(layers_by="norm_change"), None
            ),
            "name some with --input",
        ),
        (lambda: calibrate(Qwen3(OLD), {}, [], Scoring()), "no calibration texts"),
    ],
)
def test_what_cannot_be_done_is_said(make, message):
    with pytest.raises(UserError, match=message):
        make()
