"""Weights that are not trained: in one step, in chunks, and in a run that goes on over several devices."""

import os
import shutil
import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from f2jax.checkpoints.orbax import TrainState, read_weight
from f2jax.configs import common
from f2jax.data.dataset import texts_of
from f2jax.data.packing import assemble
from f2jax.model.qwen3 import Qwen3
from f2jax.train.loop import train
from f2jax.train.optim import WeightRules, make_optimizer
from f2jax.train.step import DeviceBatch, loss_fn, train_step
from tests import tiny
from tests.tiny_model import random_params
from tests.train.test_chunks import CHUNKED, LOSS, SHAPE, WHOLE, rows
from tests.train.test_loop import RUN, command, lines, weights

FREEZE = ("token_table", "layers/query")


def test_a_step_trains_the_others_alone_in_chunks_as_all_at_once():
    config = common.get_config().optim
    config.update(warmup_steps=0, schedule="constant", peak_lr=0.01, freeze=FREEZE)
    params, model = random_params(SHAPE), Qwen3(SHAPE)
    rules = WeightRules.of(config, params)
    tx = make_optimizer(config, 1, rules)
    whole, split = (
        DeviceBatch.of(assemble(texts_of(rows(8)), 2, kind="retrieval", batch_size=6, rules=shape, pad_id=0).arrays())
        for shape in (WHOLE, CHUNKED)
    )
    settled = {"model": model, "kind": "retrieval", "config": LOSS}
    gradient = jax.jit(jax.grad(partial(loss_fn, **settled), has_aux=True))(params, whole, None)[0]
    before, (trained, frozen) = rules.split(params)[0], rules.split(gradient)
    assert set(flatten_dict(frozen, sep="/")) == set(FREEZE)
    updates, _ = jax.jit(tx.update)(trained, tx.init(before), before)

    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(before))
    after, metrics = jax.jit(partial(train_step, **settled, tx=tx, rules=rules))(state, split)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(trained), rtol=1e-4)
    found, start, moved = (flatten_dict(tree, sep="/") for tree in (after.params, params, updates))
    for name, x in found.items():
        assert np.array_equal(x, start[name]) == (name in FREEZE)
        np.testing.assert_allclose(x, start[name] + moved.get(name, 0), atol=2e-4)


def test_a_run_goes_on_over_two_devices_with_weights_that_are_not_trained(tmp_path):
    changes = {"steps": 4, "checkpoint.every": 2, "checkpoint.keep_every": 2, "log.validate_every": 0}
    changes |= {"loss.matryoshka": False, "data.programs": 1}
    changes |= {"optim.freeze": str(FREEZE), "optim.rate_factors": "('layers/*=0.5',)", "optim.no_decay": "('*norm*',)"}
    train(tiny.config(tmp_path, **changes), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again", ignore=shutil.ignore_patterns("compiled"))
    shutil.rmtree(tmp_path / "again/checkpoints/4")
    two = os.environ | RUN | {"JAX_NUM_CPU_DEVICES": "2"}
    options = command(tmp_path, tmp_path / "again", **changes, **{"mesh.fsdp": 2})
    out = subprocess.run(options, env=two, capture_output=True, text=True, check=True).stdout
    assert "Resuming after step 2 of 4." in out and "Mesh replica 1 × data 1 × fsdp 2" in out
    logs = [lines(tmp_path / name)[-1] for name in ("run", "again")]
    assert all(logs[0][name] == logs[1][name] > 0 for name in ("step", "tokens", "operations"))
    ends = [flatten_dict(weights(tmp_path / name)) for name in ("run", "again")]
    for path, x in ends[1].items():
        before = read_weight(tmp_path / "run", 2, path, x)
        assert np.array_equal(x, before) == ("/".join(path) in FREEZE)
        np.testing.assert_allclose(x, ends[0][path], atol=1e-4)
