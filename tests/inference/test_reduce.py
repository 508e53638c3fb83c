"""Principal components against NumPy's SVD."""

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.inference.reduce import components, moments


@pytest.fixture
def x_ie():
    """Vectors far from 0 that differ little, with some axes longer than others."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(500, 12)) * np.arange(12, 0, -1) @ rng.normal(size=(12, 12)) / 50 + 100).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 500])
def test_moments_are_numpys_however_the_vectors_come(x_ie, block):
    found = moments(x_ie[start : start + block] for start in range(0, 500, block))
    np.testing.assert_allclose(found.mean_e, x_ie.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance_ee, np.cov(x_ie.astype(np.float64).T, bias=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [1, 5, 12])
def test_components_are_those_of_the_svd(x_ie, width):
    found = moments([x_ie])
    axes_ee, explained = components(found.covariance_ee, width)
    centered_ie = x_ie.astype(np.float64) - x_ie.astype(np.float64).mean(0)
    u_ie, s_e, _ = np.linalg.svd(centered_ie, full_matrices=False)
    np.testing.assert_allclose(np.abs(centered_ie @ axes_ee), np.abs(u_ie * s_e)[:, :width], atol=1e-5)
    assert explained == pytest.approx((s_e[:width] ** 2).sum() / (s_e**2).sum(), rel=1e-9)
    assert (axes_ee[np.abs(axes_ee).argmax(0), np.arange(width)] > 0).all()


@pytest.mark.parametrize("width", [5, 12])
@pytest.mark.parametrize("whiten", [0.0, 0.25, 0.5, 1.0])
def test_whitening_takes_a_power_of_each_components_deviation(x_ie, width, whiten):
    found = moments([x_ie])
    axes_ee, explained = components(found.covariance_ee, width, whiten)
    centered_ie = x_ie.astype(np.float64) - x_ie.astype(np.float64).mean(0)
    s_e = np.linalg.svd(centered_ie, compute_uv=False)[:width]
    deviation_e = (centered_ie @ axes_ee).std(axis=0) * 500**0.5
    np.testing.assert_allclose(deviation_e, s_e * (s_e / s_e[0]) ** -whiten, rtol=1e-4)
    assert explained == components(found.covariance_ee, width)[1]


def test_axes_without_variance_are_not_whitened():
    flat_ie = np.random.default_rng(1).normal(size=(50, 3)) @ np.eye(3, 5)
    with pytest.raises(UserError, match="vary along fewer than 4 axes; keep fewer dimensions"):
        components(moments([flat_ie]).covariance_ee, 4, 0.5)
    assert np.isfinite(components(moments([flat_ie]).covariance_ee, 3, 0.5)[0]).all()


def test_equal_vectors_have_no_variance_to_lose():
    assert components(moments([np.ones((4, 3), np.float16)]).covariance_ee, 2)[1] == 1
