"""Which files a source stands for: never hidden or held-out ones, and what is not read is named."""

import pytest

from f2jax.data.skip_list import SkipList
from f2jax.data.sources import check_apart, list_inputs, open_source, say_unused
from f2jax.data.sources.paths import find_files
from f2jax.data.sources.tables import TABLES
from f2jax.errors import UserError
from tests.data import tables
from tests.unreadable import forbid

ROWS = [{"query": f'query {i}, "quoted"', "positive": f"the answer;\tis {i}"} for i in range(3)]


def write(folder, *names: str) -> None:
    for name in names:
        tables.write(folder / name, [{"query": name, "positive": "p"}])


def found(folder, spec="") -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in find_files(f"{folder}/{spec}" if spec else str(folder))]


@pytest.mark.parametrize("ending", TABLES)
def test_files_of_every_format_hold_the_same_rows(tmp_path, ending):
    rows = [{name: text.replace("\t", " ") for name, text in row.items()} for row in ROWS] if ".tsv" in ending else ROWS
    records = list(open_source(tables.write(tmp_path / f"x{ending}", rows), "train", SkipList()))
    assert [{"query": record.query, "positive": record.positive} for record in records] == rows
    assert {record.source for record in records} == {"x"}


def test_a_csv_file_may_have_semicolons_and_line_ends_inside_quotes(tmp_path):
    (tmp_path / "x.csv").write_text('query;positive\r\n"a; ""b""\r\nc";d\r\n')
    (record,) = open_source(str(tmp_path / "x.csv"), "train", SkipList())
    assert (record.query, record.positive) == ('a; "b"\nc', "d")


def test_lines_of_a_csv_file_that_do_not_fit_are_counted_and_an_open_quote_is_an_error(tmp_path):
    (tmp_path / "x.csv").write_text('query,positive\na,b,c\n"a"b,c\na,b\n')
    skipped = SkipList()
    assert len(list(open_source(str(tmp_path / "x.csv"), "train", skipped))) == 1
    assert skipped == {"line has other columns than the first": 1, "line is no CSV": 1}
    (tmp_path / "x.csv").write_text('query,positive\na,b\n"open,b\na,b\n')
    with pytest.raises(UserError, match=r"x\.csv ends inside a quoted field"):
        list(open_source(str(tmp_path / "x.csv"), "train", SkipList()))


@pytest.mark.parametrize(
    "text,queries",
    [
        ('{"query": "a", "positive": "p"}\n{"query": "b", "positive": "p"}\n', ["a", "b"]),
        ('{"version": 1, "data": [{"query": "a", "positive": "p"}]}', ["a"]),
        ('\n[{"query": "a", "positive": "p"}, 5]', ["a"]),
    ],
    ids=["lines", "an object of an array", "an array"],
)
def test_a_json_file_may_have_several_shapes(tmp_path, text, queries):
    (tmp_path / "x.json").write_text(text)
    skipped = SkipList()
    assert [record.query for record in open_source(str(tmp_path / "x.json"), "train", skipped)] == queries
    assert skipped.total() == text.count(" 5]")


