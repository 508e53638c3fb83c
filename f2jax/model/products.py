"""Matrix products, in the form that each platform is fast at."""

import functools
import math

import jax
import jax.numpy as jnp

from f2jax.parallel.activations import platform


def project(spec: str, x, weight):
    """`jnp.einsum(spec, x, weight)` over the last axes of the activations and the first ones of the weight.

    Taken as one product of two matrices: with more axes, XLA's backward pass on a CPU takes twice as long. Not so on a
    TPU, which would copy the activations to flatten them. float32 is true float32 on every platform; a TPU or GPU would
    round it by default.
    """
    if platform() == "tpu":
        return jnp.einsum(spec, x, weight, precision=precision(x.dtype))
    x_axes, weight_axes = spec.split("->")[0].split(",")
    contracted = len(set(x_axes) & set(weight_axes))
    rows, rest = x.shape[:-contracted], weight.shape[contracted:]
    inner = math.prod(weight.shape[:contracted])
    product_rows = matmul(x.reshape(-1, inner), weight.reshape(inner, -1))
    return product_rows.reshape(*rows, *rest)


def precision(dtype) -> str | None:
    """float32 in float32, where a TPU or GPU would take fewer bits."""
    return "highest" if dtype == jnp.float32 else None


def matmul(a_xmi, b_xin):
    """a @ b, [..., M, N] in the type of `a`; sums are float32."""
    if platform() == "cpu" and a_xmi.dtype == jnp.bfloat16:
        return _cpu_product(a_xmi, b_xin, -2).astype(a_xmi.dtype)
    return jnp.matmul(a_xmi, b_xin, precision=precision(a_xmi.dtype))


def matmul_transposed(a_xmi, b_xni):
    """a @ bᵀ, [..., M, N] in float32."""
    if platform() == "cpu" and a_xmi.dtype == jnp.bfloat16:
        return _cpu_product(a_xmi, b_xni, -1)
    spec = "...mi,...ni->...mn"
    return jnp.einsum(spec, a_xmi, b_xni, precision=precision(a_xmi.dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_product(a_xmi, b, axis: int):
    """The product of bfloat16 over the last axis of `a` and this one of `b`, float32.

    XLA on a CPU multiplies bfloat16 by the processor's instructions for it, at twice the rate of float32, if the result
    is float32 and the first operand lies in memory with the axis of the sum last; all else it turns into float32 first.
    So do the gradients here: their operands are bfloat16 again, and the first one is transposed in memory.
    """
    return _dot(a_xmi, b, axis)


def _forward(a_xmi, b, axis: int):
    return _dot(a_xmi, b, axis), (a_xmi, b)


def _backward(axis: int, kept, g_xmn):
    a_xmi, b = kept
    g_xmn = g_xmn.astype(a_xmi.dtype)
    first, second = (a_xmi, g_xmn) if axis == -2 else (g_xmn, a_xmi)
    of_a = _dot(g_xmn, b, -1 if axis == -2 else -2)
    return of_a.astype(a_xmi.dtype), _dot(_transposed(first), second, -2).astype(b.dtype)


_cpu_product.defvjp(_forward, _backward)


def _dot(a_xmi, b, axis: int):
    batch = tuple(range(a_xmi.ndim - 2))
    dimensions = ((a_xmi.ndim - 1,), (b.ndim + axis,)), (batch, batch)
    return jax.lax.dot_general(a_xmi, b, dimensions, preferred_element_type=jnp.float32)


def _transposed(a_xmi):
    """The last two axes exchanged in memory: the compiler would exchange those of the product instead."""
    return in_memory(jnp.swapaxes(a_xmi, -1, -2))


def in_memory(x):
    """On a CPU: `x` with its axes in memory as they are in its shape, where the compiler would only note them."""
    if platform() != "cpu" or x.dtype != jnp.bfloat16:
        return x
    return jax.lax.optimization_barrier(x[..., None])[..., 0]
