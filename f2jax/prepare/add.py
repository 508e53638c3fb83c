"""Adds sources to an existing corpus, with the options of the corpus."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from f2jax.data.corpus import PreparedCorpus
from f2jax.data.instructions import Instructions
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.data_card import counts_of, for_card, sum_counts
from f2jax.prepare.options import PrepareOptions


@dataclass(frozen=True)
class AddedTo:
    """A corpus to which sources are added. Its data sets, their files and its tokenizer stay as they are."""

    folder: Path
    card: dict

    @classmethod
    def open(cls, folder: str | Path) -> "AddedTo":
        """Opens a complete corpus.

        Raises:
            UserError: there is none, or one of an earlier version.
        """
        corpus = PreparedCorpus(folder)
        if "inputs" not in corpus.card:
            raise UserError(
                f"{folder} comes from an earlier version or from a cluster; prepare it here again, then add."
            )
        return cls(corpus.folder, corpus.card)

    @property
    def names(self) -> list[str]:
        """Returns the folders of its inputs."""
        return self.card["inputs"]

    @property
    def datasets(self) -> list[dict]:
        return self.card["datasets"]

    def options(self, given: PrepareOptions) -> PrepareOptions:
        """Returns the options of the corpus, with the kinds of the added files.

        Raises:
            UserError: another option differs from that of the corpus.
        """
        stored = {name: _frozen(value) for name, value in self.card["options"].items()}
        for name, default in dataclasses.asdict(PrepareOptions(curate=CurationOptions())).items():
            asked = dataclasses.asdict(given)[name]
            if name != "kinds" and asked != default and json.dumps(asked) != json.dumps(stored[name]):
                raise UserError(f"{self.folder} was prepared with another {name}; leave that option out with --add.")
        return PrepareOptions(
            **stored
            | {
                "kinds": given.kinds,
                "instructions": Instructions(**stored["instructions"]),
                "curate": stored["curate"] and CurationOptions(**stored["curate"]),
            }
        )

    def check_new(self, sources: Iterable[str]) -> None:
        """Raises UserError if the corpus already has a data set of one of the sources."""
        have = {entry["source"] for entry in self.datasets}
        if known := next((source for source in sources if source in have), None):
            raise UserError(
                f"{self.folder} already has rows of the source {known}; give the new ones another source, or prepare "
                "all inputs again."
            )

    def joined(self, card: dict) -> dict:
        """Returns the card of the corpus combined with a card of the added sources."""
        return card | {
            "options": self.card["options"],
            "inputs": sorted([*self.names, *card["inputs"]]),
            **for_card(*sum_counts(map(counts_of, (self.card, card)))),
            "datasets": self.datasets + card["datasets"],
        }


def _frozen(value: Any) -> Any:
    """Returns a JSON value with tuples instead of lists, as in options."""
    if isinstance(value, dict):
        return {name: _frozen(part) for name, part in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
