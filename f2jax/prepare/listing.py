"""Every skipped row in one file of JSON lines: its reason, its place, and the start of what it holds."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data.skip_list import SkipList, located
from f2jax.prepare.duplicates import REASONS
from f2jax.prepare.scratch import read_records


def list_duplicates(records: Path, states: Path, path: Path) -> None:
    """Write the lines of one input's duplicates to `path`, which is there whole or not at all."""
    with files.atomic_path(path) as part, open(part, "w") as file:
        skipped = SkipList(listing=file)
        for (record, where), state in zip(read_records(records), np.load(states).tolist(), strict=True):
            if state in REASONS:
                located(skipped, where, {"query": record.query, "positive": record.positive})
                skipped[REASONS[state]] += 1


def write_listing(parts: Sequence[Path], target: str | Path) -> None:
    """Join the listings of all inputs, in order.

    Raises:
        UserError: the target cannot be written.
    """
    with files.atomic_path(target) as whole, files.clear_errors(target, "written"), open(whole, "wb") as file:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file)
