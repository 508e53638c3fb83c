"""Identifies the language of queries, and compares it with the language that rows state.

The identifier is py3langid: 139 languages, a model inside the wheel, no dependency but NumPy, a BSD license, and a
calibrated confidence. It recognizes most sentences in 114 of the 197 languages of SIB-200; lingua (75 languages, ten
times slower) does so in 71, and fastText's small model in 86. When it is 90 % sure, it is right for about 98 of 100
texts in languages that it knows. It mistakes unknown languages for similar ones, so a row is only judged if its
declared language is known.
"""

from collections import Counter
from functools import lru_cache

import langcodes

MAX_CHARACTERS = 1_000  # characters of a text to look at
CLOSE = 14  # CLDR's largest distance between languages whose speakers read the other: Moroccan and Standard Arabic
UNKNOWN = "und"
NO_LANGUAGE = "zxx"  # numbers, markup, identifiers
# Languages that cannot be told apart in one sentence, and Hebrew with vowel points, count as one.
_ONE = {"ary": "ar", "arz": "ar", "nb": "no", "nn": "no", "bs": "hbs", "hr": "hbs", "sr": "hbs", "hbo": "he"}


def identify_language(text: str, confidence: float) -> str:
    """Returns the ISO 639-3 code of a text's language, or und if the confidence is below `confidence`."""
    shares: Counter[str] = Counter()
    for code, share in _identifier().rank(text[:MAX_CHARACTERS]):
        shares[_ONE.get(code, code)] += share
    code, sureness = max(shares.items(), key=lambda item: item[1])
    return _iso_639_3(code) if sureness >= confidence else UNKNOWN


def language_agrees(declared: str, identified: str) -> bool | None:
    """Returns whether `identified` is the declared language or a very close one; None if that cannot be judged.

    >>> language_agrees("arz", "ara"), language_agrees("deu", "fra"), language_agrees("kas", "urd")
    (True, False, None)
    """
    declared = _tag(declared)
    if declared == UNKNOWN or identified in (UNKNOWN, NO_LANGUAGE) or not _known(declared):
        return None
    return _alike(declared, _tag(identified))


@lru_cache(maxsize=1)
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=4096)
def _tag(code: str) -> str:
    """Returns the language of a BCP 47 code, with macrolanguages replaced by their usual member; und for others."""
    try:
        language = langcodes.Language.get(langcodes.standardize_tag(code, macro=True)).language or UNKNOWN
    except langcodes.LanguageTagError:
        return UNKNOWN
    return _ONE.get(language, language)


@lru_cache(maxsize=4096)
def _iso_639_3(code: str) -> str:
    return code if len(code) == 3 else langcodes.Language.get(code).to_alpha3()


@lru_cache(maxsize=4096)
def _known(tag: str) -> bool:
    return any(_alike(tag, _tag(code)) for code in _identifier().nb_classes)


@lru_cache(maxsize=65536)
def _alike(tag: str, other: str) -> bool:
    return min(langcodes.tag_distance(tag, other), langcodes.tag_distance(other, tag)) <= CLOSE
