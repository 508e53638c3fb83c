"""One Unicode form, nothing invisible, and every character that a reader needs."""

import re
import unicodedata
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.prepare.curate.normalize import Form, cut_text, normalize_text

ZWNJ, ZWJ, ZWSP = "\u200c", "\u200d", "\u200b"

# Text that is dense in what normalization is about, beside any text at all
CHARACTERS = (
    "aé\u0301\u0315\u0345\r\n\t\v\x85\u2028\0\x1f\xad\ufeff\u200b\u200c\u200d\u200e\u202e\u2066\ud83d\ude00\ud800"
)
CHARACTERS += "مین्क്‍ক\u1100\u1161\u11a8가ﷺﬁ①Ⓜ👩💻🏽\ufe0f🏴\U000e0067\U000e0062\U000e007f\U000e0001ß-"
dense = st.text(st.sampled_from(CHARACTERS), max_size=40)
texts = dense | st.text(st.characters(exclude_categories=[]), max_size=40)


@given(texts, st.sampled_from(get_args(Form)))
def test_a_second_time_changes_nothing(text, form):
    once = normalize_text(text, form)
    assert normalize_text(once, form) == once


@given(texts, st.sampled_from(get_args(Form)))
def test_the_result_is_in_the_form_and_holds_nothing_that_should_go(text, form):
    result = normalize_text(text, form)
    assert unicodedata.is_normalized(form, result)
    assert not re.search("[\0-\x08\v-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]", result)
    result.encode("utf-8")  # no surrogate is left


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u200c\u200d"), max_size=40))
def test_text_without_marks_and_controls_gets_its_form_alone(text):
    assert normalize_text(text) == unicodedata.normalize("NFC", text)


@given(texts, st.integers(0, 20))
def test_a_cut_text_stays_as_it_is(text, length):
    short = cut_text(normalize_text(text), length)
    assert len(short) <= length and normalize_text(short) == short and normalize_text(text).startswith(short)


