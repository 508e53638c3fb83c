"""One way to weights: a training workdir, a Hugging Face folder, a hub id, or gs://.

A workdir holds `config.json` (of the run), `model.json` (the architecture), `tokenizer/` and `checkpoints/`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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
from f2jax.checkpoints.hf import LazyWeight
from f2jax.checkpoints.orbax import Checkpoints, TrainState, finished_steps, read_weight
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import SIZES, Qwen3Config, size

MODEL_FILE = "model.json"
DTYPES = ("float32", "bfloat16")
SHAPE_FIELDS = {  # fields of a config's group `model` that change the architecture of its size, and their names there
    **{name: name for name in ("width", "mlp", "layers", "heads", "kv_heads", "head_dim")},
    "vocab": "vocab_size",
}


def is_workdir(path: str | Path) -> bool:
    """Returns whether a folder is a training workdir, from its first step on."""
    return files.exists(files.join(path, MODEL_FILE))


def write_architecture(workdir: str | Path, config: Qwen3Config) -> None:
    """Writes `model.json`."""
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


def architecture_of(model: ConfigDict) -> Qwen3Config:
    """Returns the architecture of a config's group `model`: that of its `size`, with the fields that are not 0 instead.

    A size is a known one, or a model in a folder or on gs://.

    Raises:
        UserError: it is neither, or a field is out of range.
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


def split_step(name: str) -> tuple[str, int | None]:
    """Returns the workdir and the step of RUN@STEP; None as the step of a plain RUN.

    >>> split_step("runs/80m@12000")
    ('runs/80m', 12000)
    """
    run, sign, step = name.rpartition("@")
    return (run, int(step)) if sign and step.isdigit() else (name, None)


def open_weights(path: str, step: int | None = None) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    """Returns the architecture of a folder or workdir, and its weights by path, each read when it is asked for.

    Args:
        step: of the checkpoint of a workdir; None: the newest.

    Raises:
        UserError: nothing is there, it cannot be read, or its token table is factorized.
    """
    architecture, weights = _open(path, step)
    if architecture.table_rank:
        raise UserError(f"The token table of {path} is factorized; f2jax export writes a folder where it is one table.")
    return architecture, weights


def _open(path: str, step: int | None) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    if not is_workdir(path):
        return hf.open_hf_weights(path)
    architecture, step = read_architecture(path), checkpoint_steps(path)[-1] if step is None else step
    shapes = flatten_dict(nn.meta.unbox(abstract_params(architecture)))
    return architecture, {
        name: LazyWeight(like.shape, like.dtype, partial(read_weight, path, step, name, like))
        for name, like in shapes.items()
    }


def model_fingerprint(path: str | Path) -> str:
    """Returns a hash of all weights of a workdir or folder, in float32: the same wherever the model lies.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    return weights_fingerprint(_open(str(path), None)[1].items())


def weights_fingerprint(weights: Iterable[tuple[tuple[str, ...], LazyWeight | jax.Array | np.ndarray]]) -> str:
    """Returns a hash of every byte of some weights, their types and their paths; about a second for each GB.

    Where several processes share the weights, all of them call it together.

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
    """Yields a weight in the memory of this machine; what lies on accelerators or other hosts one layer at a time."""
    here = not isinstance(weight, jax.Array) or all(device.platform == "cpu" for device in weight.devices())
    if isinstance(weight, jax.Array) and not (here and weight.is_fully_addressable):
        for part in (weight[layer] for layer in range(len(weight))) if weight.ndim > 2 else (weight,):
            yield np.asarray(part if part.is_fully_addressable else process_allgather(part, tiled=True))
    else:
        yield np.asarray(weight)


def load_weights(
    name: str, param_dtype=np.float32, shardings: Callable[[Qwen3Config], dict] | None = None
) -> tuple[Qwen3Config, dict]:
    """Returns architecture and parameters of a workdir, a folder, a hub id or a gs:// path.

    Args:
        shardings: returns the sharding of each weight of an architecture; None: the first device of this process.

    Raises:
        UserError: nothing is there, or it cannot be read.
    """
    path = files.resolve_model(name)
    architecture = read_architecture(path)
    tree = shardings(architecture) if shardings else None
    if not is_workdir(path):
        return hf.load_hf(path, param_dtype, tree)

    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = nn.meta.unbox(abstract_params(architecture, param_dtype))
    tree = tree or jax.tree.map(lambda _: device, shapes)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, tree)
    with Checkpoints(path) as checkpoints:
        state = checkpoints.restore(TrainState(jax.numpy.zeros((), np.int32), like, None))
    if state is None:
        raise UserError(f"The workdir {path} has no checkpoint yet; train a little longer.")
    hf.check_finite(state.params, path)
    return architecture, state.params


def tokenizer_folder(path: str) -> str:
    """Returns the tokenizer folder of a model: `tokenizer/` in a training workdir, else the model's folder itself."""
    inside = files.join(path, "tokenizer")
    return inside if path and files.exists(inside) else path


def check_dtype(dtype: str) -> None:
    """Raises UserError for a name that is not in DTYPES."""
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}'; choose {' or '.join(DTYPES)}.")
