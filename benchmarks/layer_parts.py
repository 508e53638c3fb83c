"""Compares ways to compute a part of a layer, by the TPU compiler's cycles for one v5p chip; no TPU needed.

Cycles are those of the forward and the backward pass.

python -m benchmarks.layer_parts rotary      # queries of 1.7b, 72 rows: halves of heads moved, or swapped by a product
python -m benchmarks.layer_parts norms       # queries of 1.7b: mean squares by a sum, or by a product with ones
python -m benchmarks.layer_parts products    # q, k, v and gate, up of 14b, 18 rows: separate, or with joined weights
python -m benchmarks.layer_parts swiglu      # the MLP of 0.6b, 72 rows: XLA's gradient of the gate, or ours
"""

import argparse
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from f2jax.model.matmul import swap_halves
from f2jax.model.qwen3 import rms_norm
from f2jax.parallel.chips import compiler_options
from f2jax.parallel.mesh import make_mesh
from f2jax.plan.hlo import Cost, program_cost
from f2jax.plan.run import topology_devices

MESH = make_mesh(devices=topology_devices("v5p:2x2x1")[:1])
EPS, LENGTH = 1e-6, 1024


def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(MESH, PartitionSpec()))


def queries(ways):
    """Returns (ways, arguments, cotangents) for the queries: projection, norm, rotation, and the kernel's layout.

    Args:
        ways: {name: (norm, function that swaps the halves of a head)}.
    """
    rows, width, heads, head_dim = 72, 2048, 16, 128

    def build(norm, swap):
        def compute(h_btd, w_dnh, scale_h, cos, sin):
            q_btnh = norm(jnp.einsum("btd,dnh->btnh", h_btd, w_dnh), scale_h, EPS)
            turned = q_btnh.astype(jnp.float32) * cos + swap(q_btnh) * sin
            return jnp.swapaxes(turned.astype(q_btnh.dtype) * head_dim**-0.5, 1, 2)

        return compute

    angle = shape(rows, LENGTH, 1, head_dim, dtype=jnp.float32)
    weights = shape(width, heads, head_dim), shape(head_dim, dtype=jnp.float32)
    arguments = shape(rows, LENGTH, width), *weights, angle, angle
    functions = {name: build(norm, swap) for name, (norm, swap) in ways.items()}
    return functions, arguments, shape(rows, heads, LENGTH, head_dim)


