"""Distillation losses on cases small enough to work out by hand. Values and gradients: tests/parity/test_distill.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules
from f2jax.errors import UserError
from f2jax.train.distill import check_distance, embedding_loss, first_occurrences, score_loss
from f2jax.train.losses import nested_sum
from f2jax.train.step import DeviceBatch
from f2jax.train.terms import batch_loss
from tests.tiny import loss_config


def test_the_mean_squared_error_of_raw_states_is_the_default():
    """(1 + 9) / 2 and (0 + 4) / 2; the teacher's third coordinate does not count."""
    student, teacher = jnp.array([[1.0, 3], [5, 2]]), jnp.array([[0.0, 0, 7], [5, 4, 7]])
    assert embedding_loss(student, teacher, jnp.ones(2, bool)) == pytest.approx((5 + 2) / 2)
    assert embedding_loss(student, teacher, jnp.array([False, True])) == pytest.approx(2)


def test_lengths_do_not_count_for_the_cosine():
    student, teacher = jnp.array([[3.0, 0], [0, 1]]), jnp.array([[1.0, 0, 9], [-5, 0, 9]])
    assert embedding_loss(student, teacher, jnp.ones(2, bool), distance="cosine") == pytest.approx((0 + 1) / 2)


def test_a_projection_reaches_all_of_the_teacher():
    """[I 0] predicts zeros for what the student lacks; a nested size uses the first rows."""
    student, teacher, rows = jnp.array([[1.0, 2]]), jnp.array([[1.0, 2, 6]]), jnp.ones(1, bool)
    projection = jnp.eye(2, 3)
    assert embedding_loss(student, teacher, rows, projection_er=projection) == pytest.approx(36 / 3)
    nested = nested_sum(
        lambda cut: embedding_loss(cut, teacher, rows, projection_er=projection), [student], (2, 1), (1.0, 0.5)
    )
    assert nested == pytest.approx(36 / 3 + 0.5 * (4 + 36) / 3)


def test_the_divergence_of_scores():
    """Teacher 3/4 and 1/4, student 1/2 each: log 2 - H; equal scores cost nothing, a masked one takes no part."""
    log = np.log
    teacher, student = jnp.array([[log(3.0), 0, 50]]), jnp.zeros((1, 3))
    mask, row = jnp.array([[True, True, False]]), jnp.ones(1, bool)
    expected = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert score_loss(student, teacher, mask, row, 1.0, 1.0) == pytest.approx(expected, rel=1e-5)
    assert score_loss(teacher, teacher, mask, row, 0.05, 0.05) == 0
    assert score_loss(teacher / 2, teacher, mask, row, 0.5, 1.0) == pytest.approx(0, abs=1e-7), "each has its own"


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_an_empty_mask_is_zero(distance):
    nothing = jnp.ones((2, 0, 4)), jnp.ones((2, 0, 4)), jnp.ones((2, 0), bool)
    assert embedding_loss(*nothing, distance=distance) == 0
    assert embedding_loss(jnp.ones((2, 4)), jnp.zeros((2, 8)), jnp.zeros(2, bool), distance=distance) == 0


def test_each_term_that_has_a_weight_is_a_metric_and_only_those():
    x = jnp.ones((2, 4)), jnp.ones((2, 4)), jnp.ones((2, 3, 4))
    masks = {"n_mask_bj": jnp.ones((2, 3), bool), "row_mask_b": jnp.ones(2, bool), "text_s": jnp.arange(10)}
    masks |= {"label_b": -jnp.ones(2, int), "positive_b": jnp.arange(2), "negative_bj": jnp.ones((2, 3), int)}
    assert set(batch_loss(x, teacher=x, kind="retrieval", config=loss_config(contrastive_weight=0.0), **masks)[1]) == {
        "loss_distill",
        "accuracy",
    }
    terms = ("distill_hard", "distill_in_batch", "distill_texts")
    config = loss_config(contrastive_weight=0.0, distill_weight=0.0, **{f"{term}_weight": 1.0 for term in terms})
    assert set(batch_loss(x, teacher=x, kind="retrieval", config=config, **masks)[1]) == {"accuracy"} | {
        f"loss_{term}" for term in terms
    }


def test_a_text_that_comes_several_times_counts_once_among_those_that_are_there():
    numbers, there = jnp.array([7, 7, 5, 7, 5, 0]), jnp.array([False, True, True, True, True, False])
    assert first_occurrences(numbers, there).tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize("chunk_rows", [0, 1])
def test_texts_of_a_batch_have_the_same_number_where_their_tokens_are_the_same(chunk_rows):
    def tokens(*ids):
        return np.array(ids, np.int32)

    rows = [
        Row(tokens(5), tokens(7, 8), [tokens(9, 2), tokens(5)], 1, [2, 3]),
        Row(tokens(7, 8), tokens(7, 8), [tokens(9)], 1, [4]),
    ]
    made = assemble(texts_of(rows), 2, kind="retrieval", batch_size=2, rules=RowRules(4, chunk_rows), pad_id=0)
    found = DeviceBatch.of(made.arrays()).text_s.tolist()[:-1]  # the last slot is absent
    texts = [(5,), (7, 8), (7, 8), (7, 8), (9, 2), (5,), (9,)]
    assert [[a == b for b in found] for a in found] == [[a == b for b in texts] for a in texts]


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        check_distance("cosin")
