"""Hashes texts and their stretches, for many texts at once.

A text is a sequence of units: its words (`words.split_words`), or its characters in scripts without spaces. A word has
the weight 4, as have two ideographs or kana, and four letters of Thai, Lao, Khmer, Burmese and related scripts; this is
about the length of words there. Each unit starts a stretch: the shortest run of units that reaches a given weight.

A hash is a polynomial of the characters modulo 2^64 (Rabin and Karp 1987), so the hash of any stretch follows from
sums over prefixes. Letters: i characters, u units, x texts.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from f2jax.data.mixture import mix_bits
from f2jax.prepare.curate.words import INVISIBLE

WEIGHT_OF_WORD = 4
_BETWEEN, _WORD, _IDEOGRAPH, _LETTER, _MARK = range(5)  # classes of characters; marks are ignored
_WEIGHTS = np.array([0, WEIGHT_OF_WORD, 2, 1, 0])
_IDEOGRAPHS = ((0x3040, 0x312F), (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))  # kana, bopomofo, Han
_LETTERS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF)),
    *((0x1A20, 0x1AAF), (0x1B00, 0x1B7F), (0xA980, 0xA9DF), (0xAA80, 0xAADF)),
)
_ASSIGNED = (*range(0x34000), *range(0xE0000, 0xE0200))  # no others are letters, digits or marks
_BASE = 0x9E3779B97F4A7C15 | 5  # base of the polynomial; odd, so that it has an inverse modulo 2^64


class Hashes(NamedTuple):
    """The hashes by which texts are compared."""

    whole_x: np.ndarray  # uint64, hashes of all letters and digits
    letters_x: np.ndarray  # number of letters and digits; an ideograph counts as two
    stretches: np.ndarray  # uint64, hashes of stretches, concatenated over all texts
    text: np.ndarray  # number of the text of each stretch


def hash_texts(texts: Sequence[str], ngram: int) -> Hashes:
    """Returns the hashes of texts.

    Args:
        ngram: number of words in a stretch; 0: no stretches are hashed.
    """
    simple = [text if text.isascii() else _decomposed(text) for text in texts]
    joined = np.frombuffer("\n".join(simple).encode("utf-32-le", "surrogatepass"), "<u4")
    folded, kinds = _tables()
    text_i = np.repeat(np.arange(len(simple)), [len(text) + 1 for text in simple])[: len(joined)]
    kind_i = kinds[joined]
    if (kind_i == _MARK).any():
        stays = kind_i != _MARK
        joined, text_i, kind_i = joined[stays], text_i[stays], kind_i[stays]
    begins = kind_i > _WORD
    begins[0:1] |= kind_i[0:1] == _WORD
    begins[1:] |= (kind_i[1:] == _WORD) & (kind_i[:-1] != _WORD)
    used = np.flatnonzero(kind_i)
    code_i, text_i, kind_i = folded[joined[used]].astype(np.uint64), text_i[used], kind_i[used]
    first_u = np.flatnonzero(begins[used])

    ends_x = np.searchsorted(text_i, np.arange(len(simple) + 1))  # where the characters of each text start
    place_i = np.arange(len(code_i)) - ends_x[text_i]
    letters_x = np.diff(ends_x) + np.diff(_sums(kind_i == _IDEOGRAPH)[ends_x])
    powers, inverses = _powers(1 << int(2 * place_i.max(initial=0) + 2).bit_length())
    whole_x = np.diff(_sums(code_i * powers[place_i])[ends_x])
    if not ngram:
        return Hashes(mix_bits(whole_x), letters_x, np.zeros(0, np.uint64), np.zeros(0, np.int64))

    # Each unit is moved by one place, as if a space came before it; the division by the power at its start undoes this.
    text_u = text_i[first_u]
    units_x = np.searchsorted(text_u, np.arange(len(simple) + 1))
    place_i += np.repeat(np.arange(len(first_u)) - units_x[text_u], np.diff(np.append(first_u, len(code_i))))
    sums_i = _sums(code_i * powers[place_i])
    weights_u = _sums(_WEIGHTS[kind_i[first_u]])
    last_u = np.searchsorted(weights_u, weights_u[:-1] + ngram * WEIGHT_OF_WORD)
    whole = last_u <= units_x[text_u + 1]
    first, last = first_u[whole], np.append(first_u, len(code_i))[last_u[whole]]
    stretches = (sums_i[last] - sums_i[first]) * inverses[place_i[first]]
    return Hashes(mix_bits(whole_x), letters_x, mix_bits(stretches), text_u[whole])


def _decomposed(text: str) -> str:
    """Returns the text in the form NFKD, with the only letters folded that case folding makes longer."""
    return unicodedata.normalize("NFKD", text).replace("ß", "ss").replace("ẞ", "ss")


def _sums(x: np.ndarray) -> np.ndarray:
    """Returns the sums of the first 0, 1, … values."""
    return np.concatenate([np.zeros(1, x.dtype if x.dtype == np.uint64 else np.int64), np.cumsum(x)])


@lru_cache(maxsize=4)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first powers of the base modulo 2^64, and their inverses."""
    tables = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        table = np.full(count, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Returns tables of the case-folded form and of the class of each character in the form NFKD."""
    folded, kinds = np.zeros(0x110000, np.uint32), np.zeros(0x110000, np.uint8)
    for code in _ASSIGNED:
        character = chr(code)
        if code in INVISIBLE or unicodedata.category(character)[0] == "M":
            kinds[code] = _MARK
            continue
        lower = character.casefold()
        if lower[0].isalnum():
            folded[code], kinds[code] = ord(lower[0]), _WORD
    for ranges, kind in ((_IDEOGRAPHS, _IDEOGRAPH), (_LETTERS, _LETTER)):
        for low, high in ranges:
            part = kinds[low : high + 1]
            part[part == _WORD] = kind
    return folded, kinds
