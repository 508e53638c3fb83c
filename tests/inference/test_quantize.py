"""What quantization keeps and refuses. Byte-for-byte layouts: tests/parity."""

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.inference.quantize import quantize


def test_int8_keeps_the_order_of_values_in_each_dimension():
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    found = quantize(vectors, "int8")
    for d in range(8):
        assert (np.diff(found[np.argsort(vectors[:, d]), d].astype(int)) >= 0).all()
    assert found.min() == -128 and found.max() == 127


def test_binary_is_the_sign_of_each_dimension():
    assert quantize(np.array([[1, -1, 1, 1, -1, -1, -1, 1.0]]), "ubinary").tolist() == [[0b10110001]]
    assert quantize(np.array([[1, -1, 1, 1, -1, -1, -1, 1.0]]), "binary").tolist() == [[0b10110001 - 128]]


def test_unknown_precision_and_a_single_vector_are_refused():
    with pytest.raises(UserError, match="did you mean 'ubinary'"):
        quantize(np.ones((2, 8)), "ubinray")
    with pytest.raises(UserError, match="gives no range for int8; pass several at once"):
        quantize(np.ones((1, 8)), "int8")
