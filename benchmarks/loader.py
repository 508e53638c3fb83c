"""Batches per second on one core: our loader, which packs, and a PyTorch DataLoader with the reference's collate.

python -m benchmarks.loader [--rows 20000] [--batches 40] [--rounds 3]

Needs the `bench` extra. Both read the recipe's batch, 512 x (2 + 7) texts of 64 to 256 tokens, from files in the page
cache: ours ArrayRecord, the peer Parquet through `datasets`, with each document stored once (recipe 2.3). The peer pads
queries, positives and negatives each to their longest text. Times are CPU seconds of this process.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import datasets
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks import report
from benchmarks.input_pipeline import documents, make_corpus, make_loader, rows

BATCH, NEGATIVES, STORED = 512, 7, 24


def ours(folder: Path, row_count: int, pool: int) -> Callable[[int], int]:
    """Returns a function that packs a number of batches and returns their useful tokens."""
    make_corpus(folder, row_count, pool)
    loader, steps = make_loader(folder), count()
    return lambda batches: sum(loader.batch(step)[1].useful_tokens for step in islice(steps, batches))


def peer(folder: Path, row_count: int, pool: int) -> Callable[[int], int]:
    def stored(name: str, generator, *args) -> datasets.Dataset:
        path = str(folder / f"{name}.parquet")
        made = {k: [] for k in ("query", "tokens", "documents")}
        for _, example in generator(*args):
            for key in made.keys() & example.keys():
                made[key].append(example[key])
        datasets.Dataset.from_dict({k: v for k, v in made.items() if v}).to_parquet(path)
        return datasets.Dataset.from_parquet(path, cache_dir=str(folder / "cache")).with_format("numpy")

    corpus, pairs = stored("documents", documents, pool, 1), stored("rows", rows, row_count, pool, 0)
    rng = np.random.default_rng(0)

    def padded(sequences: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = pad_sequence([torch.from_numpy(x) for x in sequences], batch_first=True)
        return ids, ids != 0

    def collate(examples: list[dict]) -> tuple:
        chosen = [0, *(1 + rng.choice(STORED, NEGATIVES, replace=False))]
        numbers = np.stack([x["documents"][chosen] for x in examples])
        found = corpus[numbers.ravel().tolist()]["tokens"]
        texts = [np.asarray(x) for x in found]
        negatives = [x for i, x in enumerate(texts) if i % (1 + NEGATIVES)]
        queries = [np.asarray(x["query"]) for x in examples]
        return padded(queries), padded(texts[:: 1 + NEGATIVES]), padded(negatives)

    options = {"batch_size": BATCH, "shuffle": True, "collate_fn": collate, "drop_last": True}

    def endless():
        while True:
            yield from DataLoader(pairs, **options)

    batches = endless()
    return lambda n: sum(int(mask.sum()) for batch in islice(batches, n) for _, mask in batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        tools = {
            "f2jax, packed": ours(where, args.rows, args.documents),
            "PyTorch DataLoader, padded": peer(where, args.rows, args.documents),
        }
        speeds = {name: [] for name in tools}
        for turn in range(args.rounds + 1):
            for name, make in tools.items():
                start = time.process_time()
                make(args.batches)
                if turn:  # the first turn fills the page cache
                    taken = time.process_time() - start
                    speeds[name].append(args.batches * BATCH * (2 + NEGATIVES) / taken)
    found = {name: statistics.median(values) for name, values in speeds.items()}
    first, second = found.items()
    for name, speed in found.items():
        print(f"{name}: {speed:,.0f} sequences/s of one core")
    print(f"ratio {first[1] / second[1]:.2f}")
    conditions = f"{args.rows:,} rows, {args.documents:,} documents of 64 to 256 tokens"
    report.add(args.report, "input pipeline", "sequences/s", dict([first]), dict([second]), conditions)


if __name__ == "__main__":
    main()
