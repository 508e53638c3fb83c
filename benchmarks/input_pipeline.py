"""Measures speed and memory of the input pipeline: start-up over a large corpus, packed sequences per second and core.

    python -m benchmarks.input_pipeline start       # 500 data sets, 60 million rows, a made-up index
    python -m benchmarks.input_pipeline batches     # the recipe's batch: 512 x (2 + 7) texts of 64 to 256 tokens
    python -m benchmarks.input_pipeline profile     # the same, with a profile
    python -m benchmarks.input_pipeline hosts       # the share of this work on each of 1, 2, 4 and 16 hosts
    python -m benchmarks.input_pipeline prepare     # peak memory and speed of `f2jax prepare`, curation off and on
    python -m benchmarks.input_pipeline steps       # what each step of curation costs
    python -m benchmarks.input_pipeline decontaminate  # rows of 24 negatives against 10 million characters; memory

Times are CPU seconds of the process that does the work (`hosts`: of the slowest one), so that waiting for other work
on the machine does not count.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import islice, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.peaks import bytes_below, highest, memory_kib
from f2jax import config as configs
from f2jax.data.corpus import CARD, VERSION, PreparedCorpus
from f2jax.data.instructions import Instructions
from f2jax.data.loader import Loader
from f2jax.data.mixture import DatasetSpec, Mixture
from f2jax.data.packing import WHOLE, RowShare
from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.prepare import tfds
from f2jax.prepare.curate import CurationOptions as Curation
from f2jax.prepare.curate import curate_record, dedup
from f2jax.prepare.curate.decontaminate import BUILT_IN, Index, build_index
from f2jax.prepare.describe import describe
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.run import prepare

OPTIONS = asdict(PrepareOptions())
LANGUAGES = 282
CURATIONS = {"off": None, "on": Curation(excluded_sources=())}  # normalization, trivial rows, exact duplicates
SELF = sys.executable, "-m", "benchmarks.input_pipeline"
CONFIG = Path(__file__).parents[1] / "configs/stage2.py"


def peak_mib() -> float:
    return memory_kib("VmHWM") / 1024


def entry(name: str, rows: int, documents: int, row_shards: list[int], document_shards: list[int]) -> dict:
    languages = {f"l{i}": rows // LANGUAGES + 1 for i in range(LANGUAGES)}
    return {
        "name": name,
        "kind": "retrieval",
        "folder": name,
        "content": "made up",
        "rows": {"train": rows, "validation": 0},
        "documents": documents,
        "max_negatives": {"train": 24, "validation": 0},
        "languages": languages,
        "shards": {"documents": document_shards, "rows": {"train": row_shards, "validation": []}},
    }


def write_card(folder: Path, entries: list[dict]) -> None:
    card = {"version": VERSION, "tokenizer": "", "options": OPTIONS, "datasets": entries}
    (folder / CARD).write_text(json.dumps(card))


def start(folder: Path) -> None:
    """Opens the index in a process of its own, so that its memory is that of the pipeline alone."""
    entries = [entry(f"d{i:03d}", 120_000, 180_000, [60_000] * 2, [60_000] * 3) for i in range(500)]
    write_card(folder, entries)
    subprocess.run([*SELF, "open", "--folder", str(folder)], check=True)


def open_index(folder: Path) -> None:
    began, imported = time.process_time(), peak_mib()
    datasets = [training for training, _ in PreparedCorpus(folder).splits()]
    specs = [DatasetSpec(d.name, d.kind, len(d), d.max_negatives) for d in datasets]
    data = configs.load(str(CONFIG)).data
    mixture = Mixture(specs, data.batch_size, dict(data.negatives), 0, data.draw)
    rows = sum(map(len, datasets))
    for step in range(1000):
        mixture.plan(step)
    print(f"{len(datasets)} data sets, {rows:,} rows, {(folder / CARD).stat().st_size / 2**20:.1f} MiB of index")
    seconds = time.process_time() - began
    print(f"start and 1,000 plans: {seconds:.2f} s, peak {peak_mib():,.0f} MiB ({imported:,.0f} after the imports)")


def documents(count: int, seed: int, mean: int = 160):
    """Yields documents of 0.4 to 1.6 times the mean number of tokens."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        length = rng.integers(mean * 2 // 5, mean * 8 // 5 + 1)
        yield i, {"id": i, "tokens": rng.integers(0, 150_000, length).astype(np.int32)}


def rows(count: int, pool: int, seed: int, mean: int = 160):
    rng = np.random.default_rng(seed)
    for i, (_, example) in enumerate(documents(count, seed, mean)):
        used = rng.integers(0, pool, 25)
        languages = {"language": "en", "positive_language": "en"}
        yield i, {"query": example["tokens"], "documents": used, "label": -1, "id": i, **languages}


