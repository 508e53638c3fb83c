"""Stage 2: all kinds of rows, instructions, hard negatives, and distillation if the size has a teacher (recipe 2.1).

f2jax train --config configs/stage2.py:size=80m,teacher=runs/0.6b --workdir DIR --config.init_from=runs/80m-pruned \\
    --config.data.sources='("corpus/*.parquet",)'

`teacher=auto` takes the released model that the recipe names as teacher of the size; `teacher=none` takes no teacher.
"""

from f2jax.configs import common
from f2jax.data.instructions import add_instruction

QUERY_TASK = "Given a question, retrieve passages that can help answer the question."  # recipe 2.6
HUB = "codefuse-ai/F2LLM-v2-{}"  # of the released models


def get_config(text=None):
    """Options: size and teacher."""
    options = common.options(text, size="0.6b", teacher="auto")
    config = common.get_config(f"size={options['size']}")
    teacher = options["teacher"]
    if teacher == "auto":
        teacher = common.HYPER_PARAMETERS[options["size"]][2] or "none"
    if teacher in common.HYPER_PARAMETERS:
        teacher = HUB.format(teacher.upper())
    config.prompts.query = add_instruction("", QUERY_TASK)
    config.teacher.path = "" if teacher == "none" else teacher
    return config
