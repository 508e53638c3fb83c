"""Rows that were left out: counted by reason, and listed in a file where one is wanted."""

import json
from collections import Counter
from typing import TextIO

MOST = 200  # characters of a text that are listed


class SkipList(Counter):
    """A counter of reasons that also writes a line of JSON for each row that it counts.

    Readers count as in any counter, `skipped[reason] += 1`, after `at` has said which row they are at.
    """

    def __init__(self, counts=(), listing: TextIO | None = None):
        self.listing = listing
        self.row: tuple = ("", {})  # where it is, what it holds
        super().__init__(counts)

    def __setitem__(self, reason: str, count: int) -> None:
        if self.listing and count > self[reason]:
            where, content = self.row
            short = {name: _short(value) for name, value in content.items()}
            self.listing.write(json.dumps({"reason": reason, "where": where} | short, default=str) + "\n")
        super().__setitem__(reason, count)


def located(skipped: Counter, where: str, content: dict) -> None:
    """Say which row a reader is at, in case that it leaves it out."""
    if isinstance(skipped, SkipList):
        skipped.row = (where, content)


def _short(value: object) -> object:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text[:MOST] if isinstance(text, str) else text
