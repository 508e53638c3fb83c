"""One way to weights: a training workdir, a Hugging Face folder, a hub id, or gs://.

A workdir holds `config.json` (of the run), `model.json` (the architecture), `tokenizer/` and `checkpoints/`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from f2jax import files
from f2jax.checkpoints import hf, settings
from f2jax.checkpoints.hf import LazyWeight
from f2jax.checkpoints.orbax import Checkpoints, TrainState, read_weight
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import SIZES, Qwen3Config, size

MODEL_FILE = "model.json"
DTYPES = ("float32", "bfloat16")


def is_workdir(path: str | Path) -> bool:
    return files.exists(files.join(path, MODEL_FILE))


def write_architecture(workdir: str | Path, config: Qwen3Config) -> None:
    files.write_atomically(files.join(workdir, MODEL_FILE), json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_architecture(path: str | Path) -> Qwen3Config:
    """Returns the architecture of a workdir or a Hugging Face folder, without reading its weights.

    Raises:
        UserError: it is not there, not Qwen3, or another version of f2jax wrote it with other fields.
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


def architecture_of(name: str, table_rank: int = 0) -> Qwen3Config:
    """The architecture that `model.size` names: a known size, or that of a model in a folder or on gs://.

    Raises:
        UserError: it is neither, or the rank is out of range.
    """
    if name in SIZES or not (name.startswith("gs://") or Path(name).is_dir()):
        return size(name, table_rank=table_rank)
    return dataclasses.replace(read_architecture(files.resolve_model(name)), table_rank=table_rank)


def checkpoint_steps(path: str | Path) -> list[int]:
    """The steps of a workdir's checkpoints.

    Raises:
        UserError: there are none yet.
    """
    with Checkpoints(path) as checkpoints:
        found = checkpoints.steps()
    if not found:
        raise UserError(f"The workdir {path} has no checkpoint yet; train a little longer.")
    return found


def open_weights(path: str, step: int | None = None) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    """Architecture of a folder or workdir, and its weights by path, each read when it is asked for.

    Args:
        step: of the checkpoint of a workdir; None: the newest.

    Raises:
        UserError: nothing is there, it cannot be read, or its token table is factorized.
    """
    if not is_workdir(path):
        return hf.open_hf_weights(path)

    architecture, step = read_architecture(path), checkpoint_steps(path)[-1] if step is None else step
    if architecture.table_rank:
        raise UserError(f"The token table of {path} is factorized; f2jax export writes a folder where it is whole.")
    shapes = flatten_dict(nn.meta.unbox(abstract_params(architecture)))
    return architecture, {
        name: LazyWeight(like.shape, like.dtype, partial(read_weight, path, step, name, like))
        for name, like in shapes.items()
    }


def weights_fingerprint(path: str | Path) -> str:
    """Which model lies there: a hash of its last norm, which training changes."""
    name = ("final_norm",)
    if is_workdir(path):
        like = flatten_dict(nn.meta.unbox(abstract_params(read_architecture(path))))[name]
        norm_d = read_weight(path, checkpoint_steps(path)[-1], name, like)
    else:
        norm_d = hf.open_hf_weights(path)[1][name]
    return hashlib.blake2b(np.asarray(norm_d, np.float32), digest_size=16).hexdigest()


def load_weights(
    name: str, param_dtype=np.float32, shardings: Callable[[Qwen3Config], dict] | None = None
) -> tuple[Qwen3Config, dict]:
    """Architecture and parameters of whatever `name` stands for.

    Args:
        shardings: gives the sharding of each weight for an architecture; default: the first device of this process.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    path = files.resolve_model(name)
    architecture = read_architecture(path)
    tree = shardings(architecture) if shardings else None
    if not is_workdir(path):
        return hf.load_hf(path, param_dtype, tree)

    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = nn.meta.unbox(abstract_params(architecture, param_dtype))
    tree = tree or jax.tree.map(lambda _: one, shapes)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, tree)
    with Checkpoints(path) as checkpoints:
        state = checkpoints.restore(TrainState(jax.numpy.zeros((), np.int32), like, None))
    if state is None:
        raise UserError(f"The workdir {path} has no checkpoint yet; train a little longer.")
    hf.check_finite(state.params, path)
    return architecture, state.params


def tokenizer_folder(path: str) -> str:
    """The tokenizer folder of a model: `tokenizer/` in a training workdir, else the model's folder itself."""
    inside = files.join(path, "tokenizer")
    return inside if path and files.exists(inside) else path


def check_dtype(dtype: str) -> None:
    """Raises UserError for a name that is not in DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}'; choose {' or '.join(DTYPES)}.")
