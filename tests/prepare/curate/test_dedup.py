"""Duplicates: which rows stay depends on the rows alone, and near duplicates are those that brute force finds."""

import math
import random
from collections import Counter, defaultdict
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.prepare.curate import CurationOptions, CurationReport, dedup
from f2jax.prepare.curate.dedup import (
    band_keys,
    exact_key,
    near_duplicates,
    rank,
    record_id,
    shingles,
)
from tests.prepare.curate.in_memory import curate, drop_exact, drop_near, sketch

NEAR = CurationOptions(near_duplicates=0.8)
words = st.lists(st.sampled_from(["red", "green", "blue", "the river", "é", "北京"]), max_size=4).map(" ".join)
records = st.builds(
    Record,
    query=words,
    positive=words,
    negatives=st.lists(words, max_size=2).map(tuple),
    kind=st.sampled_from(["retrieval", "clustering"]),
    source=st.sampled_from(["a", "b"]),
)


pieces = lru_cache(maxsize=None)(shingles)


def jaccard(one: str, other: str) -> float:
    a, b = pieces(one, 5), pieces(other, 5)
    return len(a & b) / len(a | b)


def likeness(one: Record, other: Record) -> float:
    return min(jaccard(one.query, other.query), jaccard(one.positive, other.positive))


# Exact duplicates


@settings(max_examples=50)
@given(st.lists(records, max_size=12), st.randoms(use_true_random=False))
def test_what_stays_does_not_depend_on_order(rows, shuffle):
    moved = shuffle.sample(rows, len(rows))
    for drop in (drop_exact, lambda some: drop_near(drop_exact(some)[0], NEAR)):
        assert Counter(drop(rows)[0]) == Counter(drop(moved)[0])


@given(st.lists(records, max_size=12))
def test_grouping_by_key_gives_what_the_helper_in_memory_gives(rows):
    """The two halves that a distributed pipeline uses, against `drop_exact`."""
    groups = defaultdict(list)
    for row in rows:
        groups[exact_key(row)].append(row)
    kept, dropped = drop_exact(rows)
    assert Counter(min(group, key=rank) for group in groups.values()) == Counter(kept)
    assert Counter(kept) + Counter(dropped) == Counter(rows)


@given(st.lists(records, max_size=12))
def test_one_row_stays_for_each_query_positive_and_kind(rows):
    kept, _ = drop_exact(rows)
    pairs = [(" ".join(row.query.split()), " ".join(row.positive.split()), row.kind) for row in kept]
    assert len(set(pairs)) == len(pairs)
    assert {(row.query, row.positive, row.kind) for row in kept} == {(r.query, r.positive, r.kind) for r in rows}


def test_the_row_with_the_most_negatives_stays():
    poor, rich = Record("q", "p", ("n",), source="z"), Record("q", "p", ("n", "m"), source="a")
    assert drop_exact([poor, rich]) == drop_exact([rich, poor]) == ([rich], [poor])


@pytest.mark.parametrize(
    "other,same",
    [
        (Record("q", "p", ("n",), language="deu", source="other"), True),
        (Record(" q\n", "p  "), True),
        (Record("Q", "p"), False),
        (Record("q", "other"), False),
        (Record("p", "q"), False),
        (Record("q", "p", kind="clustering"), False),
    ],
)
def test_duplicates_have_the_same_query_positive_and_kind(other, same):
    assert (exact_key(Record("q", "p")) == exact_key(other)) == same


def test_the_border_between_query_and_positive_counts():
    assert exact_key(Record("a b", "c")) != exact_key(Record("a", "b c"))
    assert record_id(Record('a", "b', "c")) != record_id(Record("a", 'b", "c'))


