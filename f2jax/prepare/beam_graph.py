"""`f2jax prepare` on a cluster: a graph of Apache Beam, whose workers share only the inputs and the output.

As in a local run, numbers decide which rows are kept, and texts are joined with these decisions once. The place of a
row is its input and its number there, and gives the order of all rows. The groupings are:

    inputs → numbers of rows by place, texts of rows by place, counts
    numbers by exact key, then by band of MinHash values → places of duplicates
    numbers by data set → the largest hash below the cap → places of the rows that stay
    rows that stay by data set and block of places → the plan: data sets, buckets of documents, shards of rows
    texts by place, with the rows that stay → rows by shard, documents by data set and key
    the first document of each key by bucket → shards of documents, and their keys
    rows by shard, with the keys of their data set → shards of rows
    shards by data set → its description → the data card

The shards are those of a local run, except where they begin and end, so the hashes are the same.
"""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import grpc
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.combiners import TupleCombineFn

from f2jax import files
from f2jax.data.corpus import CARD, TOKENIZER, VERSION
from f2jax.data.corpus_index import SPLITS, index_folder
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.prepare import data_card as cards
from f2jax.prepare.curate import CurationOptions, CurationReport, dedup
from f2jax.prepare.curate.decontaminate import Index, build_index
from f2jax.prepare.curate.steps import EXACT, NEAR
from f2jax.prepare.datasets import bucket_count, distinct_names, folder_name
from f2jax.prepare.describe import describe
from f2jax.prepare.options import Key, PrepareOptions
from f2jax.prepare.read_inputs import curated, numbers_of, open_records
from f2jax.prepare.run import sign_inputs
from f2jax.prepare.spill import ROW_FIELDS, WORK, Document, bucket_of, texts_of_row
from f2jax.prepare.tfds import SHARD_ROWS, Shard, ShardWriter
from f2jax.prepare.tokenizer import choose_tokenizer

STARTED = "runner.json"  # in the folder for work: which runner makes the corpus
ROW_BITS = 40  # of a place: the number of the row; the others are that of the input
BLOCK_BITS = 10  # rows of so many neighbouring places are in one shard


class Plan(NamedTuple):
    """What is known about a data set before its texts are written."""

    name: str
    folder: str
    first: int  # place of its first row
    buckets: int  # of documents
    starts: dict[str, list[int]]  # of each split: the first block of each shard


@dataclass(frozen=True)
class Job:
    """Settings that all workers share."""

    output: str
    options: PrepareOptions
    index: str | None  # folder of the index of the evaluation texts, on the file system of the output
    fingerprint: str  # of the tokenizer
    licences: Mapping[str, str]

    def writer(self, folder: str) -> ShardWriter:
        return ShardWriter(self.output, folder, self.fingerprint, self.options)


def prepare_on_beam(
    sources: Sequence[str],
    output: str,
    tokenizer: str | int,
    options: PrepareOptions,
    licences: Mapping[str, str],
    runner: str,
    runner_options: Sequence[str] = (),
) -> dict:
    """Writes a corpus to an empty folder, from sources that all workers can read; returns the data card.

    Args:
        sources, tokenizer, licences: as in `run.prepare`.
        output: local or remote; all workers write there.
        runner_options: those of Beam, as on the command line of its own pipelines.

    Raises:
        UserError: the output is not empty, an input cannot be read, no row is left, or the runner cannot be used.
    """
    work, options = files.join(output, WORK), options.of_stage()
    signatures = sign_inputs(sources, options)
    if files.exists(output) and (names := files.list_names(output)):
        if CARD in names or not files.exists(files.join(work, STARTED)):
            raise UserError(f"--output {output} holds {names[0]}; name an empty folder.")
        _remove(output)  # what a run that was interrupted left
    index, curate = None, options.curate
    with tempfile.TemporaryDirectory() as here:
        chosen = choose_tokenizer(tokenizer, signatures, options, Path(here, "own"))
        files.write_atomically(files.join(work, STARTED), json.dumps([runner, *runner_options]))
        chosen.save(Path(here, TOKENIZER))
        files.Mirror(Path(here), output).save(TOKENIZER)
        if curate and curate.evaluation_sets:
            build_index(curate.evaluation_sets, curate.ngram, curate.fewest_letters).save(Path(here, "index"))
            files.Mirror(Path(here), work).save("index")
            index = files.join(work, "index")
    _run(Job(output, options, index, chosen.fingerprint(), licences), list(signatures), runner, runner_options)
    _remove(work)
    return files.read_json_object(files.join(output, CARD))


