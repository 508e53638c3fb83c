"""The runs of benchmarks/ablations.py: a student with a million parameters learns from cached vectors of a far larger
teacher. A run takes about a minute on one core.

f2jax train --config configs/ablation.py:row=alone,data=FOLDER,seed=1 --workdir DIR

FOLDER holds a corpus and the teacher's vectors for it; docs/ablations.md explains how to make them.
"""

from dataclasses import dataclass, field
from typing import Any

from f2jax.configs import common
from f2jax.errors import UserError, did_you_mean

SCALE = {  # what all runs change in the recipe
    "steps": 50,
    "model.vocab": 16_000,
    "model.dtype": "float32",
    "model.remat": "none",
    "data.batch_size": 128,
    "data.max_length": 48,
    "data.row_length": 128,
    "data.programs": 1,
    "data.include": ("pairs",),
    "data.use_instructions": False,
    "data.negatives.retrieval": 1,
    "data.negatives.clustering": 1,
    "loss.distill": "cosine",  # the recipe's squared error needs vectors that are not normalized
    "optim.peak_lr": 1e-3,
    "optim.warmup_share": 0.1,
    "checkpoint.keep_every": 0,
    "checkpoint.tail_steps": 20,
    "checkpoint.tail_every": 5,
    "log.validate_every": 0,
    "log.tensorboard": False,
}


@dataclass(frozen=True)
class AblationRow:
    """A run, described by how it differs from the recipe."""

    changes: dict[str, Any] = field(default_factory=dict)  # {field of the config: value}
    start: str = "table"  # initial weights: another row, or a start in benchmarks/ablations.py; "": random ones
    width: int = 64
    corpus: str = "corpus"  # folders in FOLDER
    vectors: str = "vectors-128"  # "": no teacher


GRADIENT = {"loss.passage_gradient": True}
MASKED = {"loss.mask_duplicates": True, "loss.mask_margin": 0.1, "loss.label_mask": True}
SPREAD = {"loss.spread_weight": 1.0}
IN_BATCH = {"loss.distill_in_batch_weight": 1.0}
TEXTS = {"loss.distill_texts_weight": 1.0}
SHARED = {"loss.shared_negatives_weight": 1.0}
FLAT = {"loss.matryoshka": False}
ALL_KINDS = {"data.include": (), "data.programs": 3}
ROWS = {
    "recipe": AblationRow(),
    "alone": AblationRow(vectors=""),
    "recipe_32": AblationRow(width=32),
    "alone_32": AblationRow(width=32, vectors=""),
    "recipe_128": AblationRow(width=128),
    "alone_128": AblationRow(width=128, vectors=""),
    # initial weights
    "fresh": AblationRow(start=""),
    "fresh_alone": AblationRow(start="", vectors=""),
    "pruned": AblationRow(start="cut"),
    # six layers, trained for four times as long, and the two of them that are kept
    "deep": AblationRow({"steps": 200}, start="deep_table"),
    "first_layers": AblationRow(start="first_two"),
    "spread_layers": AblationRow(start="spread_two"),
    # Matryoshka, starting from dimensions in random order
    "nested": AblationRow(start="unordered", vectors="vectors-first"),
    "flat": AblationRow(FLAT, start="unordered", vectors="vectors-first"),
    # single options, then several at once
    "gradient": AblationRow(GRADIENT),
    "masked": AblationRow(MASKED),
    "spread": AblationRow(SPREAD),
    "projected": AblationRow({"loss.distill_projection": True}),
    "in_batch": AblationRow(IN_BATCH),
    "texts": AblationRow(TEXTS),
    "shared": AblationRow(SHARED),
    "strong": AblationRow({"loss.distill_weight": 10.0}),
    "taught_alone": AblationRow({"loss.contrastive_weight": 0.0} | TEXTS),
    "together": AblationRow(GRADIENT | MASKED | SPREAD | IN_BATCH | TEXTS | SHARED),
    # stages, instructions, hard negatives
    "one_stage": AblationRow(ALL_KINDS),
    "stage_1": AblationRow({"steps": 37, "data.negatives.retrieval": 0}, vectors=""),
    "two_stages": AblationRow(ALL_KINDS | {"steps": 25}, start="stage_1"),
    "instructions": AblationRow({"data.use_instructions": True}, corpus="instructions", vectors="instructions-vectors"),
    "no_negatives": AblationRow({"data.negatives.retrieval": 0, "steps": 75}),
    "mined": AblationRow(corpus="mined", vectors="mined-vectors"),
}


def get_config(text=None):
    """Options: row (a name in ROWS), data (the folder), start (the row's initial weights, if it needs any), seed."""
    options = common.options(text, row="recipe", data="", start="", seed=0)
    name, data, start = options["row"], options["data"], options["start"]
    if name not in ROWS:
        raise UserError(f"There is no row '{name}'{did_you_mean(name, ROWS)}")
    row = ROWS[name]
    if not data or bool(start) != bool(row.start):
        needed = f"configs/ablation.py:row={name},data=FOLDER{',start=MODEL' * bool(row.start)}"
        raise UserError(f"The row {name} is {needed}.")
    config = common.get_config("size=tiny")
    config.update_from_flattened_dict(SCALE | row.changes)
    config.seed = options["seed"]
    config.model.width = row.width
    config.data.sources = (f"corpus:{data}/{row.corpus}",)
    if row.vectors:
        config.teacher.cache = f"{data}/{row.vectors}"
    if start:
        config.init_from, config.model.size = start, ""
        config.model.vocab = config.model.width = 0
    config.checkpoint.every = config.steps
    return config
