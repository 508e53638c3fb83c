"""What is left out of the data: rows are counted by reason and listed on demand, files and columns are named once."""

import json
import logging
from collections import Counter
from typing import Any, NoReturn, TextIO

from f2jax.errors import UserError

LISTED_CHARACTERS = 200  # of a text in the list
_LOG = logging.getLogger("f2jax.data")
_SAID: set[object] = set()


class SkipList(Counter[str]):
    """Counts the rows that are left out, by reason; where there is a listing, it has a line of JSON for each.

    A reader tells where it is (`at`) before it leaves a row out (`skip`).
    """

    def __init__(self, listing: TextIO | None = None):
        super().__init__()
        self.where, self._content, self._listing = "", dict[str, Any](), listing

    def at(self, where: str, content: dict[str, Any]) -> None:
        """Tells the place and the content of the current row, in case it is left out."""
        self.where, self._content = where, content

    def skip(self, reason: str) -> None:
        """Counts and lists the current row."""
        self[reason] += 1
        if self._listing:
            short = {name: _short(value) for name, value in self._content.items()}
            self._listing.write(json.dumps({"reason": reason, "where": self.where} | short, default=str) + "\n")


class NoneSkipped(SkipList):
    """Raises UserError for the first row that a reader would leave out."""

    def skip(self, reason: str) -> NoReturn:
        raise UserError(f"{self.where}: {reason}; fix or remove it.")


def say_once(message: str, key: object = None) -> None:
    """Logs a warning, which Python prints to stderr; the same `key` (default: the message) is logged once."""
    if (key := key or message) not in _SAID:
        _SAID.add(key)
        _LOG.warning(message)


def _short(value: object) -> object:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text[:LISTED_CHARACTERS] if isinstance(text, str) else text
