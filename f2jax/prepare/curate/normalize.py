"""Converts texts to one Unicode form, without invisible characters.

NUL and other control characters, lone surrogates, zero-width spaces, byte order marks, soft hyphens, bidirectional
controls and tag characters outside flags are removed. Characters that change how a text is read are kept:

- The joiners U+200C and U+200D after a letter or mark of a cursive or Brahmic script (Persian میخواهم ≠ می‌خواهم; Indic
  conjuncts and half forms; Malayalam chillus): Unicode 16, 9.2 and 12.1, and UAX #31, 2.3. Elsewhere, they only
  select a ligature.
- U+200D between pictographs (👩‍💻 is not the same as 👩 + 💻), and tags that end a flag: UTS #51, 1.4.
- Variation selectors and the Mongolian vowel separator, which select a glyph.

The zero-width space is also removed in Thai, Lao, Khmer and Burmese, where it marks a possible line break; most texts
are written without it. Bidirectional controls arrange a line on the screen, and do not change its characters.
"""

import re
import unicodedata
from typing import Literal

Form = Literal["NFC", "NFKC"]

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # controls except tab and newlines
    "\xad\u200b\u2060-\u2064\ufeff"  # zero width: soft hyphen, space, word joiner, invisible operators, BOM
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u206a-\u206f\ufff9-\ufffb"  # deprecated format controls, interlinear annotation
    "\ud800-\udfff]"  # surrogates
)
_NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")  # the newline functions of Unicode 16, 5.8
_TAGS = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]+\U000e007f)|[\U000e0000-\U000e007f]")
_JOINERS = re.compile("[\u200c\u200d]+")
_JOINING_SCRIPTS = re.compile(
    "[\u0600-\u0dff"  # Arabic to Sinhala: Syriac, N'Ko, Mandaic and the scripts of India
    "\u1000-\u109f\u1780-\u18af"  # Burmese, Khmer, Mongolian
    "\u1a20-\u1bff\u1cd0-\u1cff\ua840-\ua8ff\ua980-\ua9df\uaa60-\uaa7f\uabc0-\uabff"  # Tai Tham to Meetei
    "\ufb50-\ufdff\ufe70-\ufefc"  # Arabic presentation forms
    "\U00010a00-\U00010aff\U00010d00-\U00010d3f\U00010ec0-\U00010fff\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
# Ranges, since the properties of single characters differ between versions of Python.
_PICTOGRAPHS = re.compile(
    "[\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001fbff]"
)
_PICTOGRAPH_ENDS = re.compile("[\ufe0f\u20e3\U000e007f]")
_SUSPECT = re.compile(  # any character that one of the patterns above handles
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKS = 30  # largest number of marks in a row (UAX #15, 13), since long runs make normalization quadratic
_MARK_RUNS = re.compile(rf"[^\w\s]{{{_MARKS + 1},}}")


def normalize_text(text: str, form: Form = "NFC") -> str:
    """Returns the text in the Unicode form NFC or NFKC, with newlines as \\n and without invisible characters.

    The function is idempotent. Other white space is not changed.

    >>> normalize_text("cafe\\u0301\\u200b\\r\\n\\ufeffbar\\0")
    'café\\nbar'
    """
    if not _SUSPECT.search(text):
        return _limit_marks(unicodedata.normalize(form, _limit_marks(text)))
    if re.search("[\ud800-\udfff]", text):  # two adjacent halves form a character
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    before, text = "", unicodedata.normalize(form, _limit_marks(text))
    while text != before:  # marks that have become adjacent may be reordered before a joiner
        before = text
        text = _TAGS.sub(lambda match: match[1] or "", _INVISIBLE.sub("", text))
        text = _NEWLINES.sub("\n", _JOINERS.sub(_kept_joiner, text))
        text = _limit_marks(unicodedata.normalize(form, _limit_marks(text)))
    return text


def cut_text(text: str, length: int) -> str:
    """Returns the first `length` characters of a text; if cut, without joiners at the end, which join nothing there."""
    return text if len(text) <= length else text[:length].rstrip("\u200c\u200d")


def _kept_joiner(match: re.Match) -> str:
    """Returns the joiner that a run of joiners stands for, or nothing if it has no meaning there."""
    text, joiners = match.string, match[0]
    before = text[match.start() - 1] if match.start() else ""
    after = text[match.end() : match.end() + 1]
    if _JOINING_SCRIPTS.match(before) and unicodedata.category(before)[0] in "LM":
        return joiners[0]
    between_pictographs = (_PICTOGRAPHS.match(before) or _PICTOGRAPH_ENDS.match(before)) and _PICTOGRAPHS.match(after)
    return "\u200d" if between_pictographs and "\u200d" in joiners else ""


def _limit_marks(text: str) -> str:
    """Returns the text with at most 30 combining marks in a row."""
    return _MARK_RUNS.sub(_shorten, text)


def _shorten(match: re.Match) -> str:
    kept, marks = [], 0
    for character in match[0]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)
