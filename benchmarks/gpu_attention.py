"""Times attention on this machine's GPU, forward and backward: the kernel that skips tiles, and the others.

python -m benchmarks.gpu_attention [--kernels triton cudnn xla] [--tiles 64,4 128,8]

Rows are packed with texts of log-normal lengths (mean 246 tokens, cut at 784); heads are those of 0.6b. Kernels take
turns, and times are medians in milliseconds. `triton` has a line for each of `--tiles`: positions along a side of a
tile, and warps of a program. Differences are the largest ones of values and gradients from plain XLA in float32, as
shares of its largest number.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import report
from f2jax.data.packing import pack
from f2jax.model import attention_triton
from f2jax.model.attention import attention

MEAN, SIGMA, LONGEST, HEAD_DIM = 246, 0.6, 784, 128


def packed_segments(rows: int, length: int) -> np.ndarray:
    """Returns the segments [B, T] of full rows."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, 8 * rows * length // MEAN)
    lengths = np.clip(lengths, 8, min(LONGEST, length)).astype(int)
    segments_bt = pack([np.full(n, i, np.int32) for i, n in enumerate(lengths)], length, 0).segments_bt
    return segments_bt[:rows]


def both_passes(kernel: str, segments_bt) -> Callable:
    """Returns a function of (q, k, v, gradient) that gives (values, gradients of q, k and v)."""

    def compute(q, k, v, dout):
        out, back = jax.vjp(lambda q, k, v: attention(q, k, v, segments_bt, kernel), q, k, v)
        return out, *back(dout.astype(out.dtype))

    return compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", nargs="+", default=["triton", "cudnn", "xla"], help="the last one is the base")
    parser.add_argument("--tiles", nargs="+", default=["64,4", "64,8", "128,4", "128,8"])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--heads", type=int, nargs=2, default=[16, 8], help="of queries, and of keys and values")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    segments_bt = packed_segments(args.rows, args.length)
    seen = (segments_bt > 0)[..., None, None]
    rng = np.random.default_rng(1)
    heads, kv_heads = args.heads
    arrays = [
        jnp.asarray(rng.normal(size=(*segments_bt.shape, n, HEAD_DIM)) * seen, jnp.bfloat16)
        for n in (heads, kv_heads, kv_heads, heads)
    ]
    arrays[0] *= HEAD_DIM**-0.5
    exact = jax.jit(both_passes("xla", segments_bt))(*(x.astype(jnp.float32) for x in arrays))
    ways, failed = {}, {}
    for kernel in args.kernels:
        for tile in args.tiles if kernel.startswith("triton") else [""]:
            name = f"{kernel} {tile}".strip()
            if tile:
                attention_triton.BLOCK, attention_triton.WARPS = (int(number) for number in tile.split(","))
            try:
                ways[name] = jax.jit(both_passes(kernel, segments_bt)).lower(*arrays).compile()
                found = jax.block_until_ready(ways[name](*arrays))
            except Exception as error:  # a tile too large for the GPU must not end the run
                failed[name] = str(error).splitlines()[0][:100]
                ways.pop(name, None)
                continue
            worst = [np.abs((a - b) * seen).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]
            print(f"{name}: differences {', '.join(f'{x:.1e}' for x in worst)}", flush=True)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(args.rounds), leave=False):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way(*arrays))
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print("| attention | ms |\n|---|---:|")
    for name, taken in medians.items():
        print(f"| {name} | {taken:.3f} |")
    ours = {name: taken for name, taken in medians.items() if name.startswith("triton")}
    peers = {name: taken for name, taken in medians.items() if name not in ours}
    conditions = f"{args.rows} rows of {args.length}, {heads} and {kv_heads} heads"
    report.add(args.report, "attention, both passes", "ms", ours, peers, conditions)


if __name__ == "__main__":
    main()
