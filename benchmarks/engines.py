"""Compares what a local `f2jax prepare` could run on: embedded engines find which rows stay; Beam runs all of it.

pip install duckdb polars
python -m benchmarks.engines [--rows 1000000 10000000] [--memory 256MB]  # exact duplicates, then a cap
python -m benchmarks.engines --whole 20000  # from raw rows to the corpus, here and as one graph in Beam's local runner

The keys of the rows are on disk, for `prepare` as it writes them, and for the engines in Parquet. A tenth of the rows
are duplicates, and each of twenty data sets keeps half of its rows. Each run is a process of its own; all have to find
the same rows, of which the last column is a hash. `anonymous` is the peak memory of the process without files that it
maps, and `peak` includes them, both minus the memory of its imports.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peaks import highest, memory_kib

SETS, DUPLICATES = 20, 0.1
EVERY = 0.02  # seconds between measurements of the memory
COLUMNS = ("key", "rank", "hash", "part")


def write(folder: Path, count: int) -> None:
    """Writes the keys of the rows of one input, as files of `prepare` and as `rows.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from f2jax.prepare.read_inputs import NUMBERS, SUMMARY, InputSummary

    rng = np.random.default_rng(0)
    key, rank, hash_ = (rng.integers(0, 2**63, count, np.uint64) for _ in range(3))
    again = rng.random(count) < DUPLICATES
    key[again] = key[rng.integers(0, count, again.sum())]
    part = rng.integers(0, SETS, count, np.uint32)
    rows = np.zeros(count, NUMBERS)
    rows["part"], rows["hash"], rows["exact"], rows["rank"] = part, hash_, key, rank
    rows.tofile(folder / "rows")
    summary = InputSummary(count, [(f"s{i}", "retrieval") for i in range(SETS)], {}, {}, {}, {})
    (folder / SUMMARY).write_text(json.dumps(vars(summary)))
    columns = dict(zip(COLUMNS, (key, rank, hash_, part), strict=True))
    pq.write_table(pa.table({"row": np.arange(count)} | columns), folder / "rows.parquet")


def by_prepare(folder: Path, cap: int, memory: str) -> Iterator:
    from f2jax.prepare.curate import CurationOptions
    from f2jax.prepare.datasets import plan_datasets
    from f2jax.prepare.duplicates import find_duplicates
    from f2jax.prepare.options import PrepareOptions
    from f2jax.prepare.read_inputs import InputFolder

    yield
    curate = CurationOptions(evaluation_sets=())
    source = InputFolder("", folder)
    states = find_duplicates([source], curate)
    plan_datasets([source], states, PrepareOptions(cap=cap, curate=curate), "")
    yield states[0]


def by_duckdb(folder: Path, cap: int, memory: str) -> Iterator:
    import duckdb

    yield
    engine = duckdb.connect(str(folder / "rows.duckdb"))
    engine.execute(f"SET memory_limit = '{memory}'; SET preserve_insertion_order = false")
    found = engine.execute(f"""
        WITH numbered AS (
            SELECT "row", part, hash, row_number() OVER (PARTITION BY key ORDER BY rank, "row") AS place
            FROM '{folder}/rows.parquet'
        ), ranked AS (
            SELECT "row", place, rank() OVER (PARTITION BY part, place = 1 ORDER BY hash) AS of_part FROM numbered
        )
        SELECT CASE WHEN place > 1 THEN 1 WHEN of_part > {cap} THEN 3 ELSE 0 END::UTINYINT AS state
        FROM ranked ORDER BY "row"
    """)
    yield found.fetchnumpy()["state"]


def by_polars(folder: Path, cap: int, memory: str) -> Iterator:
    import polars as pl

    yield
    first = pl.col("key") != pl.col("key").shift(fill_value=2**63)
    of_part = pl.col("hash").rank("min").over("part", "first")
    state = pl.when(~pl.col("first")).then(1).when(of_part > cap).then(3).otherwise(0).cast(pl.UInt8)
    rows = pl.scan_parquet(folder / "rows.parquet").sort("key", "rank", "row").with_columns(first=first)
    found = rows.select("row", state=state).sort("row").select("state")
    yield found.collect(engine="streaming")["state"].to_numpy()


def write_raw(folder: Path, count: int) -> None:
    """Writes rows with two negatives and twelve words per text, and a tokenizer."""
    from f2jax.data.tokenizer_training import train_sentencepiece

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 9))) for _ in range(20_000)]
    with (folder / "rows.jsonl").open("w") as file:
        for _ in range(count):
            query, positive, *negatives = (" ".join(rng.choices(words, k=12)) for _ in range(4))
            file.write(json.dumps({"query": query, "positive": positive, "negatives": negatives}) + "\n")
    train_sentencepiece((" ".join(rng.choices(words, k=9)) for _ in range(9999)), 2000, folder / "tokenizer")


def whole_local(folder: Path, cap: int, memory: str) -> Iterator:
    from f2jax.prepare.options import PrepareOptions
    from f2jax.prepare.run import prepare

    yield
    card = prepare([str(folder / "rows.jsonl")], folder / "local", folder / "tokenizer", PrepareOptions())
    yield card["datasets"][0]["content"].encode()


def whole_on_beam(folder: Path, cap: int, memory: str) -> Iterator:
    from f2jax.prepare.beam_graph import prepare_on_beam
    from f2jax.prepare.options import PrepareOptions

    yield
    given = [str(folder / "rows.jsonl")], str(folder / "beam"), str(folder / "tokenizer"), PrepareOptions(), {}
    card = prepare_on_beam(*given, "DirectRunner")
    yield card["datasets"][0]["content"].encode()


ENGINES = {"prepare": by_prepare, "duckdb": by_duckdb, "polars": by_polars}
WHOLE = {"local": whole_local, "beam": whole_on_beam}


def measure(engine: str, folder: Path, count: int, memory: str) -> str:
    steps = (ENGINES | WHOLE)[engine](folder, count // SETS // 2, memory)
    next(steps)  # imports
    before, anonymous = memory_kib("VmRSS"), memory_kib("RssAnon")
    with highest(lambda: memory_kib("RssAnon"), EVERY) as most:
        began, cpu = time.perf_counter(), time.process_time()
        found = next(steps)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    digest = hashlib.sha256(found if isinstance(found, bytes) else found.astype(np.uint8).tobytes()).hexdigest()[:8]
    more, peak = ((x - y) / 1024 for x, y in ((most[0], anonymous), (memory_kib("VmHWM"), before)))
    memory = f"{more:6,.0f} MB anonymous  {peak:6,.0f} MB peak"
    return f"{engine:8} {count:11,} rows  {seconds:6.1f} s  {cpu:6.1f} CPU s  {memory}  {digest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory", default="256MB", help="what DuckDB may use before it spills")
    parser.add_argument("--whole", type=int, help="rows to prepare from raw files")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        engine, folder = args.measure
        print(measure(engine, Path(folder), args.rows[0], args.memory))
        return
    for count in [args.whole] if args.whole else args.rows:
        with tempfile.TemporaryDirectory() as folder:
            (write_raw if args.whole else write)(Path(folder), count)
            for engine in WHOLE if args.whole else ENGINES:
                command = [sys.executable, "-m", "benchmarks.engines", "--measure", engine, folder]
                options = ["--rows", str(count), "--memory", args.memory]
                subprocess.run([*command, *options], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
