"""Records and entries on disk: all come back, whatever they hold, in memory of a given size."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import KINDS, Record
from f2jax.prepare import scratch

text = st.text(st.sampled_from("ab \0\ud800é😀\n"), max_size=5)
records = st.builds(
    Record,
    query=text,
    positive=text,
    negatives=st.lists(text, max_size=3).map(tuple),
    kind=st.sampled_from(KINDS),
    language=text,
    source=text,
    label=st.none() | text,
    instruction=st.none() | text,
    symmetric=st.booleans(),
)


@given(st.lists(st.tuples(records, text), max_size=6), st.sampled_from([1, 1000, 1 << 20]))
def test_records_and_places_come_back_in_order(tmp_path_factory, rows, batch_bytes):
    path, whole = tmp_path_factory.mktemp("records") / "x", scratch.BATCH_BYTES
    scratch.BATCH_BYTES = batch_bytes
    try:
        with scratch.RecordWriter(path) as writer:
            for record, where in rows:
                writer.add(record, where)
    finally:
        scratch.BATCH_BYTES = whole
    assert list(scratch.read_scratch_records(path)) == rows


# Entries

keys = st.one_of(st.integers(0, 2**63 - 1), st.sampled_from([0, 7, 2**62, 2**63 - 1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@given(st.lists(st.lists(keys, max_size=9), min_size=1, max_size=3))
def test_every_entry_comes_once_and_equal_keys_come_together(folder, keys_of_files):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "RUN_ENTRIES", 4)
        patch.setattr(scratch, "RANGE_ENTRIES", 5)
        paths = [folder / str(number) for number in range(len(keys_of_files))]
        for path, some in zip(paths, keys_of_files, strict=True):
            with scratch.RunWriter(path, 2) as writer:
                for place, key in enumerate(some):
                    writer.add(key, place)
        seen, highest = Counter(), -1
        for parts in scratch.read_key_ranges(paths, 2):
            found = [(int(key), number, int(place)) for number, part in parts for key, place in part.T]
            assert all(key > highest for key, _, _ in found)
            highest = max([highest, *(key for key, _, _ in found)])
            seen.update(found)
    assert seen == Counter((key, n, place) for n, some in enumerate(keys_of_files) for place, key in enumerate(some))


def test_a_range_holds_no_more_than_it_may(folder, monkeypatch):
    monkeypatch.setattr(scratch, "RANGE_ENTRIES", 1000)
    rng = np.random.default_rng(0)
    with scratch.RunWriter(folder / "many", 1) as writer:
        for key in rng.integers(0, 2**63 - 1, 20_000):
            writer.add(int(key))
    sizes = [sum(part.shape[1] for _, part in parts) for parts in scratch.read_key_ranges([folder / "many"], 1)]
    assert sum(sizes) == 20_000 and max(sizes) < 1200
