"""Writes a model as an ONNX graph in float32 or int8, directly from the weights.

Inputs are `input_ids` and `attention_mask`, int64 [b, t], padded on either side. Outputs are `last_hidden_state`
[b, t, d] and `sentence_embedding` [b, d] (the last token's, normalized), float32, with the names that optimum,
sentence-transformers and Transformers.js expect. The graph uses only standard operators of opset 17.

Letters: b texts, t query positions, s key positions, d width, n query heads, k key/value heads, g query heads per
key/value head, h head dimension, f mlp, u groups of a token's numbers, p numbers in a group.

In int8, matrices and the token table are signed bytes. There is a scale for each output channel, and for each group of
32 numbers of a token, because a few numbers are far larger than the rest and would leave few steps for these. A matrix
in which most weights would become zero, such as one close to the identity, stays in float32. Activations are quantized
to unsigned bytes at run time, with a scale per token, because a decoder has a few very large activations that would
leave few steps for the many small ones. Processors multiply this pair of types fastest. Those without VNNI add two
products in 16 bits, which is exact because weights have at most 63 steps on each side of zero.
"""

import math
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.checkpoints import hf, package
from f2jax.errors import require_extra
from f2jax.model.sizes import Qwen3Config

OPSET, IR_VERSION = 17, 8
INLINE = 2**30  # most bytes of weights to store in the graph's file; protobuf's limit is twice that
CENTER, STEPS = 128, 127  # zero point of activations, and their steps on each side of it
PART = 32  # numbers of a token that share a scale
LOST = 0.5  # largest share of a matrix that may become zero
WEIGHT_STEPS = 63  # 2 x 255 x 63 fits into 16 bits
LOWEST = np.finfo(np.float32).min


def write_onnx(
    folder: str | Path, config: Qwen3Config, params, precision: str = "float32", inline: int = INLINE
) -> str:
    """Writes the graph into a package and returns its name there.

    Args:
        precision: float32 or int8.
        inline: with more bytes of weights, these go to a file of their own, one at a time.

    Raises:
        UserError: `onnx` is not installed, or the folder cannot be written.
    """
    require_extra("onnx", "An ONNX format")
    import onnx

    name = package.ONNX[precision]
    path, external = files.join(folder, name), files.join(folder, f"{name}_data")
    weights = _stored(hf.hf_tensors(params), precision)
    files.remove_file(path)  # first, so that an old graph is never next to new weights
    if config.parameters * (1 if precision == "int8" else 4) > inline:
        with files.atomic_path(external) as part, files.clear_errors(external, "written"), part.open("wb") as file:
            stored = [_external(key, array, file, Path(external).name) for key, array in weights]
    else:
        files.remove_file(external)
        stored = [_inline(key, array) for key, array in weights]
    graph = _graph(config, {tensor.name for tensor in stored if tensor.name.endswith(".scale")})
    output = onnx.helper.make_graph(
        graph.nodes,
        "f2jax",
        [_value("input_ids", "INT64", "batch", "length"), _value("attention_mask", "INT64", "batch", "length")],
        [
            _value("last_hidden_state", "FLOAT", "batch", "length", config.width),
            _value("sentence_embedding", "FLOAT", "batch", config.width),
        ],
        [*stored, *graph.constants],
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(output, opset_imports=opsets, ir_version=IR_VERSION, producer_name="f2jax")
    files.write_atomically(path, model.SerializeToString())
    return name


# Weights


def _stored(tensors, precision: str):
    """Yields the name and array of each weight in the graph; matrices are [in, out], in float32 or int8 with scales."""
    for name, matrix in tensors:
        matrix = np.asarray(matrix, np.float32)
        table = name == hf.TOP_NAMES["token_table"]
        if matrix.ndim == 1:
            yield name, matrix
        elif precision == "float32":
            yield name, matrix if table else matrix.T
        elif table:
            parts_vup = matrix.reshape(len(matrix), -1, math.gcd(matrix.shape[1], PART))
            quantized_vup, scale_vu1 = _round(parts_vup, STEPS)
            yield name, quantized_vup
            yield f"{name}.scale", scale_vu1
        else:
            quantized, scale = _round(matrix, WEIGHT_STEPS)
            if np.mean(quantized == 0) > LOST:
                yield name, matrix.T
            else:
                yield name, quantized.T
                yield f"{name}.scale", scale[:, 0]


def _round(x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantizes each row along the last axis to int8, and returns the bytes and their scales [..., 1]."""
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-12) / steps
    return np.rint(x / scale).astype(np.int8), scale


def _tensor(name: str, array: np.ndarray):
    import onnx

    return onnx.TensorProto(name=name, dims=array.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _inline(name: str, array: np.ndarray):
    tensor = _tensor(name, array)
    tensor.raw_data = array.tobytes()
    return tensor


def _external(name: str, array: np.ndarray, file, location: str):
    """Appends the tensor's bytes to the open file, and returns its entry for the graph."""
    import onnx

    file.write(b"\0" * (-file.tell() % 4096))  # aligned, so that runtimes can map it
    place = {"location": location, "offset": file.tell(), "length": array.nbytes}
    file.write(array.tobytes())
    tensor = _tensor(name, array)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _value(name: str, dtype: str, *shape: str | int):
    import onnx

    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, dtype), shape)


