"""Compares search in two passes with exact search and graph indexes: time per query, recall@10 and memory.

python -m benchmarks.search --scratch FOLDER [--documents 1000000] [--queries 64] [--rounds 3] [--decay 0.75]

Needs the `bench` extra. All search the same vectors, made like those of a Matryoshka model: Gaussian, with variance
i ** -decay in coordinate i, averaged between powers of two, since a Matryoshka loss only orders these blocks. A query
is a document plus noise of the same spectrum, half as strong. They are written in blocks, from a seed, as float32 files
in the scratch folder, where the next run finds them. Contestants take turns, with all queries at once. The table has
medians, and ratios to the fastest exact search, by wall time and by the CPU time of all threads, which other work on
the machine disturbs less. The time to build an index is not included, but reported separately.
"""

import argparse
import gc
import os
import statistics
import time
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "passive"  # for faiss, so that waiting threads take no CPU time

import faiss
import numpy as np

from benchmarks import report
from f2jax.inference.top_k import TopK
from f2jax.search.two_pass import Search, SearchOptions, SearchResult, recall

WIDTH = 1_024
K = 10
PIECE = 16_384  # vectors to make at once
NOISE = 0.5
OURS = {
    "f2jax 64 dims float32, 200 candidates": SearchOptions(K, 64, 200),
    "f2jax 64 dims float32, 500 candidates": SearchOptions(K, 64, 500),
    "f2jax 64 dims int8, 200 candidates": SearchOptions(K, 64, 200, "int8"),
    "f2jax 128 dims int8, 200 candidates": SearchOptions(K, 128, 200, "int8"),
    "f2jax 256 dims binary, 200 candidates": SearchOptions(K, 256, 200, "binary"),
}


def spectrum(decay: float) -> np.ndarray:
    """Returns the standard deviation of each coordinate."""
    variance = np.arange(1, WIDTH + 1) ** -decay
    for start, stop in zip([0, *(2**n for n in range(3, 10))], [2**n for n in range(3, 11)], strict=True):
        variance[start:stop] = variance[start:stop].mean()
    return np.sqrt(variance).astype(np.float32)


def make(folder: Path, documents: int, queries: int, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (queries, documents) as unit vectors; documents stay in their file."""
    path, scale = folder / f"documents-{documents}-{decay}.npy", spectrum(decay)
    if not path.exists():
        part = path.with_suffix(".part")
        array = np.lib.format.open_memmap(part, "w+", np.float32, (documents, WIDTH))
        for start in range(0, documents, PIECE):
            x = np.random.default_rng([0, start]).standard_normal((min(PIECE, documents - start), WIDTH), np.float32)
            array[start : start + len(x)] = unit(x * scale)
        array.flush()
        part.rename(path)
    d = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(1)
    noise = unit(rng.standard_normal((queries, WIDTH), np.float32) * scale)
    return unit(d[np.sort(rng.choice(documents, queries, replace=False))] + NOISE * noise), d


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def ours(d: np.ndarray, options: SearchOptions):
    search = Search(d, options)
    return lambda q: search(q)


def exact(d: np.ndarray):
    search = TopK(d)
    return lambda q: SearchResult(*search(q, K))


def of_faiss(index, d: np.ndarray):
    for start in range(0, len(d), PIECE):
        index.add(d[start : start + PIECE])
    return lambda q: SearchResult(*index.search(q, K))


def graph(d: np.ndarray, beam: int):
    index = faiss.IndexHNSWSQ(WIDTH, faiss.ScalarQuantizer.QT_fp16, 16, faiss.METRIC_INNER_PRODUCT)
    index.train(d[:1])
    index.hnsw.efConstruction, index.hnsw.efSearch = 40, beam
    return of_faiss(index, d)


def resident() -> float:
    """Returns the GB of this process that are not pages of a file."""
    status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(status.split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for the vectors: 4 GB a million")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decay", type=float, default=0.75)
    parser.add_argument("--beam", type=int, default=256, help="efSearch of the graph index")
    parser.add_argument(
        "--without", nargs="+", default=[], help="contestants to leave out, by the start of their names"
    )
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)

    q, d = make(args.scratch, args.documents, args.queries, args.decay)
    energy = (spectrum(args.decay) ** 2)[:64].sum() / (spectrum(args.decay) ** 2).sum()
    makers = {"f2jax exact": exact, "faiss flat": lambda d: of_faiss(faiss.IndexFlatIP(WIDTH), d)}
    makers |= {name: lambda d, options=options: ours(d, options) for name, options in OURS.items()}
    makers["faiss HNSW"] = lambda d: graph(d, args.beam)
    makers = {name: make for name, make in makers.items() if not name.startswith(tuple(args.without))}

    ready, built, memory, found = {}, {}, {}, {}
    for name, make_one in makers.items():
        before, start = resident(), time.perf_counter()
        ready[name] = make_one(d)
        found[name] = ready[name](q)  # f2jax builds and compiles here
        built[name] = time.perf_counter() - start
        gc.collect()
        memory[name] = resident() - before
        print(f"{name}: ready after {built[name]:.1f} s", flush=True)
    seconds, cpu = ({name: [] for name in ready} for _ in range(2))
    for _ in range(args.rounds):
        for name, search in ready.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            found[name] = search(q)
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)

    median, cpu_median = ({name: statistics.median(some) for name, some in x.items()} for x in (seconds, cpu))
    bar = min((name for name in ready if name in ("f2jax exact", "faiss flat")), key=cpu_median.get)
    print(f"{args.documents:,} documents x {WIDTH}, {args.queries} queries, medians of {args.rounds}")
    print(f"decay {args.decay}: {energy:.0%} of the energy in the first 64 dimensions; ratios to {bar}\n")
    print("| | ms a query | times as fast | CPU ms a query | times less CPU | recall@10 | ready after | memory |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in ready:
        hit = recall(found[name], found[bar])
        print(
            f"| {name} | {1e3 * median[name] / len(q):.2f} | {median[bar] / median[name]:.1f} "
            f"| {1e3 * cpu_median[name] / len(q):.2f} | {cpu_median[bar] / cpu_median[name]:.1f} | {hit:.3f} "
            f"| {built[name]:.0f} s | {memory[name]:.2f} GB |"
        )
        if name in OURS:
            peers = {peer: 1e3 * cpu_median[peer] / len(q) for peer in ready if peer not in OURS}
            conditions = f"{args.documents:,} documents x {WIDTH}, recall@{K} {hit:.3f}"
            mine = {name: 1e3 * cpu_median[name] / len(q)}
            report.add(args.report, "search, CPU time a query", "ms", mine, peers, conditions)


if __name__ == "__main__":
    main()