def _remove(folder: str) -> None:
    store, name = files.filesystem(folder)
    with files.clear_errors(folder, "deleted"):
        store.rm(name, recursive=True)


def _run(job: Job, inputs: Sequence[str], runner: str, runner_options: Sequence[str]) -> None:
    """Runs the graph; raises UserError if a worker does, or if the runner cannot be reached."""
    try:
        with beam.Pipeline(runner=runner, options=PipelineOptions(list(runner_options))) as pipeline:
            make_graph(pipeline, job, inputs)
    except Exception as error:  # each runner has classes of its own, and those of workers come as text
        if message := re.search(r"UserError: (.+?)(?: \[while running|$)", f"{type(error).__name__}: {error}", re.M):
            raise UserError(message[1]) from error
        if isinstance(error, grpc.RpcError | grpc.FutureTimeoutError | OSError | ValueError | ImportError):
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise UserError(f"--beam-runner {runner} cannot be used: {reason}") from error
        raise


def make_graph(pipeline: beam.Pipeline, job: Job, inputs: Sequence[str]) -> None:
    """Adds all steps to a pipeline."""
    options, curate = job.options, job.options.curate
    read = (
        pipeline
        | "inputs" >> beam.Create(list(enumerate(inputs)))
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(_read, job).with_outputs("texts", "counts", main="numbers")
    )
    numbers, lost = read.numbers, []
    if curate and curate.exact_duplicates:
        keys = numbers | "exact keys" >> beam.MapTuple(lambda place, row: (row[5], (row[6], place)))
        lost.append(keys | "equal" >> beam.GroupByKey() | "exact" >> beam.FlatMapTuple(_all_but_smallest))
    if curate and curate.near_duplicates:
        left = {"row": numbers, "lost": lost[0]} | "distinct" >> beam.CoGroupByKey() | beam.FlatMapTuple(_unless_lost)
        bands = left | "bands" >> beam.FlatMapTuple(
            lambda place, row: [(key, (row[6], place, row[7])) for key in row[8]]
        )
        near = bands | "alike" >> beam.GroupByKey() | "near" >> beam.FlatMap(_near, curate)
        lost.append(near | "each once" >> beam.Distinct())
    if lost:
        all_lost = lost | "lost" >> beam.Flatten()
        found = {"row": numbers, "lost": all_lost} | "join the lost" >> beam.CoGroupByKey()
        staying = found | "stay" >> beam.FlatMapTuple(_unless_lost)
        reasons = found | "reasons" >> beam.FlatMapTuple(lambda _, groups: list(groups["lost"])[:1])
    else:
        staying, reasons = numbers, pipeline | "none lost" >> beam.Create([], reshuffle=False)
    if options.cap:
        hashes = staying | "hashes" >> beam.MapTuple(lambda _, row: (row[0], row[4]))
        limits = (
            hashes | beam.combiners.Top.SmallestPerKey(options.cap) | beam.MapTuple(lambda key, some: (key, max(some)))
        )
        staying = staying | "cap" >> beam.Filter(
            lambda item, limits: item[1][4] <= limits[item[1][0]], beam.pvalue.AsDict(limits)
        )
    blocks = staying | "blocks" >> beam.MapTuple(
        lambda place, row: ((*row[:2], place >> BLOCK_BITS), (1, row[2], place))
    )
    sums = blocks | "sums" >> beam.CombinePerKey(TupleCombineFn(sum, sum, min)) | "all sums" >> beam.combiners.ToList()
    plan = sums | "plan" >> beam.Map(make_plan)
    the_plan = beam.pvalue.AsSingleton(plan)

    chosen = staying | "places" >> beam.MapTuple(lambda place, row: (place, None))
    texts = {"texts": read.texts, "chosen": chosen} | "texts that stay" >> beam.CoGroupByKey()
    parted = texts | "part" >> beam.FlatMap(_part, the_plan).with_outputs("documents", main="rows")
    first = parted.documents | "first of each key" >> beam.CombinePerKey(min)
    buckets = (
        first | "bucket" >> beam.Map(_bucketed, the_plan),
        plan
        | "all buckets"
        >> beam.FlatMap(lambda plan: [((k, i), None) for k, p in plan.items() for i in range(p.buckets)]),
    ) | "documents and buckets" >> beam.Flatten()
    documents = (
        buckets
        | "by bucket" >> beam.GroupByKey()
        | "write documents" >> beam.FlatMap(_write_documents, job, the_plan).with_outputs("keys", main="shards")
    )
    rows = (
        parted.rows
        | "by shard" >> beam.GroupByKey()
        | "write rows" >> beam.FlatMap(_write_rows, job, the_plan, beam.pvalue.AsMultiMap(documents.keys))
    )
    entries = (
        (documents.shards, rows)
        | "shards" >> beam.Flatten()
        | "by data set" >> beam.GroupByKey()
        | "describe" >> beam.Map(_describe, job, the_plan)
    )
    _ = (
        pipeline
        | "card" >> beam.Create([None], reshuffle=False)
        | "write the card"
        >> beam.Map(
            _write_card,
            job,
            the_plan,
            *map(beam.pvalue.AsList, (entries, read.counts, reasons)),
        )
    )


