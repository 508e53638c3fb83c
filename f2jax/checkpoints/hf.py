"""Hugging Face checkpoints ⇄ our parameters: safetensors in and out, streamed weight by weight.

Reading never holds more than one weight beside the result: files are memory-mapped, or read by range on gs://, where
each process fetches the rows that its devices need, once. Writing, too, goes weight by weight. Values pass through bit
for bit.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

import flax
import jax
import ml_dtypes
import numpy as np
from flax import linen as nn

from f2jax import files
from f2jax.checkpoints.lazy import LazyWeight
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import Qwen3Config

# Our name: the Hugging Face name. A matrix is stored there as [out, in], here as [in axes, out axes].
TOP_NAMES = {"token_table": "embed_tokens.weight", "final_norm": "norm.weight"}
LAYER_NAMES = {
    "attention_norm": "input_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "output": "self_attn.o_proj.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
IGNORED = {"lm_head.weight"}  # an encoder has no language-model head
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def config_from_hf(hf: dict, origin: str = "config.json") -> Qwen3Config:
    """Our architecture from the content of a `config.json`.

    Raises:
        UserError: it is no dense Qwen3, a field is missing, or it uses something that is not built.
    """
    if hf.get("model_type") != "qwen3":
        raise UserError(f"{origin} has model_type '{hf.get('model_type')}'; only dense 'qwen3' models can be loaded.")
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    unsupported = {
        "attention_bias": hf.get("attention_bias", False),
        "hidden_act": hf.get("hidden_act", "silu") != "silu",
        "use_sliding_window": hf.get("use_sliding_window", False),
        "rope_type": rope.get("rope_type", rope.get("type", "default")) != "default",
        "layer_types": set(hf.get("layer_types") or ["full_attention"]) != {"full_attention"},
    }
    if any(unsupported.values()):
        names = ", ".join(name for name, used in unsupported.items() if used)
        raise UserError(f"{origin} asks for something that is not built (see its {names}); only plain Qwen3 is.")
    try:
        return Qwen3Config(
            width=hf["hidden_size"],
            mlp=hf["intermediate_size"],
            layers=hf["num_hidden_layers"],
            heads=hf["num_attention_heads"],
            kv_heads=hf["num_key_value_heads"],
            head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
            vocab_size=hf["vocab_size"],
            rope_theta=float(rope.get("rope_theta") or hf["rope_theta"]),
            rms_norm_eps=hf["rms_norm_eps"],
            tie_word_embeddings=hf.get("tie_word_embeddings", True),
            max_length=hf["max_position_embeddings"],
        )
    except KeyError as error:
        raise UserError(f"{origin} lacks the field {error}; add it.") from error


def config_to_hf(config: Qwen3Config, dtype: str, eos_id: int, pad_id: int) -> dict:
    """The content of a `config.json` that transformers and the serving tools load as `Qwen3Model`."""
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_length,
        "layer_types": ["full_attention"] * config.layers,  # of the true length: transformers 5 checks it
        "max_window_layers": config.layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": False,
        "dtype": dtype,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    }


def load_hf(folder: str | Path, param_dtype=np.float32, shardings=None) -> tuple[Qwen3Config, dict]:
    """Configuration and parameters of a checkpoint folder (local or gs://).

    Args:
        folder: holds `config.json` and `model.safetensors`, or an index and its shards.
        param_dtype: type of the result; the stored type may be float32, bfloat16 or float16.
        shardings: a tree of `jax.sharding.Sharding` like the parameters; default: the first device of this process.

    Raises:
        UserError: a file is missing or cut short; weights are missing, surplus or of the wrong shape (all are named).
    """
    config, tensors, boxes = _open(folder, param_dtype)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        flat_shardings = dict.fromkeys(boxes, one)
    else:
        flat_shardings = flax.traverse_util.flatten_dict(shardings)
    params = {}
    for path, box in boxes.items():
        read = _reader(path, box, tensors, param_dtype)
        params[path] = jax.make_array_from_callback(box.value.shape, flat_shardings[path], read)
    return config, flax.traverse_util.unflatten_dict(params)


def open_hf_weights(folder: str | Path) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    """Configuration of a checkpoint folder, and its weights by path in float32, each read when it is asked for.

    Raises:
        UserError: as `load`.
    """
    config, tensors, boxes = _open(folder, np.float32)

    def whole(path: tuple[str, ...], box: nn.Partitioned) -> np.ndarray:
        # A reader of its own for each call: what it fetched goes with it.
        return _reader(path, box, tensors, np.float32)((slice(None),) * box.value.ndim)

    return config, {
        path: LazyWeight(box.value.shape, np.dtype(np.float32), partial(whole, path, box))
        for path, box in boxes.items()
    }


def _open(folder: str | Path, dtype) -> tuple[Qwen3Config, dict[str, "_Tensor"], dict[tuple[str, ...], nn.Partitioned]]:
    """Configuration, the weights in their files, and what they should be; all are checked."""
    config = config_from_hf(files.read_json(files.join(folder, "config.json")), files.join(folder, "config.json"))
    tensors = _open_tensors(folder)
    boxes = flax.traverse_util.flatten_dict(abstract_params(config, dtype))
    _check(folder, config, tensors, boxes)
    return config, tensors, boxes


def save_hf(folder: str | Path, params, shard_bytes: int = 5 * 2**30) -> None:
    """Write parameters as safetensors under Hugging Face names, in their own type, in shards of at most `shard_bytes`.

    Weights, arrays or `Lazy`, are fetched one at a time; a shard is complete before its final name appears.

    Args:
        folder: local or gs://.

    Raises:
        UserError: the folder cannot be written.
    """
    entries = hf_entries(params)
    shard_of = _assign_shards({name: entry.nbytes for name, entry in entries.items()}, shard_bytes)
    count = max(shard_of.values()) + 1
    names = (
        ["model.safetensors"] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    )
    tensors = hf_tensors(params)
    for number, name in enumerate(names):
        inside = {key: entry for key, entry in entries.items() if shard_of[key] == number}
        _write(files.join(folder, name), inside, islice(tensors, len(inside)))
    index = files.join(folder, "model.safetensors.index.json")
    if count > 1:
        weight_map = {name: names[i] for name, i in shard_of.items()}
        content = {
            "metadata": {"total_size": sum(entry.nbytes for entry in entries.values())},
            "weight_map": weight_map,
        }
        files.write_atomically(index, json.dumps(content, indent=1))
    else:
        files.remove_file(index)
    for name in files.list_names(folder):
        if name.startswith("model") and name.endswith(".safetensors") and name not in names:
            files.remove_file(files.join(folder, name))  # of an earlier save; some loaders would prefer it


def to_hf_matrix(path: tuple[str, ...], array):
    """One layer's weight as Hugging Face stores it: [out, in]; norms and the token table unchanged."""
    inputs = _inputs(path, array.ndim)
    return array.reshape(math.prod(array.shape[:inputs]), -1).T if inputs else array


def _from_hf_matrix(path, matrix, shape):
    return matrix.T.reshape(shape) if _inputs(path, len(shape)) else matrix


def _inputs(path: tuple[str, ...], axes: int) -> int:
    """How many leading axes of one layer's weight are summed over; 0 where Hugging Face stores it as it is."""
    if axes == 1 or path[-1] == "token_table":
        return 0
    return 2 if path[-1] == "output" else 1


def _hf_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what `to_hf_matrix` gives for one layer's weight of this shape."""
    inputs = _inputs(path, len(shape))
    return (math.prod(shape[inputs:]), math.prod(shape[:inputs])) if inputs else tuple(shape)


def _hf_names(path: tuple[str, ...], layers: int) -> list[str]:
    """The Hugging Face names of one of our weights: one, or one per layer."""
    if path[0] != "layers":
        return [TOP_NAMES[path[0]]]
    return [f"layers.{i}.{LAYER_NAMES[path[1]]}" for i in range(layers)]


@dataclass(frozen=True)
class Entry:
    """Type and shape of a weight as Hugging Face stores it."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def hf_entries(params) -> dict[str, Entry]:
    """What `hf_tensors` will give, in its order, without a look at the weights."""
    entries = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        shape = _hf_shape(path, value.shape[1:] if path[0] == "layers" else value.shape)
        entries.update(dict.fromkeys(_hf_names(path, value.shape[0]), Entry(np.dtype(value.dtype), shape)))
    return entries


def hf_tensors(params) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, array) of every weight; one of ours is on the host at a time."""
    for path, value in flax.traverse_util.flatten_dict(params).items():
        host = np.asarray(value)
        layers = host if path[0] == "layers" else host[None]
        for name, array in zip(_hf_names(path, value.shape[0]), layers, strict=True):
            yield name, to_hf_matrix(path, array)


def _assign_shards(sizes: dict[str, int], shard_bytes: int) -> dict[str, int]:
    shard, filled, result = 0, 0, {}
    for name, size in sizes.items():
        if filled and filled + size > shard_bytes:
            shard, filled = shard + 1, 0
        result[name] = shard
        filled += size
    return result


def _write(path: str, entries: dict[str, Entry], tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """The layout that `_open_shard` reads; each tensor is written before the next one is made."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in entries.items():
        begin, end = end, end + entry.nbytes
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with files.atomic_path(path) as part:
        try:
            with part.open("wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                for _, array in tensors:
                    file.write(np.ascontiguousarray(array).view(np.uint8))
                    file.flush()
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error}); check the path and the room on the disk.") from error


@dataclass(frozen=True)
class _Tensor:
    """A weight that still lies in its file."""

    path: str
    offset: int  # of its first byte in the file
    dtype: np.dtype
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows `start` to `stop`: mapped where the file is local, else fetched."""
        shape = (stop - start, *self.shape[1:])
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        begin, end = self.offset + start * row_bytes, self.offset + stop * row_bytes
        if not files.is_remote(self.path):
            return np.memmap(self.path, self.dtype, "r", begin, shape)
        return np.frombuffer(files.read_range(self.path, begin, end), self.dtype).reshape(shape)


def _open_tensors(folder) -> dict[str, _Tensor]:
    """All weights under `folder` by their name without the `model.` prefix."""
    index, single = files.join(folder, "model.safetensors.index.json"), files.join(folder, "model.safetensors")
    if files.exists(index):
        shards = sorted(set(files.read_json(index).get("weight_map", {}).values()))
    elif files.exists(single):
        shards = ["model.safetensors"]
    else:
        raise UserError(f"{folder} has neither model.safetensors nor its index; give a safetensors checkpoint.")
    tensors = {}
    for shard in shards:
        for name, tensor in _open_shard(files.join(folder, shard)):
            tensors[name.removeprefix("model.")] = tensor
    return tensors


def _open_shard(path: str) -> Iterator[tuple[str, _Tensor]]:
    """The safetensors layout: 8 bytes of header length, a JSON header with offsets, then the raw arrays."""
    broken = UserError(f"{path} is cut short or no safetensors file; fetch it again.")
    size = files.file_size(path)
    length = struct.unpack("<Q", files.read_range(path, 0, 8))[0] if size >= 8 else size
    if length + 8 > size:
        raise broken
    try:
        header = json.loads(files.read_range(path, 8, 8 + length))
    except ValueError as error:
        raise broken from error
    header.pop("__metadata__", None)
    offset = 8 + length
    if any(offset + entry["data_offsets"][1] > size for entry in header.values()):
        raise broken
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise UserError(f"{path} stores {name} as {entry['dtype']}; convert it to one of {', '.join(DTYPES)}.")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        yield name, _Tensor(path, offset + entry["data_offsets"][0], dtype, tuple(entry["shape"]))


def _check(folder, config: Qwen3Config, tensors: dict[str, _Tensor], boxes) -> None:
    """One error that names every weight that is missing, surplus or of the wrong shape."""
    expected = {}
    for path, box in boxes.items():
        shape = _hf_shape(path, box.value.shape[1:] if path[0] == "layers" else box.value.shape)
        expected.update(dict.fromkeys(_hf_names(path, config.layers), shape))
    missing = sorted(expected.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - expected.keys() - IGNORED)
    wrong = [
        f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [
        f"{title} {', '.join(names)}"
        for title, names in (("missing:", missing), ("surplus:", surplus), ("wrong shape:", wrong))
        if names
    ]
    if problems:
        raise UserError(f"The weights in {folder} do not fit its config.json; {'; '.join(problems)}.")


def _reader(path: tuple[str, ...], box: nn.Partitioned, tensors: dict[str, _Tensor], dtype) -> Callable:
    """A callback for `jax.make_array_from_callback`: the slice of our weight that a device asks for."""
    layers = path[0] == "layers"
    names = _hf_names(path, box.value.shape[0])
    shape = box.value.shape[1:] if layers else box.value.shape
    axis = _inputs(path, len(shape))  # the one that runs over the rows of the Hugging Face matrix
    rows_each = math.prod(shape[axis + 1 :]) if axis else 1

    @cache  # devices that need the same rows share one fetch, which goes with the weight
    def fetch(name: str, start: int, stop: int) -> np.ndarray:
        return tensors[name].rows(start * rows_each, stop * rows_each)

    def read_one(name: str, index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[axis].indices(shape[axis])
        part = (*shape[:axis], stop - start, *shape[axis + 1 :])
        return _from_hf_matrix(path, fetch(name, start, stop), part)[(*index[:axis], slice(None), *index[axis + 1 :])]

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not layers:
            return np.asarray(read_one(names[0], index), dtype)
        chosen = names[index[0]]
        first = read_one(chosen[0], index[1:])
        out = np.empty((len(chosen), *first.shape), dtype)
        for i, name in enumerate(chosen):
            out[i] = read_one(name, index[1:])
        return out

    return read
