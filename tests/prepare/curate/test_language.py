"""Languages: identified without a download, compared with what rows declare, counted."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import Record
from f2jax.prepare.curate import CurationOptions, CurationReport
from f2jax.prepare.curate.language import NO_LANGUAGE, UNKNOWN, _identifier, identify_language, language_agrees
from tests.prepare.curate.in_memory import curate

ON = CurationOptions(identify_language=True)
GERMAN = "Die Kinder haben gestern im Garten gespielt und wollten nicht nach Hause gehen."
FRENCH = "Les enfants ont joué hier dans le jardin et ne voulaient pas rentrer à la maison."


@pytest.mark.parametrize(
    "text,code",
    [
        (GERMAN, "deu"),
        (FRENCH, "fra"),
        ("我们昨天在公园里散步，天气非常好，很多孩子在那里玩。", "zho"),
        ("Watoto walicheza bustanini jana na hawakutaka kurudi nyumbani.", "swa"),
        ("المعلمون يعملون في المدرسة كل يوم ويحبون عملهم كثيرا جدا", "ara"),
        ("Djeca su jučer igrala u vrtu i nisu htjela ići kući.", "hbs"),  # Bosnian, Croatian and Serbian
        ("ok", UNKNOWN),
        ("", UNKNOWN),
        ("😀", UNKNOWN),
    ],
)
def test_a_language_is_an_iso_639_3_code_and_und_where_unsure(text, code):
    assert identify_language(text, 0.9) == code


def test_every_language_of_the_identifier_has_a_code_of_three_letters():
    from f2jax.prepare.curate.language import _iso_639_3

    codes = {_iso_639_3(label) for label in _identifier().nb_classes}
    assert len(codes) >= 135 and all(len(code) == 3 and code.isascii() for code in codes)


@pytest.mark.parametrize(
    "declared,found,verdict",
    [
        ("deu", "deu", True),
        ("de", "deu", True),
        ("de-AT", "deu", True),
        ("ger", "deu", True),
        ("deu_Latn", "deu", True),
        ("cmn", "zho", True),
        ("zh-Hant", "zho", True),
        ("arz", "ara", True),  # kinds of one language, which declare and find each other
        ("ara", "arz", True),
        ("nob", "nor", True),
        ("nor", "nno", True),
        ("heb", "hbo", True),
        ("srp", "hbs", True),
        ("deu", "fra", False),
        ("cat", "spa", False),
        ("jpn", "zho", False),
        ("kas", "urd", None),  # the identifier does not know Kashmiri, and takes it for Urdu
        ("deu", UNKNOWN, None),
        ("deu", NO_LANGUAGE, None),
        (UNKNOWN, "deu", None),
        ("", "deu", None),
        ("code:python", "eng", None),
        ("no language at all", "eng", None),
    ],
)
def test_declared_and_found_languages_are_compared(declared, found, verdict):
    assert language_agrees(declared, found) is verdict


@given(st.text(st.characters(exclude_categories=[]), max_size=20), st.text(st.characters(exclude_categories=[])))
def test_no_text_and_no_code_is_too_strange(declared, text):
    assert len(identify_language(text, 0.0)) == 3
    assert language_agrees(declared, "deu") in (True, False, None)


def test_languages_are_counted_and_set_where_they_are_und():
    rows = [
        Record(GERMAN, "p"),
        Record(FRENCH, "p", language="fra"),
        Record("ok", "p"),
        Record(GERMAN, "p", language="fra"),
    ]
    report = CurationReport()
    kept = list(curate(rows, replace(ON, exact_duplicates=False), report))
    assert [row.language for row in kept] == ["deu", "fra", "und", "fra"]
    assert report.languages == {"deu": 2, "fra": 1, "und": 1}
    assert report.noted == {"language set": 1, "query is in another language than declared": 1}
    assert report.kept == 4 and not report.skipped


def test_a_row_in_another_language_goes_by_option_alone():
    rows = [
        Record(GERMAN, "p", language="fra"),
        Record(GERMAN, "p", language="deu"),
        Record(GERMAN, "p", language="kas"),
    ]
    report = CurationReport()
    kept = list(curate(rows, replace(ON, drop_other_language=True), report))
    assert {row.language for row in kept} <= {"deu", "kas"}
    assert report.skipped["query is in another language than declared"] == 1


def test_code_is_let_be():
    report = CurationReport()
    row = Record("def add(a, b): return a + b", "adds", language="code:python")
    assert list(curate([row], ON, report)) == [row] and not report.languages


def test_real_text_is_nearly_always_in_the_language_that_it_declares(shared_data):
    """SIB-200's sentences; of those that can be judged the identifier is to be right in 98 of 100."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data / "eval-sib200-dev/data.parquet", columns=["text", "language"]).to_pylist()[::40]
    verdicts = Counter(language_agrees(row["language"], identify_language(row["text"], 0.9)) for row in rows)
    assert verdicts[True] > 150
    assert verdicts[False] < 0.02 * verdicts[True]
