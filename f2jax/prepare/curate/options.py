"""What curation does: one frozen, hashable and picklable object."""

from dataclasses import dataclass

from f2jax.errors import UserError, did_you_mean, require_extra
from f2jax.prepare.curate.normalize import FORMS


@dataclass(frozen=True)
class CurationOptions:
    """The steps of curation and their thresholds.

    Raises:
        UserError: a value has no meaning, or a step's library is not installed.
    """

    unicode_form: str = "NFC"  # of all texts: NFC, NFKC, or "" to leave texts as they are
    max_characters: int = 100_000  # of one text; 0: no limit
    too_long: str = "cut"  # what happens to a longer one: cut (the tokenizer cuts it anyway) or drop
    drop_trivial: bool = True  # drop rows whose query is its own positive, and negatives that repeat or are right
    excluded_sources: tuple[str, ...] = ("mkqa_*", "sib200*")  # patterns; these overlap MTEB tasks (recipe 3.2)
    evaluation_sets: tuple[str, ...] = ()  # drop rows that hold their texts: built-in name, PATH or NAME=PATH#COLUMN,…
    ngram: int = 13  # words in a row that make a row contaminated; 0: only whole texts are compared
    fewest_letters: int = 12  # of a whole text that is compared; shorter ones are names, labels and "Yes, please."
    identify_language: bool = False  # count the languages that queries are in, and set those that are und
    language_confidence: float = 0.9  # below it a language is und
    drop_other_language: bool = False  # drop a row whose query is in another language than it declares
    exact_duplicates: bool = True  # keep one of the rows with the same query, positive and kind
    near_duplicates: float = 0.0  # keep one of the rows whose queries and positives are this alike (Jaccard); 0: off
    shingle: int = 5  # letters of the pieces that near duplicates share
    permutations: int = 128  # values of a MinHash: more estimate the likeness better
    band: int = 4  # values of a band, by which rows meet: 4 finds 99.7 % of those at 0.8, 2 finds 98 % of those at 0.5

    def __post_init__(self):
        if self.unicode_form not in ("", *FORMS):
            raise UserError(f"There is no unicode_form '{self.unicode_form}'{did_you_mean(self.unicode_form, FORMS)}")
        if self.too_long not in ("cut", "drop"):
            raise UserError(f"too_long='{self.too_long}' says nothing; choose cut or drop.")
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