def rotary():
    def move(x_btnh):
        return jnp.roll(x_btnh.astype(jnp.float32), x_btnh.shape[-1] // 2, axis=-1)

    return queries({"moved": (rms_norm, move), "by a product": (rms_norm, swap_halves)})


def norms():
    def by_product(x_btnh, scale_h, eps):
        """Normalizes with 16 bits of each square, by three products in bfloat16."""
        x32_btnh, head_dim = x_btnh.astype(jnp.float32), x_btnh.shape[-1]
        ones_hg = jnp.ones((head_dim, head_dim), jnp.float32)
        sums_btng = jnp.einsum("btnh,hg->btng", jnp.square(x32_btnh), ones_hg, precision="high")
        return (x32_btnh * jax.lax.rsqrt(sums_btng / head_dim + eps) * scale_h).astype(x_btnh.dtype)

    return queries({"by a sum": (rms_norm, swap_halves), "by a product": (by_product, swap_halves)})


def products():
    """Returns (ways, arguments, cotangents) for the products that share an input."""
    rows, width, heads, kv_heads, head_dim, mlp = 18, 5120, 40, 8, 128, 17_408

    def apart(x_btd, scale_d, q, k, v, gate, up):
        h_btd = rms_norm(x_btd, scale_d, EPS)
        qkv = [jnp.einsum("btd,dnh->bnth", h_btd, weight) for weight in (q, k, v)]
        h_btd = rms_norm(x_btd + 1, scale_d, EPS)
        return qkv, jax.nn.silu(jnp.einsum("btd,df->btf", h_btd, gate)) * jnp.einsum("btd,df->btf", h_btd, up)

    def joined(x_btd, scale_d, q, k, v, gate, up):
        h_btd = rms_norm(x_btd, scale_d, EPS)
        qkv = jnp.einsum("btd,dnh->bnth", h_btd, jnp.concatenate([q, k, v], axis=1))
        h_btd = rms_norm(x_btd + 1, scale_d, EPS)
        wide = jnp.einsum("btd,df->btf", h_btd, jnp.concatenate([gate, up], axis=1))
        gate_btf, up_btf = jnp.split(wide, 2, axis=-1)
        return jnp.split(qkv, [heads, heads + kv_heads], axis=1), jax.nn.silu(gate_btf) * up_btf

    weights = [shape(width, n, head_dim) for n in (heads, kv_heads, kv_heads)] + [shape(width, mlp)] * 2
    arguments = shape(rows, LENGTH, width), shape(width, dtype=jnp.float32), *weights
    heads_of = [shape(rows, n, LENGTH, head_dim) for n in (heads, kv_heads, kv_heads)]
    return {"apart": apart, "joined": joined}, arguments, (heads_of, shape(rows, LENGTH, mlp))


def swiglu():
    """Returns (ways, arguments, cotangents) for the products of an MLP and the gate between them."""
    rows, width, mlp = 72, 1024, 3072

    def plain(gate_btf, up_btf):
        return jax.nn.silu(gate_btf) * up_btf

    def ours(apart: bool):
        """Rounds each gradient once; `apart` keeps it separate from the product that its own gradient comes from."""

        def forward(gate_btf, up_btf):
            return plain(gate_btf, up_btf), (gate_btf, up_btf)

        def backward(saved, gradient_btf):
            if apart:
                gradient_btf = jax.lax.optimization_barrier(gradient_btf)
            gate_btf, up_btf, gradient_btf = (x.astype(jnp.float32) for x in (*saved, gradient_btf))
            share_btf = jax.nn.sigmoid(gate_btf)
            slope_btf = share_btf * (1 + gate_btf * (1 - share_btf))
            pair = gradient_btf * up_btf * slope_btf, gradient_btf * gate_btf * share_btf
            return tuple(x.astype(saved[0].dtype) for x in pair)

        gated = jax.custom_vjp(plain)
        gated.defvjp(forward, backward)
        return gated

    def build(gated):
        def compute(h_btd, gate, up, down):
            wide = (jnp.einsum("btd,df->btf", h_btd, weight) for weight in (gate, up))
            return jnp.einsum("btf,fd->btd", gated(*wide), down)

        return compute

    ways = {"XLA's": plain, "ours": ours(apart=False), "ours, apart from the product before": ours(apart=True)}
    arguments = shape(rows, LENGTH, width), shape(width, mlp), shape(width, mlp), shape(mlp, width)
    return {name: build(gated) for name, gated in ways.items()}, arguments, shape(rows, LENGTH, width)


def cost(way, arguments, cotangents, changes: list[str]) -> Cost:
    """Returns the cost of a function and its gradients, with the options of train steps."""

    def both(arguments, cotangents):
        out, back = jax.vjp(way, *arguments)
        return out, back(cotangents)

    with jax.set_mesh(MESH):
        options = compiler_options(MESH.devices.flat[0].device_kind, arguments[0].shape[-1], changes)
        function = jax.jit(both, compiler_options=options)
        return program_cost(function.lower(arguments, cotangents).compile().as_text())


if __name__ == "__main__":
    parts = {"rotary": rotary, "norms": norms, "products": products, "swiglu": swiglu}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=parts)
    parser.add_argument("--compiler-option", action="append", default=[], help="NAME=VALUE of XLA; NAME= removes one")
    args = parser.parse_args()
    ways, arguments, cotangents = parts[args.part]()
    for name, way in ways.items():
        found = cost(way, arguments, cotangents, args.compiler_option)
        print(
            f"{name}: {found.cycles / 1e6:.1f} million cycles, {found.products / 1e6:.1f} of them products", flush=True
        )
