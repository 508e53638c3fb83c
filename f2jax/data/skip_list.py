"""What is left out of the data: rows are counted by reason and listed on demand, files and columns are named once."""

import json
import logging
from collections import Counter
from typing import TextIO

LISTED_CHARACTERS = 200  # of a text in the list
_LOG = logging.getLogger("f2jax.data")
_SAID: set[object] = set()


class SkipList(Counter):
    """A counter of reasons that also writes one line of JSON for each row that it counts.

    Readers use it as any other counter, `skipped[reason] += 1`, after `located` has told it the current row.
    """

    def __init__(self, counts=(), listing: TextIO | None = None):
        self.listing = listing
        self.row: tuple[str, dict] = ("", {})  # place, content
        super().__init__(counts)

    def __setitem__(self, reason: str, count: int) -> None:
        if self.listing and count > self[reason]:
            where, content = self.row
            short = {name: _short(value) for name, value in content.items()}
            self.listing.write(json.dumps({"reason": reason, "where": where} | short, default=str) + "\n")
        super().__setitem__(reason, count)


def located(skipped: Counter, where: str, content: dict) -> None:
    """Tells a `SkipList` which row the reader is at, in case the row is skipped."""
    if isinstance(skipped, SkipList):
        skipped.row = (where, content)


def say_once(message: str, key: object = None) -> None:
    """Logs a warning, which Python prints to stderr; the same `key` (default: the message) is logged once."""
    if (key := key or message) not in _SAID:
        _SAID.add(key)
        _LOG.warning(message)


def _short(value: object) -> object:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text[:LISTED_CHARACTERS] if isinstance(text, str) else text
