"""Measures the seconds from an empty process to the first vector: f2jax and sentence-transformers, same package.

python -m benchmarks.cold_start --model demo/release [--rounds 5]

Needs the `bench` extra. Each run is a new process, and the tools take turns. f2jax compiles its programs there, or
finds them in JAX's cache in JAX_COMPILATION_CACHE_DIR.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report

TEXT = "how do I open a file?"
OURS = "from f2jax import Embedder; Embedder.from_pretrained({model!r}).encode([{text!r}])"
PEER = "from sentence_transformers import SentenceTransformer as S; S({model!r}, device='cpu').encode([{text!r}])"


def seconds(program: str, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        programs = {
            "f2jax": (OURS, {}),
            "f2jax, compiled before": (OURS, cached),
            "sentence-transformers": (PEER, {"HF_HUB_OFFLINE": "1"}),
        }
        times = {name: [] for name in programs}
        for turn in range(args.rounds + 1):
            for name, (program, environment) in programs.items():
                taken = seconds(program.format(model=args.model, text=TEXT), environment)
                if turn:  # the first turn fills the page cache and the cache of programs
                    times[name].append(taken)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name}: {value:.2f} s, ratio {median['sentence-transformers'] / value:.2f}")
    peer = {"sentence-transformers": median.pop("sentence-transformers")}
    report.add(args.report, "first vector of a new process", "s", median, peer, Path(args.model).name)


if __name__ == "__main__":
    main()
