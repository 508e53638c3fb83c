"""Weights with rules of their own, against AdamW and SGD of PyTorch with groups of parameters."""

import itertools

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from f2jax.configs import common
from f2jax.train import optim

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SHAPES = {"token_table": (7, 4), "layers/query": (2, 4, 3), "layers/query_norm": (2, 3), "final_norm": (4,)}
STEPS, WARMUP = 6, 2
FREEZE = [(), ("token_table",), ("*norm", "layers/query")]
FACTORS = [(), ("layers/*=0.3", "*norm=2")]
NO_DECAY = [(), ("*norm*", "token_table")]


def settings(**changes):
    config = common.get_config().optim
    config.update(peak_lr=0.05, schedule="constant", warmup_steps=WARMUP, weight_decay=0.3, **changes)
    return config


def example() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Weights, and a gradient of them for each step."""
    rng = np.random.default_rng(0)

    def draw():
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}

    return draw(), [draw() for _ in range(STEPS)]


def ours(config) -> dict[str, np.ndarray]:
    weights, gradients = example()
    params = unflatten_dict(weights, sep="/")
    rules = optim.WeightRules.of(config, params)
    tx = optim.make_optimizer(config, STEPS, rules)
    state = tx.init(rules.split(params)[0])
    for gradient in gradients:
        trained, frozen = rules.split(params)
        updates, state = tx.update(rules.split(unflatten_dict(gradient, sep="/"))[0], state, trained)
        params = optim.joined(optax.apply_updates(trained, updates), frozen)
    return {name: np.asarray(weight) for name, weight in flatten_dict(params, sep="/").items()}


def torch_weights(config, frozen: set[str], factors: dict[str, float], undecayed: set[str]) -> dict[str, np.ndarray]:
    """Each weight is a group: what the groups are is worked out by hand in the test."""
    weights, gradients = example()
    tensors = {name: torch.nn.Parameter(torch.tensor(x), name not in frozen) for name, x in weights.items()}
    groups = [
        {
            "params": [x],
            "lr": config.peak_lr * factors.get(name, 1.0),
            "weight_decay": 0.0 if name in undecayed else config.weight_decay,
        }
        for name, x in tensors.items()
        if x.requires_grad
    ]
    tx = torch.optim.AdamW(groups, betas=(config.b1, config.b2), eps=config.eps)
    schedule = torch.optim.lr_scheduler.LambdaLR(tx, lambda step: min(step / WARMUP, 1.0))
    for gradient in gradients:
        for name, x in tensors.items():
            x.grad = torch.tensor(gradient[name]) if x.requires_grad else None
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(tensors.values(), config.clip_norm)
        tx.step()
        schedule.step()
    return {name: x.detach().numpy() for name, x in tensors.items()}


@pytest.mark.parametrize(
    ("freeze", "rate_factors", "no_decay", "clip_norm"), list(itertools.product(FREEZE, FACTORS, NO_DECAY, [0.0, 1.0]))
)
def test_each_weight_follows_its_group(freeze, rate_factors, no_decay, clip_norm):
    config = settings(freeze=freeze, rate_factors=rate_factors, no_decay=no_decay, clip_norm=clip_norm)
    norms = {"layers/query_norm", "final_norm"}
    frozen = {(): set(), FREEZE[1]: {"token_table"}, FREEZE[2]: norms | {"layers/query"}}[freeze]
    factors = {"layers/query": 0.3, "layers/query_norm": 0.6, "final_norm": 2.0} if rate_factors else {}
    expected = torch_weights(config, frozen, factors, norms | {"token_table"} if no_decay else set())
    found = ours(config)
    for name, before in example()[0].items():
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        assert np.array_equal(found[name], before) == (name in frozen)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_frozen_weights_have_no_state(name):
    config = settings(name=name, freeze=("token_table", "layers/*"))
    params = unflatten_dict(example()[0], sep="/")
    rules = optim.WeightRules.of(config, params)
    state = optim.make_optimizer(config, STEPS, rules).init(rules.split(params)[0])
    assert {x.shape for x in jax.tree.leaves(state) if x.ndim} == {SHAPES["final_norm"]}
