"""Profiles a training step on this machine's GPU: the time of its kernels by part of the model and by kind.

python -m benchmarks.step_profile --size 0.6b --data train.parquet --tokenizer FOLDER --remat dots [--unroll 28]

Needs the `bench` extra; rows and options are those of `benchmarks.training`. Kernels are timed individually, so CUDA
graphs are off, and the step takes slightly longer than without a profiler.
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="

import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax

from benchmarks import training
from f2jax.model.sizes import size
from f2jax.plan.hlo import parse_hlo, scope

STEPS = 3
KINDS = {  # by parts of kernel names; the first match counts
    "attention kernels": re.compile("sdpa|fmha|cudnn"),
    "products": re.compile("nvjet|gemm|cutlass"),
    "copies": re.compile("^Mem"),
}


def kernels(folder: str) -> list[tuple[str, str, float]]:
    """Returns (name, HLO operation, nanoseconds) for each kernel in a trace in `folder`."""
    path = next(Path(folder).rglob("*.xplane.pb"))
    planes = [x for x in jax.profiler.ProfileData.from_file(str(path)).planes if x.name.startswith("/device:GPU")]
    events = [x for plane in planes for line in plane.lines if line.name.startswith("Stream") for x in line.events]
    return [(x.name, dict(x.stats).get("hlo_op", ""), x.duration_ns) for x in events]


def main() -> None:
    parser = training.arguments(__doc__.split("\n")[0])
    parser.add_argument("--top", type=int, default=20, help="kernels to list")
    args = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit("There is no GPU here; on a TPU, the plan says where the time should go: f2jax plan.")
    architecture = replace(size(args.size), max_length=args.max_length)
    rows = training.read_rows(args, architecture)
    run = training.ours(training.make_config(args, "bfloat16"), architecture, rows, keep=False)
    for _ in range(STEPS):
        run.step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                run.step()
        seen = kernels(folder)
    computations, _ = parse_hlo(run.text())
    scopes = {x.name: scope(x) for body in computations.values() for x in body}
    by_part, by_kernel = Counter(), Counter()
    for name, op, taken in seen:
        kind = next((kind for kind, pattern in KINDS.items() if pattern.search(name)), "the rest")
        scope = scopes.get(op, "forward other")
        by_part[scope, kind] += taken / 1e6 / STEPS
        by_kernel[name, scope] += taken / 1e6 / STEPS
    print(f"{args.size}: {sum(by_part.values()):.1f} ms a step in kernels; {jax.devices()[0].device_kind}\n")
    print("| part | kind | ms |\n|---|---|---:|")
    for (scope, kind), taken in by_part.most_common():
        print(f"| {scope} | {kind} | {taken:.1f} |")
    print("\n| kernel | part | ms |\n|---|---|---:|")
    for (name, scope), taken in by_kernel.most_common(args.top):
        print(f"| {name[:60]} | {scope} | {taken:.1f} |")


if __name__ == "__main__":
    main()
