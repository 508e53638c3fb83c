"""A token table learns a teacher's vectors, by a loss that NumPy agrees with."""

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.start.bag import _flatten, bag_loss, distil_bag, embed_bags
from f2jax.start.options import BagOptions, StartOptions


def example(texts: int = 400, vocab: int = 40, width: int = 12, seed: int = 0):
    """(token ids of each text, the vectors of bags whose rows and weights are known)."""
    rng = np.random.default_rng(seed)
    rows_ve, weight_v = rng.normal(size=(vocab, width)), rng.uniform(0.1, 1, vocab)
    rows_ve /= np.linalg.norm(rows_ve, axis=1, keepdims=True)
    sequences = [rng.integers(0, vocab, rng.integers(1, 9)).astype(np.int32) for _ in range(texts)]
    vectors_ie = np.stack([weight_v[ids] @ rows_ve[ids] for ids in sequences])
    return sequences, vectors_ie / np.linalg.norm(vectors_ie, axis=1, keepdims=True), rows_ve, weight_v


def test_a_text_is_the_weighted_sum_of_its_tokens_unit_rows():
    rng = np.random.default_rng(1)
    rows_ve, logits_v = rng.normal(size=(10, 4)).astype(np.float32), rng.normal(size=10).astype(np.float32)
    tokens_n, text_n = np.array([1, 2, 2, 3, 0, 0]), np.array([0, 0, 0, 1, 2, 2])  # two of padding
    found_ie = embed_bags({"rows_ve": rows_ve, "logits_v": logits_v}, tokens_n, text_n, 2)
    unit_ve, weight_v = rows_ve / np.linalg.norm(rows_ve, axis=1, keepdims=True), 1 / (1 + np.exp(-logits_v))
    first_e = weight_v[1] * unit_ve[1] + 2 * weight_v[2] * unit_ve[2]
    np.testing.assert_allclose(found_ie, [first_e / np.linalg.norm(first_e), unit_ve[3]], atol=1e-6)


@pytest.mark.parametrize("nested_weight", [0.0, 0.4])
@pytest.mark.parametrize("cosine_weight,scores_weight", [(1.0, 0.0), (0.0, 1.0), (5.0, 2.0)])
def test_the_loss_is_the_cosine_and_the_divergence_of_the_scores(cosine_weight, scores_weight, nested_weight):
    rng = np.random.default_rng(2)
    sequences, teacher_ie, *_ = example(5, width=11)
    params = {"rows_ve": rng.normal(size=(40, 11)).astype(np.float32), "logits_v": np.zeros(40, np.float32)}
    flat = np.concatenate(sequences), np.repeat(np.arange(5), [len(ids) for ids in sequences])
    options = BagOptions(
        cosine_weight=cosine_weight, scores_weight=scores_weight, temperature=0.3, nested_weight=nested_weight
    )
    student_ie = np.asarray(embed_bags(params, *flat, 5), np.float64)
    expected = 0.0
    for dim, weight in ((11, 1.0), (6, nested_weight), (3, nested_weight)):
        s_ie, t_ie = (
            x_ie[:, :dim] / np.linalg.norm(x_ie[:, :dim], axis=1)[:, None] for x_ie in (student_ie, teacher_ie)
        )
        expected += weight * cosine_weight * np.mean([1 - s_e @ t_e for s_e, t_e in zip(s_ie, t_ie, strict=True)])
        for i in range(5):
            others = [k for k in range(5) if k != i]
            p, q = (np.exp(x_ie[others] @ x_ie[i] / 0.3) for x_ie in (teacher_ie, s_ie))
            p, q = p / p.sum(), q / q.sum()
            expected += weight * scores_weight * np.sum(p * np.log(p / q)) / 5
    expected /= 1 + 2 * nested_weight
    assert float(bag_loss(params, *flat, teacher_ie, options)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("lengths", [[1], [3, 0, 2], [9, 9, 8, 7], [100] * 30])
def test_padding_is_at_most_an_eighth_and_belongs_to_no_text(lengths):
    tokens_n, text_n = _flatten([np.full(length, i + 1, np.int32) for i, length in enumerate(lengths)])
    for i, length in enumerate(lengths):
        assert (tokens_n[text_n == i] == i + 1).sum() == length == (text_n == i).sum()
    padding = (text_n == len(lengths)).sum()
    assert padding == len(tokens_n) - sum(lengths) <= sum(lengths) / 8


def test_a_teacher_that_is_a_bag_is_learned():
    sequences, vectors_ie, rows_ve, _ = example()
    learned_ve, weight_v = distil_bag(sequences, vectors_ie, 41, BagOptions(steps=600, batch_size=64, nested_weight=0))
    found_ie = np.stack([weight_v[ids] @ learned_ve[ids] for ids in sequences])
    cosine_i = (found_ie * vectors_ie).sum(axis=1) / np.linalg.norm(found_ie, axis=1)
    assert cosine_i.mean() > 0.995
    np.testing.assert_allclose(np.linalg.norm(learned_ve, axis=1), 1, atol=1e-5)
    assert (learned_ve[:40] * rows_ve).sum(axis=1).min() > 0.9
    assert weight_v[40] == weight_v.min(), "no text has this token"


def test_tokens_behind_the_maximum_are_not_read():
    sequences, vectors_ie, *_ = example(64)
    longer = [np.concatenate([ids, [40]]).astype(np.int32) for ids in (np.resize(ids, 4) for ids in sequences)]
    options = BagOptions(steps=2, batch_size=32, max_length=4)
    shorter = [ids[:4] for ids in longer]
    for a, b in zip(*(distil_bag(texts, vectors_ie, 41, options) for texts in (longer, shorter)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_table():
    sequences, vectors_ie, *_ = example(64)
    options = BagOptions(steps=3, batch_size=32, seed=5)
    for a, b in zip(*(distil_bag(sequences, vectors_ie, 40, options) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "act,message",
    [
        (lambda: BagOptions(steps=0), "steps=0 should be at least 1"),
        (lambda: BagOptions(temperature=0.0), "temperature=0.0 should be above 0"),
        (lambda: distil_bag([], np.zeros((0, 4)), 9, BagOptions()), "lower --batch-size"),
    ],
)
def test_what_cannot_be_is_one_sentence(act, message):
    with pytest.raises(UserError, match=message):
        act()


def test_at_least_one_text_is_sampled():
    with pytest.raises(UserError, match="--texts -5 should be at least 1"):
        StartOptions(max_texts=-5)