@pytest.mark.parametrize("text", ['{\n "query": "a"\n}', '[{"query": "a"', "7", '{"a": '])
def test_json_of_another_shape_is_one_clear_error(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json (should hold an array of objects|has no usable row)"):
        list(open_source(str(tmp_path / "x.json"), "train", SkipList()))


# Splits


@pytest.mark.parametrize("spec", ["", "*/*.jsonl", "data/*"])
@pytest.mark.parametrize("split", ["test", "validation", "valid", "dev", "eval"])
def test_held_out_files_of_a_folder_or_glob_are_not_trained_on_and_that_is_said(tmp_path, caplog, spec, split):
    names = [f"data/{part}-00000-of-00001.jsonl" for part in ("train", split)]
    write(tmp_path, *names)
    assert found(tmp_path, spec) == names[:1]
    assert f"read without its test and validation files ({names[1].removeprefix('data/')})" in caplog.text.replace(
        "(data/", "("
    )


def test_a_folder_of_a_split_is_one_too(tmp_path):
    write(tmp_path, "train/x.jsonl", "test/x.jsonl", "x_dev.jsonl", "latest.jsonl", "contest.jsonl")
    assert found(tmp_path) == ["contest.jsonl", "latest.jsonl", "train/x.jsonl"]


@pytest.mark.parametrize("spec", ["data/test.jsonl", "data/test*.jsonl", "test", "test/*.jsonl", "*/test.jsonl"])
def test_what_is_named_is_read(tmp_path, spec):
    write(tmp_path, "data/test.jsonl", "data/train.jsonl", "test/part-0.jsonl")
    assert found(tmp_path, spec) == ["test/part-0.jsonl" if spec.startswith("test") else "data/test.jsonl"]


def test_a_folder_with_nothing_but_held_out_files_is_an_error_that_names_them(tmp_path):
    write(tmp_path, "test.jsonl")
    with pytest.raises(UserError, match=r"holds only test or validation files \(test\.jsonl\); name a file to read it"):
        found(tmp_path)


def test_an_evaluation_set_has_all_splits(tmp_path):
    write(tmp_path, "test.jsonl", "train.jsonl")
    assert len(find_files(str(tmp_path), all_splits=True)) == 2


# Hidden and other files


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints/x-checkpoint.jsonl", "__MACOSX/._x.jsonl", "._x.jsonl", ".x/y.jsonl"]
)
@pytest.mark.parametrize("spec", ["", "*", "**/*.jsonl"])
def test_hidden_files_are_never_read(tmp_path, caplog, hidden, spec):
    write(tmp_path, "x.jsonl", hidden)
    assert found(tmp_path, spec) == ["x.jsonl"] and hidden not in caplog.text


def test_hidden_files_of_a_beir_folder_are_never_read(tmp_path):
    tables.write(tmp_path / "corpus/part.jsonl", [{"_id": "a", "text": "t"}])
    (tmp_path / "corpus/._part.jsonl").write_bytes(b"\0\5\x16\7 Mac OS X")
    tables.write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "question"}])
    tables.write(tmp_path / "qrels.jsonl", [{"query-id": "q", "corpus-id": "a", "score": 1}])
    skipped = SkipList()
    assert len(list(open_source(f"beir:{tmp_path}", "train", skipped))) == 1 and not skipped


def test_every_other_file_of_a_folder_is_named(tmp_path, caplog):
    write(tmp_path, "x.jsonl")
    for name in ("README.md", "dataset_info.json", "a.docx"):
        (tmp_path / name).write_text("{}")
    assert found(tmp_path) == ["x.jsonl"]
    assert f"{tmp_path}: not read, since these are no data files: a.docx, dataset_info.json." in caplog.text


def test_a_data_set_that_the_datasets_library_saved_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"query": "q", "positive": "p"}])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "pairs")
    (record,) = open_source(f"{tmp_path}/pairs", "train", SkipList())
    assert (record.query, record.source) == ("q", "pairs")


@pytest.mark.parametrize("spec", ["", "**/*.jsonl"])
def test_a_folder_inside_that_cannot_be_read_is_refused_unless_it_is_hidden(tmp_path, monkeypatch, spec):
    """Its rows would be missing without a word."""
    write(tmp_path, "a.jsonl", "b/b.jsonl", ".c/c.jsonl")
    forbid(monkeypatch, tmp_path / ".c")
    assert found(tmp_path, spec) == ["a.jsonl", "b/b.jsonl"]
    forbid(monkeypatch, tmp_path / "b")
    with pytest.raises(UserError, match=r"cannot be opened \(Permission denied\)"):
        found(tmp_path, spec)


def test_a_folder_without_data_files_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(UserError, match=r"no data file but notes\.txt; data files end in \.parquet, .*\.tsv, and"):
        found(tmp_path)


def test_a_source_that_is_named_twice_is_read_once_and_said(tmp_path, caplog):
    write(tmp_path, "x.jsonl", "y.jsonl")
    x, y = f"{tmp_path}/x.jsonl", f"{tmp_path}/y.jsonl"
    assert list_inputs([y, "cldr:kinds", str(tmp_path), "cldr:kinds"]) == [y, "cldr:kinds", x]
    said = [record.message for record in caplog.records]
    assert said == [f"{name} is named more than once, and read once." for name in (y, "cldr:kinds")]


