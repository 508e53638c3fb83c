"""Share of useful tokens that chips encode: by mean length, chips and chunks, and for a mixture with few programs.

python -m benchmarks.useful_tokens  # NumPy alone, nothing is compiled

Batches are those of the recipe: 512 queries, each with a positive and 7 hard negatives; the lengths of texts are
log-normal (sigma 0.6), cut at 1,024 tokens, or at 4,096 for the mean of 1,000. The mixture has 395 data sets of three
kinds, with log-normal mean lengths and sizes; its programs are chosen on one batch of each set, and measured on other
batches. `at most` is an upper bound for that many programs, whatever their shapes: see `most_useful`.
"""

import argparse
from dataclasses import replace

import numpy as np

from f2jax.data.mixture import NEGATIVES
from f2jax.data.shapes import CHUNKED_PROGRAMS, PROGRAMS, SHORTEST, UNIT, RowRules, Sample, choose_programs

MEANS, CHIPS, CHUNKS = (20, 60, 150, 246, 1000), (1, 16, 64, 256), (0, 8, 36)
QUERIES, DATA_SETS, STEPS, LONGEST = 512, 395, 300, 1024
ROUNDS = 1000  # of the ascent in `most_useful`; further ones change the second digit after the point
TEXTS = {kind: QUERIES * (2 + count) for kind, count in NEGATIVES.items()}


def lengths(rng: np.random.Generator, mean: float, count: int, longest: int) -> np.ndarray:
    """Returns lengths of texts with about this mean."""
    return np.clip(rng.lognormal(np.log(mean) - 0.6**2 / 2, 0.6, count), 1, longest).astype(int)


def useful_share(mean: int, chips: int, chunk_rows: int, batches: int = 4) -> float:
    """Returns the share of useful tokens in batches of one mean length, each in the rows that suit it."""
    rng, longest = np.random.default_rng(0), LONGEST if mean < LONGEST / 2 else 4 * LONGEST
    drawn = [lengths(rng, mean, TEXTS["retrieval"], longest) for _ in range(batches)]
    placed = [RowRules(longest, chunk_rows).place(one, chips) for one in drawn]
    return sum(one.sum() for one in drawn) / sum(placement.tokens for placement in placed)


class Mixture:
    """Data sets of the three kinds, with many lengths and sizes."""

    def __init__(self) -> None:
        self.rng = rng = np.random.default_rng(0)
        self.kinds = rng.choice(["retrieval", "clustering", "classification"], DATA_SETS, p=[0.6, 0.15, 0.25]).tolist()
        self.queries = np.exp(rng.normal(np.log(80), 0.9, DATA_SETS)).clip(8, 700)
        self.documents = (self.queries * np.exp(rng.normal(0.5, 0.7, DATA_SETS))).clip(8, 900)
        sizes = rng.lognormal(0, 1.2, DATA_SETS)
        self.shares = sizes / sizes.sum()

    def batch(self, i: int) -> Sample:
        """Returns a batch of data set `i`."""
        documents = TEXTS[self.kinds[i]] - QUERIES
        counts = ((self.queries[i], QUERIES), (self.documents[i], documents))
        parts = [lengths(self.rng, mean, count, LONGEST) for mean, count in counts]
        return Sample(self.kinds[i], float(self.shares[i]), np.concatenate(parts))


def most_useful(steps: list[Sample], chips: int, chunk_rows: int, limit: int, tokens: float) -> float:
    """Returns an upper bound on the share of useful tokens that `limit` programs in chunks can have in these steps.

    A chunk of any size, in which the longest text of a batch fits, is allowed; rows have no gaps, chunks cost nothing,
    and the programs are chosen for these very steps. The least tokens are then the solution of a p-median problem: of
    its Lagrangian dual, each value is a lower bound on them, and subgradients lead near the highest.

    Args:
        tokens: those of a chip in a known solution, which the step length depends on.
    """
    tokens_i = np.array([step.lengths_u.sum() for step in steps]) / chips
    longest_i = np.array([step.lengths_u.max() for step in steps])
    kind_i = np.unique([step.kind for step in steps], return_inverse=True)[1]
    chunk_o = np.arange(SHORTEST, chunk_rows * LONGEST + 1, UNIT)
    cost_io = np.where(longest_i[:, None] <= chunk_o, np.ceil(tokens_i[:, None] / chunk_o) * chunk_o, np.inf)
    price_i = best_price_i = 1.1 * tokens_i  # of leaving a batch without a program
    best, pace, idle = 0.0, 1.0, 0
    for _ in range(ROUNDS):
        saved_io = np.minimum(cost_io - price_i[:, None], 0)
        saved_ko = np.stack([saved_io[kind_i == kind].sum(axis=0) for kind in range(kind_i.max() + 1)])
        kinds, sizes = np.unravel_index(np.argsort(saved_ko, axis=None)[:limit], saved_ko.shape)
        bound = price_i.sum() + saved_ko[kinds, sizes].sum()
        slope_i = 1 - ((saved_io[:, sizes] < 0) & (kind_i[:, None] == kinds)).sum(axis=1)
        if bound > best:
            best, best_price_i, idle = bound, price_i, 0
        elif (idle := idle + 1) % 20 == 0:
            price_i, pace = best_price_i, pace / 2
            continue
        price_i = price_i + pace * (tokens - bound) / max(np.square(slope_i).sum(), 1) * slope_i
    return float(tokens_i.sum() / best)


def mixture_table() -> list[str]:
    mixture = Mixture()
    samples = [mixture.batch(i) for i in range(DATA_SETS)]
    steps = [mixture.batch(i) for i in mixture.rng.choice(DATA_SETS, STEPS, p=mixture.shares)]
    useful = sum(step.lengths_u.sum() for step in steps)
    lines = ["| chips | rows of a chunk | programs allowed | used | useful | at most |", f"|{'---:|' * 6}"]
    for chips, chunk_rows in ((1, 36), (16, 36), (64, 8), (256, 2), (16, 0), (256, 0)):
        for limit in (CHUNKED_PROGRAMS, 3 * CHUNKED_PROGRAMS, 0) if chunk_rows else (PROGRAMS, 0):
            rules = RowRules(LONGEST, chunk_rows)
            if limit:
                rules = replace(rules, programs=choose_programs(samples, rules, chips, TEXTS, limit))
            placed = [rules.place(step.lengths_u, chips, step.kind) for step in steps]
            tokens = sum(placement.tokens for placement in placed)
            used = len({(step.kind, placement.shape) for step, placement in zip(steps, placed, strict=True)})
            cells = [f"{chips}", f"{chunk_rows or 'all'}", f"{limit or 'any'}", f"{used}", f"{useful / tokens:.1%}", ""]
            if chunk_rows and limit:
                cells[-1] = f"{most_useful(steps, chips, chunk_rows, limit, tokens / chips):.1%}"
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    chips = [f"{n} chip{'s' * (n > 1)}" for n in CHIPS]
    print(f"| mean tokens of a text | rows of a chunk | {' | '.join(chips)} |")
    print(f"|---:|---:|{'---:|' * len(CHIPS)}")
    for mean in MEANS:
        for chunk_rows in CHUNKS:
            shares = [f"{useful_share(mean, chips, chunk_rows):.1%}" for chips in CHIPS]
            print(f"| {mean} | {chunk_rows or 'all'} | {' | '.join(shares)} |")
    print("\n".join(["", f"{STEPS:,} steps of the mixture:", *mixture_table()]))


if __name__ == "__main__":
    main()
