"""Evaluation texts are found as wholes and by 13 words in a row, in any script, and as brute force finds them.

`Scan` is that brute force: the units of each text as strings, in a set.
"""

import gzip
import json
import random
import re
import unicodedata
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.tables import ENDINGS
from f2jax.errors import UserError
from f2jax.prepare.curate import CurationOptions, CurationReport, curate_record
from f2jax.prepare.curate.decontaminate import Hit, Index, build_index, set_files
from f2jax.prepare.curate.stretches import hash_texts
from f2jax.prepare.curate.words import split_words
from tests.data import tables
from tests.prepare.curate.in_memory import curate

WORDS = [f"w{i}" for i in range(40)]
QUESTION = "Which of the rivers that rise in the highlands flow into the western lake?"


# Letters and digits alone


@pytest.mark.parametrize(
    "text,result",
    [
        ("L'Été — No 5!", ["l", "ete", "no", "5"]),
        ("ﬁn de siècle", ["fin", "de", "siecle"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("snake_case", ["snake", "case"]),
        ("शिक्षा", ["शकष"]),  # vowel signs are marks
        ("می‌خواهم", ["میخواهم"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("١٢٣ abc", ["١٢٣", "abc"]),
        ("!?…", []),
    ],
)
def test_words_are_letters_and_digits_without_case_and_accents(text, result):
    assert split_words(text) == result


@given(st.text(max_size=40))
def test_folding_keeps_what_python_calls_letters_and_digits(text):
    """Against the definition, character by character."""
    decomposed = (c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] in "LN")
    folded = "".join(decomposed).casefold()
    assert "".join(split_words(text)) == "".join(c for c in folded if c.isalnum())


_IDEOGRAPHS = "\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\U00020000-\U0003ffff"
_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df\uaa80-\uaadf"
_UNITS = re.compile(rf"([{_IDEOGRAPHS}])|([{_LETTERS}])|[^{_IDEOGRAPHS}{_LETTERS}]+")
_WEIGHTS = {1: 2, 2: 1, None: 4}  # by the group of _UNITS that matched


def split_units(text: str) -> list[tuple[str, int]]:
    """The units of a text with their weights."""
    return [(match[0], _WEIGHTS[match.lastindex]) for word in split_words(text) for match in _UNITS.finditer(word)]


class Scan:
    """What `Index` does, by strings."""

    def __init__(self, sets: dict[str, list[str]], ngram: int = 13, fewest_letters: int = 12):
        self.sets, self.ngram, self.fewest_letters = sets, ngram, fewest_letters
        self.whole = {name: {self._whole(text) for text in texts} - {None} for name, texts in sets.items()}
        self.runs = {name: {run for text in texts for run in self._runs(text)} for name, texts in sets.items()}

    def find(self, text: str) -> Hit | None:
        for how, mine, theirs in (
            ("whole", {self._whole(text)} - {None}, self.whole),
            (f"{self.ngram}-gram", set(self._runs(text)), self.runs),
        ):
            if name := next((name for name in self.sets if mine & theirs[name]), None):
                return Hit(name, how)
        return None

    def _whole(self, text: str) -> str | None:
        units = split_units(text)
        letters = sum(2 if weight == 2 else len(unit) for unit, weight in units)
        return "".join(unit for unit, _ in units) if letters >= self.fewest_letters else None

    def _runs(self, text: str):
        units = split_units(text) if self.ngram else []
        for start in range(len(units)):
            weight = 0
            for stop in range(start, len(units)):
                weight += units[stop][1]
                if weight >= 4 * self.ngram:
                    yield " ".join(unit for unit, _ in units[start : stop + 1])
                    break


def test_scripts_without_spaces_give_characters():
    assert split_units("GPU 北京 ไทย かな 한국 1") == [
        *[("gpu", 4), ("北", 2), ("京", 2)],
        *[("ไ", 1), ("ท", 1), ("ย", 1), ("か", 2), ("な", 2)],
        *[(unicodedata.normalize("NFD", "한국"), 4), ("1", 4)],
    ]


# Finding


def brute_force(text: str, evaluation: list[str], n: int) -> str | None:
    """Whole texts of 12 letters, then any n words in a row, of space-separated words."""
    if any(text == other and len(text.replace(" ", "")) >= 12 for other in evaluation):
        return "whole"
    padded = [f" {other} " for other in evaluation]
    have = text.split()
    grams = (" " + " ".join(have[i : i + n]) + " " for i in range(len(have) - n + 1))
    return f"{n}-gram" if any(gram in other for gram in grams for other in padded) else None


some_text = st.lists(st.sampled_from(WORDS[:3]), max_size=12).map(" ".join)


@given(st.lists(some_text, max_size=5), some_text, st.integers(1, 6))
def test_finding_is_that_of_brute_force(evaluation, text, n):
    hit = Index.build({"eval": evaluation}, ngram=n).find(text)
    assert (hit.how if hit else None) == brute_force(text, evaluation, n)


SCRIPTS = [
    "abcäßéﬁ",
    "abc ABC _-5Ⅷ",
    "北京かナ。",
    "ไทยขคง",
    "שָׁלוֹם",
    "हिन्दी",
    "\u200b\u00ad\u0301ẞ\ud800😀İ\n",
    "  ",
    "ⴀⴁᲐ",
]


def mixed(rng: random.Random, length: int) -> str:
    """Stretches of several scripts and of few letters, so that much is shared by chance."""
    return "".join("".join(rng.choices(rng.choice(SCRIPTS), k=rng.randrange(6))) for _ in range(rng.randrange(length)))


@pytest.mark.parametrize("ngram,fewest_letters", [(0, 3), (1, 1), (2, 4), (3, 12), (13, 12)])
def test_what_is_found_is_what_a_scan_of_strings_finds(ngram, fewest_letters):
    """In any script and any number of texts at once, in new texts, in parts of evaluation texts, and once more."""
    rng, hows = random.Random(ngram), Counter()
    sets = {name: [mixed(rng, 60) for _ in range(30)] + [""] for name in "ab"}
    index, scan = (kind(sets, ngram, fewest_letters) for kind in (Index.build, Scan))
    for _ in range(40):
        texts = [mixed(rng, 60) for _ in range(rng.randrange(6))]
        for text in (rng.choice(sets[rng.choice("ab")]) for _ in range(3)):
            cut = rng.randrange(len(text) + 1)
            texts += [text, f"z {text[cut:]}"]
        expected = [scan.find(text) for text in texts]
        assert index.find_all(texts) == index.find_all(texts) == expected
        hows.update(hit and hit.how for hit in expected)
    assert {None, "whole"} <= hows.keys() and (not ngram or hows[f"{ngram}-gram"])


def test_every_character_is_what_it_is_in_words():
    """Between two letters it parts them, joins them, or is not there."""
    codes = [*range(0x3000), *random.Random(0).sample(range(0x110000), 3000)]
    texts = [f"{'x' * 12} a{chr(code)}b" for code in codes]
    found = hash_texts(texts, 2)
    expected = hash_texts([" ".join(unit for unit, _ in split_units(text)) for text in texts], 2)
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == other.tolist()


def test_a_saved_index_finds_the_same(tmp_path):
    rng = random.Random(0)
    sets = {name: [mixed(rng, 60) for _ in range(30)] for name in "ab"}
    index = Index.build(sets, 3, 5)
    index.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    texts = [*sets["b"], *(mixed(rng, 60) for _ in range(30))]
    assert opened.find_all(texts) == index.find_all(texts) and opened.names == ("a", "b")
    assert isinstance(opened.stretches.hashes.base, np.memmap)


def test_a_text_without_a_hit_is_looked_at_once(monkeypatch):
    index, looked = Index.build({"eval": [QUESTION]}), []
    monkeypatch.setattr(
        "f2jax.prepare.curate.decontaminate.hash_texts",
        lambda texts, ngram: looked.extend(texts) or hash_texts(texts, ngram),
    )
    for _ in range(3):
        assert [bool(hit) for hit in index.find_all(["a text", QUESTION, "another"])] == [False, True, False]
    assert looked == ["a text", QUESTION, "another", QUESTION, QUESTION]


@pytest.mark.parametrize("shared,found", [(13, True), (12, False)])
@pytest.mark.parametrize("place", [0, 5, 27])
def test_thirteen_words_in_a_row_are_a_hit_wherever_they_stand(shared, found, place):
    index = Index.build({"eval": [" ".join(WORDS)]})
    inside = " ".join(["other", *WORDS[place : place + shared], "words"])
    assert index.find(inside) == (Hit("eval", "13-gram") if found else None)


@pytest.mark.parametrize(
    "script,needed",
    [
        ("北京是中国的首都也是全国政治文化和国际交往中心科技创新", 26),
        ("กขคงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮกคขงจชฉซญฌฏฎฑฐณฒตด", 52),
    ],
)
def test_scripts_without_spaces_need_as_much_text_as_thirteen_words(script, needed):
    assert len(script) >= needed
    index = Index.build({"eval": [f"X{script}"]})
    assert index.find(f"zz{script[:needed]}") == Hit("eval", "13-gram")
    assert index.find(f"zz{script[: needed - 1]}") is None


@pytest.mark.parametrize(
    "text,found",
    [
        (QUESTION, True),
        (QUESTION.upper().replace(" ", "  ").rstrip("?"), True),
        (QUESTION.replace(" ", ""), True),  # letters and digits alone
        (QUESTION.replace("western", "eastern"), False),
        (f"{QUESTION} Two words", True),  # fourteen words, of which thirteen stand there
        ("Yes, please.", False),  # it stands there, and is too short to mean anything
        ("北京是中国的首都", True),  # an ideograph counts as two letters
        ("北京大学", False),
    ],
)
def test_whole_texts_are_found_by_their_letters(text, found):
    index = Index.build({"eval": [QUESTION, "Yes, please.", "北京是中国的首都", "北京大学"]})
    assert bool(index.find(text)) == found


def test_the_first_of_several_sets_is_named():
    index = Index.build({"b": [QUESTION], "a": [QUESTION, "another text of some length"]})
    assert index.find(QUESTION).evaluation_set == "b"
    assert index.find("another text of some length").evaluation_set == "a"


# Records


def test_rows_go_and_of_negatives_only_those_that_are_found(tmp_path):
    (tmp_path / "quiz.txt").write_text(QUESTION + "\n", encoding="utf-8")
    options = CurationOptions(evaluation_sets=(str(tmp_path / "quiz.txt"),))
    rows = [
        Record(QUESTION, "The Nzoia."),
        Record("Which rivers?", f"You asked: {QUESTION}"),
        Record("Which rivers?", "The Nzoia.", (QUESTION, "The Tana.")),
        Record("Which rivers flow there?", "label", (QUESTION,), "classification"),
    ]
    report = CurationReport()
    assert list(curate(rows, options, report)) == [Record("Which rivers?", "The Nzoia.", ("The Tana.",))]
    assert report.skipped == {
        "query is in evaluation set quiz (whole)": 1,
        "positive is in evaluation set quiz (13-gram)": 1,
        "classification without negatives": 1,
    }
    assert report.noted == {"negatives in evaluation sets removed": 1}


@pytest.mark.parametrize(
    "source,stays", [("mkqa_deu", False), ("sib200", False), ("sib200-topics", False), ("webfaq", True)]
)
def test_sources_that_overlap_mteb_are_left_out_by_default(source, stays):
    outcome = curate_record(Record("q", "p", source=source), CurationOptions())
    assert (outcome.record is not None) == stays
    assert outcome.reason is None if stays else outcome.reason.startswith(f"source {source} is among the excluded")
    assert curate_record(Record("q", "p", source=source), CurationOptions(excluded_sources=())).record


# Evaluation sets


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


@pytest.mark.parametrize("name", ["quiz.parquet", "quiz.jsonl", "quiz.jsonl.gz"])
def test_columns_of_text_are_read_and_others_are_not(tmp_path, name):
    text = {
        "text": "the text of an evaluation",
        "sentences": ["a sentence in a list", None],
        "label": "a label that is long",
    }
    write(tmp_path / name, [text])
    index = build_index((str(tmp_path / name),), 13, 12)
    assert index.find("The text of an evaluation!") == Hit("quiz", "whole")
    assert index.find("a sentence in a list") and not index.find("a label that is long")
    named = build_index((f"mine={tmp_path / name}#label",), 13, 12)
    assert named.find("a label that is long") == Hit("mine", "whole") and not named.find("the text of an evaluation")


def test_a_folder_stands_for_its_files_save_those_without_text(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": "d", "title": "t", "text": "a document of the evaluation"}])
    write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "a question of the evaluation"}])
    write(tmp_path / "qrels.parquet", [{"query_id": "q", "corpus_id": "d", "score": 1}])
    index = build_index((f"{tmp_path}/",), 13, 12)
    assert index.names == (tmp_path.name,)
    assert index.find("a question of the evaluation") and index.find("a document of the evaluation")


def test_a_folder_stands_for_its_files_of_every_kind(tmp_path):
    """In each kind of file another text, and all are found."""
    texts = {ending: f"this secret of the evaluation ends in {ending}" for ending in ENDINGS}
    for ending, text in texts.items():
        tables.write(tmp_path / f"x{ending}", [{"id": 1, "text": text}])
    index = build_index((str(tmp_path),), 13, 12)
    assert [ending for ending, text in texts.items() if not index.find(text)] == []
    assert sorted(set_files(str(tmp_path))) == sorted(f"{tmp_path}/x{ending}" for ending in texts)


@pytest.mark.parametrize("name", ["cldr-names", "stdlib-code"])
def test_built_in_test_splits_are_evaluation_sets(name):
    index = build_index((name,), 13, 12)
    source = {"cldr-names": "cldr:translation", "stdlib-code": "stdlib:code"}[name]
    held = [record.query for record in open_source(source, "test", SkipList())]
    long = [text for text in held if sum(len(word) for word in split_words(text)) >= 12]
    assert long and all(index.find(text).evaluation_set == name for text in long[:200])


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    """The folder of a data set in a cache of the hub that has no other."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--mteb--rivers/snapshots/0123abcd"
    folder.mkdir(parents=True)
    return folder


def test_tests_of_mteb_in_the_cache_of_the_hub_are_an_evaluation_set(tmp_path, monkeypatch, caplog):
    """Files as the hub's client lays them: links to blobs. Of a collection the queries that a test judges count."""
    sets = {
        "colours/data/train-00000.parquet": [{"text": "a sentence of the training split"}],
        "colours/data/test-00000.parquet": [{"text": "a sentence of the test split", "label": 1}],
        "rivers/corpus.jsonl": [{"_id": "d", "text": "a page about all of the rivers"}],
        "rivers/queries.jsonl": [{"_id": n, "text": f"a question judged for {n}"} for n in ("train", "dev", "nothing")],
        "rivers/qrels/train.jsonl": [{"query-id": "train", "corpus-id": "d", "score": 1}],
        "rivers/qrels/dev.jsonl": [{"query-id": "dev", "corpus-id": "d", "score": 1}],
        "lakes/de-queries/queries-00000.parquet": [{"_id": 1, "text": "a question that is judged somewhere"}],
    }
    for number, (name, rows) in enumerate(sets.items()):
        folder, _, inside = name.partition("/")
        path = tmp_path / f"datasets--mteb--{folder}/snapshots/0123abcd/{inside}"
        blob = tmp_path / f"datasets--mteb--{folder}/blobs/{number}{path.suffix}"
        for target in (path, blob):
            target.parent.mkdir(parents=True, exist_ok=True)
        write(blob, rows)
        path.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    index = build_index(("mteb",), 13, 12)
    found = {text: index.find(text) for rows in sets.values() for row in rows if (text := row.get("text"))}
    held = ("the test split", "judged for dev", "judged somewhere")
    assert {text for text, hit in found.items() if hit == Hit("mteb", "whole")} == {
        text for text in found if text.endswith(held)
    }
    assert len(set_files("mteb")) == 4 and "tests of colours, lakes, rivers" in caplog.text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert not build_index(("mteb",), 13, 12).find(next(iter(found))) and "no data set of MTEB" in caplog.text


def test_ids_of_judged_queries_may_be_texts_or_numbers(cached):
    """JSON has numbers where TSV has texts, and pandas writes floats beside missing values."""
    write(cached / "queries.jsonl", [{"_id": n, "text": f"a question of the number {n}"} for n in (1, 2.0, "3", 4)])
    (cached / "qrels").mkdir()
    (cached / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td\t1\n2\td\t1\n3\td\t1\n")
    index = build_index(("mteb",), 13, 12)
    assert [bool(index.find(f"a question of the number {n}")) for n in (1, 2.0, "3", 4)] == [True, True, True, False]


@pytest.mark.parametrize(
    "name,content",
    [("test.parquet", "PAR1xx"), ("test.csv", 'text\n"unclosed\n'), ("test.json", '[{"text": '), ("test.arrow", "")],
)
def test_an_odd_file_in_the_cache_of_the_hub_is_named_and_left_out(cached, caplog, name, content):
    (cached / name).write_text(content)
    (cached / "a_test.parquet").symlink_to(cached / "no blob")
    other = cached.parents[2] / "datasets--mteb--lakes/snapshots/0"
    other.mkdir(parents=True)
    write(other / "test.jsonl", [{"text": "a sentence of the test split"}])
    assert build_index(("mteb",), 13, 12).find("a sentence of the test split")
    assert len(set_files("mteb")) == 2
    assert f"mteb: the texts of {cached}/{name} are not looked for: {cached}/{name}" in caplog.text
    assert f"mteb: {cached} holds no text of a test" in caplog.text and f"{other} holds" not in caplog.text


@pytest.mark.parametrize(
    "spec,word",
    [
        ("nowhere.parquet", "no data file"),
        ("empty.jsonl", r"empty\.jsonl holds no text in text, query, "),
        ("empty.jsonl#answer", "holds no text in answer"),
        ("broken.jsonl", r"broken\.jsonl:2: line is no JSON; fix or remove it\."),
    ],
)
def test_a_set_that_cannot_be_checked_is_an_error(tmp_path, spec, word):
    write(tmp_path / "empty.jsonl", [{"label": "nothing here"}])
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match=word):
        build_index((str(tmp_path / spec),), 13, 12)


def test_two_sets_of_one_name_are_an_error(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "data.jsonl", [{"text": "t"}])
    with pytest.raises(UserError, match="Two evaluation sets are called data"):
        build_index(tuple(f"{tmp_path}/{folder}/data.jsonl" for folder in "ab"), 13, 12)


def test_real_evaluation_sets_are_not_in_training_rows(shared_data):
    """As their README says; Disfl-QA is written on questions of XQuAD, and its rows are found."""
    index = build_index(tuple(f"{shared_data}/eval-{name}" for name in ("xquad", "humaneval-x")), 13, 12)
    held = next(open_source(f"beir:{shared_data}/eval-xquad", "test", SkipList()))
    assert index.find(held.query).how == "whole" and index.find(held.positive).how == "13-gram"
    rows = [row for row in open_source(f"{shared_data}/faquad/train.parquet", "train", SkipList())]
    assert not any(index.find(row.query) or index.find(row.positive) for row in rows)
    found = Counter()
    for row in islice(open_source(f"{shared_data}/english-misc/train.parquet", "train", SkipList()), 0, None, 3):
        hit = index.find(row.query)
        found[hit and hit.how] += 1
    assert found["whole"] == 0 and 0 < found["13-gram"] < 0.01 * found[None]
