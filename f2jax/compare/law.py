"""A scaling law of the loss in the parameters N and the training tokens D of a run: L(N, D) = E + A / N^a + B / D^b.

The form and the fit are the third approach of Hoffmann et al., Training Compute-Optimal Large Language Models
(https://arxiv.org/abs/2203.15556, section 3.3 and appendix D.3): L-BFGS from a grid of initial values minimizes the
Huber loss of log L, with the exponents and the logarithms of E, A and B as variables.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

HUBER_DELTA = 1e-3  # error of log L beyond which the Huber loss is linear
STARTS = tuple(itertools.product((0.2, 0.5, 1.0), (0.2, 0.5, 1.0), (0.05, 0.3, 0.8)))  # a, b, share of E in the least L
BOUNDS = [(-30.0, 60.0), (-30.0, 60.0), (-20.0, 20.0), (0.0, 5.0), (0.0, 5.0)]  # log A, log B, log E, a, b
ROUGH, FINE, FINALISTS = 50, 2_000, 3  # iterations from each start, then from the best results, and their number
FLAT = 1e-3  # of the loss; a term that varies less over the grid is dropped, because its exponent is undetermined
LEAST_EXPONENT = 0.02  # smaller exponents are not identified: the loss hardly changes, and there is no clear optimum
LEAST = 3  # minimum number of sizes, and of token budgets, for a fit


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^a + B / D^b."""

    irreducible: float  # E
    size_factor: float  # A
    size_exponent: float  # a
    data_factor: float  # B
    data_exponent: float  # b

    def loss(self, parameters_i: ArrayLike, tokens_i: ArrayLike) -> np.ndarray:
        """Returns the loss [i] of models with these numbers of parameters after these numbers of tokens."""
        return (
            self.irreducible
            + self.size_factor / np.asarray(parameters_i, float) ** self.size_exponent
            + self.data_factor / np.asarray(tokens_i, float) ** self.data_exponent
        )

    @property
    def unidentified(self) -> list[str]:
        """Returns which of N and D hardly affect the loss; if there are any, there is no optimum."""
        exponents = {"N": self.size_exponent, "D": self.data_exponent}
        return [name for name, exponent in exponents.items() if exponent < LEAST_EXPONENT]

    def optimum(self, products_i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the parameters and tokens, each [i], with the lowest loss for a given product N × D.

        There, the derivatives along N × D = P cancel: a A / N^a = b B / D^b (equation 4 of the paper).
        """
        exponents = self.size_exponent + self.data_exponent
        ratio = self.size_exponent * self.size_factor / (self.data_exponent * self.data_factor)
        parameters_i = (ratio * np.asarray(products_i, float) ** self.data_exponent) ** (1 / exponents)
        return parameters_i, products_i / parameters_i

    @property
    def size_share(self) -> float:
        """The exponent with which the optimal size grows with compute: N ∝ C^(b / (a + b))."""
        return self.data_exponent / (self.size_exponent + self.data_exponent)


@dataclass(frozen=True)
class GridPoint:
    """A run, as a point to fit a law to."""

    run: str  # its name
    parameters: int  # outside the token table, N
    tokens: float  # D
    operations: float
    loss: float


def can_fit(parameters_i: np.ndarray, tokens_i: np.ndarray) -> bool:
    """Returns whether these runs have at least `LEAST` sizes with at least `LEAST` token budgets each."""
    sizes = np.unique(parameters_i)
    budgets = [len(np.unique(budget_numbers(tokens_i)[parameters_i == size])) for size in sizes]
    return sum(count >= LEAST for count in budgets) >= LEAST


def budget_numbers(tokens_i: np.ndarray) -> np.ndarray:
    """Returns the number of each run's token budget, [i]; runs whose tokens differ by less than 10 % share one."""
    order = np.argsort(tokens_i)
    steps = np.diff(np.log(np.asarray(tokens_i, float)[order]), prepend=np.log(tokens_i[order[0]])) > np.log(1.1)
    numbers_i = np.empty(len(tokens_i), int)
    numbers_i[order] = np.cumsum(steps)
    return numbers_i


def fit_law(
    parameters_i: np.ndarray, tokens_i: np.ndarray, losses_i: np.ndarray, start: ScalingLaw | None = None
) -> ScalingLaw:
    """Fits a law to runs by the Huber loss in log L; a term that is `FLAT` over the runs becomes part of E.

    >>> fit_law(parameters_i, tokens_i, losses_i).loss(8e9, 1e9)

    Args:
        parameters_i: N of each run.
        tokens_i: D of each run.
        losses_i: measured losses, above 0.
        start: the only initial value, for example the law of all runs when fitting samples; default: a grid.
    """
    # Centred, so that a factor is the term's value in the middle of the grid, almost independent of the exponent.
    log_n_i, log_d_i, log_l_i = (np.log(np.asarray(values, float)) for values in (parameters_i, tokens_i, losses_i))
    middle_n, middle_d = log_n_i.mean(), log_d_i.mean()
    log_n_i, log_d_i = log_n_i - middle_n, log_d_i - middle_d

    def objective(x):
        log_a, log_b, log_e, a, b = x
        size_i, data_i, rest = np.exp(log_a - a * log_n_i), np.exp(log_b - b * log_d_i), np.exp(log_e)
        loss_i = size_i + data_i + rest
        off_i = np.log(loss_i) - log_l_i
        slope_i = np.clip(off_i, -HUBER_DELTA, HUBER_DELTA)
        value = (slope_i * (off_i - slope_i / 2)).sum()
        size_i, data_i, rest_i = slope_i * size_i / loss_i, slope_i * data_i / loss_i, slope_i * rest / loss_i
        by_exponents = -(size_i @ log_n_i), -(data_i @ log_d_i)
        return value / HUBER_DELTA, np.array([size_i.sum(), data_i.sum(), rest_i.sum(), *by_exponents]) / HUBER_DELTA

    if start:
        starts = [_variables(start, middle_n, middle_d)]
    else:
        least, most = log_l_i.min(), log_l_i.max()
        half = np.log(max(np.exp(most) - np.exp(least), 1e-6) / 2)
        starts = [[half, half, least + np.log(share), a, b] for a, b, share in STARTS]

    def search(x, steps: int):
        options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-9}
        return minimize(objective, x, jac=True, method="L-BFGS-B", bounds=BOUNDS, options=options)

    with threadpool_limits(1):  # for such small products, threads only wait for each other
        first = sorted((search(x, ROUGH) for x in starts), key=lambda fit: fit.fun)
        log_a, log_b, log_e, a, b = min((search(fit.x, FINE) for fit in first[:FINALISTS]), key=lambda fit: fit.fun).x
    rest, size_i, data_i = np.exp(log_e), np.exp(log_a - a * log_n_i), np.exp(log_b - b * log_d_i)
    terms: list[float] = []  # A, a, B, b
    for term_i, log_factor, exponent in ((size_i, log_a + a * middle_n, a), (data_i, log_b + b * middle_d, b)):
        if np.ptp(term_i) < FLAT * np.exp(log_l_i.mean()):
            rest += term_i.mean()
            terms += [0.0, 0.0]
        else:
            terms += [np.exp(log_factor), exponent]
    return ScalingLaw(rest, *terms)


