"""A tiny run that several tests share: a few hundred rows of all kinds, a tiny model, its config."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from f2jax import config as configs
from f2jax.train.losses import LossConfig

ROOT = Path(__file__).parents[1]
WORDS = ["red", "green", "blue", "black", "white", "small", "large", "quick", "slow", "old", "river", "stone", "tree"]


def write_rows(folder: Path, rows: int = 96) -> list[str]:
    """JSONL files: retrieval pairs with negatives, and clustering rows with labels."""
    rng = np.random.default_rng(0)

    def phrase(n):
        return " ".join(rng.choice(WORDS, n))

    retrieval, clustering = [], []
    for i in range(rows):
        query = f"{phrase(3)} {i}"
        negatives = {f"negative_{k + 1}": phrase(int(rng.integers(1, 9))) for k in range(3)}
        retrieval.append({"query": query, "positive": f"{query} {phrase(4)}", **negatives})
        word = WORDS[i % 4]
        row = {
            "query": f"{word} {phrase(2)} {i}",
            "positive": f"{word} {phrase(2)}",
            "negatives": [phrase(3), phrase(5)],
        }
        clustering.append(row | {"kind": "clustering", "label": word, "source": "colours"})
    paths = []
    for name, content in (("pairs.jsonl", retrieval), ("colours.jsonl", clustering)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        if not (folder / name).exists() or (folder / name).read_text() != text:  # another worker may be reading it
            (folder / name).write_text(text)
        paths.append(str(folder / name))
    return paths


def overrides(folder: Path, **changes) -> list[str]:
    """The options of a run that takes seconds, on the files of `write_rows`.

    Its learning rate does not depend on `steps`, so that runs of other lengths find its compiled programs.
    """
    values = {
        "model.size": "tiny",
        "model.unroll": 1,  # it compiles faster
        "steps": 12,
        "tokenizer.train_vocab": 400,
        "data.sources": str(tuple(write_rows(folder))),
        "data.batch_size": 16,
        "data.max_length": 32,
        "data.row_length": 64,
        "data.programs": 2,
        "data.negatives.retrieval": 2,
        "data.negatives.clustering": 2,
        "data.validation_share": 0.1,
        "loss.matryoshka_min": 32,
        "optim.schedule": "constant",
        "optim.warmup_steps": 2,
        "checkpoint.every": 4,
        "log.every": 2,
        "log.tensorboard": False,
    }
    return [f"--config.{name}={value}" for name, value in (values | changes).items()]


def config(folder: Path, **changes):
    return configs.load(str(ROOT / "configs/nano.py:stage=2"), overrides(folder, **changes))


def loss_config(**changes) -> LossConfig:
    """The loss of the base config at the full width, but for the changes."""
    return replace(LossConfig.of(configs.load("common").loss), **changes)
