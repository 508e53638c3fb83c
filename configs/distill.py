"""Stage 2 with a distillation objective other than the recipe's, or with cached teacher vectors.

Each finished model teaches the next: 4b → 1.7b → 0.6b → 330m, 160m, 80m. The three small students start from the 0.6b
of stage 1, pruned (`f2jax prune --size 330m`).

f2jax train --config configs/distill.py:size=330m,teacher=runs/0.6b-2,objective=cosine --workdir DIR \\
    --config.init_from=330m-pruned --config.data.sources='("corpus:prepared",)'
"""

from f2jax.configs import common, stage2
from f2jax.errors import UserError, did_you_mean

OBJECTIVES = {
    "recipe": {},  # mean squared error of embeddings that are not normalized
    "none": {"distill_weight": 0.0},  # no distillation
    "cosine": {"distill": "cosine"},
    "projected": {"distill": "cosine", "distill_projection": True},  # jina-embeddings-v5's (recipe 6.4)
    "nested": {"distill_matryoshka": True},
    "scores": {"distill_hard_weight": 1.0},  # in addition to the recipe's
    "margins": {"distill_margin_weight": 0.01},  # likewise; squares of cosines over 0.05 are large
    "in_batch": {"distill_in_batch_weight": 1.0},  # in addition to the recipe's
    "texts": {"distill_texts_weight": 1.0},  # in addition to the recipe's
    "spread": {"spread_weight": 1.0},  # in addition to the recipe's
}


def get_config(text=None):
    """Options: size, objective, and teacher (as in stage2.py) or cache (from f2jax cache-teacher)."""
    options = common.options(text, size="330m", teacher="auto", cache="", objective="recipe")
    objective = options["objective"]
    if objective not in OBJECTIVES:
        raise UserError(f"There is no objective '{objective}'{did_you_mean(objective, OBJECTIVES)}")
    teacher = "none" if options["cache"] else options["teacher"]
    config = stage2.get_config(f"size={options['size']},teacher={teacher}")
    config.teacher.cache = options["cache"]
    config.loss.update(OBJECTIVES[objective])
    return config
