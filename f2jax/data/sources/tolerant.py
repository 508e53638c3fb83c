"""Many sources in one go: a file that cannot be used is counted like a bad row, and the others are read on."""

from collections import Counter
from collections.abc import Iterable, Iterator

from f2jax.data.record import Record
from f2jax.data.skipped import at
from f2jax.data.sources import expand, is_one, open_source
from f2jax.errors import UserError

UNUSABLE = "file cannot be used"


def read_all(specs: Iterable[str], split: str, skipped: Counter, kinds: Iterable[str] = ()) -> Iterator[Record]:
    """Records of all sources, file by file; the arguments are those of `open_source`.

    A file that is empty, cut short, or lacks a column gives what it can.

    Raises:
        UserError: there is nothing under one of the names.
    """
    for spec in specs:
        for part in [spec] if is_one(spec) else expand(spec):
            records = open_source(part, split, skipped, kinds)
            try:
                yield from records
            except UserError as error:
                at(skipped, part, {"error": str(error)})
                skipped[UNUSABLE] += 1
