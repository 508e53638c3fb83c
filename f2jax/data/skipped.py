"""Rows that were left out: counted by reason, and listed in a file where one is wanted."""

import json
from collections import Counter
from typing import TextIO

MOST = 200  # characters of a text that are listed


class SkipList(Counter):
    """A counter of reasons that also writes a line of JSON for each row: the reason, where it was, what it held."""

    def __init__(self, counts=(), listing: TextIO | None = None):
        super().__init__(counts)
        self.listing = listing


def skip(skipped: Counter, reason: str, where: str, **content: object) -> None:
    """Count a row that is left out; where `skipped` is a `SkipList` with a file, list it there."""
    skipped[reason] += 1
    listing = getattr(skipped, "listing", None)
    if listing is not None:
        short = {name: value[:MOST] if isinstance(value, str) else value for name, value in content.items()}
        listing.write(json.dumps({"reason": reason, "where": where} | short) + "\n")
