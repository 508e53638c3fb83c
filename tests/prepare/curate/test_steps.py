"""The steps of curation in order: what goes, what changes, and that all of it is counted and can be listed."""

import io
import json
import pickle
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import KINDS, Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions, CurationReport, Outcome, curate_record
from tests.prepare.curate.in_memory import curate

OFF = CurationOptions(
    unicode_form="", max_characters=0, drop_trivial=False, excluded_sources=(), exact_duplicates=False
)
hostile = st.text(st.sampled_from("ab \0\u200b\u202e\ud800\ufeff\r\ne\u0301é"), max_size=6)
records = st.builds(
    Record,
    query=hostile,
    positive=hostile,
    negatives=st.lists(hostile, max_size=3).map(tuple),
    kind=st.sampled_from(KINDS),
    source=st.sampled_from(["a", "mkqa_deu"]),
)


@given(st.lists(records, max_size=10), st.randoms(use_true_random=False))
def test_every_row_stays_or_is_counted_under_a_reason_whatever_the_order(rows, shuffle):
    report, other = CurationReport(), CurationReport()
    kept = list(curate(rows, CurationOptions(), report))
    assert len(kept) == report.kept and report.kept + report.skipped.total() == len(rows)
    moved = list(curate(shuffle.sample(rows, len(rows)), CurationOptions(), other))
    assert Counter(moved) == Counter(kept) and report == other


@given(records)
def test_a_record_that_stays_is_clean_and_a_second_time_changes_nothing(row):
    outcome = curate_record(row, CurationOptions())
    if outcome.record is not None:
        again = curate_record(outcome.record, CurationOptions())
        assert again == Outcome(outcome.record, None, (), None)
        texts = [outcome.record.query, *outcome.record.documents]
        assert all(text.strip() for text in texts) and len(set(texts)) == len(texts)
        "".join(texts).encode()


@given(st.lists(records, max_size=6))
def test_every_step_can_be_off(rows):
    """What is left is what the readers hold to: no empty texts, and negatives for the kinds that need them."""
    report = CurationReport()
    kept = list(curate(rows, OFF, report))
    usable = [row for row in rows if row.kind in ("retrieval", "texts") or row.negatives]
    assert kept == [row for row in usable if row.query.strip() and (row.kind == "texts" or row.positive.strip())]
    assert not report.noted


@pytest.mark.parametrize(
    "row,reason",
    [
        (Record("\u200b \0", "p"), "empty query"),
        (Record("q", "\ufeff"), "empty positive"),
        (Record("é", "e\u0301"), "query is its own positive"),
        (Record("q", "p", ("p", "\u200bp"), "classification"), "classification without negatives"),
        (Record("q", "p", (" ",), "clustering"), "clustering without negatives"),
        (Record("q", "p", source="sib200-topics"), "source sib200-topics is among the excluded sources (sib200*)"),
    ],
)
def test_rows_that_cannot_teach_go(row, reason):
    assert curate_record(row, CurationOptions()) == Outcome(None, reason, (), None)


def test_changes_are_noted():
    row = Record("caf\u0065\u0301", "p" * 30, ("n", "n", "p" * 30, "n\u200b", " ", "caf\u00e9"))
    outcome = curate_record(row, CurationOptions(max_characters=20))
    assert outcome.record == Record("café", "p" * 20, ("n",))
    assert outcome.notes == ("text normalized", "text cut", "empty, repeated or right negatives removed")


@pytest.mark.parametrize("role", ["query", "positive", "negatives"])
def test_texts_of_a_megabyte_are_cut_or_go(role):
    long = "many words " * 100_000
    row = Record(**{"query": "q", "positive": "p", "negatives": ()} | {role: (long,) if role == "negatives" else long})
    cut = curate_record(row, CurationOptions()).record
    assert max(map(len, (cut.query, cut.positive, *cut.negatives))) == 100_000
    assert curate_record(row, CurationOptions(too_long="drop")).reason == "text is too long"
    assert curate_record(row, CurationOptions(max_characters=0)).record == row


def test_what_is_left_out_can_be_listed():
    listing = io.StringIO()
    report = CurationReport(skipped=SkipList(listing))
    rows = [Record("\ud800", "p", source="a"), Record("q", "p", source="b"), Record("q", "p", ("n",), source="c")]
    rows.append(Record("q" * 999, "é", source="mkqa_fin"))
    assert list(curate(rows, CurationOptions(), report)) == [rows[2]]
    lines = [json.loads(line) for line in listing.getvalue().splitlines()]
    assert lines == [
        {"reason": "empty query", "where": "a", "query": "\ud800", "positive": "p"},
        {"reason": "source mkqa_fin is among the excluded sources (mkqa_*)", "where": "mkqa_fin"}
        | {"query": "q" * 200, "positive": "é"},
        {"reason": "exact duplicate", "where": "b", "query": "q", "positive": "p"},
    ]
    assert Counter(line["reason"] for line in lines) == report.skipped


def test_a_distributed_runner_can_ship_everything():
    row, options = Record("q\0", "p", ("n",)), CurationOptions()
    function, args, result = pickle.loads(pickle.dumps((curate_record, (row, options), curate_record(row, options))))
    assert function(*args) == result and hash(options) == hash(CurationOptions())


@pytest.mark.parametrize(
    "values,word",
    [
        ({"unicode_form": "NFKD"}, "unicode_form='NFKD' is not a choice; did you mean 'NFKC'"),
        ({"too_long": "split"}, "too_long='split' is not a choice; choose from cut, drop"),
        ({"near_duplicates": 1.5}, "near_duplicates=1.5 should be from 0 to 1"),
        ({"language_confidence": -1}, "language_confidence=-1 should be from 0 to 1"),
        ({"ngram": -1}, "ngram=-1 is too small"),
        ({"shingle": 0}, "shingle=0 is too small; give at least 1"),
        ({"permutations": 130}, "permutations=130 is not a multiple of band=4"),
        ({"near_duplicates": 0.8, "exact_duplicates": False}, "near_duplicates needs exact_duplicates"),
        ({"drop_other_language": True}, "drop_other_language needs identify_language"),
    ],
)
def test_options_without_a_meaning_are_errors(values, word):
    with pytest.raises(UserError, match=word):
        CurationOptions(**values)


@pytest.mark.parametrize("step,library", [("identify_language", "py3langid"), ("near_duplicates", "rensa")])
def test_a_step_without_its_library_says_what_to_install(monkeypatch, step, library):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs {library}; install with pip install 'f2jax\[curate\]'"):
        CurationOptions(**{step: True})


def test_real_data_passes_nearly_whole(shared_data):
    rows = [row for name in ("afriqa", "nli", "osm-presets") for row in _some(shared_data, name, 400)]
    report = CurationReport()
    kept = list(curate(rows, CurationOptions(identify_language=True, near_duplicates=0.9), report))
    assert report.kept == len(kept) > 0.98 * len(rows)
    assert report.noted["text normalized"] > 0 and report.languages["eng"] > 0
    again = CurationReport()
    moved = random.Random(0).sample(kept, len(kept))
    assert Counter(curate(moved, CurationOptions(near_duplicates=0.9), again)) == Counter(kept) and not again.skipped


def _some(folder, name: str, count: int) -> list[Record]:
    rows = list(open_source(str(folder / name / "train.parquet"), "train", SkipList()))
    return rows[:: len(rows) // count]
