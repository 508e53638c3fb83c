"""Which texts are embedded, in which order, and what is right, for rows of all kinds."""

import json
from pathlib import Path

import numpy as np
import pytest

from f2jax.data.record import KINDS
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.mine import text_file
from f2jax.mine.options import MiningInput
from f2jax.mine.rows import FACTS, MiningGroup, MiningRows, iter_records, make_group
from f2jax.mine.rows import read_mining_rows as read_into


def write(path, *rows) -> str:
    """Rows of (query, positive) or (query, positive, other fields)."""
    full = ({"query": query, "positive": positive} | dict(*more) for query, positive, *more in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in full))
    return str(path)


def read_mining_rows(paths, corpus=(), only=KINDS, across_sources=False) -> MiningRows:
    folder = Path(paths[0]).parent
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    given = MiningInput(tuple(paths), str(folder / "corpus.jsonl") if corpus else None, only=tuple(only))
    return read_into(given, folder / "read", across_sources)


def make_groups(rows) -> list[MiningGroup]:
    return [make_group(rows, number) for number in range(len(rows.groups))]


def numbers(rows) -> tuple[list[int], list[int]]:
    """(number of the query, number of the positive) of the mined rows."""
    count = len(rows.queries.number_of_each)
    return rows.queries.number_of_each.tolist(), rows.documents.number_of_each[:count].tolist()


def described(rows, group) -> dict:
    """query → its right documents, its own text and the documents that share a label, all as texts."""
    documents = [rows.documents[n] for n in group.documents]
    answers, found = group.answers, {}
    labels_cl = np.zeros((len(documents), 0), int) if answers.document_labels_cl is None else answers.document_labels_cl
    for i, number in enumerate(group.queries):
        _, right = answers.right(i, i + 1)
        own = answers.own_q[i]
        labels = set(answers.query_labels_ql[i].tolist()) - {-1}
        mates = [text for text, some in zip(documents, labels_cl, strict=True) if labels & set(some.tolist())]
        found[rows.queries[number]] = [documents[n] for n in right], None if own < 0 else documents[own], mates
    return found


def test_texts_are_numbered_in_the_order_in_which_they_first_come(tmp_path):
    one = write(tmp_path / "one.jsonl", ("q1", "b"), ("q2", "a"), ("q1", "c"))
    two = write(tmp_path / "two.jsonl", ("q3", "a"), ("q2", "d"))
    rows = read_mining_rows([one, two], corpus=["x", "a", "", "x", "y"])
    assert list(rows.queries) == ["q1", "q2", "q3"]
    assert list(rows.documents) == ["b", "a", "c", "d", "x", "y"]
    queries, positives = numbers(rows)
    assert queries == [0, 1, 0, 2, 1]
    assert [rows.documents[n] for n in positives] == ["b", "a", "c", "a", "d"]


def test_each_source_has_its_own_documents_and_the_corpus(tmp_path):
    one = write(tmp_path / "one.jsonl", ("q1", "a"), ("q2", "b"))
    two = write(tmp_path / "two.jsonl", ("q3", "c"), ("q4", "a"))
    rows = read_mining_rows([two, one], corpus=["x"])
    texts = [[rows.documents[n] for n in group.documents] for group in make_groups(rows)]
    assert texts == [["c", "a", "x"], ["a", "b", "x"]]
    (together,) = make_groups(read_mining_rows([two, one], ["x"], across_sources=True))
    assert [rows.documents[n] for n in together.documents] == ["c", "a", "b", "x"]
    assert [rows.queries[n] for n in together.queries] == ["q3", "q4", "q1", "q2"]


def test_kinds_are_never_mined_together(tmp_path):
    """The name of a class is no negative of a text that looks for another text."""
    clustering = {"kind": "clustering", "label": "x"}
    classes = {"kind": "classification", "label": "x"}
    path = write(tmp_path / "one.jsonl", ("t1", "t2", clustering), ("t1", "animal", classes), ("q", "a"))
    for across in (False, True):
        rows = read_mining_rows([path], across_sources=across)
        groups = make_groups(rows)
        assert [[rows.documents[n] for n in group.documents] for group in groups] == [["t2"], ["animal"], ["a"]]
        assert [group.rows.tolist() for group in groups] == [[0], [1], [2]]


def test_all_right_documents_of_a_query_are_right_whichever_row_or_source_says_so(tmp_path):
    one = write(tmp_path / "one.jsonl", ("q", "a"), ("p", "b"), ("q", "c"), ("q", "a"), ("r", "d"))
    two = write(tmp_path / "two.jsonl", ("q", "d"), ("s", "z"))
    rows = read_mining_rows([one, two])
    first, second = make_groups(rows)
    assert {query: right for query, (right, *_) in described(rows, first).items()} == {
        "q": ["a", "c", "d"],
        "p": ["b"],
        "r": ["d"],
    }
    assert described(rows, second)["q"][0] == ["d"], "a and c are no documents of this source"


def test_the_text_of_the_query_may_be_a_document(tmp_path):
    path = write(tmp_path / "one.jsonl", ("a", "b"), ("b", "a", {"instruction": "Translate."}), ("c", "d"))
    rows = read_mining_rows([path])
    (group,) = make_groups(rows)
    own = {query: text for query, (_, text, _) in described(rows, group).items()}
    assert own == {"a": "a", "Instruct: Translate.\nQuery: b": "b", "c": None}