def _variables(law: ScalingLaw, middle_n: float, middle_d: float) -> list[float]:
    tiny = np.finfo(float).tiny
    return [
        float(np.log(max(law.size_factor, tiny)) - law.size_exponent * middle_n),
        float(np.log(max(law.data_factor, tiny)) - law.data_exponent * middle_d),
        float(np.log(max(law.irreducible, tiny))),
        law.size_exponent,
        law.data_exponent,
    ]


def bootstrap_laws(
    parameters_i: np.ndarray, tokens_i: np.ndarray, losses_i: np.ndarray, samples: int, seed: int = 0
) -> list[ScalingLaw]:
    """Returns the laws of bootstrap samples of the runs.

    Samples with fewer than `LEAST` sizes or budgets are drawn again.
    """
    best = fit_law(parameters_i, tokens_i, losses_i)
    draw, budgets_i = np.random.default_rng(seed), budget_numbers(tokens_i)
    laws: list[ScalingLaw] = []
    while len(laws) < samples:
        chosen_i = draw.integers(len(losses_i), size=len(losses_i))
        if min(len(np.unique(values_i[chosen_i])) for values_i in (parameters_i, budgets_i)) >= LEAST:
            laws.append(fit_law(parameters_i[chosen_i], tokens_i[chosen_i], losses_i[chosen_i], best))
    return laws


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of bootstrap values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