def test_a_kind_for_sources_that_are_not_there_is_said(tmp_path, caplog):
    write(tmp_path, "massive_intent_part1.jsonl", "massive_intent_part2.jsonl", "y.jsonl")
    say_unused(["massive_*=clustering", "y=retrieval"], [str(tmp_path), "cldr:kinds"])
    assert not caplog.records
    say_unused(["masive_*=clustering"], [str(tmp_path), "cldr:kinds"])
    (said,) = caplog.records
    assert said.message == (
        "'masive_*=clustering' among the kinds matches no source of files; these are: massive_intent, y."
    )


def test_a_file_in_two_spellings_is_read_once(tmp_path, monkeypatch):
    write(tmp_path, "a/x.jsonl", "b/deep/y.jsonl", "b/x.jsonl")
    (tmp_path / "a/link").symlink_to(tmp_path / "b/deep")
    monkeypatch.chdir(tmp_path)
    assert list_inputs(["a/x.jsonl", "./a/../a/x.jsonl"]) == [f"{tmp_path}/a/x.jsonl"]
    assert list_inputs(["sts:a/x.jsonl", "sts:./a/x.jsonl"]) == ["sts:a/x.jsonl"]
    for names in (["a/x.jsonl", "a/link/../x.jsonl"], ["sts:a/x.jsonl", "sts:a/x.jsonl#a,b,c"]):
        assert len(list_inputs(names)) == 2  # .. is that of the folder to which the link leads


@pytest.mark.parametrize("name", ["", " "])
def test_a_blank_name_is_not_that_of_this_folder(tmp_path, monkeypatch, name):
    write(tmp_path, "x.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="The name of an input is blank; name a file or a folder"):
        list_inputs([name])
    assert list_inputs(["."]) == [f"{tmp_path}/x.jsonl"]


def test_what_is_written_and_what_is_read_lie_apart(tmp_path, monkeypatch):
    """An output in a folder of the input would be read with it the next time; a file beside it would not."""
    write(tmp_path, "in/x.jsonl", "translation/out/y.jsonl")
    monkeypatch.chdir(tmp_path)

    def check(spec: str, output: str) -> None:
        check_apart([spec], list_inputs([spec]), output)

    for spec in ("in", "./in/", f"{tmp_path}/in", "clustering:in#a,b"):
        with pytest.raises(UserError, match=r"in/out is inside the input .*/in, and would be read with"):
            check(spec, "in/out")
    for spec, output in (("in/x.jsonl", "in"), ("in/*.jsonl", "."), ("in", "in/../in/.")):
        with pytest.raises(UserError, match=r"in/x\.jsonl is inside the output .*, which would replace it"):
            check(spec, output)
    for spec, output in (
        ("*/*.jsonl", "out"),
        ("./*/*.jsonl", "in/../out"),
        (f"{tmp_path}/**/*.jsonl", "out"),
        (f"{tmp_path}/**/*.jsonl", "deep/out"),
        ("clustering:i?/*", "in/out"),
        ("[it]*/*/*.jsonl", "iron/out"),
    ):
        with pytest.raises(UserError, match=r"may match files in the output .*out, which would be read with it"):
            check(spec, output)
    check("i?/*.jsonl", "out")
    check("in/*.jsonl", "in/out")
    check("*/*.jsonl", "in/deep/out")
    check("in/**/*.jsonl", "out")
    check("in/x.jsonl", "in/out")
    check("in", "in-out")
    check("cldr:translation", "translation/out")  # the name of a set is none of a folder


@pytest.mark.parametrize("ending,between", [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_columns_of_one_name_are_refused_if_they_are_read(tmp_path, ending, between):
    def records(*names: str) -> list:
        path = tmp_path / f"x{ending}"
        path.write_text("".join(between.join(row) + "\n" for row in (names, ["1", "a", "b", "c", "2"])))
        return list(open_source(str(path), "train", SkipList()))

    with pytest.raises(UserError, match=rf"x\{ending} has several columns query; rename all but one"):
        records("", "query", "positive", "query", "")
    for names in (("", "query", "positive", "note", ""), ("note", "query", "positive", "note", "note")):
        (record,) = records(*names)
        assert (record.query, record.positive) == ("a", "b")
