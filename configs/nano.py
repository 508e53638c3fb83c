"""The demo: a nano model, trained from scratch on built-in data in two stages; minutes on two CPU cores.

Stage 1 learns from translated names. Stage 2 adds instructions, hard negatives, clustering and classification.
"""

from f2jax.configs import common
from f2jax.data.instructions import add_instruction

INSTRUCTIONS = {
    "cldr-names": "Find the English name.",
    "cldr-kinds": "Find a name of the same kind.",
    "cldr-labels": "Classify the name.",
}


def get_config(text=None):
    """Option: stage, 1 or 2."""
    stage = common.options(text, stage=1)["stage"]
    config = common.small_config("nano")
    config.model.dtype = "float32"
    config.model.unroll = 3
    config.tokenizer.train_vocab = 8_192 if stage == 1 else 0

    config.data.max_length = 48
    config.data.row_length = 48
    config.data.programs = 16  # each program takes seconds to compile
    config.data.use_instructions = stage == 2
    config.data.instructions.update(INSTRUCTIONS)
    if stage == 2:
        config.prompts.update({name: add_instruction("", task) for name, task in INSTRUCTIONS.items()})
        config.prompts.query = config.prompts["cldr-names"]
        config.prompts["cldr-across"] = ""  # queries and documents look alike
    config.data.negatives.retrieval = 0 if stage == 1 else 1
    config.data.negatives.clustering = 2
    config.data.sources = ("cldr:translation",)
    if stage == 2:
        config.data.sources += ("cldr:kinds", "cldr:labels")
    config.steps, config.optim.peak_lr = (310, 2e-3) if stage == 1 else (45, 5e-4)
    config.loss.passage_gradient = True
    config.optim.warmup_steps = 20 if stage == 1 else 5
    config.checkpoint.every = 100
    return config
