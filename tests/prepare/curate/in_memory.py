"""Curation of records in memory: every step in a few lines, beside which `prepare` can be put."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache

from f2jax.data.record import Record
from f2jax.prepare.curate import CurationOptions, CurationReport, curate_record
from f2jax.prepare.curate.decontaminate import build_index
from f2jax.prepare.curate.dedup import Sketch, band_keys, exact_key, minhash_values, near_duplicates, rank, record_id
from f2jax.prepare.curate.steps import EXACT, NEAR

index_of = lru_cache(build_index)


def curate(records: Iterable[Record], options: CurationOptions, report: CurationReport) -> Iterator[Record]:
    """Yields the records that stay, as the steps changed them, and counts the others in `report`."""
    sets = options.evaluation_sets
    index = index_of(sets, options.ngram, options.fewest_letters) if sets else None
    passed = []
    for record in records:
        outcome = curate_record(record, options, index)
        report.add(outcome, record)
        if outcome.record is not None:
            passed.append(outcome.record)
    for reason, drop in ((EXACT, drop_exact), (NEAR, lambda rows: drop_near(rows, options))):
        if options.exact_duplicates if reason == EXACT else options.near_duplicates:
            passed, dropped = drop(passed)
            report.kept -= len(dropped)
            for record in dropped:
                report.drop(record, reason)
    yield from passed


def drop_exact(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """(rows that stay, rows to drop) in memory; those that stay are in the order of the first of their duplicates."""
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[exact_key(record)].append(record)
    kept, dropped = [], []
    for group in groups.values():
        best = min(range(len(group)), key=lambda i: rank(group[i]))
        kept.append(group.pop(best))
        dropped += group
    return kept, dropped


def sketch(record: Record, options: CurationOptions) -> Sketch:
    return Sketch(rank(record), record_id(record), minhash_values(record, options))


def drop_near(records: Iterable[Record], options: CurationOptions) -> tuple[list[Record], list[Record]]:
    """(rows that stay, rows to drop) in memory, in their order."""
    records, bands = list(records), defaultdict(list)
    for record in records:
        row = sketch(record, options)
        for key in band_keys(row.values, options):
            bands[key].append(row)
    drop = {number for group in bands.values() if len(group) > 1 for number in near_duplicates(group, options)}
    kept = [record for record in records if record_id(record) not in drop]
    return kept, [record for record in records if record_id(record) in drop]
