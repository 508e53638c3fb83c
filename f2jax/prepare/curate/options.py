"""What curation does: one frozen, hashable and picklable object."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.data.released import sources_that_overlap
from f2jax.errors import UserError, check_choices, require_extra


@dataclass(frozen=True)
class CurationOptions:
    """The steps of curation, in this order, and their thresholds.

    Each is counted in the data card. An option that takes several values is off without any. --identify-language and
    --near-duplicates need pip install 'f2jax[curate]'.

    Raises:
        UserError: a value has no meaning, or a step's library is not installed.
    """

    unicode_form: Literal["NFC", "NFKC", ""] = "NFC"  # Unicode form of all texts; "": as they are
    max_characters: int = 100_000  # maximum length of one text; 0: no limit
    too_long: Literal["cut", "drop"] = "cut"  # what happens to a longer text; the tokenizer cuts texts anyway
    drop_trivial: bool = True  # drop rows whose query is its own positive, and negatives that repeat or are right
    # patterns of sources to leave out, since MTEB's tasks are made of them (recipe 3.2)
    excluded_sources: tuple[str, ...] = field(default_factory=sources_that_overlap)
    # drop rows that hold texts of these: built-in names, mteb (the tests of its data sets that are in the hub's cache),
    # PATH or NAME=PATH#COLUMN,COLUMN
    evaluation_sets: tuple[str, ...] = ("cldr-names", "stdlib-code", "mteb")
    ngram: int = 13  # consecutive words in common that make a row contaminated; 0: only complete texts are compared
    # letters of a complete text that is looked for, at least; shorter ones are names, labels and "Yes, please."
    fewest_letters: int = 12
    identify_language: bool = False  # count the languages of queries, and set those that are not declared
    language_confidence: float = 0.9  # below this confidence a language is und
    drop_other_language: bool = False  # drop rows whose query is in another language than they declare
    exact_duplicates: bool = True  # keep one of the rows with the same query, positive and kind
    # keep one of the rows whose queries and positives are this alike (Jaccard of letter n-grams); 0: off. Duplicates
    # are found in all inputs together, on disk: 24 bytes a row for exact, 1.5 kB for near ones
    near_duplicates: float = 0.0
    shingle: int = 5  # letters of the n-grams
    permutations: int = 128  # values of a MinHash: more of them estimate the likeness better
    # values of a band, by which rows meet: 4 finds 99.7 % of those at 0.8, 2 finds 98 % of those at 0.5
    band: int = 4

    def __post_init__(self):
        check_choices(self)
        for name in ("language_confidence", "near_duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} is no share; give a number from 0 to 1.")
        least = {"max_characters": 0, "ngram": 0, "fewest_letters": 1, "shingle": 1, "permutations": 1, "band": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UserError(f"{name}={getattr(self, name)} is too small; give at least {smallest}.")
        for name, library in (("identify_language", "py3langid"), ("near_duplicates", "rensa")):
            if getattr(self, name):
                require_extra("curate", name, library)
        if self.permutations % self.band:
            raise UserError(f"permutations={self.permutations} is no multiple of band={self.band}; make it one.")
        if self.near_duplicates and not self.exact_duplicates:
            raise UserError("near_duplicates needs exact_duplicates; set both.")
        if self.drop_other_language and not self.identify_language:
            raise UserError("drop_other_language needs identify_language; set both.")
