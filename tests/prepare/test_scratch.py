"""Entries on disk: all come back, in memory of a given size."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.prepare import scratch

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
