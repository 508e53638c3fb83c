"""The runs of launch/ablations/run.sh: a student a quarter the size of its teacher, minutes each on two cores.

f2jax train --config configs/ablation.py:row=distilled,start=STUDENT,teacher=TEACHER,seed=1 --workdir DIR \\
    --config.data.sources='("corpus:corpus-2",)'

The script makes the students and runs the rows; `python -m benchmarks.ablations` makes the table and plots of them.
"""

from f2jax.configs import common, mini
from f2jax.errors import UserError, did_you_mean

ALONE = {"teacher.path": ""}
SCRATCH = {"init_from": ""}
ROWS = {  # what each row changes in the first; rows that start from another model (random_channels …) change the folder
    "distilled": {},
    "alone": ALONE,
    "random_start": SCRATCH,
    "random_start_alone": ALONE | SCRATCH,
    "random_channels": {},
    "first_channels": {},
    "first_channels_alone": ALONE,
    "ordered_channels": {},
    "first_layer": {},
    "last_layer": {},
    "no_matryoshka": {"loss.matryoshka": False},
    "uniform_matryoshka": {"loss.matryoshka_weights": "uniform"},
    "stop_gradient": {"loss.passage_gradient": False},
    "cached": ALONE,
    "cosine": {"loss.distill": "cosine"},
    "projected": {"loss.distill": "cosine", "loss.distill_projection": True},
    "nested": {"loss.distill_matryoshka": True},
    "scores": {"loss.distill_in_batch_weight": 1.0},
    "strong": {"loss.distill_weight": 10.0},
    "not_spread": {"loss.spread_weight": 0.0},
    "masked": {"loss.mask_duplicates": True, "loss.mask_margin": 0.1},
}


def get_config(text=None):
    """Options: row, a name in ROWS; start, the pruned student; teacher; cache, for the row `cached`; seed; stage, of
    configs/mini.py, in which students train."""
    options = common.options(text, row="distilled", start="", teacher="", cache="", seed=0, stage=2)
    row = options["row"]
    if row not in ROWS:
        raise UserError(f"There is no row '{row}'{did_you_mean(row, ROWS)}")
    missing = [name for name in ("start", "teacher") if not options[name]]
    if missing:
        raise UserError(f"configs/ablation.py needs {' and '.join(missing)}: configs/ablation.py:row={row},start=…")
    config = mini.get_config(f"stage={options['stage']}")
    config.seed = options["seed"]
    config.init_from = config.model.size = config.tokenizer.path = options["start"]
    config.teacher.path = options["teacher"]
    config.teacher.dtype = "float32"
    config.steps = 120
    config.data.batch_size = 64
    config.data.programs = 3
    config.optim.peak_lr = 1e-3
    config.optim.warmup_steps = 20
    config.update_from_flattened_dict(ROWS[row])
    if row == "cached":
        config.teacher.cache = options["cache"]
    return config
