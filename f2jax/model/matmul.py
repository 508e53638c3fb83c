"""Products of matrices and of gates, each in the form that is fastest on the platform.

Of the model, only this module and `attention` ask which platform a computation is compiled for. In the names of arrays,
x stands for any leading axes, and m, k and n for the rows, the contracted axis and the columns of a product.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from f2jax.parallel import sharding

FEW_ROWS = 64  # up to which a CPU multiplies the weights by the activations, and not the other way round


def project(spec: str, x, weight):
    """Returns `jnp.einsum(spec, x, weight)`, summed over the last axes of `x` and the first or last of the weight.

    Except on a TPU, which would copy the activations to flatten them, this is a product of two matrices, because with
    more axes XLA's backward pass takes twice as long on a CPU. float32 stays float32 on every platform; by default, a
    TPU or a GPU would round the operands.

    >>> q_btnh = project("btd,dnh->btnh", x_btd, query_dnh)
    """
    if sharding.platform() == "tpu":
        return jnp.einsum(spec, x, weight, precision=precision(x.dtype))
    x_axes, weight_axes, contracted = operand_axes(spec)
    last = x_axes.endswith(weight_axes[-contracted:])
    if last:
        outputs, inner = weight.shape[:-contracted], math.prod(weight.shape[-contracted:])
        matrix = weight.reshape(-1, inner)
    else:
        outputs, inner = weight.shape[contracted:], math.prod(weight.shape[:contracted])
        matrix = weight.reshape(inner, -1)
    product = matmul(x.reshape(-1, inner), matrix, last)
    return product.reshape(*x.shape[:-contracted], *outputs)


def operand_axes(spec: str) -> tuple[str, str, int]:
    """Returns the axes of both operands of an einsum, and how many of them it sums over.

    >>> operand_axes("btnh,nhd->btd")
    ('btnh', 'nhd', 2)
    """
    x_axes, weight_axes = spec.split("->")[0].split(",")
    return x_axes, weight_axes, len(set(x_axes) & set(weight_axes))


def precision(dtype) -> str | None:
    """Returns the precision that keeps float32 products in float32, for which a TPU or a GPU would use fewer bits."""
    return "highest" if dtype == jnp.float32 else None


def matmul(a_xmk, b, transposed: bool = False):
    """Returns a @ b, or a @ bᵀ, [..., M, N] in the common type of the operands, with sums in float32."""
    if transposed:
        if a_xmk.dtype == jnp.float32 and a_xmk.ndim == 2 and len(a_xmk) <= FEW_ROWS and sharding.platform() == "cpu":
            return _few_rows(a_xmk, b)
        return float32_product(a_xmk, b, transposed).astype(a_xmk.dtype)
    if sharding.platform() == "cpu" and a_xmk.dtype == jnp.bfloat16:
        return _cpu_product(a_xmk, b).astype(a_xmk.dtype)
    return jnp.matmul(a_xmk, b, precision=precision(a_xmk.dtype))


def _few_rows(a_mk, b_nk):
    """Returns a @ bᵀ of float32, turned around: on a CPU, XLA is faster if the weights are the first operand."""
    a_km = jax.lax.optimization_barrier(a_mk.T[..., None])[..., 0]
    return jax.lax.optimization_barrier(float32_product(b_nk, a_km)).T


def float32_product(a_xmk, b, transposed: bool = False):
    """Returns a @ b, or a @ bᵀ, [..., M, N] in float32, of two operands of the same type.

    Unlike `matmul`, it has JAX's own gradient; it is meant for functions that define theirs.
    """
    batch = tuple(range(a_xmk.ndim - 2))
    dimensions = ((a_xmk.ndim - 1,), (b.ndim - (1 if transposed else 2),)), (batch, batch)
    return jax.lax.dot_general(
        a_xmk, b, dimensions, precision=precision(a_xmk.dtype), preferred_element_type=jnp.float32
    )


def transposed_product(a_xkm, b_xkn):
    """Returns aᵀ @ b, [..., M, N] in float32, of two operands of the same type; for functions with their own gradient.

    In bfloat16, a CPU needs one of the operands transposed in memory. It is the narrower one, as that takes less time.
    """
    if a_xkm.shape[-1] <= b_xkn.shape[-1] or a_xkm.dtype != jnp.bfloat16 or sharding.platform() != "cpu":
        return float32_product(contiguous_on_cpu(jnp.swapaxes(a_xkm, -1, -2)), b_xkn)
    out_xnm = float32_product(contiguous_on_cpu(jnp.swapaxes(b_xkn, -1, -2)), a_xkm)
    return jnp.swapaxes(jax.lax.optimization_barrier(out_xnm), -1, -2)  # XLA would turn the product around again


def swap_halves(x_btnh):
    """Returns the heads with their second half before the first, in float32.

    In bfloat16, a TPU, which would have to move lanes for this, and a CPU, which would copy both halves, multiply by a
    permutation matrix instead. That is exact for finite numbers; on a CPU, the gradient is rounded to bfloat16.
    """
    head_dim = x_btnh.shape[-1]
    if x_btnh.dtype != jnp.bfloat16 or sharding.platform() not in ("tpu", "cpu"):
        return jnp.roll(x_btnh.astype(jnp.float32), head_dim // 2, axis=-1)
    if sharding.platform() == "cpu":
        return _cpu_swap(x_btnh)
    return jnp.matmul(x_btnh, _swap_matrix(head_dim), preferred_element_type=jnp.float32)


def in_memory_order(x, axes: tuple[int, ...], names: tuple[str | None, ...]):
    """Returns `x`; on a TPU, it and its gradient lie in memory in the order of these axes, the last one contiguous.

    Left to itself, the compiler chooses the order of an activation that the forward pass keeps without regard to the
    backward pass, which then copies it into another one.

    >>> a_btnh = in_memory_order(a_btnh, (0, 2, 1, 3), ("rows", None, "heads"))  # [B, N, T, H] in memory

    Args:
        names: how the first axes are split over the devices, see `sharding.ACTIVATION_AXES`.
    """
    if sharding.platform() != "tpu":
        return x

    def constrained(x):
        return with_layout_constraint(x, Layout(axes))

    if jax.sharding.get_abstract_mesh().empty:
        return constrained(x)
    spec = sharding.activation_spec(x.shape, names)  # on each device, because the compiler would gather the whole array
    return jax.shard_map(constrained, in_specs=spec, out_specs=spec, check_vma=False)(x)


def swiglu(gate_btf, up_btf):
    """Returns silu(gate) × up, in the type of the gate (https://arxiv.org/abs/2002.05202).

    In bfloat16, a CPU computes it in float32 and rounds once, since rounding after each operation takes longer than the
    operations; the backward pass computes the sigmoid again, so that only the operands are kept.
    """
    if gate_btf.dtype != jnp.bfloat16 or sharding.platform() != "cpu":
        return jax.nn.silu(gate_btf) * up_btf

    @jax.checkpoint
    def in_float32(gate_btf, up_btf):
        return (jax.nn.silu(gate_btf.astype(jnp.float32)) * up_btf.astype(jnp.float32)).astype(gate_btf.dtype)

    return in_float32(gate_btf, up_btf)


@jax.custom_vjp
def _cpu_swap(x_btnh):
    """Returns the heads with swapped halves, in float32; the gradient needs nothing of what is swapped."""
    head_dim = x_btnh.shape[-1]
    return float32_product(x_btnh.reshape(-1, head_dim), _swap_matrix(head_dim)).reshape(x_btnh.shape)


_cpu_swap.defvjp(lambda x: (_cpu_swap(x), None), lambda _, g: (_cpu_swap(g.astype(jnp.bfloat16)).astype(jnp.bfloat16),))


def _swap_matrix(head_dim: int):
    return jnp.roll(jnp.eye(head_dim, dtype=jnp.bfloat16), head_dim // 2, axis=0)


@jax.custom_vjp
def _cpu_product(a_xmk, b_xkn):
    """Returns a @ b in float32, of bfloat16 operands.

    XLA on a CPU uses the processor's bfloat16 instructions, if it has them, only where the result is float32 and the
    contracted axis of the first operand is the last one in memory; all other products are converted to float32 first.
    The gradients are therefore computed in the same form: the incoming gradient is rounded to bfloat16, and an operand
    is transposed in memory. There are no forward-mode derivatives.
    """
    return float32_product(a_xmk, b_xkn)


def _forward(a_xmk, b_xkn):
    return float32_product(a_xmk, b_xkn), (a_xmk, b_xkn)


def _backward(operands, g_xmn):
    a_xmk, b_xkn = operands
    g_xmn = g_xmn.astype(a_xmk.dtype)
    a_gradient = float32_product(g_xmn, b_xkn, transposed=True)
    return a_gradient.astype(a_xmk.dtype), transposed_product(a_xmk, g_xmn).astype(b_xkn.dtype)


_cpu_product.defvjp(_forward, _backward)


def contiguous_on_cpu(x):
    """Returns `x`; on a CPU, bfloat16 is laid out in memory in the order of its axes.

    Otherwise the compiler would keep the old layout of a transposed array and transpose the product instead.
    """
    if sharding.platform() != "cpu" or x.dtype != jnp.bfloat16:
        return x
    return jax.lax.optimization_barrier(x[..., None])[..., 0]
