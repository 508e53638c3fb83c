"""Smaller vectors from one encoding: worked out by hand, and against brute force."""

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.evaluation.variants import Variant, variants


@pytest.fixture
def e_se() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)


def test_truncated_first_then_normalized():
    found = Variant(2).of(np.array([[3, 4, 12], [0, -2, 5]], np.float32))
    assert found == pytest.approx(np.array([[0.6, 0.8], [0, -1]]))


@pytest.mark.parametrize("dim", [24, 13, 8, 1])
@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_the_cosine_of_bits_is_one_less_twice_the_share_of_bits_that_differ(e_se, dim, precision):
    found = Variant(dim, precision).of(e_se)
    bits = [[value > 0 for value in row[:dim]] for row in e_se]
    differ = np.array([[sum(a != b for a, b in zip(x, y, strict=True)) for y in bits] for x in bits])
    cosine = found @ found.T / dim
    assert found.shape == (50, dim)
    assert cosine == pytest.approx(1 - 2 * differ / dim, abs=1e-6)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_eight_bits_are_within_one_step_and_take_256_values_at_most(e_se, precision):
    exact, found = Variant(8).of(e_se), Variant(8, precision).of(e_se)
    steps = (exact.max(axis=0) - exact.min(axis=0)) / 255
    assert (np.abs(found - exact) <= steps * 1.001).all()
    assert not np.array_equal(found, exact)
    values = np.round((found - exact.min(axis=0)) / steps, 3)
    assert np.array_equal(values, np.round(values)), "multiples of the step"


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_a_single_text_and_none_at_all_have_vectors_too(e_se, precision):
    assert Variant(8, precision).of(e_se[:1]).shape == (1, 8)
    assert Variant(8, precision).of(np.empty((0, 0), np.float32)).shape[0] == 0


def test_by_default_every_second_dimension_that_was_trained_and_the_precisions_at_full_width():
    found = variants(320, (320, 256, 128, 64, 32, 16, 8))
    assert [str(variant) for variant in found] == ["320", "128", "32", "8", "320 int8", "320 binary"]
    assert variants(96, ()) == [Variant(96), Variant(96, "int8"), Variant(96, "binary")]


def test_all_dimensions_are_the_width_and_those_that_were_trained():
    assert variants(96, (64, 32), ["all", 48], []) == [Variant(96), Variant(64), Variant(48), Variant(32)]


def test_dimensions_and_precisions_can_be_chosen():
    assert variants(96, (64, 32), [16, 48, 16], ["ubinary"]) == [Variant(48), Variant(16), Variant(48, "ubinary")]


@pytest.mark.parametrize(
    "dims,precisions,complaint",
    [
        ([97], [], "97 in --dims is out of range; this model has 1 to 96 dimensions"),
        ([0], [], "0 in --dims is out of range"),
        ([], ["int4"], "no precision 'int4'; did you mean 'int8'"),
    ],
)
def test_what_cannot_be_is_refused(dims, precisions, complaint):
    with pytest.raises(UserError, match=complaint):
        variants(96, (64, 32), dims, precisions)
