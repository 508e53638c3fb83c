"""Prints the largest differences from the oracles, with a line for each setting. Needs the `test` extra.

python -m benchmarks.parity
"""

import tempfile
from pathlib import Path

import numpy as np

from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config
from tests.parity import test_backbone as backbone
from tests.parity import test_losses as losses
from tests.parity import test_training as training


def embeddings() -> None:
    print("Embeddings against transformers' Qwen3Model, float32: worst absolute difference after normalization")
    for name, changes in backbone.SETTINGS.items():
        config = Qwen3Config(**backbone.BASE | changes)
        params = backbone.random_params(config)
        sequences = backbone.sequences_of([1, 2, 3, 5, 17, 31, 64, 64, 40], config.vocab_size)
        with tempfile.TemporaryDirectory() as folder:
            backbone.save_for_transformers(Path(folder), config, params)
            expected = backbone.oracle(folder, sequences)
        found = backbone.ours(config, params, sequences, row_length=64)
        print(f"  {name:<36} {np.abs(found - expected).max():.1e}")


def loss_gradients() -> None:
    print("Losses against PyTorch autograd: worst relative difference of value and of gradients")
    for kind in ("retrieval", "clustering", "classification"):
        worst_value, worst_gradient = 0.0, 0.0
        for width in (8, 20, 48):
            for slots in (0, 1, 3):
                x = losses.example(width, slots)
                config = losses.loss_config(matryoshka_dims=losses.matryoshka_dims(width))
                (value, grads), (expected, expected_grads) = (f(x, kind, config) for f in (losses.ours, losses.oracle))
                worst_value = max(worst_value, abs(value - expected) / max(abs(expected), 1.0))
                for ours, theirs in zip(grads, expected_grads, strict=True):
                    scale = max(np.abs(theirs).max(initial=0), 1e-3)
                    worst_gradient = max(worst_gradient, np.abs(ours - theirs).max(initial=0) / scale)
        print(f"  {kind:<36} {worst_value:.1e}  {worst_gradient:.1e}")


def fifty_steps() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings, params = training.optimizer_settings(), init_params(Qwen3(training.CONFIG), 0)
        expected = training.torch_losses(training.saved(Path(folder), params), settings)
    found = training.our_losses(params, settings)
    print(f"Fifty optimizer steps against PyTorch + transformers: loss {expected[0]:.3f} -> {expected[-1]:.3f}")
    print(f"  worst difference at any step          {np.abs(np.array(found) - expected).max():.1e}")


if __name__ == "__main__":
    embeddings()
    loss_gradients()
    fifty_steps()
