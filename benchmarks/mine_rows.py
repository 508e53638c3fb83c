"""Measures seconds and memory of `f2jax mine` for many rows, from rows and vectors in files to a folder of rows.

python -m benchmarks.mine_rows [--rows 100000 200000 400000] [--source 10000] [--dim 16] [--negatives 24] [--brought 0]

Texts are short, rows bring `--brought` negatives, and there are `--source` of them in each source. Each number of rows
has a process of its own; `anonymous` is its peak memory without the files that it maps, and `peak` includes them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peaks import highest, memory_kib
from f2jax.mine.options import MiningInput, MiningOptions
from f2jax.mine.run import FileVectors, mine_folder

EVERY = 0.05  # seconds between measurements of the memory


def vectors(queries: int, documents: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit vectors: query i is near document i, and the documents form loose clusters."""
    rng = np.random.default_rng(0)

    def unit(x):
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    centres = rng.normal(size=(documents // 50 + 1, dim))
    d = unit(centres[rng.integers(len(centres), size=documents)] + rng.normal(size=(documents, dim)))
    return unit(d[np.arange(queries) % documents] + 0.06 * rng.normal(size=(queries, dim))), d


def row(number: int, brought: int) -> dict:
    negatives = [f"negative {n} of document {number}" for n in range(brought)]
    return {"query": f"query {number}", "positive": f"document {number}", "negatives": negatives}


def write_rows(folder: Path, rows: int, of_source: int, dim: int, brought: int) -> None:
    """Writes rows, each with its own texts, in a file for each source, and the vectors of queries and documents."""
    (folder / "rows").mkdir()
    for start in range(0, rows, of_source):
        lines = (json.dumps(row(i, brought)) + "\n" for i in range(start, start + of_source))
        (folder / f"rows/source{start // of_source}.jsonl").write_text("".join(lines))
    for name, x_ie in zip("qd", vectors(rows, rows, dim), strict=True):
        np.save(folder / f"{name}.npy", x_ie)


def measure(folder: Path, negatives: int) -> str:
    """Mines, and returns the time and memory that it took."""
    options = MiningOptions(top=negatives * 2, skip=5, keep=negatives, max_score=None, relative=None)
    given = MiningInput((f"{folder}/rows",))
    with highest(lambda: memory_kib("RssAnon"), EVERY) as most:
        start = time.perf_counter()
        summary = mine_folder(given, FileVectors(f"{folder}/q.npy", f"{folder}/d.npy"), f"{folder}/mined", options)
        seconds = time.perf_counter() - start
    memory = f"{most[0] // 1024:6,} MB anonymous  {memory_kib('VmHWM') // 1024:6,} MB peak"
    files = len(list((folder / "mined").glob("*.parquet")))
    return f"{summary.written:9,} rows in {files} files  {seconds:6.1f} s  {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 400_000])
    parser.add_argument("--source", type=int, default=10_000, help="rows of a source")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--negatives", type=int, default=24, help="negatives of each row in the result")
    parser.add_argument("--brought", type=int, default=0, help="negatives that each row brings")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(measure(args.measure, args.negatives))
        return
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), rows, min(args.source, rows), args.dim, args.brought)
            command = [sys.executable, "-m", "benchmarks.mine_rows", "--measure", folder]
            done = subprocess.run(
                [*command, "--negatives", str(args.negatives)],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
