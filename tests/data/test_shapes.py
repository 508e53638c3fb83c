"""The shapes of packed rows: each text has a place of its own, few tokens are padding, and programs are few."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.shapes import (
    RowRules,
    RowShape,
    Sample,
    best_fit,
    choose_programs,
    least_rows,
    program_costs,
    program_options,
    round_up,
)


def lognormal(mean: float, count: int, seed: int = 0, longest: int = 1024) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).lognormal(np.log(mean) - 0.18, 0.6, count), 1, longest).astype(int)


def check_places(lengths, placement) -> None:
    """No two texts overlap, and each stands in a chunk that is filled."""
    shape, taken = placement.shape, Counter()
    for length, row, start in zip(lengths, placement.row_u, placement.start_u, strict=True):
        assert 0 <= row < placement.rows and row % shape.slots < placement.chunks
        assert start + length <= shape.length
        taken.update((row, column) for column in range(start, start + length))
    assert max(taken.values(), default=1) == 1
    assert placement.tokens == placement.parts * shape.rows * shape.length * placement.chunks


@given(
    st.lists(st.integers(1, 300), max_size=40),
    st.integers(1, 5),
    st.integers(0, 2),
    st.sampled_from([300, 301, 512]),
)
def test_every_text_has_a_place_in_a_chunk_that_is_filled(lengths, parts, chunk_rows, row_length):
    rules = RowRules(row_length, chunk_rows)
    placement = rules.place(np.array(lengths, np.int64), parts)
    check_places(lengths, placement)
    shape = placement.shape
    assert not chunk_rows or shape.rows * shape.length <= chunk_rows * row_length, "what a chunk may hold"
    again = rules.place(np.array(lengths, np.int64), parts)
    assert again.shape == shape and np.array_equal(again.row_u, placement.row_u)


@pytest.mark.parametrize("mean", [20, 60, 150, 246, 1000])
@pytest.mark.parametrize("parts", [1, 16, 64, 256])
@pytest.mark.parametrize("chunk_rows", [0, 8, 36])
def test_95_percent_of_the_tokens_are_useful_on_any_number_of_chips(mean, parts, chunk_rows):
    """90 where a chip has fewer than 512."""
    row_length = 1024 if mean < 1000 else 4096
    lengths = lognormal(mean, 512 * 9, longest=row_length)
    placement = RowRules(row_length, chunk_rows).place(lengths, parts)
    assert lengths.sum() / placement.tokens >= (0.95 if lengths.sum() / parts >= 512 else 0.90)


def mixture(data_sets: int, seed: int) -> list[Sample]:
    """A batch of 64 queries of each data set, with short and long texts, and 4 or 1 negatives."""
    rng = np.random.default_rng(seed)
    means = np.exp(np.random.default_rng(7).uniform(np.log(12), np.log(500), data_sets))
    kinds = ["retrieval", "retrieval", "classification"]
    counts = {"retrieval": 64 * 6, "classification": 64 * 3}
    return [
        Sample(kind, 1.0, lognormal(mean, counts[kind], rng.integers(10**6)))
        for mean, kind in zip(means, itertools.cycle(kinds), strict=False)
    ]


TEXTS = {"retrieval": 64 * 6, "classification": 64 * 3}


@pytest.mark.parametrize("parts,chunk_rows,limit,share", [(4, 4, 12, 0.9), (1, 0, 24, 0.85), (1, 0, 6, 0.6)])
def test_a_mixture_runs_on_as_many_programs_as_allowed(parts, chunk_rows, limit, share):
    """The programs are chosen from one batch of each data set, and used for others."""
    rules = RowRules(1024, chunk_rows)
    rules = replace(rules, programs=choose_programs(mixture(60, 0), rules, parts, TEXTS, limit))
    used, useful, tokens = set(), 0, 0
    for sample in mixture(60, 1):
        placement = rules.place(sample.lengths_u, parts, sample.kind)
        used.add((sample.kind, placement.shape))
        useful, tokens = useful + sample.lengths_u.sum(), tokens + placement.tokens
    assert len(used) <= limit and useful / tokens >= share


@pytest.mark.parametrize("chunk_rows", [0, 4])
def test_programs_are_about_as_good_as_the_best_ones(chunk_rows):
    """The best three of all shapes, by trying all of them."""
    samples, rules = [x for x in mixture(30, 0) if x.kind == "retrieval"], RowRules(1024, chunk_rows)
    options = [("retrieval", shape) for shape in sorted(program_options(samples, rules, 1, TEXTS["retrieval"]))][::3]
    cost_io = np.stack([program_costs(sample, options, rules, 1) for sample in samples])
    best = min(cost_io[:, list(three)].min(axis=1).sum() for three in itertools.combinations(range(len(options)), 3))
    chosen = choose_programs(samples, rules, 1, TEXTS, 3)["retrieval"]
    found = np.stack([program_costs(sample, [("retrieval", x) for x in chosen], rules, 1) for sample in samples])
    assert len(chosen) == 3 and found.min(axis=1).sum() <= 1.1 * best


def fewest_rows(lengths: tuple[int, ...], row_length: int, rows: tuple[int, ...] = ()) -> int:
    """The fewest rows that hold texts of these lengths, by trying each place of each of them."""
    if not lengths:
        return len(rows)
    first, *others = lengths
    places = {room: i for i, room in enumerate(rows) if room >= first}.values()
    filled = [(*rows[:i], rows[i] - first, *rows[i + 1 :]) for i in places] + [(*rows, row_length - first)]
    return min(fewest_rows(tuple(others), row_length, one) for one in filled)


@given(st.lists(st.integers(1, 40), max_size=7), st.integers(40, 90))
def test_no_packing_takes_fewer_rows_than_the_bound(lengths, row_length):
    lengths_u = np.array(lengths, np.int64)
    bound = least_rows(lengths_u, np.array([row_length, 3 * row_length]))
    assert math.ceil(lengths_u.sum() / row_length) <= bound[0] <= fewest_rows(tuple(lengths), row_length)
    assert bound[1] <= fewest_rows(tuple(lengths), 3 * row_length)


@pytest.mark.parametrize("mean", [40, 300, 700])
def test_the_bound_is_near_what_the_best_fit_takes(mean):
    """Where texts are long, their sum is not: here it is up to 9 % below."""
    lengths, row_lengths = lognormal(mean, 2000), np.array([1024, 1248, 1408])
    rows = np.array([best_fit(lengths, length)[3] for length in row_lengths.tolist()])
    assert np.all(least_rows(lengths, row_lengths) >= 0.975 * rows)


@pytest.mark.parametrize("mean", [200, 450, 700])
def test_a_batch_gets_the_program_that_takes_least(mean):
    """By packing it for each of them: the sum of long texts says too little."""
    shapes = [RowShape(1024, 1, 512), RowShape(1152, 6, 64), RowShape(1248, 2, 256), RowShape(1696, 1, 256)]
    rules, lengths = RowRules(1024, 8, {"retrieval": shapes}), lognormal(mean, 4000)
    for parts in range(16, 64, 5):
        cost = {x: x.cost(x.chunks(best_fit(lengths, x.length)[3], parts)) for x in shapes}
        placement = rules.place(lengths, parts, "retrieval")
        assert placement.shape.cost(placement.chunks) == min(cost.values())


def test_texts_that_leave_large_gaps_do_not_spoil_the_choice_for_others():
    """Texts of 700 tokens need a row of 1,024 each, for which no shape is among the options."""
    rules, samples = RowRules(1024), [x for x in mixture(60, 0) if x.kind == "retrieval"]
    gaps = Sample("retrieval", 1.0, np.full(1000, 700))
    options = [("retrieval", x) for x in program_options([*samples, gaps], rules, 64, TEXTS["retrieval"])]
    assert not np.isfinite(program_costs(gaps, options, rules, 64)).any()
    chosen = choose_programs([*samples, gaps], rules, 64, TEXTS, 12)["retrieval"]
    assert len(chosen) == 12 and RowRules(1024, programs={"retrieval": chosen}).place(gaps.lengths_u, 64).rows >= 1000


@pytest.mark.parametrize("chunk_rows", [0, 4])
def test_a_batch_larger_than_all_samples_still_has_a_place(chunk_rows):
    rules = RowRules(1024, chunk_rows)
    rules = replace(rules, programs=choose_programs(mixture(12, 0), rules, 2, TEXTS, 4))
    lengths = np.full(TEXTS["retrieval"], 1024)
    placement = rules.place(lengths, 2, "retrieval")
    check_places(lengths, placement)
    assert (placement.shape in rules.programs["retrieval"]) == bool(chunk_rows), "chunks are as many as it takes"


@pytest.mark.parametrize("more", [1.005, 1.1, 1.7, 3, 40])
def test_a_larger_batch_takes_little_more_than_it_needs(more):
    """A run that fits the memory by its programs should not end at the first batch that is beyond them."""
    largest = RowShape(1024, 64)
    rules = RowRules(1024, programs={"retrieval": [largest]})
    lengths = np.full(int(more * 8 * 64 * 16), 64)
    shape = rules.place(lengths, 8, "retrieval").shape
    assert 1 <= shape.rows * shape.slots / (more * 64) <= 1.3


def test_a_kind_without_programs_has_the_shape_that_suits_each_batch():
    rules = RowRules(1024, programs={"retrieval": [RowShape(1024, 64)]})
    assert rules.place(np.full(64, 100), 1, "retrieval").shape == RowShape(1024, 64)
    assert rules.place(np.full(64, 100), 1, "clustering").tokens < 1.1 * 6400


def test_a_text_longer_than_the_rows_of_all_programs_has_rows_that_hold_it():
    rules = RowRules(1024, programs={"retrieval": [RowShape(256, 64)]})
    assert rules.place(np.array([100, 257]), 1, "retrieval").shape == RowShape(1024, 1)


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 64))
def test_the_ladder_rounds_up_by_little(rows, steps, multiple):
    chosen = round_up(rows, steps, multiple)
    least = -(-rows // multiple) * multiple
    assert chosen >= rows and chosen % multiple == 0
    assert chosen <= least + least / steps + multiple
    assert round_up(chosen, steps, multiple) == chosen


def test_the_ladder_has_few_sizes():
    assert len({round_up(rows, 16) for rows in range(1025, 2049)}) == 16
    assert [round_up(rows, 16) for rows in range(1, 33)] == list(range(1, 33))
