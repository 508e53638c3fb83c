"""Hard negatives are those of a brute-force search, whatever the blocks, the thresholds and the ties."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.inference.top_k import SearchBlocks
from f2jax.mine.negatives import Answers, MiningOptions, mine_negatives
from tests import tiny

SMALL = SearchBlocks(queries=16, documents=32, chunk=1)


def exact_vectors(count: int, seed: int, dim: int = 96) -> np.ndarray:
    """Unit vectors of 64 values ±1/8: their products are multiples of 1/64, exact in float32 and full of ties."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, dim), np.float32)
    for row in x:
        row[rng.choice(dim, 64, replace=False)] = rng.choice([-0.125, 0.125], 64)
    return x


def example(queries: int, documents: int, most_right: int = 1, seed: int = 0):
    """(query vectors, document vectors, right documents of each query): right ones score 0.5 to 0.9, or by chance."""
    rng = np.random.default_rng(seed)
    q, d = exact_vectors(queries, seed), exact_vectors(documents, seed + 1)
    right = [rng.choice(documents, min(rng.integers(1, most_right + 1), documents), replace=False).tolist() for _ in q]
    for i, numbers in enumerate(right):
        if rng.random() < 0.8:
            d[numbers[0]] = q[i]
            flipped = rng.choice(np.flatnonzero(q[i]), rng.integers(3, 16), replace=False)
            d[numbers[0], flipped] *= -1
    return q, d, right


def make_answers(right, own=None, query_labels=(), document_labels=(), **more) -> Answers:
    """From lists for each query or document."""

    def pairs(lists):
        return np.array([(i, n) for i, some in enumerate(lists) for n in sorted(set(some))], np.int64).reshape(-1, 2)

    labels = pairs(query_labels), pairs(document_labels)
    return Answers(len(right), len(document_labels), pairs(right), own, *labels, **more)


def oracle(q, d, right, options, own=None, query_labels=None, document_labels=None) -> list[list[int]]:
    """The rules in float64, one query after the other."""
    room = max(map(len, right))
    found = []
    for i, q_e in enumerate(q.astype(np.float64)):
        scores = d.astype(np.float64) @ q_e
        order = sorted(range(len(d)), key=lambda n: (-scores[n], n))
        if query_labels:
            order = [n for n in order if not set(query_labels[i]) & set(document_labels[n])]
        wrong = [n for n in order[: options.top + room] if n not in right[i] and (own is None or n != own[i])]
        worst = min(scores[n] for n in right[i])
        if options.max_score is not None:
            wrong = [n for n in wrong if scores[n] < options.max_score]
        if options.relative is not None:
            wrong = [n for n in wrong if scores[n] < worst - abs(worst) * (1 - options.relative)]
        found.append(wrong[options.skip : options.skip + options.keep])
    return found


def run(q, d, answers: Answers, options: MiningOptions, **more) -> tuple[list[list[int]], np.ndarray, Counter]:
    """(documents of each query, scores with 0 for none, counts)."""
    blocks = list(mine_negatives(q, d, answers, options, **more))
    documents = np.concatenate([block.documents_qj for block in blocks])
    counts = Counter()
    for block in blocks:
        counts.update(block.counts)
    return [row[row >= 0].tolist() for row in documents], np.concatenate([b.scores_qj for b in blocks]), counts


# Equal to brute force

RULES = {
    "recipe": MiningOptions(),
    "few": MiningOptions(top=20, skip=2, keep=5),
    "no_skip": MiningOptions(top=10, skip=0, keep=10),
    "all_of_top": MiningOptions(top=29, skip=5, keep=24),
    "no_max_score": MiningOptions(top=40, keep=8, max_score=None),
    "no_relative": MiningOptions(top=40, keep=8, relative=None),
    "no_limits": MiningOptions(top=40, keep=8, max_score=None, relative=None),
    "low_max_score": MiningOptions(top=60, keep=8, max_score=0.125),  # a value that scores have: it does not pass
    "low_relative": MiningOptions(top=60, keep=8, relative=0.25),
    "as_good_as_right": MiningOptions(top=60, keep=8, relative=1.0),
}


@pytest.mark.parametrize("most_right", [1, 4])
@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
def test_negatives_are_those_of_the_oracle(options, most_right):
    q, d, right = example(70, 300, most_right)
    found, _, _ = run(q, d, make_answers(right), options, blocks=SMALL)
    assert found == oracle(q, d, right, options)


@pytest.mark.parametrize(
    "blocks",
    [
        SearchBlocks(1, 16, 1),
        SearchBlocks(7, 48, 40_000),
        SearchBlocks(16, 1_000),
        SearchBlocks(1_000, 20, 1),
        SearchBlocks(64, 64, 1, resident=0),
        SearchBlocks(),
    ],
    ids=str,
)
@pytest.mark.parametrize("documents", [3, 30, 129, 257])
def test_blocks_of_any_size_give_the_same(blocks, documents):
    """Also where there are fewer documents than are looked at, than are kept, or than a block holds."""
    options = MiningOptions(top=40, skip=3, keep=12)
    q, d, right = example(37, documents, most_right=2)
    found, scores, _ = run(q, d, make_answers(right), options, blocks=blocks)
    assert found == oracle(q, d, right, options)
    expected = [[d[n] @ q[i] for n in row] + [0] * (options.keep - len(row)) for i, row in enumerate(found)]
    np.testing.assert_array_equal(scores, np.array(expected, np.float32))


