"""A student trained only to match the cached vectors of a teacher, from the weights that `f2jax start` makes.

docs/multilingual.md has such a run with its scores: 54 million tokens in an hour and a half on two busy CPU cores.

f2jax train --config configs/cached.py:start=start,corpus=corpus,cache=vectors --workdir runs/mini
"""

from f2jax.configs import common
from f2jax.errors import UserError


def get_config(text=None):
    """Options: start (of `f2jax start`), corpus (of `f2jax prepare`), cache (of `f2jax cache-teacher`)."""
    options = common.options(text, start="", corpus="", cache="")
    if missing := [name for name, value in options.items() if not value]:
        raise UserError(f"configs/cached.py needs {', '.join(missing)}: cached.py:start=…,corpus=…,cache=…")
    config = common.small_config("mini")
    config.init_from = config.model.size = options["start"]
    config.model.unroll = 2
    config.data.sources = (f"corpus:{options['corpus']}",)
    config.data.mixed_batches = True
    config.data.batch_size = 192
    config.data.max_length = config.data.row_length = 256
    config.data.programs = 8  # each program takes seconds to compile
    config.data.use_instructions = False
    config.data.negatives.retrieval = 0
    config.data.negatives.clustering = 1
    config.data.negatives.classification = 1
    config.teacher.cache = options["cache"]
    config.loss.contrastive_weight = 0.0
    config.loss.distill = "cosine"
    config.loss.distill_weight = 5.0
    config.loss.distill_texts_weight = 1.0  # scores among all texts of the batch, which is why batches are mixed
    config.loss.distill_matryoshka = True
    config.loss.matryoshka_min = 32
    config.steps = 6_500
    config.optim.peak_lr = 1e-3
    config.optim.warmup_steps = 200
    config.optim.schedule = "wsd"
    config.optim.decay_steps = 3_500
    config.checkpoint.every = 500
    config.log.every = 25
    config.log.validate_every = 500
    config.log.validation_batches = 8
    return config
