"""Products of matrices: equal to those of float64, and on a CPU in the form that XLA multiplies fast in bfloat16."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.inference.weights import Weights
from f2jax.model.matmul import contiguous_on_cpu, matmul, project, swap_halves, swiglu, transposed_product
from f2jax.model.qwen3 import Block, Qwen3, init_params, rotary_angles
from f2jax.model.sizes import Qwen3Config

SHAPES = [((5, 7), (7, 3)), ((2, 5, 7), (2, 7, 3)), ((2, 3, 4, 8), (2, 3, 8, 6)), ((9, 2), (2, 5))]
ROUNDING = [("float32", 1e-6), ("bfloat16", 2**-8)]
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms have forms of their own")


def operands(shapes, dtype):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def assert_close(found, wanted, tolerance: float):
    assert np.abs(np.asarray(found, np.float64) - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("dtype,tolerance", ROUNDING)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_and_their_gradients_are_those_of_float64(shapes, dtype, tolerance):
    a, b = operands(shapes, dtype)
    out, back = jax.vjp(matmul, a, b)
    g = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), dtype)
    a64, b64, g64 = (np.asarray(x, np.float64) for x in (a, b, g))
    expected = a64 @ b64, g64 @ b64.swapaxes(-1, -2), a64.swapaxes(-1, -2) @ g64
    for found, wanted in zip((out, *back(g)), expected, strict=True):
        assert found.dtype == dtype
        assert_close(found, wanted, tolerance)


@pytest.mark.parametrize("dtype,tolerance", ROUNDING)
@pytest.mark.parametrize("spec,shapes", [
    ("btd,dnh->btnh", ((2, 3, 5), (5, 4, 6))), ("btd,nhd->btnh", ((2, 3, 5), (4, 6, 5))),
    ("btnh,nhd->btd", ((2, 3, 4, 6), (4, 6, 5))), ("btnh,dnh->btd", ((2, 3, 4, 6), (5, 4, 6))),
    ("btd,df->btf", ((2, 3, 5), (5, 5))), ("btd,fd->btf", ((2, 3, 5), (5, 5))),
])  # fmt: skip
def test_a_projection_is_that_of_float64_with_the_axes_of_its_input_first_or_last(spec, shapes, dtype, tolerance):
    x, weight = operands(shapes, dtype)
    found = project(spec, x, weight)
    assert found.dtype == dtype
    assert_close(found, np.einsum(spec, np.asarray(x, np.float64), np.asarray(weight, np.float64)), tolerance)


@ON_CPU
@pytest.mark.parametrize("rows,first", [(1, "weights"), (64, "weights"), (65, "activations")])
def test_few_rows_of_float32_are_multiplied_as_the_second_operand(rows, first):
    a, b = operands(((rows, 7), (5, 7)), "float32")
    product = functools.partial(matmul, transposed=True)
    assert_close(jax.jit(product)(a, b), np.asarray(a, np.float64) @ np.asarray(b, np.float64).T, 1e-6)
    (dot,) = (x for x in jax.make_jaxpr(product)(a, b).eqns if x.primitive.name == "dot_general")
    assert dot.invars[0].aval.shape == {"weights": b, "activations": a}[first].shape


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shapes", [((7, 5), (7, 3)), ((7, 3), (7, 5)), ((2, 8, 4), (2, 8, 6))], ids=str)
def test_a_transposed_product_is_that_of_float64_whichever_operand_is_narrower(shapes, dtype):
    a, b = operands(shapes, dtype)
    found = jax.jit(transposed_product)(a, b)
    assert found.dtype == "float32"
    assert_close(found, np.asarray(a, np.float64).swapaxes(-1, -2) @ np.asarray(b, np.float64), 1e-6)


@pytest.mark.parametrize("dtype,tolerance", ROUNDING)
def test_halves_of_heads_are_swapped_exactly_and_so_are_their_gradients(dtype, tolerance):
    (x,) = operands([(2, 3, 4, 8)], dtype)
    found, back = jax.vjp(swap_halves, x)
    np.testing.assert_array_equal(found, np.roll(np.asarray(x, np.float32), 4, axis=-1))
    (g,) = operands([(2, 3, 4, 8)], "float32")
    assert_close(back(g)[0], np.roll(g, 4, axis=-1), tolerance)


@pytest.mark.parametrize("dtype,tolerance", ROUNDING)
def test_swiglu_and_its_gradients_are_those_of_float64(dtype, tolerance):
    gate, up, g = operands([(3, 50)] * 3, dtype)
    out, back = jax.vjp(swiglu, gate, up)
    gate64, up64, g64 = (np.asarray(x, np.float64) for x in (gate, up, g))
    sigmoid = 1 / (1 + np.exp(-gate64))
    slope = sigmoid * (1 + gate64 * (1 - sigmoid))
    expected = gate64 * sigmoid * up64, g64 * up64 * slope, g64 * gate64 * sigmoid
    for found, wanted in zip((out, *back(g)), expected, strict=True):
        assert found.dtype == dtype
        assert_close(found, wanted, tolerance)


@ON_CPU
def test_on_a_cpu_swiglu_of_bfloat16_is_rounded_once():
    gate, up = operands([(3, 5_000)] * 2, "bfloat16")
    gate64, up64 = (np.asarray(x, np.float64) for x in (gate, up))
    exact = gate64 / (1 + np.exp(-gate64)) * up64
    off = np.abs(np.asarray(jax.jit(swiglu)(gate, up), np.float64) - exact) / np.abs(exact)
    assert off.max() <= 2**-8, "half of the last of eight bits"


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@ON_CPU
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_on_a_cpu_each_product_of_bfloat16_is_in_the_form_that_xla_is_fast_at(shapes):
    """bfloat16 operands, a float32 result, and the last axis of the first operand contracted; gradients too."""
    a, b = operands(shapes, "bfloat16")

    def both(a, b):
        out, back = jax.vjp(matmul, a, b)
        return out, back(out)

    found = list(products(jax.make_jaxpr(both)(a, b).jaxpr))
    assert len(found) == 3
    for equation in found:
        (contracted, _), _ = equation.params["dimension_numbers"]
        assert [str(x.aval.dtype) for x in (*equation.invars, *equation.outvars)] == ["bfloat16"] * 2 + ["float32"]
        assert contracted == (equation.invars[0].aval.ndim - 1,)


@ON_CPU
def test_no_product_of_a_model_in_bfloat16_is_turned_into_one_of_float32():
    """As compiled, gradients too: 70 tokens are two blocks of attention."""
    model = Qwen3(Qwen3Config(16, 32, 2, 4, 2, head_dim=16, vocab_size=32), dtype=jnp.bfloat16)
    tokens = np.ones((2, 70), np.int32)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, tokens, tokens, tokens).astype(jnp.float32) ** 2)

    types = operand_types(jax.jit(jax.grad(loss)), init_params(model, 0))
    assert len(types) > 40 and set(types) == {"bf16"}


@ON_CPU
def test_no_product_of_a_layer_that_encodes_in_bfloat16_is_turned_into_one_of_float32():
    config = Qwen3Config(16, 32, 1, 4, 2, head_dim=16, vocab_size=32)
    params = jax.tree.map(lambda x: x.astype("bfloat16"), init_params(Qwen3(config), 0))
    (layer,) = Weights(params, "bfloat16").to_encode["layers"]
    block = Block(config, jnp.bfloat16, jnp.bfloat16, inputs_last=True)
    segments_bt = jnp.ones((1, 24), jnp.int32)
    batch = jnp.ones((1, 24, 16), "bfloat16"), segments_bt, *rotary_angles(segments_bt, 16, 1e6), None
    types = operand_types(jax.jit(lambda layer: block.apply({"params": layer}, *batch)), layer)
    assert len(types) > 16 and set(types) == {"bf16"}


def operand_types(function, *arguments) -> list[str]:
    """Returns the types of the operands of each product, as compiled."""
    text = function.lower(*arguments).compile().as_text()
    types = {name: dtype for name, dtype in re.findall(r"%?([\w.-]+)(?: =|:) (\w+)\[", text)}
    return [types[name] for both in re.findall(r" dot\(([^)]*)\)", text) for name in re.findall(r"%([\w.-]+)", both)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_contiguous_array_has_the_same_numbers(dtype):
    x = jnp.arange(24, dtype=dtype).reshape(2, 3, 4)
    found = jax.jit(lambda x: contiguous_on_cpu(x.swapaxes(1, 2)))(x)
    np.testing.assert_array_equal(found, x.swapaxes(1, 2))
