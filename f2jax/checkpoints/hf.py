"""Reads and writes Hugging Face checkpoints in safetensors, one weight at a time.

Files are memory-mapped, or read by range on gs://, where each process fetches only the rows that its devices need, so
reading holds at most one weight besides the result. Values are preserved bit for bit, and values that are not finite
are refused in both directions.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import flax
import jax
import ml_dtypes
import numpy as np
from flax import linen as nn

from f2jax import files
from f2jax.checkpoints import int8, settings
from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import Qwen3Config

# {our name: Hugging Face's name}. Matrices are [out, in] there, and [input axes, output axes] here.
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
# Put before the names by a language model, torch.compile, DataParallel and sentence-transformers.
PREFIXES = re.compile(r"(?:model\.|_orig_mod\.|module\.|0\.|auto_model\.)+")
IGNORED = {"lm_head.weight"}  # an encoder has no language-model head
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
INT8 = {"I8": np.int8}  # only in a folder whose config.json declares it
DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in (DTYPES | INT8).items()}
FEW = 5  # most names in an error message
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class LazyWeight:
    """A placeholder for an array in a tree of parameters, which is read or computed only when it is needed."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.make()).astype(dtype or self.dtype, copy=False)


def load_hf(folder: str | Path, param_dtype=np.float32, shardings=None) -> tuple[Qwen3Config, dict]:
    """Loads architecture and parameters of a checkpoint folder (local or gs://).

    Args:
        folder: holds `config.json` and `model.safetensors`, or an index and its shards.
        param_dtype: type of the result; the stored type may be float32, bfloat16, float16, or f2jax's int8.
        shardings: a tree of `jax.sharding.Sharding` like the parameters; default: the first device of this process.

    Raises:
        UserError: a file is missing or damaged; weights are missing, surplus, of the wrong shape or not finite.
    """
    config, tensors, boxes = _open_folder(folder, param_dtype)
    if shardings is None:
        flat_shardings = dict.fromkeys(boxes, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    else:
        flat_shardings = flax.traverse_util.flatten_dict(shardings)
    params = {}
    for path, box in boxes.items():
        read = _reader(path, box, tensors, param_dtype)
        params[path] = jax.make_array_from_callback(box.value.shape, flat_shardings[path], read)
    return config, flax.traverse_util.unflatten_dict(params)


def open_hf_weights(folder: str | Path) -> tuple[Qwen3Config, dict[tuple[str, ...], LazyWeight]]:
    """Returns the architecture of a checkpoint folder, and its weights by path in float32, which are read on demand.

    Raises:
        UserError: as for `load_hf`.
    """
    config, tensors, boxes = _open_folder(folder, np.float32)

    def read_all(path: tuple[str, ...], box: nn.Partitioned) -> np.ndarray:
        # Each call has a reader of its own, so that what it fetched is freed with it.
        return _reader(path, box, tensors, np.float32)((slice(None),) * box.value.ndim)

    return config, {
        path: LazyWeight(box.value.shape, np.dtype(np.float32), partial(read_all, path, box))
        for path, box in boxes.items()
    }


def _open_folder(
    folder: str | Path, dtype
) -> tuple[Qwen3Config, dict[str, "_Tensor"], dict[tuple[str, ...], nn.Partitioned]]:
    """Returns the architecture, the stored weights, and the expected parameters, after checking that they match."""
    config = settings.read_config(folder)
    tensors = _open_int8(folder) if settings.stores_int8(folder) else _open_tensors(folder, DTYPES)
    boxes = flax.traverse_util.flatten_dict(abstract_params(config, dtype))
    _check_weights(folder, config, tensors, boxes)
    return config, tensors, boxes


def check_finite(params, origin: str | Path) -> None:
    """Raises UserError if a parameter is NaN or infinite; `save_hf` checks a `LazyWeight` when it computes it.

    >>> check_finite({"final_norm": jnp.array([1.0, jnp.nan])}, "runs/a")
    UserError: runs/a has values that are NaN or infinite in norm.weight; …
    """
    for path, value in flax.traverse_util.flatten_dict(params).items():
        if isinstance(value, LazyWeight) or bool(jax.numpy.isfinite(value).all()):
            continue
        layered = path[0] == "layers"
        finite_l = np.asarray(jax.numpy.isfinite(value).all(axis=tuple(range(1, value.ndim)))) if layered else [False]
        names = _hf_names(path, value.shape[0])
        _refuse_values(origin, [name for name, finite in zip(names, finite_l, strict=True) if not finite])


def _refuse_values(origin: str | Path, names: Sequence[str]) -> None:
    raise UserError(
        f"{origin} has values that are NaN or infinite in {_list(names)}; use an earlier checkpoint, or fetch the "
        "file again."
    )


def _list(names: Sequence[str]) -> str:
    """Returns the first few names and the number of the others."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def save_hf(
    folder: str | Path,
    params,
    shard_bytes: int = 5 * 2**30,
    before_replacing: Callable[[], None] = lambda: None,
    as_int8: bool = False,
) -> None:
    """Writes parameters as safetensors with Hugging Face names, in their own dtype or with matrices in int8.

    Weights (arrays or `LazyWeight`) are fetched one at a time. A shard gets its final name once it is complete.

    Args:
        folder: local or gs://.
        shard_bytes: maximum size of one file.
        before_replacing: called when the first file is complete, before it gets its final name.
        as_int8: store matrices in int8; the folder's config.json has to declare this (`settings.INT8_TYPE`).

    Raises:
        UserError: the folder cannot be written, or a weight is NaN or infinite.
    """
    entries, tensors = hf_entries(params), hf_tensors(params)
    if as_int8:
        entries, tensors = _int8_entries(entries), int8.quantized_tensors(_finite(tensors))
    shard_of = _assign_shards({name: entry.nbytes for name, entry in entries.items()}, shard_bytes)
    count = max(shard_of.values()) + 1
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for number, name in enumerate(names):
        inside = {key: entry for key, entry in entries.items() if shard_of[key] == number}
        path = files.join(folder, name)
        with files.atomic_path(path) as part:
            _write(part, path, inside, _finite(islice(tensors, len(inside))))
            if number == 0:
                before_replacing()
    index = files.join(folder, INDEX)
    if count > 1:
        content = {
            "metadata": {"total_size": sum(entry.nbytes for entry in entries.values())},
            "weight_map": {name: names[i] for name, i in shard_of.items()},
        }
        files.write_atomically(index, json.dumps(content, indent=1))
    else:
        files.remove_file(index)
    for name in files.list_names(folder):
        if name.startswith("model") and name.endswith(".safetensors") and name not in names:
            files.remove_file(files.join(folder, name))  # of an earlier save; some loaders would prefer it


def to_hf_matrix(path: tuple[str, ...], array):
    """Returns one layer's weight as Hugging Face stores it: [out, in]; norms and the token table are unchanged."""
    inputs = input_axes(path, array.ndim)
    return array.reshape(math.prod(array.shape[:inputs]), -1).T if inputs else array


def _from_hf_matrix(path, matrix, shape):
    return matrix.T.reshape(shape) if input_axes(path, len(shape)) else matrix


def input_axes(path: tuple[str, ...], axes: int) -> int:
    """Returns the number of input axes of a layer's weight; 0 if Hugging Face stores it with the same shape."""
    if axes == 1 or path[-1] == "token_table":
        return 0
    return 2 if path[-1] == "output" else 1


def _hf_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of `to_hf_matrix` for a layer's weight of this shape."""
    inputs = input_axes(path, len(shape))
    return (math.prod(shape[inputs:]), math.prod(shape[:inputs])) if inputs else tuple(shape)


def _hf_names(path: tuple[str, ...], layers: int) -> list[str]:
    """Returns the Hugging Face names for one of our weights: one, or one per layer."""
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
    """Returns name, dtype and shape of what `hf_tensors` yields, in the same order, without reading the weights."""
    entries = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        shape = _hf_shape(path, value.shape[1:] if path[0] == "layers" else value.shape)
        entries.update(dict.fromkeys(_hf_names(path, value.shape[0]), Entry(np.dtype(value.dtype), shape)))
    return entries


def hf_tensors(params) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the Hugging Face name and array of every weight, with one of our weights in host memory at a time."""
    for path, value in flax.traverse_util.flatten_dict(params).items():
        host = np.asarray(value)
        layers = host if path[0] == "layers" else host[None]
        for name, array in zip(_hf_names(path, value.shape[0]), layers, strict=True):
            yield name, to_hf_matrix(path, array)


def _finite(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors unchanged, and raises UserError for one with NaN or infinite values."""
    for name, array in tensors:
        if not np.isfinite(array).all():
            _refuse_values("The model", [name])
        yield name, array


def _int8_entries(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Returns name, dtype and shape of what `int8.quantized_tensors` yields for such tensors."""
    result = {}
    for name, entry in entries.items():
        if len(entry.shape) == 2:
            result[name] = Entry(np.dtype(np.int8), entry.shape)
            result[name + int8.SCALE] = Entry(np.dtype(ml_dtypes.bfloat16), entry.shape[:1])
        else:
            result[name] = entry
    return result


def round_to_int8(params) -> dict:
    """Returns the parameters rounded to int8, as float32 on the first device."""
    rounded = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        host = np.asarray(value, np.float32)
        layers = host if path[0] == "layers" else host[None]
        if layers[0].ndim > 1:
            matrices = (int8.dequantize_rows(*int8.quantize_rows(to_hf_matrix(path, array))) for array in layers)
            layers = np.stack([_from_hf_matrix(path, matrix, layers.shape[1:]) for matrix in matrices])
        rounded[path] = jax.numpy.asarray(layers.reshape(host.shape))
    return flax.traverse_util.unflatten_dict(rounded)


def _assign_shards(sizes: dict[str, int], shard_bytes: int) -> dict[str, int]:
    shard, filled, result = 0, 0, {}
    for name, size in sizes.items():
        if filled and filled + size > shard_bytes:
            shard, filled = shard + 1, 0
        result[name] = shard
        filled += size
    return result


def _write(part: Path, path: str, entries: dict[str, Entry], tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a file in the layout that `_open_shard` reads, one tensor after another."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in entries.items():
        begin, end = end, end + entry.nbytes
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, array in tensors:
                file.write(np.ascontiguousarray(array).view(np.uint8).data)
                file.flush()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}); check the path and the free space on the disk."
        ) from error


@dataclass(frozen=True)
class _Tensor:
    """A weight in a file, read on demand."""

    name: str  # in the file
    path: str
    offset: int  # of its first byte in the file
    dtype: np.dtype
    shape: tuple[int, ...]
    scale: "_Tensor | None" = None  # of int8 rows

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows from `start` to `stop`: mapped into memory from a local file, or fetched.

        Raises:
            UserError: a value is NaN or infinite.
        """
        shape = (stop - start, *self.shape[1:])
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        begin, end = self.offset + start * row_bytes, self.offset + stop * row_bytes
        array: np.ndarray
        if begin == end or files.is_remote(self.path):
            array = np.frombuffer(files.read_range(self.path, begin, end), self.dtype).reshape(shape)
        else:
            array = np.memmap(self.path, self.dtype, "r", begin, shape)
        if self.scale:
            array = int8.dequantize_rows(array, self.scale.rows(start, stop))
        if not np.isfinite(array).all():
            _refuse_values(self.path, [self.name])
        return array


def _open_tensors(folder: str | Path, dtypes: dict) -> dict[str, _Tensor]:
    """Returns all weights in `folder` by their names without known prefixes."""
    index, single = files.join(folder, INDEX), files.join(folder, SINGLE)
    has_single = files.exists(single)
    if files.exists(index):
        weight_map = files.read_json_object(index, {"weight_map": dict[str, str]})["weight_map"]
        shards = sorted(set(weight_map.values()))
        if has_single and shards != [SINGLE]:
            raise UserError(
                f"{folder} has weights in {SINGLE} and in the shards that {INDEX} lists; delete the outdated ones."
            )
    elif has_single:
        shards = [SINGLE]
    else:
        raise UserError(f"{folder} has neither {SINGLE} nor its index; give a safetensors checkpoint.")
    tensors: dict[str, _Tensor] = {}
    for shard in shards:
        for name, tensor in _open_shard(files.join(folder, shard), dtypes):
            bare = name[match.end() :] if (match := PREFIXES.match(name)) else name
            if bare in tensors:
                twice = f"{tensors[bare].name} in {tensors[bare].path} and {name} in {tensor.path}"
                raise UserError(f"{folder} has one weight twice, as {twice}; delete the outdated one.")
            tensors[bare] = tensor
    return tensors


def _open_int8(folder: str | Path) -> dict[str, _Tensor]:
    """Returns all weights of a folder with matrices in int8, each with its scales.

    Raises:
        UserError: a matrix does not have a scale for each row.
    """
    tensors = _open_tensors(folder, DTYPES | INT8)
    for name in [name for name, tensor in tensors.items() if tensor.dtype == np.int8]:
        scale = tensors.pop(name + int8.SCALE, None)
        if scale is None or scale.dtype == np.int8 or scale.shape != tensors[name].shape[:1]:
            raise UserError(f"{folder} stores {name} in int8 without a scale for each row; export the model again.")
        tensors[name] = replace(tensors[name], scale=scale)
    return tensors


def _open_shard(path: str, dtypes: dict) -> Iterator[tuple[str, _Tensor]]:
    """Yields the names and weights of a safetensors file: 8 bytes of header length, a JSON header and the raw arrays.

    Raises:
        UserError: the arrays do not fill the file without gaps, or do not have the sizes of their shapes.
    """
    size = files.file_size(path)
    length = struct.unpack("<Q", files.read_range(path, 0, 8))[0] if size >= 8 else size
    if length + 8 > size:
        raise UserError(f"{path} is truncated, or not a safetensors file; fetch it again.")
    header = files.check_object(files.parse_json(files.read_range(path, 8, 8 + length), path), f"The header of {path}")
    header.pop("__metadata__", None)
    fields = {"dtype": str, "shape": list[int], "data_offsets": list[int]}
    for name, entry in header.items():
        files.check_object(entry, f"The weight {name} in {path}", fields)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in dtypes:
            raise UserError(f"{path} stores {name} as {entry['dtype']}; convert it to one of {', '.join(DTYPES)}.")
        dtype, begin = np.dtype(dtypes[entry["dtype"]]), end
        end += math.prod(entry["shape"]) * dtype.itemsize
        if entry["data_offsets"] != [begin, end] or min(entry["shape"], default=0) < 0:
            raise UserError(
                f"{path} is damaged: the offsets of {name} are {entry['data_offsets']} where its type and shape need "
                f"{[begin, end]}; fetch it again."
            )
        yield name, _Tensor(name, path, 8 + length + begin, dtype, tuple(entry["shape"]))
    if 8 + length + end != size:
        raise UserError(f"{path} is truncated or too long: it should have {8 + length + end:,} bytes; fetch it again.")


def _check_weights(folder: str | Path, config: Qwen3Config, tensors: dict[str, _Tensor], boxes) -> None:
    """Raises UserError if weights are missing, unexpected or of the wrong shape; the message names them."""
    expected: dict[str, tuple[int, ...]] = {}
    for path, box in boxes.items():
        shape = _hf_shape(path, box.value.shape[1:] if path[0] == "layers" else box.value.shape)
        expected.update(dict.fromkeys(_hf_names(path, config.layers), shape))
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "surplus": sorted(tensors[name].name for name in tensors.keys() - expected.keys() - IGNORED),
        "wrong shape": [
            f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{title}: {_list(names)}" for title, names in problems.items() if names)
        raise UserError(f"The weights in {folder} do not fit its config.json; {text}.")


def _reader(path: tuple[str, ...], box: nn.Partitioned, tensors: dict[str, _Tensor], dtype) -> Callable:
    """Returns a callback for `jax.make_array_from_callback` that reads the slice of a weight that a device needs."""
    layers = path[0] == "layers"
    names = _hf_names(path, box.value.shape[0])
    shape = box.value.shape[1:] if layers else box.value.shape
    axis = input_axes(path, len(shape))  # the one that runs over the rows of the Hugging Face matrix
    rows_each = math.prod(shape[axis + 1 :]) if axis else 1

    @cache  # devices that need the same rows share one fetch, which goes with the weight
    def fetch(name: str, start: int, stop: int) -> np.ndarray:
        return tensors[name].rows(start * rows_each, stop * rows_each)

    def read_layer(name: str, index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[axis].indices(shape[axis])
        part = (*shape[:axis], stop - start, *shape[axis + 1 :])
        return _from_hf_matrix(path, fetch(name, start, stop), part)[(*index[:axis], slice(None), *index[axis + 1 :])]

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not layers:
            return np.asarray(read_layer(names[0], index), dtype)
        chosen = names[index[0]]
        first = read_layer(chosen[0], index[1:])
        out = np.empty((len(chosen), *first.shape), dtype)
        for i, name in enumerate(chosen):
            out[i] = read_layer(name, index[1:])
        return out

    return read