def make_corpus(folder: Path, row_count: int = 20_000, pool: int = 100_000, mean: int = 160) -> None:
    writer, made = tfds.ShardWriter(str(folder), "d", "", PrepareOptions(keep_texts=False)), []
    for kind, records in (("rows", rows(row_count, pool, 0, mean)), ("documents", documents(pool, 1, mean))):
        (shard,) = writer.write({kind: "train"}, 0, 1, ({kind: record} for _, record in records))
        made.append([shard.records])
    made_up = entry("d", row_count, pool, *made)
    write_card(folder, [made_up | describe(folder, made_up)])


def make_loader(folder: Path, share: RowShare = WHOLE) -> Loader:
    datasets = [training for training, _ in PreparedCorpus(folder).splits()]
    return Loader(datasets, configs.load(str(CONFIG)), 0, share)


def host_share(folder: Path, host: int, count: int, parts: int = 128, steps: int = 20) -> tuple[float, float]:
    """Returns CPU seconds of a batch on one of `count` hosts that share 128 devices, and tokens of a batch on all."""
    loader = make_loader(folder, RowShare(parts, tuple(range(host * parts // count, (host + 1) * parts // count))))
    for step in range(loader.steps_per_epoch):  # fills the page cache
        loader.batch(step)
    began = time.process_time()
    tokens = sum(loader.batch(step)[1].useful_tokens for step in range(steps))
    return (time.process_time() - began) / steps, tokens / steps


def hosts(folder: Path, counts: Sequence[int] = (1, 2, 4, 16)) -> None:
    """Prints the CPU time of a batch on the slowest host. Each is a process; of more than 4, only the outer two run."""
    for mean in (60, 160):
        where = folder / str(mean)
        where.mkdir()
        make_corpus(where, mean=mean)
        alone = 0.0
        for count in counts:
            numbers = range(count) if count <= 4 else (0, count - 1)
            with ProcessPoolExecutor(len(numbers), get_context("spawn")) as pool:
                found = list(pool.map(host_share, repeat(where), numbers, repeat(count)))
            seconds, tokens = max(seconds for seconds, _ in found), found[0][1]
            alone = alone or seconds
            print(
                f"mean {mean}, {count} host(s): {seconds * 1e3:.1f} ms a batch, {seconds / alone:.0%}; "
                f"{tokens / seconds / 1e6:.1f} million tokens a second of all hosts with a core each",
                flush=True,
            )


def batches(folder: Path, profile: bool) -> None:
    make_corpus(folder)
    loader = make_loader(folder)
    for step in range(loader.steps_per_epoch):  # fills the page cache
        loader.batch(step)
    profiler = cProfile.Profile()
    began, count = time.process_time(), 40
    if profile:
        profiler.enable()
    useful = sum(loader.batch(step)[1].useful_tokens for step in range(count))
    profiler.disable()
    seconds = time.process_time() - began
    per_batch = seconds / count
    print(f"{512 * 9 / per_batch:,.0f} sequences/s, {useful / seconds:,.0f} tokens/s, {per_batch:.3f} s a batch")
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def million(folder: Path, count: int) -> None:
    """Prepares rows, one in a hundred of them repeated, with each setting in a process of its own."""
    words = [f"word{i}" for i in range(2000)]
    rng = np.random.default_rng(0)
    with open(folder / "million.jsonl", "w") as file:
        for i in range(count):
            if i % 100:
                numbers = rng.integers(0, len(words), (4, 12)).tolist()
                texts = [" ".join(words[k] for k in some) for some in numbers]
                line = json.dumps({"query": f"{texts[0]} {i}", "positive": texts[1], "negatives": texts[2:]})
            else:
                line = json.dumps({"query": "the same", "positive": f"row {i // 500}", "negatives": ["other"]})
            file.write(line + "\n")
    train_sentencepiece((" ".join(rng.choice(words, 9)) for _ in range(9999)), 2000, folder / "tokenizer")
    for curation in CURATIONS:
        subprocess.run([*SELF, "prepared", "--folder", str(folder), "--curation", curation], check=True)


def size_mib(folder: Path, *parts: str) -> float:
    """Returns the MiB of all files in some folders."""
    return sum(bytes_below(folder / part) for part in parts) / 2**20


def prepare_once(folder: Path, curation: str) -> None:
    before, began, clock = peak_mib(), time.process_time(), time.perf_counter()
    options = PrepareOptions(instructions=Instructions(enabled=False), curate=CURATIONS[curation])
    with highest(lambda: size_mib(folder / curation, "work", "survey"), seconds=0.2) as most:
        card = prepare([str(folder / "million.jsonl")], folder / curation, folder / "tokenizer", options)
    seconds, wall = time.process_time() - began, time.perf_counter() - clock
    rows = sum(sum(found["rows"].values()) for found in card["datasets"])
    print(
        f"curation {curation}: {rows:,} rows, {card['datasets'][0]['documents']:,} documents, {card['skipped']}: "
        f"{seconds:,.0f} CPU s ({wall:,.0f} s), peak {peak_mib():,.0f} MiB ({before:,.0f} before), on disk "
        f"{most[0]:,.0f} MiB at most besides {size_mib(folder / curation, 'documents', 'rows', 'texts'):,.0f} MiB"
    )


def steps(count: int = 1000) -> None:
    """Prints the CPU time per row of each step of curation, on docstrings and functions of the standard library."""
    found = islice(open_source("stdlib:code", "train", SkipList()), count)
    rows = [replace(row, language="und") for row in found]  # the language of code is not identified
    near = Curation(near_duplicates=0.8)

    def curated(options: Curation):
        sets = options.evaluation_sets
        index = build_index(sets, options.ngram, options.fewest_letters) if sets else None
        return lambda record: curate_record(record, options, index)

    plain = Curation(excluded_sources=())
    texts = [text for row in rows for text in (row.query, *row.documents)]
    print(f"{len(texts) / len(rows):.1f} texts and {sum(map(len, texts)) / len(rows):,.0f} characters a row")
    for name, step in (
        ("normalization, trivial rows", curated(plain)),
        ("the same, and language", curated(replace(plain, identify_language=True))),
        ("the same as first, and evaluation sets", curated(replace(plain, evaluation_sets=tuple(BUILT_IN)))),
        ("exact duplicates", lambda record: (dedup.exact_key(record), dedup.rank(record))),
        ("near duplicates", lambda record: dedup.band_keys(dedup.minhash_values(record, near), near)),
    ):
        began = time.process_time()
        step(rows[0])
        loaded = time.process_time()
        for row in rows:
            step(row)
        ended = time.process_time()
        print(f"{name}: {(ended - loaded) / len(rows) * 1e6:,.0f} us a row, {loaded - began:.1f} s to load")


def use_index(folder: Path, together, found, rows: int = 200) -> None:
    """Puts the MB of private memory, and of mapped files, by which a process grows that looks up rows of 26 texts."""
    rng = np.random.default_rng(os.getpid())
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz      "])
    texts = ["".join(row) for row in rng.choice(letters, (rows * 26, 400)).tolist()]
    Index.build({"none": texts[:26]}).find_all(texts[:26])  # makes the tables of characters, which need no index
    before = memory_kib("RssAnon"), memory_kib("RssFile")
    index = Index.open(folder)
    for start in range(0, len(texts), 26):
        index.find_all(texts[start : start + 26])
    together.wait()
    found.put([(memory_kib(name) - was) * 1024 / 1e6 for name, was in zip(("RssAnon", "RssFile"), before, strict=True)])


def decontaminate(folder: Path, count: int = 200, characters: int = 10_000_000) -> None:
    """Prints memory and the CPU time of curating a row with 24 negatives, if all texts are new or most were seen."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(50_000)])
    texts = [" ".join(rng.choice(words, 100)) for _ in range(characters // 600)]
    began = time.process_time()
    Index.build({"made up": texts}).save(folder / "index")
    print(f"{sum(map(len, texts)):,} characters: index built in {time.process_time() - began:.1f} s")
    for workers in (1, 2, 4):
        context = get_context("spawn")
        together, found = context.Barrier(workers), context.Queue()
        given = folder / "index", together, found
        processes = [context.Process(target=use_index, args=given) for _ in range(workers)]
        for process in processes:
            process.start()
        own, mapped = np.max([found.get() for _ in processes], axis=0)
        print(f"{workers} workers: {own:.1f} MB of its own in each, {mapped:.1f} MB of files that all map")
    index = Index.open(folder / "index")
    options = Curation(excluded_sources=(), evaluation_sets=("made up",))
    pool = [
        text
        for record in islice(open_source("stdlib:code", "train", SkipList()), 500)
        for text in (record.query, *record.documents)
    ]
    for name, texts_of_row in (
        ("all texts new", lambda n: [f"{n} {pool[i]}" for i in rng.integers(0, len(pool), 26)]),
        ("a text in five rows", lambda n: [pool[i] for i in rng.integers(0, count * 26 // 5, 26)]),
    ):
        rows_of_texts = [texts_of_row(n) for n in range(count)]
        records = [Record(query, positive, tuple(negatives)) for query, positive, *negatives in rows_of_texts]
        curate_record(records[0], options, index)
        size = sum(len(text) for row in rows_of_texts for text in row) / count
        for what, used in (("without", None), ("with", index)):
            began = time.process_time()
            for record in records:
                curate_record(record, options, used)
            seconds = time.process_time() - began
            print(f"{name}, {size:,.0f} characters a row, {what} evaluation sets: {seconds / count * 1e3:.2f} ms a row")
    size = sum(path.stat().st_size for path in (folder / "index").iterdir())
    print(f"the index, which all processes map: {size / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        choices=["start", "batches", "profile", "hosts", "prepare", "steps", "decontaminate", "open", "prepared"],
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--curation", choices=list(CURATIONS), default="off")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.what == "start":
            start(folder)
        elif args.what == "open":
            open_index(folder)
        elif args.what == "prepare":
            million(folder, args.rows)
        elif args.what == "steps":
            steps()
        elif args.what == "decontaminate":
            decontaminate(folder)
        elif args.what == "hosts":
            hosts(folder)
        elif args.what == "prepared":
            prepare_once(folder, args.curation)
        else:
            batches(folder, args.what == "profile")


if __name__ == "__main__":
    main()
