"""Fifty optimizer steps follow a PyTorch + transformers loop: same weights, batches, AdamW, cosine, clip."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.checkpoints import hf
from f2jax.checkpoints.orbax import TrainState
from f2jax.checkpoints.settings import config_to_hf
from f2jax.configs import common
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules
from f2jax.model.nested import matryoshka_dims
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config
from f2jax.train import optim
from f2jax.train.losses import matryoshka_weights
from f2jax.train.step import DeviceBatch, train_step
from tests.tiny import loss_config

torch = pytest.importorskip("torch")
torch_step = pytest.importorskip("benchmarks.torch_step")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

CONFIG = Qwen3Config(40, 64, 2, 4, 2, head_dim=16, vocab_size=120, max_length=64)
STEPS, BATCH, NEGATIVES = 50, 8, 3


def rows_of(step: int) -> list[Row]:
    """Related pairs: the positive repeats half of the query's tokens."""
    rng = np.random.default_rng(step)

    def ids(length, start=()):
        return np.array([*start, *rng.integers(2, 120, length)], np.int32)

    rows = []
    for b in range(BATCH):
        query = ids(rng.integers(2, 14))
        positive = ids(rng.integers(1, 10), query[: len(query) // 2])
        rows.append(Row(query, positive, [ids(rng.integers(1, 14)) for _ in range(NEGATIVES)], b, [100 + b] * 3))
    return rows


def kind_of(step: int) -> str:
    return ("retrieval", "clustering")[step % 3 == 2]


def torch_losses(folder, settings) -> list[float]:
    """The reference's step, with padded batches, for every step."""
    model = transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32)
    model.train()
    tx = torch.optim.AdamW(
        model.parameters(),
        lr=1.0,
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )

    def rate(step):
        if step < settings.warmup_steps:
            return settings.peak_lr * step / settings.warmup_steps
        share = (step - settings.warmup_steps) / (STEPS - settings.warmup_steps)
        return settings.end_lr + (settings.peak_lr - settings.end_lr) * (1 + math.cos(math.pi * share)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(tx, rate)

    dims = matryoshka_dims(CONFIG.width)
    losses = []
    for step in range(STEPS):
        args = model, tx, settings.clip_norm, rows_of(step), kind_of(step), dims, matryoshka_weights(dims)
        losses.append(torch_step.step(*args))
        schedule.step()
    return losses


def optimizer_settings():
    settings = common.get_config("size=0.6b").optim
    settings.update(peak_lr=2e-3, end_lr=1e-5, warmup_steps=5)
    return settings


def saved(folder, params):
    hf.save_hf(folder, params)
    (folder / "config.json").write_text(json.dumps(config_to_hf(CONFIG, "float32", 1, 0)))
    return folder


def our_losses(params, settings) -> list[float]:
    """The same steps with packed batches."""
    tx = optim.make_optimizer(settings, STEPS)
    options = {"model": Qwen3(CONFIG), "config": loss_config(matryoshka_dims=matryoshka_dims(CONFIG.width)), "tx": tx}
    step_fn = jax.jit(lambda state, batch, kind: train_step(state, batch, kind=kind, **options), static_argnames="kind")
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    found = []
    for step in range(STEPS):
        rows, shapes = texts_of(rows_of(step)), {"batch_size": BATCH, "rules": RowRules(32), "pad_id": 0}
        batch = assemble(rows, NEGATIVES, kind=kind_of(step), **shapes)
        state, metrics = step_fn(state, DeviceBatch.of(batch.arrays()), kind=batch.kind)
        found.append(float(metrics["loss"]))
    return found


def test_fifty_steps_follow_pytorch(tmp_path):
    settings, params = optimizer_settings(), init_params(Qwen3(CONFIG), 0)
    expected = torch_losses(saved(tmp_path, params), settings)
    found = our_losses(params, settings)
    assert np.abs(np.array(found) - expected).max() <= 1e-3
    assert expected[-1] < 0.8 * expected[0], "the test trains"
