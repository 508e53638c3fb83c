"""Training configs: Python files with `get_config(options)`, whose fields can be overridden and checked.

`stage2:size=80m,teacher=0.6b` passes options to `get_config`; `--config.optim.peak_lr=4e-5` overrides a field.
"""

import ast
import json
import math
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from f2jax.errors import UserError, did_you_mean

PACKAGED = Path(__file__).with_name("configs")  # the same folder as configs/ at the top of a checkout

# Names of fields in other trainers: transformers, sentence-transformers, FlagEmbedding, torchtune.
SYNONYMS = {
    name: field
    for field, names in {
        "init_from": "model_name_or_path model_name pretrained checkpoint_path resume_from_checkpoint load_from",
        "epochs": "num_train_epochs num_epochs n_epochs max_epochs",
        "steps": "max_steps num_steps total_steps train_steps num_training_steps max_train_steps",
        "seed": "random_seed data_seed",
        "model.size": "model_size architecture arch",
        "model.dtype": "dtype bf16 fp16 precision mixed_precision compute_dtype torch_dtype",
        "model.kernel": "attn_implementation attention attention_implementation flash_attention use_flash_attn",
        "model.remat": "gradient_checkpointing activation_checkpointing use_gradient_checkpointing checkpoint_policy",
        "model.chunk_rows": "gradient_accumulation_steps accumulation_steps mini_batch_size chunk_size gc_chunk_size",
        "tokenizer.path": "tokenizer tokenizer_name tokenizer_name_or_path",
        "tokenizer.train_vocab": "vocab_size",
        "data.sources": "train_data train_file train_files data_path dataset datasets dataset_name data_dir",
        "data.batch_size": "batch train_batch_size per_device_train_batch_size per_device_batch_size "
        "global_batch_size bs",
        "data.max_length": "max_seq_length max_len max_seq_len seq_length seq_len sequence_length model_max_length "
        "query_max_len passage_max_len",
        "data.validation_share": "validation_split val_split eval_split test_size",
        "data.negatives.retrieval": "num_negatives n_negatives hard_negatives num_hard_negatives train_group_size",
        "loss.temperature": "tau scale logit_scale",
        "loss.matryoshka": "matryoshka_dims mrl use_mrl",
        "loss.contrastive_weight": "contrastive_loss_weight infonce_weight ce_weight",
        "loss.distill_weight": "kd_weight kd_loss_weight distillation_weight",
        "teacher.path": "teacher teacher_model teacher_name_or_path",
        "optim.name": "optimizer optim_type",
        "optim.peak_lr": "lr learning_rate max_lr peak_learning_rate base_lr init_lr",
        "optim.end_lr": "min_lr final_lr lr_min",
        "optim.warmup_steps": "warmup num_warmup_steps warmup_epochs",
        "optim.warmup_share": "warmup_ratio warmup_proportion",
        "optim.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule decay_type",
        "optim.b1": "beta1 adam_beta1 beta_1",
        "optim.b2": "beta2 adam_beta2 beta_2",
        "optim.eps": "epsilon adam_epsilon adam_eps",
        "optim.weight_decay": "wd decay adam_weight_decay",
        "optim.clip_norm": "max_grad_norm grad_clip gradient_clip gradient_clip_val clip_grad_norm grad_norm_clip clip",
        "mesh.fsdp": "zero_stage fsdp_size",
        "mesh.tensor": "tp tensor_parallel tensor_parallel_size tp_size",
        "mesh.data": "dp data_parallel data_parallel_size dp_size",
        "checkpoint.every": "save_steps save_every save_interval checkpoint_every checkpoint_interval",
        "checkpoint.keep_last": "save_total_limit max_to_keep keep_checkpoints",
        "checkpoint.best_metric": "metric_for_best_model save_best best_metric_name",
        "log.every": "logging_steps log_steps log_every log_interval print_every",
        "log.validate_every": "eval_steps eval_every eval_interval val_interval evaluation_steps",
        "log.tensorboard": "report_to use_wandb wandb",
    }.items()
    for name in names.split()
}


