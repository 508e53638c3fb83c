"""Keeps track of rows that are left out of the data, by reason, and logs each warning once."""

import json
import logging
from collections import Counter
from typing import Any, NoReturn, TextIO

from f2jax.errors import UserError

LISTED_CHARACTERS = 200  # characters of a text in the listing
_LOG = logging.getLogger("f2jax.data")
_SAID: set[object] = set()


class SkipList(Counter[str]):
    """Counts rows that are left out, by reason; if there is a listing, it gets a line of JSON for each.

    Readers call `at` for each row, and `skip` to leave it out.
    """

    def __init__(self, listing: TextIO | None = None):
        super().__init__()
        self.where, self._content, self._listing = "", dict[str, Any](), listing

    def at(self, where: str, content: dict[str, Any]) -> None:
        """Sets the place and the content of the current row."""
        self.where, self._content = where, content

    def skip(self, reason: str) -> None:
        """Counts and lists the current row."""
        self[reason] += 1
        if self._listing:
            short = {name: _short(value) for name, value in self._content.items()}
            self._listing.write(json.dumps({"reason": reason, "where": self.where} | short, default=str) + "\n")


class NoneSkipped(SkipList):
    """A skip list that raises UserError for the first row to be left out."""

    def skip(self, reason: str) -> NoReturn:
        raise UserError(f"{self.where}: {reason}; fix or remove it.")


def say_once(message: str, key: object = None) -> None:
    """Logs a warning, which Python prints to stderr, once per `key` (default: the message)."""
    if (key := key or message) not in _SAID:
        _SAID.add(key)
        _LOG.warning(message)


def _short(value: object) -> object:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text[:LISTED_CHARACTERS] if isinstance(text, str) else text