def _read(item: tuple[int, str], job: Job) -> Iterator:
    """(number, input) → (place, (data set, split, `RowNumbers`)) of each row that stays; as `texts` (place, texts).

    As `counts` its report.
    """
    (number, spec), options = item, job.options
    skipped, rows = SkipList(), 0
    report = CurationReport(skipped=skipped)
    index = _open_index(job.index) if job.index else None
    for record, where in open_records(spec, options, skipped):
        outcome = curated(record, options, index)
        report.add(outcome, record, where)
        if outcome.record is None:
            continue
        record, place, rows = outcome.record, number << ROW_BITS | rows, rows + 1
        split, row, documents = texts_of_row(record, options)
        key = (record.source.encode("utf-8", "surrogatepass"), record.kind)
        yield place, (key, split, *numbers_of(record, options))
        yield beam.pvalue.TaggedOutput("texts", (place, (key, split, row, [tuple(found) for found in documents])))
    yield beam.pvalue.TaggedOutput("counts", tuple(map(dict, (report.skipped, report.noted, report.languages))))


@lru_cache(maxsize=1)
def _open_index(folder: str) -> Index:
    """Returns the index, copied to this process if it is remote."""
    with files.mirrored(folder, "") as mirror:
        return Index.open(mirror.folder)  # mapped files stay readable when they are deleted


