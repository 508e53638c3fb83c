"""Compares seconds and memory of f2jax and sentence-transformers for mining hard negatives, on the same vectors.

python -m benchmarks.mine [--queries 20000] [--documents 20000] [--dim 256] [--rounds 3]

Needs the `bench` extra. Both get precomputed vectors, apply the recipe's rules and look up the texts. They take turns
in one process.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from benchmarks import report
from benchmarks.mine_rows import vectors
from benchmarks.peaks import memory_kib
from f2jax.mine.negatives import Answers, mine_negatives
from f2jax.mine.options import MiningOptions

FILES = ("queries.npy", "documents.npy")
PEER = {"range_min": 5, "range_max": 100, "max_score": 0.8, "relative_margin": 0.05, "num_negatives": 24}


class Vectors:
    """Stands in for the model that `mine_hard_negatives` needs, with the vectors of the benchmark."""

    device = torch.device("cpu")

    def __init__(self, queries: np.ndarray, documents: np.ndarray):
        self.queries, self.documents = queries, documents

    def encode_query(self, texts, **_):
        return self.queries

    def encode_document(self, texts, **_):
        return self.documents

    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)


def ours(q: np.ndarray, d: np.ndarray) -> int:
    texts = [f"document {i}" for i in range(len(d))]
    numbers = np.arange(len(q))
    answers = Answers(len(q), len(d), np.stack([numbers, numbers % len(d)], 1))
    rows = [
        [texts[number] for number in row]
        for block in mine_negatives(q, d, answers, MiningOptions())
        for row in block.documents_qj
        if row[-1] >= 0
    ]
    return len(rows)


def peer(q: np.ndarray, d: np.ndarray) -> int:
    texts = [f"document {i}" for i in range(len(d))]
    pairs = {"query": [f"query {i}" for i in range(len(q))], "positive": [texts[i % len(d)] for i in range(len(q))]}
    model = Vectors(q, d)
    found = mine_hard_negatives(
        Dataset.from_dict(pairs), model, corpus=texts, **PEER, output_format="n-tuple", verbose=False
    )
    return len(found)


CONTESTANTS = {"f2jax": ours, "sentence-transformers": peer}


def memory_of(name: str, folder: str) -> int:
    """Returns the peak MB of a tool in a process of its own, above its imports and the vectors."""
    command = [sys.executable, "-m", "benchmarks.mine", "--memory-of", name, "--vectors", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return int(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--vectors", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        q, d = (np.load(Path(args.vectors, name)) for name in FILES)
        before = memory_kib("VmHWM")
        CONTESTANTS[args.memory_of](q, d)
        print((memory_kib("VmHWM") - before) // 1024)
        return

    q, d = vectors(args.queries, args.documents, args.dim)
    seconds, rows = {name: [] for name in CONTESTANTS}, {}
    for round_ in range(args.rounds + 1):
        for name, run in CONTESTANTS.items():
            start = time.perf_counter()
            rows[name] = run(q, d)
            if round_:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        for name, x in zip(FILES, (q, d), strict=True):
            np.save(Path(folder, name), x)
        memory = {name: memory_of(name, folder) for name in CONTESTANTS}
    median = {name: statistics.median(some) for name, some in seconds.items()}
    conditions = f"{args.queries:,} queries x {args.documents:,} documents x {args.dim}"
    print(f"{conditions}, medians of {args.rounds}")
    for name in CONTESTANTS:
        print(f"  {name:<24} {median[name]:7.2f} s  {memory[name]:6,} MB  {rows[name]:,} rows of 24 negatives")
    print(f"  ratio {median['sentence-transformers'] / median['f2jax']:.2f}")
    for what, unit, values in (("mining", "s", median), ("mining, peak memory", "MB", memory)):
        first, second = ({name: values[name]} for name in CONTESTANTS)
        report.add(args.report, what, unit, first, second, conditions)


if __name__ == "__main__":
    main()
