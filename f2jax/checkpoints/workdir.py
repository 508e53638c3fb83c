"""Finds and loads models in training workdirs, Hugging Face folders, on the hub, or on gs://.

A workdir contains `config.json` (of the run), `model.json` (the architecture), `tokenizer/` and `checkpoints/`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.experimental.multihost_utils import process_allgather
from ml_collections import ConfigDict

from f2jax import files
from f2jax.checkpoints import hf, settings
from f2jax.checkpoints.best import best_step, read_metrics, scores_of
from f2jax.checkpoints.hf import LazyWeight
from f2jax.checkpoints.orbax import Checkpoints, TrainState, finished_steps, read_weight
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import SIZES, Qwen3Config, size

MODEL_FILE = "model.json"
BEST = "best"  # names the best checkpoint instead of a step: RUN@best
DTYPES = ("float32", "bfloat16")
SHAPE_FIELDS = {  # fields of a config's group `model` that change the architecture of its size, and their names there
    **{name: name for name in ("width", "mlp", "layers", "heads", "kv_heads", "head_dim")},
    "vocab": "vocab_size",
}


def is_workdir(path: str | Path) -> bool:
    """Returns whether a folder is a training workdir."""
    return files.exists(files.join(path, MODEL_FILE))


def write_architecture(workdir: str | Path, config: Qwen3Config) -> None:
    """Writes `model.json`."""
    files.write_atomically(files.join(workdir, MODEL_FILE), json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_architecture(path: str | Path) -> Qwen3Config:
    """Returns the architecture of a workdir or a Hugging Face folder, without reading its weights.

    Raises:
        UserError: it is missing, not a Qwen3, or was written by another version of f2jax with other fields.
    """
    if not is_workdir(path):
        return settings.read_config(path)
    name = files.join(path, MODEL_FILE)
    fields = dataclasses.fields(Qwen3Config)
    required = {field.name: field.type for field in fields if field.default is dataclasses.MISSING}
    content = files.read_json_object(name, required, {field.name: field.type for field in fields})
    if unknown := sorted(content.keys() - {field.name for field in fields}):
        raise UserError(
            f"{name} has the field {', '.join(unknown)}, which this version of f2jax does not know; use the "
            "version that wrote it, or a newer one."
        )
    return Qwen3Config(**content)


def architecture_of(model: ConfigDict) -> Qwen3Config:
    """Returns the architecture for a config's group `model`: that of its `size`, changed by the fields that are not 0.

    The size is a known name, or a model in a folder or on gs://.

    Raises:
        UserError: the size is neither, or a field is out of range.
    """
    if not model.size:
        raise UserError("model.size is empty, which stands for that of init_from; name a size or a model's folder.")
    changes = {name: model[field] for field, name in SHAPE_FIELDS.items() if model[field]}
    changes["table_rank"] = model.table_rank
    if model.size in SIZES or not (model.size.startswith("gs://") or Path(model.size).is_dir()):
        return size(model.size, **changes)
    return dataclasses.replace(read_architecture(files.resolve_model(model.size)), **changes)


def checkpoint_steps(path: str | Path) -> list[int]:
    """Returns the steps of a workdir's finished checkpoints, in ascending order.

    Raises:
        UserError: there are none yet.
    """
    steps = finished_steps(path)
    if not steps:
        raise UserError(f"The workdir {path} has no checkpoint yet; train a little longer.")
    return steps


@dataclass(frozen=True)
class StoredModel:
    """A folder with a model, or a checkpoint of a training workdir."""

    path: str  # a local folder or gs://
    step: int | None = None  # of a workdir's checkpoint; None: the newest, or no workdir

    def __str__(self) -> str:
        return self.path if self.step is None else f"{self.path}@{self.step}"


def find_model(name: str | Path | StoredModel, revision: str | None = None) -> StoredModel:
    """Returns the location of a model that `files.resolve_model` finds, or of RUN@STEP or RUN@best in a workdir.

    A folder whose name is the complete text takes precedence over a step of a run.

    Args:
        revision: branch, tag or commit of a hub id.

    Raises:
        Restart: a transient failure of the hub.
        UserError: there is no such model, or the run has no such checkpoint.
    """
    if isinstance(name, StoredModel):
        return name
    run, step = split_step(str(name))
    if step is None or (not files.is_remote(run) and Path(name).expanduser().is_dir()):
        return StoredModel(files.resolve_model(name, revision))
    path = files.resolve_model(run, revision)
    if not is_workdir(path):
        raise UserError(f"{path} is not a training workdir, so it has no steps; leave out the step.")
    return StoredModel(path, chosen_step(path, step))


def split_step(name: str) -> tuple[str, int | str | None]:
    """Splits RUN@STEP or RUN@best into the workdir and the step; the step of a plain RUN is None.

    >>> split_step("runs/80m@12000")
    ('runs/80m', 12000)
    """
    run, sign, step = name.rpartition("@")
    if not sign or not (step == BEST or step.isdigit()):
        return name, None
    return run, step if step == BEST else int(step)


def chosen_step(path: str, step: int | str | None) -> int:
    """Returns the step of a workdir's checkpoint: `step` itself, that of the best one, or for None, the newest.

    Raises:
        UserError: there is no such checkpoint.
    """
    steps = checkpoint_steps(path)
    if step == BEST:
        return _best_step(path, steps)
    if step is not None and step not in steps:
        raise UserError(f"{path} has no checkpoint of step {step}; it has those of {', '.join(map(str, steps))}.")
    return steps[-1] if step is None else int(step)


def _best_step(path: str, steps: Sequence[int]) -> int:
    name = files.join(path, "config.json")
    group = files.read_json_object(name, {"checkpoint": dict})["checkpoint"]
    metric = files.check_object(group, f"{name} checkpoint", optional={"best_metric": str}).get("best_metric")
    if not metric:
        raise UserError(f"{path} has no best checkpoint, as checkpoint.best_metric is not set; give one of its steps.")
    found = best_step(scores_of(read_metrics(path), metric), metric, steps)
    if found is None:
        known = ", ".join(map(str, steps))
        raise UserError(f"No checkpoint of {path} has its {metric} measured yet; give one of its steps, {known}.")
    return found


def open_weights(model: StoredModel) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    """Returns the architecture of a model, and its weights by path, which are read on demand.

    Raises:
        UserError: there is no model, it cannot be read, or its token table is factorized.
    """
    architecture, weights = _open(model)
    if architecture.table_rank:
        raise UserError(
            f"The token table of {model.path} is factorized; f2jax export writes a folder where it is one table."
        )
    return architecture, weights


def _open(model: StoredModel) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    path = model.path
    if not is_workdir(path):
        return hf.open_hf_weights(path)
    architecture, step = read_architecture(path), chosen_step(path, model.step)
    shapes = flatten_dict(nn.meta.unbox(abstract_params(architecture)))
    return architecture, {
        name: LazyWeight(like.shape, like.dtype, partial(read_weight, path, step, name, like))
        for name, like in shapes.items()
    }


def model_fingerprint(name: str | Path | StoredModel) -> str:
    """Returns a hash of all weights of a model in float32, which does not depend on its location.

    Raises:
        UserError: there is no model, or it cannot be read.
    """
    return weights_fingerprint(_open(find_model(name))[1].items())


def weights_fingerprint(weights: Iterable[tuple[tuple[str, ...], LazyWeight | jax.Array | np.ndarray]]) -> str:
    """Returns a hash of the bytes, dtypes and paths of weights, which takes about a second per GB.

    If several processes share the weights, all of them call this.

    >>> weights_fingerprint(flatten_dict(params).items())
    '1f6cd09a6a4ec2c08f0c4c0d31b5a3ce'
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(weights, key=lambda item: item[0]):
        digest.update(f"{'.'.join(name)} {weight.shape} {weight.dtype}\n".encode())
        for part in _host_parts(weight):
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def _host_parts(weight: LazyWeight | jax.Array | np.ndarray) -> Iterator[np.ndarray]:
    """Yields a weight in host memory; weights on accelerators or other hosts come one layer at a time."""
    here = not isinstance(weight, jax.Array) or all(device.platform == "cpu" for device in weight.devices())
    if isinstance(weight, jax.Array) and not (here and weight.is_fully_addressable):
        for part in (weight[layer] for layer in range(len(weight))) if weight.ndim > 2 else (weight,):
            yield np.asarray(part if part.is_fully_addressable else process_allgather(part, tiled=True))
    else:
        yield np.asarray(weight)


