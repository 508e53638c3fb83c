"""Cycles of the layer loop, forward and backward, as estimated by the TPU compiler for one chip; no TPU needed.

This is the figure to compare with other code: it has no exchanges, optimizer or loss. Attention kernels have no
estimate.

python -m benchmarks.layer_cycles --size 14b --remat full mlp
"""

import argparse
import os

LAYERS = 3  # the loop's cycles do not depend on how often it runs


def program(size_name: str, remat: str, rows: int, length: int, topology: str, changes: list[str]) -> str:
    """Returns the optimized HLO of the gradient of the backbone for one chip, with the options of its train steps."""
    import jax
    import jax.numpy as jnp
    from flax import linen as nn
    from jax.sharding import NamedSharding, PartitionSpec

    from f2jax.model.qwen3 import Qwen3, abstract_params
    from f2jax.model.sizes import size
    from f2jax.parallel.chips import compiler_options
    from f2jax.parallel.mesh import make_mesh
    from f2jax.plan.run import topology_devices

    mesh = make_mesh(devices=topology_devices(topology)[:1])
    architecture = size(size_name, layers=LAYERS, vocab_size=512)
    model = Qwen3(architecture, dtype=jnp.bfloat16, remat=remat)

    def whole(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

    def loss(params, tokens_bt, segments_bt, positions_bt):
        hidden_btd = model.apply({"params": params}, tokens_bt, segments_bt, positions_bt)
        return jnp.sum(jnp.square(hidden_btd.astype(jnp.float32)))

    params = jax.tree.map(lambda x: whole(x.shape, x.dtype), nn.meta.unbox(abstract_params(architecture)))
    row_bt = whole((rows, length), jnp.int32)
    with jax.set_mesh(mesh):
        options = compiler_options(mesh.devices.flat[0].device_kind, architecture.width, changes)
        gradient = jax.jit(jax.grad(loss), compiler_options=options)
        return gradient.lower(params, row_bt, row_bt, row_bt).compile().as_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="14b")
    parser.add_argument("--remat", nargs="+", default=["full", "mlp", "dots"])
    parser.add_argument("--rows", type=int, default=18, help="packed rows of a chip")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--compiler-option", action="append", default=[], help="NAME=VALUE of XLA; NAME= removes one")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from f2jax.plan.hlo import loops

    print(f"{args.size}, {args.rows} rows of {args.length} on {args.topology}: millions of cycles of a layer")
    for remat in args.remat:
        forward, backward = (
            cost
            for runs, cost in loops(
                program(args.size, remat, args.rows, args.length, args.topology, args.compiler_option)
            )
            if runs > 1
        )
        parts = {name: round(cycles / 1e6, 1) for name, cycles in (forward.by_scope | backward.by_scope).items()}
        print(f"{remat:<5} {forward.cycles / 1e6:6.1f} + {backward.cycles / 1e6:6.1f}  {parts}", flush=True)


if __name__ == "__main__":
    main()
