"""Determines the packed rows of a step without running it, from a mean length or from the lengths of real texts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.corpus import CARD, PreparedCorpus
from f2jax.data.loader import Loader, mixture_weights, row_rules
from f2jax.data.mixed import drawn_datasets
from f2jax.data.mixture import select
from f2jax.data.packing import RowShare
from f2jax.data.shapes import RowRules, RowShape, Sample
from f2jax.errors import UserError
from f2jax.model.attention_segments import LANES, block_length
from f2jax.plan.step_time import TILE

BATCHES = 16  # batches drawn from a file of lengths


@dataclass(frozen=True)
class PlannedRows:
    """The rows of a typical step, and the share of useful tokens in all steps."""

    shape: RowShape  # shape of the arrays
    chunks: int  # filled chunks, at most as many as the arrays have slots
    tokens: float  # useful tokens of the typical step
    mean: int  # mean tokens of a text
    useful_share: float  # share of useful tokens among the tokens of all steps
    programs: int  # number of distinct pairs of a kind and a shape of rows in all steps
    tiles_below: float  # tiles of a row of the typical step, see `tiles_below`

    @property
    def encoded(self) -> int:
        """The number of tokens that a part encodes in the typical step, including padding."""
        return self.shape.rows * self.shape.length * self.chunks


def texts_per_step(config) -> int:
    """Returns the number of texts in a step: queries, their positives and the hard negatives of retrieval."""
    return config.data.batch_size * (2 + config.data.negatives.retrieval)


def rows_of_mean(config, parts: int, mean: int) -> PlannedRows:
    """Returns the rows of a retrieval batch whose texts all have this length and leave no gaps."""
    rules = RowRules(config.data.row_length, config.model.chunk_rows)
    needed = texts_per_step(config) * mean / parts
    shape = min(rules.ladder(needed, mean, mean), key=lambda shape: shape.cost(shape.slots))
    chunks, room = shape.slots, shape.rows * shape.length * shape.slots
    shape = replace(shape, slots=1 << (chunks - 1).bit_length())  # as in training
    start_u = np.arange(0, shape.length, mean)
    below = tiles_below(start_u, np.minimum(start_u + mean, shape.length), shape.length)
    return PlannedRows(shape, chunks, min(needed, room) * parts, mean, min(needed / room, 1.0), 1, below)


def rows_of_lengths(config, parts: int, path: str) -> PlannedRows:
    """Returns the rows of batches of real texts.

    Args:
        path: a file with the number of tokens of a text in each line, or the folder of a prepared corpus.

    Raises:
        UserError: it is neither, or a text is longer than `data.max_length`.
    """
    if files.exists(files.join(path, CARD)):
        corpus = PreparedCorpus(path)
        corpus.check(config.data.max_length, config.data.use_instructions)
        datasets = [training for training, _ in corpus.splits()]
        datasets = [datasets[i] for i in select([d.name for d in datasets], config.data.include, config.data.exclude)]
        corpus.fetch({dataset.name for dataset in datasets})
        drawn = drawn_datasets(datasets, config)
        loader = Loader(drawn, config, 0, RowShare(parts, ()), mixture_weights(drawn, config))
        return summary(loader.samples, loader.rules, parts)
    lengths = read_lengths(path, config.data.max_length)
    rng = np.random.default_rng(0)
    texts = texts_per_step(config)
    samples = [Sample("retrieval", 1.0, rng.choice(lengths, texts)) for _ in range(BATCHES)]
    return summary(samples, row_rules(config, samples, parts, {"retrieval": texts}), parts)


def read_lengths(path: str, longest: int) -> np.ndarray:
    """Returns the numbers in a file, which has one in each line.

    Raises:
        UserError: there is no such file, or a line is not a number from 1 to `longest`.
    """
    if not Path(path).is_file():
        raise UserError(f"--lengths={path} is neither a file with a length in each line nor a prepared corpus.")
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split()
    bad = next((line for line in lines if not line.isdecimal() or not 1 <= int(line) <= longest), None)
    if bad or not lines:
        found = f"'{bad}'" if bad else "nothing"
        raise UserError(f"{path} should hold a number of tokens from 1 to {longest} in each line; it has {found}.")
    return np.array(lines, np.int64)


def summary(samples: Sequence[Sample], rules: RowRules, parts: int) -> PlannedRows:
    """Returns the rows of the batch closest to the mean number of tokens, and the share of useful tokens in all."""
    placed = [rules.place(sample.lengths_u, parts, sample.kind) for sample in samples]
    weights = np.array([sample.weight for sample in samples])
    useful = np.array([sample.lengths_u.sum() for sample in samples])
    typical = int(np.abs(useful - np.average(useful, weights=weights)).argmin())
    texts = np.array([len(sample.lengths_u) for sample in samples])
    first = placed[typical]
    below = tiles_below(first.start_u, first.start_u + samples[typical].lengths_u, first.shape.length)
    share = float(weights @ useful / (weights @ np.array([placement.tokens for placement in placed])))
    return PlannedRows(
        placed[typical].shape,
        placed[typical].chunks,
        float(useful[typical]),
        math.ceil((weights @ useful) / (weights @ texts)),
        share,
        len({(sample.kind, placement.shape) for sample, placement in zip(samples, placed, strict=True)}),
        below / (placed[typical].tokens / placed[typical].shape.length),
    )


def tiles_below(start_u: np.ndarray, end_u: np.ndarray, length: int) -> float:
    """Returns the number of tiles below the diagonals that texts occupy, given the start and end column of each.

    >>> tiles_below(np.array([0, 300]), np.array([300, 1024]), 1024)  # of 4 blocks: 1 and 3 of 6
    4.0
    """
    block = block_length(-(-length // LANES) * LANES)
    more_u = (end_u - 1) // block - start_u // block  # blocks of a text after its first
    return float((more_u * (more_u + 1) / 2).sum() * (block / TILE) ** 2)