# The graph


class _Graph:
    """Collects nodes in order: `g.Add(a, b)` appends one and returns the name of its result."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def __getattr__(self, operator: str):
        return lambda *inputs, **attributes: self.node(operator, inputs, **attributes)[0]

    def node(self, operator: str, inputs, outputs=1, **attributes) -> list[str]:
        import onnx

        if isinstance(outputs, int):
            outputs = [f"{operator}_{len(self.nodes)}_{i}" for i in range(outputs)]
        inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, value) -> str:
        """Adds a constant and returns its name; integers become int64 and floats float32."""
        if not isinstance(value, np.ndarray | np.generic):
            value = np.asarray(value)
            value = value.astype(np.float32 if value.dtype.kind == "f" else np.int64)
        name = f"constant_{len(self.constants)}"
        self.constants.append(_inline(name, np.asarray(value)))
        return name


def _graph(config: Qwen3Config, scaled: set[str]) -> _Graph:
    """Builds Qwen3 operator by operator, as in `model/qwen3.py`; `scaled` holds the names of the scales in int8."""
    import onnx

    g = _Graph()

    def linear(g: _Graph, x: str, name: str) -> str:
        return _linear_int8(g, x, name) if f"{name}.scale" in scaled else _linear(g, x, name)

    mask_bt = g.Cast("attention_mask", to=onnx.TensorProto.BOOL)
    steps_t = g.Range(0, g.Squeeze(g.Slice(g.Shape("input_ids"), [1], [2]), [0]), 1)
    causal_ts = g.LessOrEqual(g.Unsqueeze(steps_t, [0]), g.Unsqueeze(steps_t, [1]))
    seen_bkgts = g.And(causal_ts, g.Unsqueeze(mask_bt, [1, 2, 3]))

    positions_bt = g.Sub(g.CumSum("attention_mask", 1), 1)  # within the text, for padding on either side
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    frequency_h = np.float32(config.rope_theta) ** -half
    positions = g.Cast(g.Unsqueeze(positions_bt, [2, 3]), to=onnx.TensorProto.FLOAT)
    angle_bt1h = g.Mul(positions, frequency_h)
    cos, sin = g.Cos(angle_bt1h), g.Sin(angle_bt1h)
    angles = g.Concat(cos, cos, axis=-1), g.Concat(g.Neg(sin), sin, axis=-1)

    table = hf.TOP_NAMES["token_table"]
    x_btd = g.Gather(table, "input_ids")
    if f"{table}.scale" in scaled:
        x_btup = g.Mul(g.Cast(x_btd, to=onnx.TensorProto.FLOAT), g.Gather(f"{table}.scale", "input_ids"))
        x_btd = g.Reshape(x_btup, [0, 0, config.width])
    for number in range(config.layers):
        names = {key: f"layers.{number}.{name}" for key, name in hf.LAYER_NAMES.items()}
        h_btd = _rms_norm(g, x_btd, names["attention_norm"], config.rms_norm_eps)
        a_bta = _attention(g, h_btd, seen_bkgts, angles, names, config, linear)
        x_btd = g.Add(x_btd, linear(g, a_bta, names["output"]))
        h_btd = _rms_norm(g, x_btd, names["mlp_norm"], config.rms_norm_eps)
        gate_btf = linear(g, h_btd, names["gate"])
        inner_btf = g.Mul(g.Mul(gate_btf, g.Sigmoid(gate_btf)), linear(g, h_btd, names["up"]))
        x_btd = g.Add(x_btd, linear(g, inner_btf, names["down"]))
    hidden_btd = _rms_norm(g, x_btd, hf.TOP_NAMES["final_norm"], config.rms_norm_eps)
    g.node("Identity", [hidden_btd], ["last_hidden_state"])

    last_b1 = g.ArgMax(g.Mul("attention_mask", g.Add(steps_t, 1)), axis=1)  # the last token that is not padding
    e_bd = g.GatherND(hidden_btd, last_b1, batch_dims=1)
    g.node("Div", [e_bd, g.Max(g.ReduceL2(e_bd, axes=[-1]), 1e-12)], ["sentence_embedding"])
    return g


def _attention(g: _Graph, h_btd, seen_bkgts, angles, names: dict[str, str], config: Qwen3Config, linear) -> str:
    """Returns [b, t, n·h]. Query heads that share keys are on the axis g, along which keys are broadcast."""
    kv_heads, head_dim = config.kv_heads, config.head_dim
    q_btnh = g.Reshape(linear(g, h_btd, names["query"]), [0, 0, config.heads, head_dim])
    k_btkh = g.Reshape(linear(g, h_btd, names["key"]), [0, 0, kv_heads, head_dim])
    v_btkh = g.Reshape(linear(g, h_btd, names["value"]), [0, 0, kv_heads, head_dim])
    q_btnh = _rotate(g, _rms_norm(g, q_btnh, names["query_norm"], config.rms_norm_eps), angles)
    k_btkh = _rotate(g, _rms_norm(g, k_btkh, names["key_norm"], config.rms_norm_eps), angles)
    q_btkgh = g.Reshape(q_btnh, [0, 0, kv_heads, config.heads // kv_heads, head_dim])
    q_bkgth = g.Transpose(g.Mul(q_btkgh, head_dim**-0.5), perm=[0, 2, 3, 1, 4])
    k_bkghs = g.Unsqueeze(g.Transpose(k_btkh, perm=[0, 2, 3, 1]), [2])
    v_bkgsh = g.Unsqueeze(g.Transpose(v_btkh, perm=[0, 2, 1, 3]), [2])
    weights_bkgts = g.Softmax(g.Where(seen_bkgts, g.MatMul(q_bkgth, k_bkghs), LOWEST), axis=-1)
    a_btkgh = g.Transpose(g.MatMul(weights_bkgts, v_bkgsh), perm=[0, 3, 1, 2, 4])
    return g.Reshape(a_btkgh, [0, 0, config.heads * head_dim])


def _rms_norm(g: _Graph, x, scale: str, eps: float) -> str:
    mean = g.ReduceMean(g.Pow(x, 2.0), axes=[-1])
    return g.Mul(g.Div(x, g.Sqrt(g.Add(mean, float(eps)))), scale)


def _rotate(g: _Graph, x_btnh, angles) -> str:
    first, second = g.node("Split", [x_btnh], 2, axis=-1)
    cos, sin = angles
    return g.Add(g.Mul(x_btnh, cos), g.Mul(g.Concat(second, first, axis=-1), sin))


def _linear(g: _Graph, x, name: str) -> str:
    return g.MatMul(x, name)


def _linear_int8(g: _Graph, x, name: str) -> str:
    """Multiplies int8 weights by quantized activations, with exact sums in int32."""
    import onnx

    scale = g.Div(g.Max(g.ReduceMax(g.Abs(x), axes=[-1]), 1e-12), float(STEPS))
    rounded = g.Cast(g.Add(g.Round(g.Div(x, scale)), float(CENTER)), to=onnx.TensorProto.UINT8)
    product = g.MatMulInteger(rounded, name, np.uint8(CENTER))
    return g.Mul(g.Mul(g.Cast(product, to=onnx.TensorProto.FLOAT), scale), f"{name}.scale")
