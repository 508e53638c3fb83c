"""Files → records: JSON lines and parquet in both schemas; every bad row is counted, every bad file named."""

from collections import Counter

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax.data.record import Record
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import expand, open_source, schema
from f2jax.data.sources.tables import read_rows
from f2jax.errors import UserError
from tests.data.tables import content, write

FORMATS = ["jsonl", "jsonl.gz", "parquet"]


def read(spec, skipped=None) -> list[Record]:
    return list(open_source(str(spec), "train", SkipList() if skipped is None else skipped))


PAIR = {"query": "q", "positive": "p"}


# The two schemas


@pytest.mark.parametrize("ending", FORMATS)
def test_a_released_file_keeps_its_24_negatives_in_numerical_order(tmp_path, ending):
    """Columns that are written in alphabetical order put negative_10 before negative_2."""
    negatives = {f"negative_{n}": f"n{n}" for n in sorted(range(1, 25), key=str)}
    path = write(tmp_path / f"webfaq_eng.{ending}", [{"query": "q", "passage": "p", **negatives}])
    assert read(path) == [Record("q", "p", tuple(f"n{n}" for n in range(1, 25)), language="eng", source="webfaq_eng")]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_with_lists_says_everything_about_its_rows(tmp_path, ending):
    row = {
        "query": "кошка",
        "positive": "animal",
        "negatives": ["food", "sport"],
        "kind": "classification",
        "language": "rus",
        "source": "topics",
        "label": "animal",
        "subset": "a column of no use",
    }
    path = write(tmp_path / f"x.{ending}", [row])
    assert read(path) == [
        Record("кошка", "animal", ("food", "sport"), "classification", "rus", "topics", "animal"),
    ]


@pytest.mark.parametrize("ending", FORMATS)
def test_what_a_row_does_not_say_has_a_default(tmp_path, ending):
    empty = {"negatives": [], "kind": None, "language": None, "source": "", "label": ""}
    path = write(tmp_path / f"pairs.{ending}", [PAIR | empty])
    assert read(path) == [Record("q", "p", (), "retrieval", "und", "pairs", None)]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_row_may_bring_its_instruction_and_be_symmetric(tmp_path, ending):
    path = write(
        tmp_path / f"sts.{ending}", [PAIR | {"instruction": "Find alike text.", "symmetric": True, "lang": "deu"}]
    )
    assert read(path) == [
        Record("q", "p", language="deu", source="sts", instruction="Find alike text.", symmetric=True)
    ]


@pytest.mark.parametrize("ending", FORMATS)
def test_empty_negatives_are_left_out_and_labels_become_text(tmp_path, ending):
    path = write(tmp_path / f"x.{ending}", [PAIR | {"negatives": ["a", "", None, " ", "b"], "label": 3}])
    (record,) = read(path)
    assert (record.negatives, record.label) == (("a", "b"), "3")


def test_a_released_two_way_file_has_one_negative(tmp_path):
    path = write(tmp_path / "imdb.parquet", [{"query": "q", "passage": "good", "negative_1": "bad", "lang": "eng"}])
    assert read(path) == [Record("q", "good", ("bad",), "classification", language="eng", source="imdb")]


def test_text_is_kept_to_the_letter(tmp_path):
    text = " two  spaces\tand a line\u2028separator\nend \u202e \0"
    for ending in FORMATS:
        (record,) = read(write(tmp_path / f"x.{ending}", [{"query": text, "positive": text}]))
        assert (record.query, record.positive) == (text, text)


def test_a_byte_order_mark_costs_no_row(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + content("x.jsonl", [PAIR, PAIR]))
    skipped = SkipList()
    assert len(read(tmp_path / "x.jsonl", skipped)) == 2 and not skipped


def test_real_files_read_whole(shared_data):
    """Counts as in the README of the data."""
    expected = {
        "drcd": {("clustering", "zho"): 600, ("retrieval", "zho"): 3500},
        "nusa-sentiment": {("classification", None): 3755},
    }
    for name, counts in expected.items():
        skipped = SkipList()
        records = read(shared_data / name / "train.parquet", skipped)
        languages = len({record.language for record in records})
        found = Counter((record.kind, record.language if languages == 1 else None) for record in records)
        assert found == counts and not skipped
        assert {record.source for record in records} == {name}
        assert all(record.query.strip() and record.positive.strip() for record in records)


