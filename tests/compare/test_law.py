"""The law of loss in size and data: known laws are found again, by the runs alone."""

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import minimize_scalar
from threadpoolctl import threadpool_info, threadpool_limits

from f2jax.compare.law import ScalingLaw, bootstrap_laws, budget_numbers, can_fit, fit_law, interval

TRUE = ScalingLaw(0.5, 30.0, 0.35, 900.0, 0.45)
CHINCHILLA = ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28)  # Hoffmann et al. 2022, equation 10
CONSTANTS = ("irreducible", "size_factor", "size_exponent", "data_factor", "data_exponent")


def grid(law: ScalingLaw, sizes, budgets, noise: float = 0.0, seeds: int = 2):
    draw = np.random.default_rng(0)
    parameters_i = np.repeat(np.array(sizes, float), len(budgets) * seeds)
    tokens_i = np.tile(np.repeat(np.array(budgets, float), seeds), len(sizes))
    tokens_i *= np.exp(draw.uniform(-0.01, 0.01, len(tokens_i)))  # batches differ by some tokens
    losses_i = law.loss(parameters_i, tokens_i) * np.exp(draw.normal(0, noise, len(tokens_i)))
    return parameters_i, tokens_i, losses_i


@pytest.mark.parametrize(
    ("law", "sizes", "budgets"),
    [
        (TRUE, (1e4, 3e4, 1e5, 3e5), (3e5, 1e6, 4e6)),
        (CHINCHILLA, (4e7, 1e8, 4e8, 1e9, 1e10), (1e9, 1e10, 3e10, 2e11)),
        (ScalingLaw(1e-6, 8.0, 0.2, 4e5, 1.0), (1e4, 3e4, 1e5, 3e5), (3e5, 6e5, 1.2e6)),
    ],
    ids=["small", "of language models", "nothing irreducible"],
)
def test_a_known_law_is_found_from_its_points(law, sizes, budgets):
    found = fit_law(*grid(law, sizes, budgets))
    assert [getattr(found, name) for name in CONSTANTS[1:]] == pytest.approx(
        [getattr(law, name) for name in CONSTANTS[1:]], rel=1e-3
    )
    assert found.irreducible == pytest.approx(law.irreducible, abs=1e-4)
    assert found.loss(10 * max(sizes), 10 * max(budgets)) == pytest.approx(
        law.loss(10 * max(sizes), 10 * max(budgets)), rel=1e-3
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", [0, 0.005])
@pytest.mark.parametrize(
    ("size_term", "data_term", "flat"),
    [((0, 0), (900, 0.45), ["N"]), ((30, 0.35), (0, 0), ["D"]), ((0, 0), (0, 0), ["N", "D"])],
    ids=lambda value: "" if isinstance(value, tuple) else "+".join(value),
)
def test_a_term_that_is_the_same_everywhere_is_part_of_the_floor(size_term, data_term, flat, noise):
    law = ScalingLaw(0.5, *size_term, *data_term)
    arrays = grid(law, (1e4, 3e4, 1e5, 3e5), (3e5, 1e6, 4e6), noise)
    found = fit_law(*arrays)
    assert found.unidentified == flat
    assert found.irreducible == pytest.approx(0.5, abs=1e-6 + 10 * noise)
    assert [getattr(found, name) for name in CONSTANTS[1:]] == pytest.approx(
        [getattr(law, name) for name in CONSTANTS[1:]], rel=1e-3 + 10 * noise
    )
    assert all(set(flat) <= set(sample.unidentified) for sample in bootstrap_laws(*arrays, samples=3))


def test_a_fit_takes_one_thread(monkeypatch):
    """L-BFGS of five variables took 15 s with two threads on a busy machine, and 0.3 s with one."""
    seen = set()

    def minimize(*args, **kwargs):
        seen.update(pool["num_threads"] for pool in threadpool_info())
        return scipy.optimize.minimize(*args, **kwargs)

    monkeypatch.setattr("f2jax.compare.law.minimize", minimize)
    with threadpool_limits(2):
        fit_law(*grid(TRUE, (1e4, 3e4, 1e5, 3e5), (3e5, 1e6, 4e6)), start=TRUE)
    assert seen == {1}


def test_a_run_that_went_wrong_hardly_moves_the_law():
    parameters_i, tokens_i, losses_i = grid(TRUE, (1e4, 3e4, 1e5, 3e5), (3e5, 1e6, 4e6))
    losses_i[5] *= 1.5
    found = fit_law(parameters_i, tokens_i, losses_i)
    assert found.loss(1e6, 1e7) == pytest.approx(TRUE.loss(1e6, 1e7), rel=0.01)


def test_the_intervals_of_noisy_runs_hold_the_truth_and_widen_with_the_noise():
    widths = []
    for noise in (0.005, 0.03):
        arrays = grid(TRUE, (1e4, 3e4, 1e5, 3e5, 1e6), (3e5, 1e6, 4e6, 1e7), noise, seeds=3)
        laws = bootstrap_laws(*arrays, samples=100)
        for name in CONSTANTS:
            low, high = interval([getattr(law, name) for law in laws])
            assert low < getattr(TRUE, name) < high
        low, high = interval([float(law.loss(1e7, 1e8)) for law in laws])
        assert low < TRUE.loss(1e7, 1e8) < high
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize("law", [TRUE, CHINCHILLA])
def test_the_optimum_is_the_least_loss_along_its_product(law):
    for product in (1e12, 1e18, 1e22):
        size, tokens = law.optimum(product)
        assert size * tokens == pytest.approx(product)
        least = minimize_scalar(
            lambda log_n, product=product: law.loss(np.exp(log_n), product / np.exp(log_n)),
            bounds=(0, np.log(product)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert law.loss(size, tokens) == pytest.approx(least.fun, rel=1e-9)
    ratio = law.optimum(1e20)[0] / law.optimum(1e18)[0]
    assert law.size_share == pytest.approx(np.log(ratio) / np.log(100))


def test_seeds_are_one_budget_and_a_grid_takes_three_sizes_with_three():
    assert budget_numbers(np.array([1e6, 1.01e6, 2e6, 0.99e6, 4e6])).tolist() == [0, 0, 1, 0, 2]
    parameters_i, tokens_i, _ = grid(TRUE, (1e4, 3e4, 1e5), (3e5, 1e6, 4e6))
    assert can_fit(parameters_i, tokens_i)
    assert not can_fit(parameters_i[6:], tokens_i[6:])
    assert not can_fit(parameters_i, np.full(len(tokens_i), 1e6))
    assert not can_fit(parameters_i, np.minimum(tokens_i, 1e6))