def test_equal_scores_go_by_document_number():
    d = np.tile(exact_vectors(1, 0), (200, 1))
    q = np.copy(d[:1])
    q[0, np.flatnonzero(q[0])[:32]] *= -1  # scores 0 with all
    options = MiningOptions(skip=5, keep=24, relative=None)
    for right in (0, 17, 199):
        expected = [n for n in range(200) if n != right][5:29]
        assert run(q, d, make_answers([[right]]), options, blocks=SMALL)[0] == [expected]


def test_what_fills_up_the_last_block_takes_no_place():
    """All scores are below 0, which is what a filling of zeros would score."""
    scores = np.full(200, -0.9)
    scores[[5, 40, 100]] = -0.1, -0.2, -0.3
    d = np.stack([scores, np.sqrt(1 - scores**2)], axis=1)
    options = MiningOptions(top=2, skip=0, keep=2, max_score=None, relative=None)
    for blocks in (SMALL, SearchBlocks()):
        assert run(np.array([[1.0, 0.0]]), d, make_answers([[5]]), options, blocks=blocks)[0] == [[40, 100]]


def test_documents_with_a_label_of_the_query_are_not_looked_at():
    rng = np.random.default_rng(3)
    q, d, right = example(40, 200, most_right=2)
    query_labels = [rng.choice(6, rng.integers(0, 3), replace=False).tolist() for _ in q]
    document_labels = [rng.choice(6, rng.integers(0, 4), replace=False).tolist() for _ in d]
    options = MiningOptions(top=30, skip=2, keep=10)
    answers = make_answers(right, None, query_labels, document_labels)
    found, _, _ = run(q, d, answers, options, blocks=SMALL)
    assert found == oracle(q, d, right, options, None, query_labels, document_labels)
    assert found != oracle(q, d, right, options)


def test_the_text_of_the_query_itself_is_no_negative():
    q, d, right = example(40, 200)
    options = MiningOptions(top=30, skip=0, keep=10, max_score=None, relative=None)
    own = np.array([row[0] if i % 2 else -1 for i, row in enumerate(oracle(q, d, right, options))])
    found, _, _ = run(q, d, make_answers(right, own), options, blocks=SMALL)
    assert found == oracle(q, d, right, options, own)


def test_vectors_need_not_be_float32_of_unit_length(tmp_path):
    q, d, right = example(40, 200)
    stored = np.lib.format.open_memmap(tmp_path / "d.npy", "w+", np.float16, d.shape)
    stored[:] = d * 4
    options = MiningOptions(top=30, skip=2, keep=10)
    for queries, documents in ((q.astype(np.float64) / 2, stored), (q * 8, d * 2)):
        assert run(queries, documents, make_answers(right), options, blocks=SMALL)[0] == oracle(q, d, right, options)


def test_a_zero_vector_scores_zero_and_never_nan():
    q, d, right = example(8, 60)
    q[3], d[right[4][0]] = 0, 0
    options = MiningOptions(top=20, skip=0, keep=20, relative=None)
    found, scores, _ = run(q, d, make_answers(right), options, blocks=SMALL)
    assert np.isfinite(scores).all() and not scores[3].any()
    assert found[3] == [n for n in range(60) if n != right[3][0]][:20]