# Which files a source stands for


@pytest.mark.parametrize(
    "name,source",
    [
        ("paracrawl_deu_part2.parquet", "paracrawl_deu"),
        ("paracrawl_deu_part13.jsonl.gz", "paracrawl_deu"),
        ("paracrawl_deu.jsonl", "paracrawl_deu"),
        ("v1.5.jsonl", "v1.5"),
        ("part2.jsonl", "part2"),
    ],
)
def test_the_source_is_the_name_of_the_file_without_its_part(tmp_path, name, source):
    assert read(write(tmp_path / name, [PAIR]))[0].source == source


def test_a_folder_stands_for_all_data_files_in_it_in_order(tmp_path):
    names = ["b.jsonl", "a.parquet", "deep/er/c.jsonl.gz"]
    for name in names:
        write(tmp_path / name, [PAIR | {"query": name}])
    (tmp_path / "README.md").write_text("no data")
    assert [record.query for record in read(tmp_path)] == ["a.parquet", "b.jsonl", "deep/er/c.jsonl.gz"]
    assert expand(f"{tmp_path}/") == expand(str(tmp_path))


def test_a_glob_stands_for_the_files_that_it_matches(tmp_path):
    for name in ("x_part2.jsonl", "x_part1.jsonl", "y.jsonl", "sub/x_part3.jsonl"):
        write(tmp_path / name, [PAIR | {"query": name}])
    assert [record.query for record in read(f"{tmp_path}/x_part[0-9].jsonl")] == ["x_part1.jsonl", "x_part2.jsonl"]
    assert [record.query for record in read(f"{tmp_path}/*/x*")] == ["sub/x_part3.jsonl"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    assert len(read(write(tmp_path / "x[1].jsonl", [PAIR]))) == 1


@pytest.mark.parametrize("ending", FORMATS)
def test_remote_paths_read_as_local_ones(tmp_path, ending):
    rows = [PAIR | {"query": f"q{i}"} for i in range(3)]
    with fsspec.open(f"memory://corpus-{ending}/far.{ending}", "wb") as file:
        file.write(content(f"far.{ending}", rows))
    local = read(write(tmp_path / f"far.{ending}", rows))
    for spec in (f"memory://corpus-{ending}/far.{ending}", f"memory://corpus-{ending}", f"memory://corpus-{ending}/f*"):
        assert read(spec) == local


# Rows that cannot be trained on

GOOD = {"query": "good", "positive": "p", "negatives": ["n"], "kind": "retrieval"}
BAD_ROWS = {
    "empty query": [{"query": ""}, {"query": " \n"}, {"query": None}],
    "empty positive": [{"positive": ""}, {"positive": None}],
    "clustering without negatives": [{"kind": "clustering", "negatives": []}],
    "classification without negatives": [{"kind": "classification", "negatives": ["", " "]}],
    "kind is not one of retrieval, clustering, classification, texts": [{"kind": "clusterin"}, {"kind": "Retrieval"}],
}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("reason", BAD_ROWS)
def test_bad_rows_are_left_out_and_counted_by_reason(tmp_path, ending, reason):
    rows = [GOOD, *(GOOD | bad for bad in BAD_ROWS[reason]), GOOD]
    skipped = SkipList()
    assert [record.query for record in read(write(tmp_path / f"x.{ending}", rows), skipped)] == ["good", "good"]
    assert skipped == {reason: len(BAD_ROWS[reason])}


@pytest.mark.parametrize(
    "line,reason",
    [
        (b'{"query": 5, "positive": "p"}', "query is not a text"),
        (b'{"query": "q", "positive": ["p"]}', "positive is not a text"),
        (b'{"query": "q", "positive": "p", "negatives": "n"}', "negatives are not a list"),
        (b'{"query": "q"}', "empty positive"),
        (b'{"query": "q", "posi', "line is no JSON"),
        (b'["q", "p"]', "line is no JSON object"),
        (b'{"query": "\xff\xfe"}', "line is not UTF-8"),
    ],
)
def test_bad_lines_are_left_out_and_counted_by_reason(tmp_path, line, reason):
    good = content("x.jsonl", [GOOD])
    (tmp_path / "x.jsonl").write_bytes(b"\n" + good + line + b"\n\n" + good.rstrip())
    skipped = SkipList()
    assert len(read(tmp_path / "x.jsonl", skipped)) == 2
    assert skipped == {reason: 1}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_without_one_good_row_is_an_error_that_counts_the_reasons(tmp_path, ending):
    rows = [PAIR | {"query": " "}, PAIR | {"positive": ""}, PAIR | {"query": ""}]
    skipped = SkipList()
    skipped["empty query"] = 7  # of other files
    with pytest.raises(UserError, match=rf"bad\.{ending} has no usable row \(2 empty query, 1 empty positive\)"):
        read(write(tmp_path / f"bad.{ending}", rows), skipped)
    assert skipped == {"empty query": 9, "empty positive": 1}


# Files that cannot be read


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(
    "row,missing",
    [
        ({"Frage": "q", "positive": "p"}, r"no column query; it has Frage, positive"),
        ({"query": "q", "negative_1": "n"}, r"no column positive \(or passage\); it has query, negative_1"),
    ],
)
def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path, ending, row, missing):
    with pytest.raises(UserError, match=rf"x\.{ending} has {missing}"):
        read(write(tmp_path / f"x.{ending}", [row]))