@pytest.mark.parametrize(
    "text,result",
    [
        ("cafe\u0301", "café"),
        ("\u0301\0\u094d\u200c", "\u094d\u0301"),  # without NUL the virama comes first, so the joiner has no meaning
        ("a\0b\x07c\x7fd\x9fe", "abcde"),
        ("tab\tstays", "tab\tstays"),
        ("\ufeffbyte order mark", "byte order mark"),
        ("so\xadft", "soft"),
        ("zero\u200bwidth\u2060", "zerowidth"),
        ("e\u200b\u0301", "é"),  # what stands side by side now is one character
        ("\u202eright to left\u202c \u2066isolated\u2069", "right to left isolated"),
        ("\u200fשלום\u200e \u061cسلام", "שלום سلام"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("\ud83d\ude00", "😀"),  # two halves, as decoders that let surrogates pass leave them
        ("a\r\nb\rc\nd\x85e\u2028f\u2029g\vh\fi", "a\nb\nc\nd\ne\nf\ng\nh\ni"),
        ("\r\0\n", "\n"),
        ("spaces  \u00a0 stay ", "spaces  \u00a0 stay "),
        ("", ""),
    ],
)
def test_what_goes(text, result):
    assert normalize_text(text) == result


def test_nfkc_is_a_choice():
    assert normalize_text("ﬁ ① ﾊﾟ") == "ﬁ ① ﾊﾟ"
    assert normalize_text("ﬁ ① ﾊﾟ", "NFKC") == "fi 1 パ"


@pytest.mark.parametrize(
    "name,text",
    {
        "Persian: 'I want' with its prefix apart": f"می{ZWNJ}خواهم",
        "Persian: an abbreviation with a joining form at its end": f"ه{ZWJ}. ق",
        "Hindi: half form instead of a conjunct": f"क्{ZWJ}ष",
        "Hindi: virama that is seen": f"क्{ZWNJ}ष",
        "Bengali: ya-phalaa after ra": f"র{ZWJ}্যাব",
        "Malayalam: chillu at the end of a word": f"അവന്{ZWJ}",
        "Sinhala: touching letters": f"ශ්{ZWJ}රී",
        "Khmer: register shifter that stays above": f"ស{ZWNJ}៊ី",
        "emoji: woman technologist": f"👩{ZWJ}💻",
        "emoji: with a skin tone": f"👩🏽{ZWJ}🚀",
        "emoji: rainbow flag": f"🏳\ufe0f{ZWJ}🌈",
        "emoji: head shaking, whose second part is an arrow": f"🙂{ZWJ}↔\ufe0f",
        "emoji: flag of Scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "Mongolian: vowel separator": "ᠬᠠᠷ\u180eᠠ",
        "Thai: text without any of this": "ภาษาไทย",
    }.items(),
)
def test_what_stays(name, text):
    assert normalize_text(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "text,result",
    [
        (f"Auf{ZWNJ}lage", "Auflage"),  # in Latin it only chooses a ligature
        (f"a{ZWJ}b", "ab"),
        (f"{ZWJ}👩 {ZWJ}💻", "👩 💻"),  # nothing on one side
        (f"👩{ZWNJ}💻", "👩💻"),
        (f"می {ZWNJ}خواهم", "می خواهم"),  # after a space it parts nothing
        (f"می{ZWNJ * 3}خواهم", f"می{ZWNJ}خواهم"),
        ("ASCII\U000e0041\U000e0042 in tags", "ASCII in tags"),  # text that a model reads and a person does not
        ("🏴\U000e0067 no end", "🏴 no end"),
        (f"ก{ZWSP}ข", "กข"),
    ],
)
def test_joiners_and_tags_without_a_meaning_go(text, result):
    assert normalize_text(text) == result


def test_compatibility_forms_are_settled_before_joiners():
    """Ⓜ is a pictograph, and the M that NFKC makes of it is none."""
    assert normalize_text(f"Ⓜ{ZWJ}👩") == f"Ⓜ{ZWJ}👩"
    assert normalize_text(f"Ⓜ{ZWJ}👩", "NFKC") == "M👩"


@pytest.mark.parametrize(
    "text,length,result", [(f"👩{ZWJ}💻", 2, "👩"), (f"می{ZWNJ}خواهم", 3, "می"), ("abc", 3, "abc")]
)
def test_a_cut_leaves_no_joiner_at_the_end(text, length, result):
    assert cut_text(text, length) == result


def test_real_text_keeps_its_words(shared_data):
    """Persian, Sinhala and emoji files keep their joiners; apart from joiners no letter, mark or digit is lost."""
    import pyarrow.parquet as pq

    kept = 0
    for name in ("tico19", "cldr-emoji"):
        for text in pq.read_table(shared_data / name / "train.parquet", columns=["query"])["query"].to_pylist()[:8000]:
            result = normalize_text(text)
            gone = re.sub("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff]", "", unicodedata.normalize("NFC", text))
            assert re.sub("[\u200c\u200d]", "", result) == unicodedata.normalize("NFC", gone)
            kept += result.count(ZWNJ) + result.count(ZWJ)
    assert kept > 200


@pytest.mark.parametrize(
    "text",
    [
        "a\u0315\u0300" * 250_000,
        "\u0315\u0300" * 500_000,
        "\0" * 10**6,
        ZWJ * 10**6,
        f"می{ZWNJ}" * 300_000,
        "-" * 10**6,
    ],
    ids=["few marks", "all marks", "NUL", "joiners", "Persian", "dashes"],
)
def test_a_line_of_a_megabyte_takes_linear_time(text):
    """Canonical ordering of a million marks in a row would take half an hour: only 30 are kept (UAX #15, 13)."""
    result = normalize_text(text)
    assert len(max(re.findall("[\u0300-\u036f]+", result), key=len, default="")) <= 30
