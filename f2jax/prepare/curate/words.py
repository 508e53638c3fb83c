"""Splits texts into runs of letters and digits, by which duplicates and evaluation texts (`stretches.py`) are found."""

import re
import sys
import unicodedata
from functools import lru_cache

INVISIBLE = (0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF)  # zero-width characters inside words
_WORD = re.compile(r"[^\W_]+")


def split_words(text: str) -> list[str]:
    """Returns the runs of letters and digits in a text, without case, accents, vowel signs, or compatibility forms.

    >>> split_words("L'Été, № 5: ﬁn")
    ['l', 'ete', 'no', '5', 'fin']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_marks())
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=1)
def _marks() -> dict[int, None]:
    """Returns all combining marks and invisible characters, for `str.translate`."""
    marks = (code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return dict.fromkeys([*marks, *INVISIBLE])
