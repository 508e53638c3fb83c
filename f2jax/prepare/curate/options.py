"""The options of curation: a frozen, hashable and picklable object."""

from dataclasses import dataclass, field
from typing import Literal

from f2jax.data.released import sources_that_overlap
from f2jax.errors import UserError, check_choices, require_extra


@dataclass(frozen=True)
class CurationOptions:
    """Curation: the steps, in this order.

    The data card counts what each step removes. An option with several values is switched off by giving it none.
    --identify-language and --near-duplicates need pip install 'f2jax[curate]'.

    Raises:
        UserError: a value has no meaning, or a step's library is not installed.
    """

    unicode_form: Literal["NFC", "NFKC", ""] = "NFC"  # Unicode form of all texts; "": leave them as they are
    max_characters: int = 100_000  # longest text, in characters; 0: no limit
    too_long: Literal["cut", "drop"] = "cut"  # what to do with a longer text, which the tokenizer would cut anyway
    drop_trivial: bool = True  # drop rows whose query equals the positive, and repeated or right negatives
    # patterns of sources to leave out, because tasks of MTEB are made from them (recipe 3.2)
    excluded_sources: tuple[str, ...] = field(default_factory=sources_that_overlap)
    # drop rows that contain texts of these evaluation sets: built-in names, mteb (its test sets in the hub's cache),
    # PATH, or NAME=PATH#COLUMN,COLUMN
    evaluation_sets: tuple[str, ...] = ("cldr-names", "stdlib-code", "mteb")
    ngram: int = 13  # drop a row that shares this many consecutive words; 0: compare only complete texts
    # look only for complete texts with this many letters; shorter ones are names, labels, or "Yes, please."
    fewest_letters: int = 12
    identify_language: bool = False  # identify the language of queries, and set it where a row does not state it
    language_confidence: float = 0.9  # below this confidence, the language is und
    drop_other_language: bool = False  # drop rows whose query is not in the language that they state
    exact_duplicates: bool = True  # keep one of several rows with the same query, positive and kind
    # keep one of several rows whose queries and positives are this similar (Jaccard of letter n-grams); 0: off.
    # Duplicates are found over all inputs; near ones take 1.3 kB per row on disk
    near_duplicates: float = 0.0
    shingle: int = 5  # letters in an n-gram
    permutations: int = 128  # values in a MinHash; more of them estimate the similarity better
    # values in a band, by which candidates are found: 4 finds 99.7 % of those at 0.8, 2 finds 98 % of those at 0.5
    band: int = 4

    def __post_init__(self):
        check_choices(self)
        for name in ("language_confidence", "near_duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)} should be from 0 to 1.")
        least = {"max_characters": 0, "ngram": 0, "fewest_letters": 1, "shingle": 1, "permutations": 1, "band": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UserError(f"{name}={getattr(self, name)} is too small; give at least {smallest}.")
        for name, library in (("identify_language", "py3langid"), ("near_duplicates", "rensa")):
            if getattr(self, name):
                require_extra("curate", name, library)
        if self.permutations % self.band:
            raise UserError(f"permutations={self.permutations} is not a multiple of band={self.band}; choose one.")
        if self.near_duplicates and not self.exact_duplicates:
            raise UserError("near_duplicates needs exact_duplicates; set both.")
        if self.drop_other_language and not self.identify_language:
            raise UserError("drop_other_language needs identify_language; set both.")
