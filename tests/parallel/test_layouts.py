"""Eight devices, however they are laid out, and chunks, however small, give the loss and the gradient of one device.

The negatives of a query are those of the whole batch: one device sees it whole, so it is the oracle.
"""

import numpy as np
import pytest

from tests.parallel import steps


def parameters(cases) -> list:
    """The cases, those that are not chosen as slow ones."""
    return [case if case in steps.CHOSEN else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture
def eight_devices(case, make_once):
    """The arrays of this case, of a process with eight devices that computes all chosen cases, or all others."""
    known = steps.CASES | steps.ROUNDED | steps.SUMMED
    names = [name for name in known if (name in steps.CHOSEN) == (case in steps.CHOSEN)]
    name = "chosen_layouts" if case in steps.CHOSEN else "other_layouts"
    return np.load(make_once(name, lambda folder: steps.run(folder / "arrays.npz", names, devices=8)) / "arrays.npz")


@pytest.mark.parametrize("case", parameters(steps.CASES))
def test_a_layout_gives_the_loss_and_gradient_of_one_device(case, one_device, eight_devices):
    check(case, one_device, eight_devices)


@pytest.mark.parametrize("case", parameters(steps.ROUNDED))
def test_a_layout_in_bfloat16_is_as_near_to_float32_as_one_device_in_bfloat16(case, one_device, eight_devices):
    def distance(gradient):
        return np.linalg.norm(gradient - one_device["full/gradient"]) / np.linalg.norm(one_device["full/gradient"])

    rounding = distance(one_device["bfloat16/gradient"])
    assert 1e-3 < rounding < 0.02
    assert 1e-3 < distance(eight_devices[f"{case}/gradient"]) < 1.5 * rounding
    np.testing.assert_allclose(eight_devices[f"{case}/loss"], one_device["full/loss"], rtol=1e-3)


@pytest.mark.parametrize("case", parameters(steps.SUMMED))
def test_gradients_that_are_exchanged_in_bfloat16_are_rounded_once(case, one_device, eight_devices):
    """Nine bits each of eight summands, and of their sum; the loss is not rounded."""
    exact = one_device["full/gradient"]
    distance = np.linalg.norm(eight_devices[f"{case}/gradient"] - exact) / np.linalg.norm(exact)
    assert 5e-4 < distance < 4e-3
    np.testing.assert_allclose(eight_devices[f"{case}/loss"], one_device["full/loss"], rtol=1e-5)


@pytest.mark.parametrize("case", parameters([case for case in steps.CASES | steps.SUMMED if "chunks" in case]))
def test_copies_of_the_weights_exchange_nothing_for_a_chunk(case, eight_devices):
    assert eight_devices[f"{case}/sums_in_loops"] == 0


def check(case: str, one_device, arrays) -> None:
    expected = {key: one_device[f"{case.split(',')[0]}/{key}"] for key in ("loss", "gradient", "tokens")}
    np.testing.assert_allclose(arrays[f"{case}/loss"], expected["loss"], rtol=1e-5)
    largest = np.abs(expected["gradient"]).max()
    bar = 2e-4 if case.startswith("nested") else 1e-4  # exits round more: 8e-5, which is 2e-13 if all is float64
    assert np.abs(arrays[f"{case}/gradient"] - expected["gradient"]).max() <= bar * largest
    rows, wanted = (sorted(x[x.any(axis=1)].tolist()) for x in (arrays[f"{case}/tokens"], expected["tokens"]))
    assert rows == wanted, "the same rows, and padding"


def test_passages_that_learn_from_the_batch_have_another_gradient_and_the_same_loss(one_device):
    """Else the tests above could not tell the two objectives apart."""
    assert one_device["learning/loss"] == pytest.approx(float(one_device["plain/loss"]), rel=1e-6)
    plain, learning = one_device["plain/gradient"], one_device["learning/gradient"]
    assert np.abs(learning - plain).max() > 0.01 * np.abs(plain).max()
