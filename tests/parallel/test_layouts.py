"""Eight devices, however they are laid out, and chunks, however small, give the loss and the gradient of one device.

The negatives of a query are those of the whole batch: one device sees it whole, so it is the oracle.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from f2jax.parallel.mesh import make_mesh
from tests import tiny
from tests.parallel import steps


def single(what) -> dict[str, np.ndarray]:
    return steps.measure(make_mesh(**steps.ONE, devices=steps.jax.devices()[:1]), 0, **what)


@pytest.fixture(scope="session")
def one_device() -> dict[str, dict]:
    """What one device computes, all rows at once."""
    return {"plain": single(steps.PLAIN), "full": single(steps.FULL)}


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    path = tmp_path_factory.mktemp("layouts") / "found.npz"
    run = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(tiny.ROOT)} | steps.QUICK
    subprocess.run([sys.executable, "-m", "tests.parallel.steps", path, *steps.CASES], env=os.environ | run, check=True)
    return np.load(path)


@pytest.mark.parametrize("case", steps.CASES)
def test_a_layout_gives_the_loss_and_gradient_of_one_device(case, one_device, eight_devices):
    check(case, one_device, eight_devices)


def check(case: str, one_device, found) -> None:
    expected = one_device[case.split(",")[0]]
    np.testing.assert_allclose(found[f"{case}/loss"], expected["loss"], rtol=1e-5)
    largest = np.abs(expected["gradient"]).max()
    assert np.abs(found[f"{case}/gradient"] - expected["gradient"]).max() <= 1e-4 * largest
    tokens = found[f"{case}/tokens"]
    count = len(expected["tokens"])
    assert (tokens[:count] == expected["tokens"]).all() and not tokens[count:].any(), "the same rows, then padding"


def test_passages_that_learn_from_the_batch_have_another_gradient_and_the_same_loss(one_device):
    """Else the tests above could not tell the two objectives apart."""
    other = single({"passage_gradient": True, "teacher": False})
    plain = one_device["plain"]
    assert other["loss"] == pytest.approx(float(plain["loss"]), rel=1e-6)
    assert np.abs(other["gradient"] - plain["gradient"]).max() > 0.01 * np.abs(plain["gradient"]).max()
