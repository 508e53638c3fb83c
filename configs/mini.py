"""A small multilingual model, trained from scratch on prepared corpora in two stages; an hour on two CPU cores.

f2jax train --config configs/mini.py:stage=1 --workdir runs/mini-1 --config.data.sources='("corpus:corpus-1",)'
f2jax train --config configs/mini.py:stage=2 --workdir runs/mini-2 --config.data.sources='("corpus:corpus-2",)' \\
    --config.init_from=runs/mini-1
"""

from f2jax.configs import common
from f2jax.data.instructions import add_instruction

QUERY_TASK = "Given a question, retrieve passages that can help answer the question."  # recipe 2.6


def get_config(text=None):
    """Option: stage, which is 1 (retrieval, no instructions) or 2 (all kinds, instructions, hard negatives)."""
    stage = common.options(text, stage=1)["stage"]
    config = common.small_config("mini")
    config.model.dtype = "float32"
    config.model.unroll = 2
    config.data.max_length = 128
    config.data.row_length = 128
    config.data.programs = 12  # each program takes seconds to compile
    config.data.use_instructions = stage == 2
    config.data.batch_size = 256 if stage == 1 else 128
    config.data.negatives.retrieval = 0 if stage == 1 else 1
    config.data.negatives.clustering = 2
    config.data.language_temperature = 2.0
    if stage == 2:
        config.prompts.query = add_instruction("", QUERY_TASK)
    config.steps = 900 if stage == 1 else 300
    config.optim.peak_lr = 1e-3 if stage == 1 else 5e-4
    config.optim.warmup_steps = 50 if stage == 1 else 30
    config.loss.passage_gradient = True
    config.loss.spread_weight = 10.0  # without it, all embeddings collapse to one direction at first
    config.checkpoint.every = 100
    return config
