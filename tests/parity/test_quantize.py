"""Quantized vectors are those of sentence-transformers, byte for byte."""

import numpy as np
import pytest

from f2jax.inference.quantize import PRECISIONS, int8_ranges, quantize

quantization = pytest.importorskip("sentence_transformers.util.quantization")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(50, 64), (7, 20), (2, 3), (300, 192)])
def test_equal_to_sentence_transformers(precision, shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    vectors[:, 1] = 0.5  # a dimension without a range
    expected = quantization.quantize_embeddings(vectors, precision)
    found = quantize(vectors, precision)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_equal_with_calibrated_ranges(precision):
    rng = np.random.default_rng(1)
    calibration, vectors = rng.normal(size=(500, 32)).astype(np.float32), rng.normal(size=(1, 32)).astype(np.float32)
    ranges = int8_ranges(calibration)
    expected = quantization.quantize_embeddings(vectors, precision, ranges=ranges)
    assert np.array_equal(quantize(vectors, precision, ranges), expected)
