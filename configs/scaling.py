"""Runs for a scaling law of the held-out loss on two CPU cores: tiny models on names from the Unicode CLDR.

f2jax prepare --input cldr:translation --output runs/names --train-vocab 4096 --no-instructions --max-length 48 \\
    --validation-share 0.03
launch/sweep.sh --local --yes --config configs/scaling.py --workdir runs/scaling --grid :width=24,48,96,192 \\
    --grid steps=150,300,600 --grid seed=0,1 -- --config.data.sources="('corpus:runs/names',)"
f2jax compare runs/scaling --output scaling --leave-out 1
"""

from f2jax.configs import common
from f2jax.errors import UserError

HEAD_DIM = 8


def get_config(text=None):
    """Option: width, a multiple of 8, which determines the rest of the model's shape."""
    width = common.options(text, width=32)["width"]
    if width < HEAD_DIM or width % HEAD_DIM:
        raise UserError(f"width={width} should be a multiple of {HEAD_DIM}.")
    config = common.small_config("tiny")
    model = config.model
    model.width, model.mlp, model.layers, model.vocab = width, 2 * width, 2, 4_096
    model.heads = model.kv_heads = width // HEAD_DIM
    model.head_dim = HEAD_DIM
    model.dtype = "float32"
    model.unroll = 2

    config.data.batch_size = 128
    config.data.max_length = config.data.row_length = 48
    config.data.programs = 1  # compiling one takes as long as a hundred steps
    config.data.use_instructions = False
    config.data.negatives.retrieval = 0
    config.loss.matryoshka = False  # its terms depend on the width, so losses could not be compared
    config.loss.passage_gradient = True
    config.steps = 300
    config.optim.peak_lr = 0.01 * (32 / width) ** 0.5
    config.optim.warmup_steps = 20
    config.checkpoint.every = 1_000
    config.checkpoint.keep_last = 1
    config.log.every = 25
    config.log.validate_every = 1_000  # only after the last step
    config.log.validation_batches = 0
    config.log.tensorboard = False
    return config