def load_weights(
    name: str | StoredModel, param_dtype=np.float32, shardings: Callable[[Qwen3Config], dict] | None = None
) -> tuple[Qwen3Config, dict]:
    """Returns architecture and parameters of a workdir, RUN@STEP, a folder, a hub id or a gs:// path.

    Args:
        shardings: returns the sharding of each weight of an architecture; None: the first device of this process.

    Raises:
        UserError: there is no model, or it cannot be read.
    """
    model = find_model(name)
    path = model.path
    architecture = read_architecture(path)
    tree = shardings(architecture) if shardings else None
    if not is_workdir(path):
        return hf.load_hf(path, param_dtype, tree)

    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = nn.meta.unbox(abstract_params(architecture, param_dtype))
    tree = tree or jax.tree.map(lambda _: device, shapes)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, tree)
    with Checkpoints(path) as checkpoints:
        state = checkpoints.restore(TrainState(jax.numpy.zeros((), np.int32), like, None), step=model.step)
    if state is None:
        raise UserError(f"The workdir {path} has no checkpoint yet; train a little longer.")
    hf.check_finite(state.params, path)
    return architecture, state.params


def tokenizer_folder(path: str) -> str:
    """Returns the folder of a model's tokenizer: `tokenizer/` in a workdir, or else the model's folder."""
    inside = files.join(path, "tokenizer")
    return inside if path and files.exists(inside) else path


def check_dtype(dtype: str) -> None:
    """Raises UserError for a name that is not in DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}'; choose {' or '.join(DTYPES)}.")