@pytest.mark.parametrize("ending", FORMATS)
def test_an_empty_file_is_an_error(tmp_path, ending):
    (tmp_path / f"x.{ending}").write_bytes(b"")
    with pytest.raises(UserError, match=rf"x\.{ending} (has no usable row \(it is empty\)|is damaged)"):
        read(tmp_path / f"x.{ending}")


MANY = [{"query": f"query {i * 7919}", "positive": f"positive {i * 104729}"} for i in range(2000)]


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("kept", [10, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_an_error(tmp_path, ending, kept):
    whole = content(f"x.{ending}", MANY)
    (tmp_path / f"x.{ending}").write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(UserError, match=rf"x\.{ending} is .*cut short.*; fetch it again"):
        read(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("damage", [b"\0", b"\xa5", b"\xff"])
def test_a_damaged_file_is_an_error(tmp_path, ending, damage):
    whole = content(f"x.{ending}", MANY)
    (tmp_path / f"x.{ending}").write_bytes(whole[:2000] + damage * 500 + whole[2500:])
    with pytest.raises(UserError, match=rf"x\.{ending} is .*; fetch it again"):
        read(tmp_path / f"x.{ending}")


def test_text_that_is_not_utf8_in_a_parquet_file_is_an_error(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"query": broken, "positive": ["p"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet is damaged"):
        read(tmp_path / "x.parquet")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_that_may_not_be_read_is_an_error(tmp_path, ending):
    """A folder in its place: the superuser may read every file."""
    (tmp_path / f"x.{ending}").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        list(read_rows(str(tmp_path / f"x.{ending}"), SkipList(), lambda present: present))


@pytest.mark.parametrize(
    "spec,word",
    [
        ("nowhere.jsonl", r"There is no data file .*nowhere\.jsonl; check the path"),
        ("*.jsonl", r"There is no data file .*\*\.jsonl"),
        ("empty", "There is no data file .*empty"),
        ("notes.md", r"notes\.md is not a known kind of file; data files end in \.parquet, \.arrow, \.jsonl"),
    ],
)
def test_a_source_without_data_files_is_an_error(tmp_path, spec, word):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("no data")
    with pytest.raises(UserError, match=word):
        read(tmp_path / spec)


@pytest.mark.parametrize(
    "spec,word",
    [
        ("cldr:translations", "There is no built-in set 'cldr:translations'; did you mean 'cldr:translation'"),
        ("stdlib:cod", "did you mean 'stdlib:code'"),
        ("cldr", "There is no data file cldr; .* Built-in sets are cldr:translation, "),
        ("nowhere://x.jsonl", "nowhere://x.jsonl cannot be opened"),
    ],
)
def test_an_unknown_set_or_protocol_is_an_error(spec, word):
    with pytest.raises(UserError, match=word):
        read(spec)


def test_files_have_no_test_split(tmp_path):
    with pytest.raises(UserError, match="has no split 'test'; files only have train"):
        list(open_source(write(tmp_path / "x.jsonl", [PAIR]), "test", SkipList()))


@pytest.mark.parametrize(
    "source,kind", [("massive_intent", "clustering"), ("imdb", "classification"), ("nq", "retrieval")]
)
def test_a_pattern_gives_the_kind_of_files_that_do_not_say_it(tmp_path, source, kind):
    row = PAIR | {"negative_1": "wrong"}
    path = write(tmp_path / f"{source}_part2.jsonl", [row, row | {"kind": "retrieval"}])
    kinds = ("massive_*=clustering", "imdb=classification", "*=retrieval")
    assert [record.kind for record in open_source(str(path), "train", SkipList(), kinds)] == [kind, "retrieval"]


@pytest.mark.parametrize("item", ["imdb", "imdb=", "=clustering", "imdb=sorting"])
def test_a_pattern_without_source_or_kind_is_refused(tmp_path, item):
    path = write(tmp_path / "x.jsonl", [PAIR])
    with pytest.raises(UserError, match="among the kinds should be SOURCE=KIND"):
        list(open_source(str(path), "train", SkipList(), (item,)))


@pytest.mark.parametrize(
    "path,source",
    [
        ("corpus/webfaq_eng.parquet", "webfaq_eng"),
        ("corpus/webfaq_eng_part12.jsonl.gz", "webfaq_eng"),
        ("corpus/webfaq-00000-of-00005.parquet", "webfaq"),
        ("nli/train-00000-of-00005.parquet", "nli"),
        ("nli/data/train-00000-of-00005.parquet", "nli"),
        ("gs://bucket/nli/train.parquet", "nli"),
        ("gs://bucket/train.parquet", "bucket"),
        ("train.parquet", "train"),
        ("/train.parquet", "train"),
        ("/h/datasets--org--squad/snapshots/0a1b/data/train-00000-of-00001.parquet", "squad"),
        ("/h/datasets--org--xnli/snapshots/0a1b/de/train-00000-of-00001.parquet", "xnli-de"),
        ("/h/datasets--org--xnli/snapshots/0a1b/train.jsonl", "xnli"),
        ("/h/datasets--org--f2llm/snapshots/0a1b/mkqa_deu.parquet", "mkqa_deu"),
        ("x_part2_of_it.jsonl", "x_part2_of_it"),
    ],
)
def test_a_source_has_the_name_of_the_file_or_of_what_holds_it(path, source):
    assert schema.source_of(path) == source


def test_a_row_of_csv_with_a_line_that_is_not_utf_8_is_left_out_whole(tmp_path):
    """The row of a quoted field is all of its lines; without one of them, it would be another text."""
    path, skipped = tmp_path / "x.csv", SkipList()
    path.write_bytes(b'query,positive\n1,"a\nb\xe9\nc"\n2,"d\n\xe9"\n3,e\n')
    assert [(row.query, row.positive) for row in open_source(str(path), "train", skipped)] == [("3", "e")]
    assert skipped == {"line is not UTF-8": 2}


@pytest.mark.parametrize(
    "content", ["query,positive,größe\na,b,c\n".encode("latin-1"), "query,positive\n".encode("utf-16")]
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_whose_names_are_not_utf_8_is_refused(tmp_path, content, ending):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"The first line of .*x\.{ending} is not UTF-8; save the file as UTF-8\.$"):
        list(open_source(str(path), "train", SkipList()))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_table_has_no_rows_and_one_may_begin_with_blank_lines(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=r"x\.csv has no usable row \(it is empty\)"):
        list(open_source(str(path), "train", SkipList()))
    path.write_text(f"{content}query;positive\na;b\n")
    assert [(row.query, row.positive) for row in open_source(str(path), "train", SkipList())] == [("a", "b")]