def load(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Returns the config for `spec` with the overrides `--config.x=y`; its set of fields is locked.

    >>> load("nano:stage=1", ["--config.optim.peak_lr=1e-3"]).optim.peak_lr
    0.001

    Args:
        spec: name (`nano`) or file (`my/config.py`) of a config, followed by its options (`:stage=1,…`).

    Raises:
        UserError: a file, option or field does not exist (the message names the most similar one), or a value has the
            wrong type.
    """
    name, colon, options = spec.partition(":")
    file = find(name)
    _check_defines(file)
    path = f"{file}{colon}{options}"
    try:
        names = _known_fields(_parse(path, []), spec)
        for override in overrides:
            field = override.lstrip("-").split("=", 1)[0].removeprefix("config.")
            if field not in names:
                raise UserError(f"The config has no field '{field}'{nearest_field(field, names)}")
        return _parse(path, overrides)
    except UserError:
        raise
    except Exception as error:  # of the file's own code too, which may be anything
        raise UserError(f"{spec}: {_reason(error, file)}") from error


def _check_defines(file: Path) -> None:
    """Raises UserError if a file is not Python, or defines no `get_config`."""
    try:
        lines = ast.parse(file.read_bytes(), str(file)).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"The config file {file} is not valid Python: {error}.") from error
    names = {getattr(line, "name", "") for line in lines}  # of functions
    names |= {node.asname or node.name for line in lines for node in getattr(line, "names", ())}  # of imports
    names |= {getattr(node, "id", "") for line in lines for node in getattr(line, "targets", ())}
    if not names & {"get_config", "*"}:
        raise UserError(f"The config file {file} defines no function get_config; write one as in configs/nano.py.")


def _known_fields(config: Any, spec: str) -> dict[str, Any]:
    """Returns the fields of a config; raises UserError if it has fields that f2jax does not read, or lacks some."""
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {spec} returns {type(config).__name__} and should return a ConfigDict.")
    names, known = fields(config), fields(_parse(str(PACKAGED / "common.py"), []))
    if unknown := [name for name in names if name not in known and not name.startswith(FREE)]:
        raise UserError(f"{spec} sets '{unknown[0]}', which is no field of a config{nearest_field(unknown[0], known)}")
    if missing := [name for name in known if name not in names]:
        raise UserError(f"{spec} has no field '{missing[0]}'; start from common.get_config() as configs/nano.py does.")
    return names


def _reason(error: Exception, file: Path) -> str:
    """Returns the last line of an error, with its type and the line of the config's file if its own code failed."""
    places = [place.lineno for place in traceback.extract_tb(error.__traceback__) if place.filename == str(file)]
    if isinstance(error, flags.Error | ValueError | TypeError):  # of a value, with a whole traceback in the message
        return str(error).strip().splitlines()[0 if "Traceback" not in str(error) else -1]
    return f"line {places[-1]}: {type(error).__name__}: {error}" if places else f"{type(error).__name__}: {error}"


def find(name: str) -> Path:
    """Returns the file of a config, given as a path or as the name of one of f2jax's own, such as `stage2`.

    Raises:
        UserError: there is no such config.
    """
    packaged = {path.stem: path for path in PACKAGED.glob("*.py") if path.stem != "__init__"}
    if Path(name).is_file():
        return Path(name)
    if name in packaged:
        return packaged[name]
    if name.startswith("configs/") and Path(name).stem in packaged:  # the path in a checkout, given elsewhere
        raise UserError(f"There is no config file {name} here; give f2jax's own by name: {Path(name).stem}.")
    raise UserError(
        f"There is no config file {name}, and f2jax has no config of that name{did_you_mean(name, packaged)}"
    )


def nearest_field(name: str, names: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for a mistyped name or one from another group or trainer, or else the choices.

    >>> nearest_field("optim.lr", ["optim.peak_lr", "optim.end_lr"])
    "; did you mean 'optim.peak_lr'?"
    >>> nearest_field("foo", ["seed", "optim.peak_lr", "optim.end_lr"])
    '; choose from optim.…, seed.'
    """
    leaf = name.rpartition(".")[2].replace("-", "_").lower()
    same = [field for field in names if field.rpartition(".")[2] == leaf]
    field = same[0] if len(same) == 1 else SYNONYMS.get(leaf)
    if field:
        return f"; did you mean '{field}'?"
    names = list(names)
    group = [field for field in names if field.startswith(f"{name.partition('.')[0]}.")]
    return did_you_mean(name, names, group or {re.sub(r"\..*", ".…", field) for field in names})


def _parse(path: str, overrides: Sequence[str]) -> ConfigDict:
    argv = ["f2jax", f"--config={path}", *overrides]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    values(argv)
    return holder.value


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns all fields of a config by their full names: {"optim.peak_lr": 1e-5, …}."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            leaves |= fields(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def parse_options(text: str | None, /, **defaults: Any) -> dict[str, Any]:
    """Parses the options of a config, such as `size=80m,teacher=0.6b`, with the types of their defaults.

    >>> parse_options("size=80m", size="0.6b", stage=1)
    {'size': '80m', 'stage': 1}

    Raises:
        UserError: an option is not among the defaults, or a value has the wrong type.
    """
    options = dict(defaults)
    for part in filter(None, (text or "").split(",")):
        name, sign, value = part.partition("=")
        if not sign:
            raise UserError(f"The config option '{part}' has no value; write NAME=VALUE, of {', '.join(defaults)}.")
        if name not in defaults:
            raise UserError(f"The config has no option '{name}'{did_you_mean(name, defaults)}")
        try:
            options[name] = type(defaults[name])(value)
        except ValueError as error:
            wanted = type(defaults[name]).__name__
            raise UserError(f"The config option {name}={value} should be of type {wanted}.") from error
    return options


DTYPES = ("float32", "bfloat16")
TYPES = ("model.dtype", "model.param_dtype", "model.gradient_dtype", "teacher.dtype", "optim.state_dtype")
BETAS = ("optim.b1", "optim.b2")
POSITIVE = ("optim.peak_lr", "optim.eps", "loss.temperature", "loss.distill_temperature", "loss.score_temperature")
CONTRASTIVE = (
    "loss.contrastive_weight",
    "loss.shared_negatives_weight",
    "loss.query_query_weight",
    "loss.document_document_weight",
    "loss.score_weight",
    "loss.score_margin_weight",
)
NOT_NEGATIVE = (
    "seed", "steps", "model.chunk_rows", "data.programs", "data.skip_steps", "checkpoint.minutes",
    "checkpoint.keep_every", "checkpoint.tail_steps", "checkpoint.tail_every", "optim.warmup_steps", "optim.end_lr",
    "optim.weight_decay", "optim.clip_norm", "loss.distill_teacher_temperature", "log.validate_every",
    "log.validation_batches", "log.evaluate_every",
)  # fmt: skip
LARGEST_BETA = 0.99  # for moments in bfloat16; above it, most updates are rounded away
COUNTS = (
    "data.batch_size",
    "data.row_length",
    "model.unroll",
    "log.every",
    "checkpoint.every",
    "checkpoint.keep_last",
)

SHAPE = tuple(f"model.{name}" for name in ("width", "mlp", "layers", "heads", "kv_heads", "head_dim", "vocab"))
NEEDED = {"log.evaluate_tasks": "log.evaluate_every", "log.evaluate_data": "log.evaluate_every"}
NEEDED |= dict.fromkeys(SHAPE, "model.size")  # fields that change nothing unless this other one is set
NEEDED |= {"optim.decay_steps": "optim.schedule=wsd"}  # or has this value

TRACED, MEASURED_DIMS = "log.profile", "log.validation_dims"
NUMBERS = TRACED, MEASURED_DIMS  # tuples of numbers; all other tuples contain strings


def is_trace(value: tuple) -> bool:
    """Returns whether a value of `log.profile` is valid: (START, STEPS)."""
    return len(value) == 2 and all(type(item) is int for item in value) and value[0] >= 0 and value[1] >= 1


def void_fields(values: Mapping[str, Any]) -> list[str]:
    """Returns the names of the fields that are set and change nothing, because the one of `NEEDED` is not set."""

    def has(needed: str) -> bool:
        name, _, wanted = needed.partition("=")
        return values.get(name) == wanted if wanted else bool(values.get(name))

    return [name for name, needed in NEEDED.items() if values.get(name) and not has(needed)]


def check(config: ConfigDict) -> None:
    """Raises UserError for values of fields that would otherwise fail later, in the middle of a run."""
    values = fields(config)
    for name, value in values.items():
        if isinstance(value, tuple) and name not in NUMBERS and not all(isinstance(item, str) for item in value):
            raise UserError(f"{name}={value} should contain only text, such as ('a', 'b').")
    if (traced := values[TRACED]) and not is_trace(traced):
        raise UserError(f"{TRACED}={traced} should be (START, STEPS), such as (20, 5): 5 steps after the first 20.")
    if traced and traced[0] >= values["steps"] > 0:
        raise UserError(f"{TRACED}={traced} begins after the last of {values['steps']} steps; lower it.")
    if any(type(size) is not int or size < 1 for size in values[MEASURED_DIMS]):
        raise UserError(f"{MEASURED_DIMS}={values[MEASURED_DIMS]} should be numbers of dimensions, such as (64, 256).")
    for name in TYPES:
        if values[name] not in DTYPES:
            raise UserError(f"{name}={values[name]} should be {' or '.join(DTYPES)}.")
    if values["model.gradient_dtype"] != "float32" and not values["model.chunk_rows"]:
        raise UserError("model.gradient_dtype is for gradients of chunks; set model.chunk_rows, or leave it float32.")
    for name in void_fields(values):
        raise UserError(f"{name}={values[name]} changes nothing without {NEEDED[name]}; set that too, or leave it out.")
    weights = [name for name in values if name.startswith("loss.") and name.endswith("_weight")]
    least = dict.fromkeys(COUNTS, 1) | dict.fromkeys([*NOT_NEGATIVE, *weights], 0)
    least |= {name: 0 for name in values if name.startswith("data.negatives.")}
    least |= {} if values["steps"] else {"epochs": 1}
    for name, smallest in least.items():
        if not values[name] >= smallest:
            raise UserError(f"{name}={values[name]} should be at least {smallest}.")
    if values["seed"] >= 2**31 and not (values["init_from"] or values["resume_from"]):  # JAX takes it as int32
        raise UserError(f"seed={values['seed']} should be below {2**31}, because the weights are random.")
    if (row := values["data.row_length"]) < (text := values["data.max_length"]):
        raise UserError(f"data.row_length={row} is below data.max_length={text}; raise it.")
    for name in POSITIVE:
        if not values[name] > 0:
            raise UserError(f"{name}={values[name]} should be above 0.")
    if not 0 <= values["data.symmetric_share"] <= 1:
        raise UserError(f"data.symmetric_share={values['data.symmetric_share']} should be from 0 to 1.")
    for name in ("data.validation_share", "optim.warmup_share", *BETAS):
        if not 0 <= values[name] < 1:
            raise UserError(f"{name}={values[name]} should be from 0 to below 1.")
    for name in BETAS:
        if values["optim.state_dtype"] == "bfloat16" and values[name] > LARGEST_BETA:
            raise UserError(
                f"{name}={values[name]} moves a moment in bfloat16 by less than it can hold; set "
                f"optim.state_dtype=float32, or {name} to at most {LARGEST_BETA}."
            )
    if values["loss.distill_matryoshka"] and not values["loss.matryoshka"]:
        raise UserError("loss.distill_matryoshka is on and there are no nested dimensions; set loss.matryoshka.")
    if not any(values[name] for name in CONTRASTIVE):
        distills = [name for name in weights if name.startswith("loss.distill_")]
        has_teacher = values["teacher.path"] or values["teacher.cache"]
        if not (has_teacher and any(values[name] for name in distills)):
            raise UserError(
                "loss.contrastive_weight is 0 and nothing else is to be learned; set teacher.path or teacher.cache, "
                f"and one of {', '.join(distills)}."
            )
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}={value} should be a finite number.")


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, for `config.json` of a workdir."""
    return json.dumps(config.to_dict(), indent=2, ensure_ascii=False) + "\n"


FORMER = {"loss.label_mask": True}  # behaviour before a field existed, if its default is different
FREE = ("prompts.", "data.instructions.")  # groups in which users choose the names


def values_before() -> dict[str, Any]:
    """Returns the value that each field has if it is missing from the config.json of an older version."""
    return fields(load("common")) | FORMER


def differences(old: dict, new: dict, ignored: Sequence[str] = ()) -> list[str]:
    """Returns the names of the fields in which two configs differ, except the groups and fields in `ignored`.

    Configs of different versions may have different fields. One that only `old` has is not used any more; one that only
    `new` has counts as a difference if its value changes the behaviour of older versions (`values_before`). One that
    changes nothing (`void_fields`), which older versions accepted, counts as not set.
    """
    a, b = (fields(ConfigDict(json.loads(to_json(ConfigDict(config))))) for config in (old, new))
    before = json.loads(json.dumps(values_before()))
    for values in (a, b):
        values |= {name: before[name] for name in void_fields(values)}

    def differs(name: str) -> bool:
        if (name in a and name in b) or name.startswith(FREE):
            return a.get(name) != b.get(name)
        return name in b and b[name] != before.get(name)

    groups = tuple(f"{group}." for group in ignored)
    return [name for name in sorted(a.keys() | b.keys()) if not f"{name}.".startswith(groups) and differs(name)]
