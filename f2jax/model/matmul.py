"""Matrix products, in the form that each platform is fast at."""

import functools
import math

import jax
import jax.numpy as jnp

from f2jax.parallel.sharding import platform


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
    """a @ b of one type and with the same leading axes, [..., M, N] in that type; sums are float32."""
    if platform() == "cpu" and a_xmi.dtype == jnp.bfloat16:
        return _cpu_product(a_xmi, b_xin, False).astype(a_xmi.dtype)
    return jnp.matmul(a_xmi, b_xin, precision=precision(a_xmi.dtype))


def matmul_transposed(a_xmi, b_xni):
    """a @ bᵀ of one type and with the same leading axes, [..., M, N] in float32."""
    if platform() == "cpu" and a_xmi.dtype == jnp.bfloat16:
        return _cpu_product(a_xmi, b_xni, True)
    spec = "...mi,...ni->...mn"
    return jnp.einsum(spec, a_xmi, b_xni, precision=precision(a_xmi.dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_product(a_xmi, b, transposed: bool):
    """a @ b, or a @ bᵀ, of bfloat16, in float32.

    XLA on a CPU multiplies bfloat16 by the processor's instructions for it, where there are some, if the result is
    float32 and the first operand lies in memory with the axis of the sum last; all else it turns into float32 first. So
    do the gradients here: what comes back is rounded to bfloat16, and the first operand is transposed in memory.
    Forward-mode derivatives are not there.
    """
    return _dot(a_xmi, b, transposed)


def _forward(a_xmi, b, transposed: bool):
    return _dot(a_xmi, b, transposed), (a_xmi, b)


def _backward(transposed: bool, kept, g_xmn):
    a_xmi, b = kept
    g_xmn = g_xmn.astype(a_xmi.dtype)
    first, second = (g_xmn, a_xmi) if transposed else (a_xmi, g_xmn)
    of_a, of_b = _dot(g_xmn, b, not transposed), _dot(_swapped(first), second, False)
    return of_a.astype(a_xmi.dtype), of_b.astype(b.dtype)


_cpu_product.defvjp(_forward, _backward)


def _dot(a_xmi, b, transposed: bool):
    batch = tuple(range(a_xmi.ndim - 2))
    dimensions = ((a_xmi.ndim - 1,), (b.ndim - (1 if transposed else 2),)), (batch, batch)
    return jax.lax.dot_general(a_xmi, b, dimensions, preferred_element_type=jnp.float32)


def _swapped(a_xmi):
    """The last two axes exchanged in memory: the compiler would exchange those of the product instead."""
    return in_memory(jnp.swapaxes(a_xmi, -1, -2))


def in_memory(x):
    """On a CPU: `x` with its axes in memory as they are in its shape, where the compiler would only note them."""
    if platform() != "cpu" or x.dtype != jnp.bfloat16:
        return x
    return jax.lax.optimization_barrier(x[..., None])[..., 0]
