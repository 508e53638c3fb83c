"""The letters and digits of a text, by which duplicates and evaluation texts are compared."""

import re
import sys
import unicodedata
from functools import lru_cache

_IDEOGRAPHS = "\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\U00020000-\U0003ffff"  # Han, kana, bopomofo
_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df\uaa80-\uaadf"
_UNITS = re.compile(rf"([{_IDEOGRAPHS}])|([{_LETTERS}])|[^{_IDEOGRAPHS}{_LETTERS}]+")
_WEIGHTS = {1: 2, 2: 1, None: 4}  # by the group of _UNITS that matched
_WORD = re.compile(r"[^\W_]+")
WEIGHT_OF_WORD = _WEIGHTS[None]


def split_words(text: str) -> list[str]:
    """The runs of letters and digits in a text, without case, accents, vowel signs, or compatibility forms.

    >>> split_words("L'Été, № 5: ﬁn")
    ['l', 'ete', 'no', '5', 'fin']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_marks())
    return _WORD.findall(text.casefold())


def split_units(text: str) -> list[tuple[str, int]]:
    """The words of a text with their weights, 4 each.

    Scripts without spaces give characters instead: two ideographs or kana, or four letters of Thai, Lao, Khmer, Burmese
    and their relatives, weigh as much as a word, which is about the length of words there.

    >>> split_units("GPU 北京 ไทย")
    [('gpu', 4), ('北', 2), ('京', 2), ('ไ', 1), ('ท', 1), ('ย', 1)]
    """
    return [(match[0], _WEIGHTS[match.lastindex]) for word in split_words(text) for match in _UNITS.finditer(word)]


@lru_cache(maxsize=1)
def _marks() -> dict[int, None]:
    """All combining marks and the zero-width characters inside words, for `str.translate`."""
    marks = (code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return dict.fromkeys([*marks, 0xAD, *range(0x200B, 0x2010), 0x2060, 0xFEFF])
