"""Compares `f2jax search` with its store in Postgres: time per query and recall@10 on the same vectors.

python -m benchmarks.store --scratch FOLDER [--documents 100000] [--queries 64] [--rounds 3] [--dims 128]

Needs the extras `bench` and `store`. Vectors are those of `benchmarks.search`; the store is in the scratch folder, and
is filled again each time. Contestants take turns; the table has medians. The store gets its queries one by one, as a
server does; `f2jax search` gets them both all at once and one by one.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.search import WIDTH, K, make
from f2jax.search import postgres
from f2jax.search.files import SearchTexts
from f2jax.search.two_pass import Search, SearchOptions, SearchResult, exact_search, recall


def one_by_one(search: Search, q: np.ndarray) -> SearchResult:
    found = [search(q[i : i + 1]) for i in range(len(q))]
    return SearchResult(*(np.concatenate([getattr(f, name) for f in found]) for name in ("scores_qk", "numbers_qk")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for the vectors and the store")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=200)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)

    q, d = make(args.scratch, args.documents, args.queries, 0.75)
    options = SearchOptions(K, args.dims, args.candidates)
    wanted = exact_search(q, d, K)
    search = Search(d, options)
    with postgres.open_store(str(args.scratch / "store")) as connection:
        start = time.perf_counter()
        postgres.fill_store(connection, SearchTexts(d), args.dims)
        filled = time.perf_counter() - start
        (size,) = connection.execute("select pg_total_relation_size('f2jax_documents') / 1e9").fetchone()
        contestants = {
            "f2jax search, all queries at once": lambda: search(q),
            "f2jax search, one by one": lambda: one_by_one(search, q),
            "store": lambda: postgres.search_store(connection, q, options)[0],
            "store, `--exact`": lambda: postgres.search_store(connection, q, options, exact=True)[0],
        }
        found = {name: contestant() for name, contestant in contestants.items()}  # compiles and fills caches
        seconds = {name: [] for name in contestants}
        for _ in range(args.rounds):
            for name, contestant in contestants.items():
                start = time.perf_counter()
                found[name] = contestant()
                seconds[name].append(time.perf_counter() - start)

    print(f"{args.documents:,} documents x {WIDTH}, {len(q)} queries, {args.dims} dimensions first, medians")
    print(f"of {args.rounds}; the store was filled in {filled:.0f} s and takes {float(size):.2f} GB\n")
    print("| | ms a query | recall@10 |\n|---|---:|---:|")
    for name, times in seconds.items():
        print(f"| {name} | {1e3 * statistics.median(times) / len(q):.2f} | {recall(found[name], wanted):.3f} |")


if __name__ == "__main__":
    main()