def test_several_devices_share_the_documents():
    """In a process that sees three devices."""
    code = """
import jax
from f2jax.inference.top_k import SearchBlocks
from f2jax.mine.negatives import MiningOptions
from tests.mine.test_negatives import example, make_answers, oracle, run
assert len(jax.local_devices()) == 3
options = MiningOptions(top=30, skip=2, keep=10)
q, d, right = example(50, 200, most_right=2)
for queries in (4, 1_000):
    found, *_ = run(q, d, make_answers(right), options, blocks=SearchBlocks(queries, 64, 1))
    assert found == oracle(q, d, right, options)
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | environment | {"PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_from_a_later_query_on_the_rest_is_the_same():
    q, d, right = example(70, 200)
    options = MiningOptions(top=60, skip=2, keep=10, max_score=0.1, fewer="random")
    whole = list(mine_negatives(q, d, make_answers(right), options, blocks=SMALL))
    starts = [block.start for block in whole[2:]]
    rest = list(mine_negatives(q, d, make_answers(right), options, blocks=SMALL, starts=starts))
    assert [block.start for block in rest] == [block.start for block in whole[2:]]
    for a, b in zip(rest, whole[2:], strict=True):
        np.testing.assert_array_equal(a.documents_qj, b.documents_qj)
        np.testing.assert_array_equal(a.scores_qj, b.scores_qj)


def test_rejected_documents_are_counted_once_by_the_limit_that_they_fail():
    q = np.array([[1, 0]], np.float32)
    angles = np.arccos([0.9, 0.85, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2])
    d = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    options = MiningOptions(top=8, skip=1, keep=2, max_score=0.82, relative=0.95)
    found, _, counts = run(q, d, make_answers([[4]]), options)  # the right answer scores 0.5
    assert found == [[6, 7]]
    assert counts == {"max_score": 2, "relative": 2, "rated": 0, "random": 0}


# Drawn at random where too few pass


def test_the_draw_fills_up_and_is_never_a_right_rejected_or_doubled_document():
    q, d, right = example(60, 150, most_right=3)
    rng = np.random.default_rng(0)
    labels = [[int(label)] for label in rng.integers(0, 5, len(q) + len(d))]
    own = rng.integers(0, len(d), len(q))
    answers = make_answers(right, own, labels[: len(q)], labels[len(q) :])
    drop = MiningOptions(top=60, skip=2, keep=24, max_score=0.05)
    nearest_, _, _ = run(q, d, answers, drop, blocks=SMALL)
    found, scores, counts = run(q, d, answers, MiningOptions(top=60, skip=2, keep=24, max_score=0.05, fewer="random"))
    looked_at = oracle(
        q,
        d,
        right,
        MiningOptions(top=60, skip=0, keep=60, max_score=None, relative=None),
        own,
        labels[: len(q)],
        labels[len(q) :],
    )
    assert counts["random"] == sum(24 - len(row) for row in nearest_) > 100
    for i, row in enumerate(found):
        assert row[: len(nearest_[i])] == nearest_[i], "mined ones come first"
        drawn = row[len(nearest_[i]) :]
        assert len(row) == len(set(row)) == 24
        assert not set(drawn) & {*right[i], own[i]}
        assert all(labels[len(q) + n] != labels[i] for n in drawn)
        assert all(d[n] @ q[i] < 0.05 for n in drawn if n in looked_at[i])
        np.testing.assert_allclose(scores[i], d[row] @ q[i], atol=1e-6)


def test_the_draw_depends_on_seed_and_query_id_alone():
    q, d, right = example(30, 100)
    options = MiningOptions(top=60, keep=24, max_score=0.0, fewer="random")
    ids = np.arange(30) + 1_000
    found, _, _ = run(q, d, make_answers(right), options, ids=ids)
    order = np.random.default_rng(0).permutation(30)
    shuffled, _, _ = run(
        q[order], d, make_answers([right[i] for i in order]), options, ids=ids[order], blocks=SearchBlocks(4, 16, 1)
    )
    assert shuffled == [found[i] for i in order]
    assert run(q, d, make_answers(right), options, ids=ids + 1)[0] != found
    other_seed = MiningOptions(top=60, keep=24, max_score=0.0, fewer="random", seed=1)
    assert run(q, d, make_answers(right), other_seed, ids=ids)[0] != found


def test_the_draw_takes_all_that_may_be_where_documents_are_few():
    q, d, right = example(10, 6)
    options = MiningOptions(top=30, skip=5, keep=24, max_score=None, relative=None, fewer="random")
    found, _, _ = run(q, d, make_answers(right), options)
    assert [sorted(row) for row in found] == [[n for n in range(6) if n != right[i][0]] for i in range(10)]


def test_the_draw_is_spread_over_all_documents():
    """More than one walk long, and each document is drawn about as often as any other."""
    q, d = exact_vectors(200, 0), exact_vectors(1_000, 1)
    options = MiningOptions(top=29, max_score=0.0, fewer="random")  # the nearest all score above 0
    found, _, counts = run(q, d, make_answers([[i] for i in range(200)]), options)
    assert counts["random"] == 200 * 24
    drawn = np.bincount(np.concatenate(found), minlength=1_000)
    assert 0.9 * 4.8 < drawn[:500].mean() < 1.1 * 4.8 and drawn.max() < 20


# What is refused


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"keep": 0}, "keep=0 should be at least 1."),
        ({"skip": -1}, "skip=-1 should be at least 0."),
        ({"top": 28}, "top=28 should be at least skip + keep = 29."),
        ({"max_score": float("nan")}, "max_score=nan should be 0 or more."),
        ({"max_score": -0.5}, "max_score=-0.5 should be 0 or more."),
        ({"relative": float("inf")}, "relative=inf should be 0 or more."),
        ({"fewer": "randm"}, "fewer='randm' is not a choice; did you mean 'random'?"),
    ],
)
def test_a_rule_that_makes_no_sense(changes, message):
    with pytest.raises(UserError) as error:
        MiningOptions(**changes)
    assert str(error.value) == message


def test_vectors_of_different_models():
    with pytest.raises(UserError, match="have 96 and 64 dimensions; embed both with one model"):
        list(mine_negatives(exact_vectors(3, 0), exact_vectors(3, 0, dim=64), make_answers([[0]] * 3), MiningOptions()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_vectors_that_are_not_finite(kind, value):
    q, d, right = example(20, 40)
    (q if kind == "queries" else d)[17, 3] = value
    with pytest.raises(
        UserError, match=f"The vectors of the {kind} hold values that are not finite, first in row 17; embed them again"
    ):
        list(mine_negatives(q, d, make_answers(right), MiningOptions(), blocks=SMALL))