def _all_but_smallest(_, group: Iterable[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    """Yields (place, why) of all but the best of equal rows."""
    group = iter(group)
    best = next(group)
    for current in group:
        best, worse = min(best, current), max(best, current)
        yield worse[1], EXACT


def _near(group: tuple[int, Iterable[tuple[int, int, bytes]]], options: CurationOptions) -> list[tuple[int, str]]:
    sketches = [dedup.Sketch(*row) for row in group[1]]
    return [(place, NEAR) for place in dedup.near_duplicates(sketches, options)] if len(sketches) > 1 else []


def _unless_lost(place: int, groups: Mapping[str, Iterable]) -> list[tuple]:
    return [] if list(groups["lost"]) else [(place, row) for row in groups["row"]]


def make_plan(sums: Sequence[tuple[tuple, tuple[int, int, int]]]) -> dict[tuple, Plan]:
    """The plan of each data set, from (data set, split, block) → (rows, bytes of their documents, first place)."""
    sizes: Counter[tuple] = Counter()
    first: dict[tuple, int] = {}
    starts: dict[tuple, dict[str, list[int]]] = defaultdict(lambda: {split: [] for split in SPLITS})
    rows = 0  # of the shard
    for (key, split, block), (count, size, place) in sorted(sums):
        sizes[key] += size
        first[key] = min(first.get(key, place), place)
        rows += count
        if not starts[key][split] or rows > SHARD_ROWS:
            starts[key][split].append(block)
            rows = count
    order = sorted(first, key=first.__getitem__)
    names = distinct_names([_readable_key(key) for key in order])
    return {
        key: Plan(name, folder_name(name), first[key], bucket_count(sizes[key]), starts[key])
        for key, name in zip(order, names.values(), strict=True)
    }


def _readable_key(key: tuple[bytes, str]) -> Key:
    return key[0].decode("utf-8", "surrogatepass"), key[1]


def _part(item: tuple[int, Mapping[str, Iterable]], plan: Mapping[tuple, Plan]) -> Iterator:
    """Texts of a row that stays → (shard, row), and as `documents` ((data set, key), document)."""
    place, groups = item
    if not list(groups["chosen"]):
        return
    for key, split, row, documents in groups["texts"]:
        shard = int(np.searchsorted(plan[key].starts[split], place >> BLOCK_BITS, side="right")) - 1
        yield (key, split, shard), (place, row)
        for i, document in enumerate(documents):
            yield beam.pvalue.TaggedOutput("documents", ((key, document[0]), (place, i, document)))


def _bucketed(item: tuple[tuple, tuple], plan: Mapping[tuple, Plan]) -> tuple[tuple, tuple | None]:
    (key, number), found = item
    return (key, bucket_of(number, plan[key].buckets)), found[2]


def _write_documents(item: tuple[tuple, Iterable], job: Job, plan: Mapping[tuple, Plan]) -> Iterator:
    """Documents of a bucket → (data set, shard), and as `keys` (data set, (bucket, keys))."""
    (key, bucket), found = item
    documents = sorted(Document(*document) for document in found if document)
    for shard in job.writer(plan[key].folder).documents(bucket, plan[key].buckets, documents):
        yield key, tuple(shard)
    keys = np.array([document.key for document in documents], np.int64).tobytes()
    yield beam.pvalue.TaggedOutput("keys", (key, (bucket, keys)))


def _write_rows(
    item: tuple[tuple, Iterable], job: Job, plan: Mapping[tuple, Plan], keys: Mapping[tuple, Iterable]
) -> Iterator:
    """Rows of a shard → (data set, shard)."""
    (key, split, number), found = item
    all_keys = np.frombuffer(b"".join(some for _, some in sorted(keys[key])), np.int64)
    rows = (dict(zip(ROW_FIELDS.names, row, strict=True)) for _, row in sorted(found, key=lambda item: item[0]))
    count = len(plan[key].starts[split])
    for shard in job.writer(plan[key].folder).rows(split, number, count, rows, all_keys):
        yield key, tuple(shard)


def _describe(item: tuple[tuple, Iterable[tuple]], job: Job, plan: Mapping[tuple, Plan]) -> tuple[int, dict]:
    """(place, entry of the data card) of a data set, counted from its files."""
    key, shards = item
    found, writer = sorted(Shard(*shard) for shard in shards), job.writer(plan[key].folder)
    lengths = writer.describe(found)
    entry = cards.new_entry(plan[key].name, _readable_key(key), plan[key].folder, lengths)
    with tempfile.TemporaryDirectory() as folder:
        for kind in lengths:
            path = Path(folder, kind, plan[key].folder, VERSION)
            path.mkdir(parents=True)
            store, name = files.filesystem(writer.folder(kind))
            with files.clear_errors(writer.folder(kind), "read"):
                store.get(f"{name}/", f"{path}/", recursive=True)
        entry |= describe(folder, entry)
        files.Mirror(Path(folder), job.output).save(str(index_folder(folder, entry).relative_to(folder)))
        return plan[key].first, entry


def _write_card(
    _, job: Job, plan: Mapping, entries: list[tuple[int, dict]], counts: list[tuple], reasons: list[str]
) -> None:
    skipped, *others = cards.sum_counts(counts)
    skipped.update(reasons)
    if not plan:
        raise cards.empty_corpus(skipped)
    ordered = [entry for _, entry in sorted(entries, key=lambda item: item[0])]
    card = cards.new_card(job.fingerprint, job.options, cards.for_card(skipped, *others), ordered, job.licences)
    files.write_atomically(files.join(job.output, CARD), json.dumps(card, indent=1, ensure_ascii=False))