@pytest.mark.parametrize(
    "change",
    [
        {"query": "x"},
        {"positive": "x"},
        {"negatives": ("x",)},
        {"kind": "clustering"},
        {"language": "deu"},
        {"source": "x"},
        {"label": "x"},
        {"instruction": "x"},
        {"symmetric": True},
    ],
)
def test_the_id_of_a_row_depends_on_every_field(change):
    row = Record("q", "p", ("n",))
    assert record_id(replace(row, **change)) != record_id(row)


# Near duplicates


def variants(seed: int) -> list[Record]:
    """Rows of random words, each beside copies in which more and more words are others: Jaccard from 1 to 0."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(400)]

    def changed(text, share):
        return " ".join(rng.choice(vocabulary) if rng.random() < share else word for word in text.split())

    rows = []
    for _ in range(30):
        query, positive = (" ".join(rng.choices(vocabulary, k=k)) for k in (12, 60))
        rows.append(Record(f"{query}?", f"{positive}."))  # no letter is another one
        for share in (0, 0.01, 0.03, 0.1, 0.3):
            rows.append(Record(changed(query, share), changed(positive, share)))
    return rng.sample(rows, len(rows))


def variants_of_a_text(count: int) -> list[str]:
    """A text in which more and more of the words are others."""
    words_of_text = [f"word{i}" for i in range(count)]
    return [" ".join([*(f"other{i}" for i in range(n)), *words_of_text[n:]]) for n in range(count)]


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
def test_near_duplicates_are_those_of_brute_force(threshold):
    """MinHash estimates: within three standard deviations of the threshold it may err, beyond them it must not."""
    options = CurationOptions(near_duplicates=threshold)
    margin = 3 * math.sqrt(threshold * (1 - threshold) / options.permutations)
    rows, _ = drop_exact(variants(seed=1))
    kept, dropped = drop_near(rows, options)
    pairs = [(likeness(a, b), max(a, b, key=rank)) for a, b in combinations(rows, 2)]
    must = {record_id(worse) for alike, worse in pairs if alike >= threshold + margin}
    may = {record_id(worse) for alike, worse in pairs if alike >= threshold - margin}
    assert len(must) > 20 and len(may) < len(rows)
    assert must <= {record_id(row) for row in dropped} <= may
    assert Counter(kept) + Counter(dropped) == Counter(rows)


def test_the_best_row_of_a_chain_stays():
    """Of rows that are alike in a row, all but the one of smallest rank are like a better one, or like one that is."""
    text = [f"word{i}" for i in range(60)]
    chain = [Record(" ".join(text[i : i + 40]), "the same answer for all") for i in range(0, 16, 2)]
    assert jaccard(chain[0].query, chain[1].query) > 0.85 and jaccard(chain[0].query, chain[-1].query) < 0.6
    kept, _ = drop_near(chain, NEAR)
    assert min(chain, key=rank) in kept


@pytest.mark.parametrize(
    "one,other,near",
    [
        (("How tall is Mount Kenya today?", "5,199 metres above the sea"),) * 2 + (True,),
        (("How tall is Mount Kenya today?", "5,199 m"), ("how tall is  MOUNT KENYA, today", "5199 m"), False),
        (
            ("a long passage " * 9 + "which year", "1911"),
            ("a long passage " * 9 + "which year", "another answer"),
            False,
        ),
        (("question one", "a long passage " * 9), ("something else", "a long passage " * 9), False),
        (("ok", "yes"), ("ok!", "Yes."), True),
        (("😀", "🎉"), ("😀", "🎊"), False),
        (("नमस्ते दुनिया, आप कैसे हैं", "ठीक"), ("नमस्ते दुनिया आप कैसे हैं?", "ठीक"), True),
        (("今天天气很好我们去公园散步吧", "好"), ("今天天气很好, 我们去公园散步吧。", "好"), False),
    ],
)
def test_both_sides_must_be_alike(one, other, near):
    one, other = Record(*one, source="a"), Record(*other, source="b")
    expected = min(jaccard(one.query, other.query), jaccard(one.positive, other.positive)) >= 0.8
    assert (len(drop_near([one, other], NEAR)[1]) == 1) == near == expected


def test_a_group_decides_by_itself_and_twice_alike():
    answer = "an answer that goes on for a while, so that one letter of it weighs little"
    rows = [Record("the same question about rivers", f"{answer} {i}") for i in range(9)]
    made = [sketch(row, NEAR) for row in rows]
    gone = set(near_duplicates(made, NEAR))
    assert gone == set(near_duplicates(reversed(made + made), NEAR))
    assert gone == {record_id(row) for row in rows} - {record_id(min(rows, key=rank))}
    assert set(near_duplicates(made[:1], NEAR)) == set(near_duplicates([], NEAR)) == set()


def test_a_large_group_is_parted_into_small_ones_and_rows_that_are_the_same_stay_together(monkeypatch):
    monkeypatch.setattr(dedup, "LARGEST_GROUP", 16)
    rng = np.random.default_rng(0)
    values_r2p = rng.integers(0, 3, (400, 2, 6)).astype(np.uint32)
    values_r2p[::10] = 7
    parts = list(dedup.small_groups(values_r2p, np.arange(400)))
    assert sorted(np.concatenate(parts)) == list(range(400))
    assert all((np.diff(part) > 0).all() for part in parts)
    large = [part.tolist() for part in parts if len(part) > 16]
    assert large == [list(range(0, 400, 10))]


def test_what_a_large_group_drops_is_like_a_better_row_and_copies_always_go(monkeypatch):
    rows = [Record(f"{text} {name}", "one answer for all") for text in variants_of_a_text(60) for name in "ab"]
    copies = [replace(row, source=source) for row in rows[:10] for source in "xyz"]
    made = [sketch(row, NEAR) for row in rows + copies]
    expected = set(near_duplicates(made, NEAR))
    monkeypatch.setattr(dedup, "LARGEST_GROUP", 16)
    found = set(near_duplicates(made, NEAR))
    assert found < expected and len(found) > len(expected) / 2
    best = {min((row for row in [*rows, *copies] if row.query == query), key=rank) for query in {r.query for r in rows}}
    assert {record_id(row) for row in copies} - set(map(record_id, best)) <= found


def test_sketches_are_the_same_on_every_machine():
    """If this fails the MinHash library has changed: sketches of older runs cannot be compared with new ones."""
    options = CurationOptions(permutations=4, band=2)
    made = sketch(Record("a question about rivers", "an answer about rivers"), options)
    assert made.values.hex() == "a06b1409d9d5402e83b29d0046561c05" + "a06b14095c27fc36eba19b0046561c05"
    assert band_keys(made.values, options) == [2831675354480445431, 6559068847466134482]


def test_curate_reports_duplicates_by_reason():
    rows = [Record("one question of many words", "one answer of many words")] * 2
    rows.append(Record("one question of many words!", "one answer of many words."))
    rows.append(Record("something else", "entirely"))
    report = CurationReport()
    kept = list(curate(rows, NEAR, report))
    assert len(kept) == report.kept == 2
    assert report.skipped == {"exact duplicate": 1, "near duplicate": 1}


def test_a_row_without_scores_has_the_hash_of_corpora_that_knew_none():
    row = Record("q", "p", ("n",))
    assert record_id(row) == 4601814717779566321
    assert record_id(replace(row, scores=(1.0, 0.5))) != record_id(row)


def test_real_rows_have_few_near_duplicates(shared_data):
    """MedQuAD asks one question about hundreds of illnesses: alike in words, yet other rows."""
    rows = list(open_source(str(shared_data / "medquad/train.parquet"), "train", SkipList()))[:600]
    rows, _ = drop_exact(rows)
    _, dropped = drop_near(rows, CurationOptions(near_duplicates=0.9))
    assert len(dropped) < 0.02 * len(rows)
    for row in dropped:
        assert max(likeness(row, other) for other in rows if rank(other) < rank(row)) > 0.8
