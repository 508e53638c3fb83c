"""Products of matrices: equal to those of float64, and on a CPU in the form that XLA multiplies fast in bfloat16."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.model.matmul import contiguous_on_cpu, matmul, matmul_transposed
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config

SHAPES = [((5, 7), (7, 3)), ((2, 5, 7), (2, 7, 3)), ((2, 3, 4, 8), (2, 3, 8, 6))]


def operands(shapes, dtype, transposed: bool):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return a, jnp.swapaxes(b, -1, -2) if transposed else b


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_and_their_gradients_are_those_of_float64(shapes, transposed, dtype, tolerance):
    a, b = operands(shapes, dtype, transposed)
    out, back = jax.vjp(matmul_transposed if transposed else matmul, a, b)
    g = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), dtype).astype(out.dtype)
    a64, b64, g64 = (np.asarray(x, np.float64) for x in (a, b, g))
    right = b64.swapaxes(-1, -2) if transposed else b64
    right_gradient = a64.swapaxes(-1, -2) @ g64
    expected = a64 @ right, g64 @ right.swapaxes(-1, -2), right_gradient
    if transposed:
        expected = *expected[:2], right_gradient.swapaxes(-1, -2)
    for found, wanted in zip((out, *back(g)), expected, strict=True):
        assert np.abs(np.asarray(found, np.float64) - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("transposed,out", [(False, "bfloat16"), (True, "float32")])
def test_gradients_have_the_types_of_the_operands(transposed, out):
    a, b = operands(SHAPES[1], "bfloat16", transposed)
    found, back = jax.vjp(matmul_transposed if transposed else matmul, a, b)
    assert [str(x.dtype) for x in (found, *back(found))] == [out, "bfloat16", "bfloat16"]


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms multiply in the form that they are given")
@pytest.mark.parametrize("transposed", [False, True])
def test_on_a_cpu_each_product_of_bfloat16_is_in_the_form_that_xla_is_fast_at(transposed):
    """bfloat16 operands, a float32 result, and the last axis of the first operand contracted; gradients too."""
    a, b = operands(SHAPES[1], "bfloat16", transposed)
    product = matmul_transposed if transposed else matmul

    def both(a, b):
        out, back = jax.vjp(product, a, b)
        return out, back(out)

    found = list(products(jax.make_jaxpr(both)(a, b).jaxpr))
    assert len(found) == 3
    for equation in found:
        (contracted, _), _ = equation.params["dimension_numbers"]
        assert [str(x.aval.dtype) for x in (*equation.invars, *equation.outvars)] == ["bfloat16"] * 2 + ["float32"]
        assert contracted == (equation.invars[0].aval.ndim - 1,)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on a CPU")
def test_no_product_of_a_model_in_bfloat16_is_turned_into_one_of_float32():
    """As compiled, gradients too: 70 tokens are two blocks of attention."""
    model = Qwen3(Qwen3Config(16, 32, 2, 4, 2, head_dim=16, vocab_size=32), dtype=jnp.bfloat16)
    tokens = np.ones((2, 70), np.int32)

    def loss(params):
        return jnp.sum(model.apply({"params": params}, tokens, tokens, tokens).astype(jnp.float32) ** 2)

    text = jax.jit(jax.grad(loss)).lower(init_params(model, 0)).compile().as_text()
    types = {name: dtype for name, dtype in re.findall(r"%?([\w.-]+)(?: =|:) (\w+)\[", text)}
    operands = [re.findall(r"%([\w.-]+)", inside) for inside in re.findall(r" dot\(([^)]*)\)", text)]
    assert len(operands) > 20
    assert {types[name] for both in operands for name in both} == {"bf16"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_contiguous_array_has_the_same_numbers(dtype):
    x = jnp.arange(24, dtype=dtype).reshape(2, 3, 4)
    found = jax.jit(lambda x: contiguous_on_cpu(x.swapaxes(1, 2)))(x)
    np.testing.assert_array_equal(found, x.swapaxes(1, 2))
