"""Optimizer chains and schedules, against formulas written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from f2jax.configs import common
from f2jax.errors import UserError
from f2jax.train import optim


def config(**changes):
    c = common.get_config().optim
    c.update(changes)
    return c


@pytest.mark.parametrize("warmup,steps", [(0, 10), (5, 50), (500, 2000)])
def test_cosine_warms_up_from_zero_and_ends_on_the_floor(warmup, steps):
    c = config(warmup_steps=warmup, peak_lr=1e-3, end_lr=1e-5)
    rate = optim.make_schedule(c, steps)
    for step in range(0, steps + 1, max(1, steps // 40)):
        if step < warmup:
            expected = 1e-3 * step / warmup
        else:
            share = (step - warmup) / (steps - warmup)
            expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * share)) / 2
        assert float(rate(step)) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    "share,steps,warmup", [(0.1, 1, 0), (0.1, 9, 1), (0.1, 50, 5), (0.1, 700, 70), (0.29, 100, 29)]
)
def test_a_share_of_the_steps_warms_up_however_many_they_are(share, steps, warmup):
    share, count = config(warmup_share=share, warmup_steps=500), config(warmup_steps=warmup)
    rates = [optim.make_schedule(c, steps) for c in (share, count)]
    assert [float(rates[0](step)) for step in range(steps)] == [float(rates[1](step)) for step in range(steps)]


@pytest.mark.parametrize("warmup,steps,decay", [(0, 10, 4), (5, 50, 45), (5, 50, 1)])
def test_wsd_stays_at_its_peak_and_falls_in_its_last_steps(warmup, steps, decay):
    c = config(warmup_steps=warmup, peak_lr=1e-3, end_lr=1e-5, schedule="wsd", decay_steps=decay)
    rate = optim.make_schedule(c, steps)
    for step in range(steps + 1):
        share = min(max(step - (steps - decay), 0) / decay, 1)
        expected = 1e-3 * step / warmup if step < warmup else 1e-3 + (1e-5 - 1e-3) * share
        assert float(rate(step)) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    longer = optim.make_schedule(c, 2 * steps)
    assert float(longer(steps - decay)) == float(rate(steps - decay)), "a longer run is the same up to the decay"


@pytest.mark.parametrize("decay", [0, 46])
def test_a_decay_longer_than_the_training_is_refused(decay):
    with pytest.raises(UserError, match=f"decay_steps={decay} should be from 1 to the 45 steps after the warm-up"):
        optim.make_schedule(config(warmup_steps=5, schedule="wsd", decay_steps=decay), 50)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_the_optimizer_state_is_stored_in_its_own_type(state_dtype):
    tx = optim.make_optimizer(config(state_dtype=state_dtype, warmup_steps=0), 10)
    params = {"w": jnp.ones((3, 4), jnp.float32)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update({"w": jnp.full((3, 4), 0.1)}, state, params)
    moments = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {str(x.dtype) for x in moments} == {state_dtype}
    assert updates["w"].dtype == jnp.float32


def test_gradients_are_clipped_by_their_global_norm():
    """Plain SGD with rate 1 shows the clipped gradient itself."""
    plain = {"name": "sgd", "schedule": "constant", "warmup_steps": 0, "b1": 0.0, "weight_decay": 0.0}
    tx = optim.make_optimizer(config(**plain, peak_lr=1.0), 10)
    grads = {"a": jnp.full((2,), 3.0), "b": jnp.full((2,), 4.0)}
    updates, _ = tx.update(grads, tx.init(grads), grads)
    assert np.allclose(updates["a"], -3 / math.sqrt(50)) and np.allclose(updates["b"], -4 / math.sqrt(50))


def test_sgd_decays_weights_apart_from_its_momentum():
    """Of SGDW, by hand: v = b1 v + g, w = w - rate (v + decay w) (https://arxiv.org/abs/1711.05101)."""
    c = config(name="sgd", schedule="constant", peak_lr=0.1, warmup_steps=0, b1=0.9, weight_decay=0.5, clip_norm=0.0)
    tx = optim.make_optimizer(c, 10)
    params, moment = {"w": jnp.array([2.0, -1.0])}, 0.0
    state, expected = tx.init(params), np.array([2.0, -1.0])
    for grad in (0.3, -0.2, 0.7):
        updates, state = tx.update({"w": jnp.full(2, grad)}, state, params)
        params = {"w": params["w"] + updates["w"]}
        moment = 0.9 * moment + grad
        expected = expected - 0.1 * (moment + 0.5 * expected)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        optim.make_schedule(config(schedule="cosin", warmup_steps=0), 10)
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optim.make_optimizer(config(name="adamx", warmup_steps=0), 10)
    with pytest.raises(UserError, match="leaves nothing of 10 steps"):
        optim.make_schedule(config(warmup_steps=500), 10)
    with pytest.raises(UserError, match=r"^optim\.warmup_share=0.97 leaves nothing of 10 steps; lower it.$"):
        optim.make_schedule(config(warmup_share=0.97), 10)


PARAMS = {"token_table": jnp.zeros((3, 2)), "layers": {"query": jnp.zeros(2)}, "final_norm": jnp.zeros(2)}


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"freeze": ("tokentable",)},
            r"No weight is named 'tokentable' \(optim.freeze\); they are final_norm, layers/q",
        ),
        ({"no_decay": ("layers",)}, r"No weight is named 'layers' \(optim.no_decay\)"),
        ({"rate_factors": ("head=2",)}, r"No weight is named 'head' \(optim.rate_factors\)"),
        ({"rate_factors": ("layers/*=0",)}, "'layers/.=0' in optim.rate_factors should be PATTERN=FACTOR"),
        ({"rate_factors": ("layers/*",)}, "'layers/.' in optim.rate_factors should be PATTERN=FACTOR"),
        ({"freeze": ("*",)}, "leaves no weights to train"),
    ],
)
def test_rules_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        optim.WeightRules.of(config(**changes), PARAMS)


def test_a_checkpoint_of_an_optimizer_without_rules_fits_one_with_factors_and_no_decay():
    """So a run can branch off with other rules, and runs from before there were rules resume."""
    changed = config(rate_factors=("layers/*=0.5",), no_decay=("*norm",))
    states = [optim.make_optimizer(c, 1000, optim.WeightRules.of(c, PARAMS)).init(PARAMS) for c in (config(), changed)]
    known = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optim.make_schedule(config(), 1000))).init(PARAMS)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1]) == jax.tree.structure(known)
