"""Estimates a step of another tool's program as `f2jax plan` does of ours, to hold the estimate against a real step.

The tool compiles for a TPU that need not be there, and XLA writes the program down:
XLA_FLAGS="--xla_dump_to=DIR --xla_dump_hlo_as_text=true" python -m maxtext.trainers.pre_train.train_compile …

python -m benchmarks.program_time DIR/*.jit_train_step.*.after_codegen.txt --topology v5p:4x4x4 --mesh 16 4 --tflop 2394
"""

import argparse
import os
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", type=Path, help="file that ends with .after_codegen.txt")
    parser.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="what it was compiled for")
    parser.add_argument("--mesh", type=int, nargs="+", required=True, help="lengths of the mesh's axes, in their order")
    parser.add_argument(
        "--tflop", type=float, help="10¹² operations of a device that the model needs in a step, for MFU"
    )
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from jax.experimental import mesh_utils
    from jax.sharding import Mesh

    from f2jax.parallel.chips import chip_of
    from f2jax.plan.hlo import program_cost
    from f2jax.plan.run import device_coordinates, topology_devices
    from f2jax.plan.step_time import kernel_seconds, step_seconds

    chip = chip_of(args.topology)
    devices = mesh_utils.create_device_mesh(args.mesh, topology_devices(args.topology))
    mesh = Mesh(devices, [f"axis{i}" for i in range(len(args.mesh))])
    cost = program_cost(args.program.read_text())
    seconds = step_seconds(cost, chip, device_coordinates(mesh))
    kernels = sum(runs * kernel_seconds(name, shape, chip) for name, shape, runs in cost.kernels)
    print(f"step {seconds.step:.3f} s: {seconds.compute:.3f} computing, of which {cost.products / chip.clock:.3f} in")
    print(f"matrix products and {kernels:.3f} in {sum(runs for *_, runs in cost.kernels):.0f} runs of kernels;")
    print(f"exchanges {seconds.links:.3f} s beside that, and {seconds.exposed:.3f} s that it waits for")
    if args.tflop:
        rate = args.tflop * 1e12 / seconds.step
        print(f"{rate / 1e12:.0f} TFLOP/s a device, MFU {rate / chip.peak:.1%}")


if __name__ == "__main__":
    main()