def test_rows_that_share_a_label_share_their_documents(tmp_path):
    red, blue = ({"kind": "clustering", "label": label} for label in ("red", "blue"))
    one = write(tmp_path / "one.jsonl", ("q1", "a", red), ("q2", "b", blue), ("q3", "c", red), ("q1", "d", blue))
    two = write(tmp_path / "two.jsonl", ("q4", "e", red), ("q5", "f", {"kind": "clustering"}))
    rows = read_mining_rows([one, two], across_sources=True)
    (together,) = make_groups(rows)
    mates = {query: texts for query, (_, _, texts) in described(rows, together).items()}
    assert mates == {
        "q1": ["a", "b", "c", "d"],  # a row of each label
        "q2": ["b", "d"],
        "q3": ["a", "c"],
        "q4": ["e"],  # another source's "red" is another class
        "q5": [],
    }


def test_a_query_is_known_by_its_text_and_instruction(tmp_path):
    path = write(
        tmp_path / "one.jsonl", ("q", "a", {"instruction": "Do."}), ("q", "b"), ("q", "c", {"instruction": "Do."})
    )
    rows = read_mining_rows([path])
    assert list(rows.queries) == ["Instruct: Do.\nQuery: q", "q"] and numbers(rows)[0] == [0, 1, 0]
    (group,) = make_groups(rows)
    assert len(set(group.ids)) == 2


def test_rows_of_other_kinds_bring_neither_queries_nor_documents(tmp_path):
    path = write(tmp_path / "one.jsonl", ("q", "a"), ("t", "animal", {"kind": "classification", "negatives": ["food"]}))
    rows = read_mining_rows([path], only=["retrieval"])
    assert (list(rows.queries), list(rows.documents)) == (["q"], ["a"])
    assert rows.numbers("places").tolist() == [0, -1]
    assert [group.rows.tolist() for group in make_groups(rows)] == [[0]]
    assert rows.starts == [0, 2]


def test_rows_without_negatives_are_what_is_mined(tmp_path):
    """Training takes retrieval alone without negatives."""
    kinds = ("retrieval", "clustering", "classification")
    path = write(tmp_path / "one.jsonl", *(("q", "a", {"kind": kind}) for kind in kinds))
    rows = read_mining_rows([path])
    assert len(make_groups(rows)) == 3 and not rows.skipped


def test_half_a_character_becomes_the_replacement_character(tmp_path):
    path = write(tmp_path / "one.jsonl", ("q\ud83d", "a\udc00", {"negatives": ["\ud800", "b"]}))
    rows = read_mining_rows([path], corpus=["x\ud83d"])
    assert (list(rows.queries), list(rows.documents)) == (["q\ufffd"], ["a\ufffd", "x\ufffd"])
    assert next(iter_records(path, (), SkipList())).negatives == ("\ufffd", "b")


def test_bad_rows_are_counted(tmp_path):
    rows = read_mining_rows([write(tmp_path / "one.jsonl", ("q", "a"), ("", "a"), ("q", " "))])
    assert rows.starts == [0, 1] and rows.skipped == {"empty query": 1, "empty positive": 1}


@pytest.mark.parametrize(
    "only,message",
    [
        (["retreival"], "There is no kind 'retreival'; did you mean 'retrieval'?"),
        (
            ["clustering", "classification"],
            "No row of the input is of the kind clustering or classification; choose others.",
        ),
    ],
)
def test_kinds_that_are_not_there(tmp_path, only, message):
    with pytest.raises(UserError) as error:
        read_mining_rows([write(tmp_path / "one.jsonl", ("q", "a"))], only=only)
    assert str(error.value) == message


def test_numbers_are_those_of_one_piece_however_few_are_in_memory(tmp_path, monkeypatch):
    """The files that are made piece by piece, over groups and ranges; numbers against a dict."""
    rng = np.random.default_rng(0)
    drawn = [(f"q{a}", f"d{b}", {"source": f"s{c}"}) for a, b, c in rng.integers([9, 30, 3], size=(60, 3)).tolist()]
    path = write(tmp_path / "rows.jsonl", *drawn)
    names = ["members", "mined", "places", "right", "documents.first", "documents.numbers", "queries.numbers", FACTS]
    found = []
    for count in (1 << 20, 1, 7):
        monkeypatch.setattr(text_file, "NUMBERED_TOGETHER", count)
        rows = read_mining_rows([path], corpus=["d3", "x"], only=["retrieval"])
        found.append({name: (rows.folder / name).read_bytes() for name in names})
    assert found[0] == found[1] == found[2]
    distinct = list(dict.fromkeys([document for _, document, _ in drawn] + ["d3", "x"]))
    expected = [distinct.index(document) for _, document, _ in drawn]
    assert list(rows.documents) == distinct and numbers(rows)[1] == expected
    by_source = {source: [n for n, row in enumerate(drawn) if row[2]["source"] == source] for source in ("s0", "s1")}
    sources = list(dict.fromkeys(row[2]["source"] for row in drawn))
    groups = make_groups(rows)
    assert all(groups[sources.index(source)].rows.tolist() == some for source, some in by_source.items())
