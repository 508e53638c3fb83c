"""BEIR folders → records, in each of their layouts; data sets of the hub, from a stubbed download."""

from fnmatch import fnmatch

import fsspec
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from f2jax.data.record import Record
from f2jax.data.released import files_after_stage_1
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import expand, hub, open_source
from f2jax.errors import UserError
from tests.data.tables import content

CORPUS = [
    {"_id": "d1", "title": "Nile", "text": "a river in Africa"},
    {"_id": "d2", "title": "", "text": "the longest river"},
    {"_id": "d3", "title": "Kenya", "text": "a country"},
    {"_id": "d4", "title": "", "text": "never judged"},
]
QUERIES = [{"_id": "q1", "text": "what is the Nile"}, {"_id": "q2", "text": "what is Kenya"}]
QRELS = [("q1", "d1", 1), ("q1", "d2", 2), ("q1", "d3", 0), ("q2", "d3", 1)]
EXPECTED = [
    Record("what is the Nile", "Nile a river in Africa", ("Kenya a country",), source="rivers", label="q1"),
    Record("what is the Nile", "the longest river", ("Kenya a country",), source="rivers", label="q1"),
    Record("what is Kenya", "Kenya a country", (), source="rivers", label=None),
]


def qrels(names=("query-id", "corpus-id", "score"), rows=QRELS) -> list[dict]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def write(folder, files: dict[str, list[dict]]) -> str:
    """A folder `rivers` with these files."""
    for name, rows in files.items():
        path = folder / "rivers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(path.name, rows))
    return f"{folder}/rivers"


def read(folder, split="test", skipped=None):
    return list(open_source(f"beir:{folder}", split, SkipList() if skipped is None else skipped))


LINES = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES}
UNDERSCORED = ("query_id", "corpus_id", "score")
FLAT = {"corpus.parquet": CORPUS, "queries.parquet": QUERIES, "qrels.parquet": qrels(UNDERSCORED)}
LAYOUTS = {
    "as BEIR publishes it": LINES | {"qrels/test.tsv": qrels()},
    "gzipped": {"corpus.jsonl.gz": CORPUS, "queries.jsonl.gz": QUERIES, "qrels/test.tsv.gz": qrels()},
    "as MTEB publishes it": LINES | {"qrels/test.jsonl": qrels()},
    "parquet in shards": {
        "corpus/corpus-00000-of-00002.parquet": CORPUS[:2],
        "corpus/corpus-00001-of-00002.parquet": CORPUS[2:],
        "queries/queries-00000-of-00001.parquet": QUERIES,
        "qrels/test-00000-of-00001.parquet": qrels(),
    },
    "one parquet file each": FLAT,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_records(tmp_path, layout):
    skipped = SkipList()
    folder = write(tmp_path, LAYOUTS[layout])
    assert read(folder, skipped=skipped) == read(f"{folder}/") == EXPECTED and not skipped


def test_a_remote_folder_reads_as_a_local_one():
    for name, rows in LAYOUTS["as BEIR publishes it"].items():
        with fsspec.open(f"memory://beir/rivers/{name}", "wb") as file:
            file.write(content(name, rows))
    assert read("memory://beir/rivers") == EXPECTED


def test_each_split_has_its_judgements(tmp_path):
    judged = {"qrels/train.tsv": qrels(rows=QRELS[3:]), "qrels/test.tsv": qrels(rows=QRELS[:3])}
    folder = write(tmp_path, LINES | judged)
    assert read(folder, "train") == EXPECTED[2:] and read(folder, "test") == EXPECTED[:2]
    with pytest.raises(UserError, match="no judgements for the split 'dev'; it has test, train"):
        read(folder, "dev")


def test_a_single_file_of_judgements_stands_for_every_split(tmp_path):
    folder = write(tmp_path, FLAT)
    assert read(folder, "train") == read(folder, "test") == EXPECTED


def test_queries_bring_their_language(tmp_path):
    queries = [row | {"language": "swa"} for row in QUERIES]
    folder = write(tmp_path, {"corpus.jsonl": CORPUS, "queries.jsonl": queries, "qrels.jsonl": qrels()})
    assert {record.language for record in read(folder)} == {"swa"}


@pytest.mark.parametrize("score", ["much", "", None, 10**400], ids=["word", "empty", "missing", "huge"])
def test_a_score_that_is_no_number_of_a_size_to_compare_is_counted(tmp_path, score):
    judged = [{"query-id": "q2", "corpus-id": "d1", "score": score}]
    files = {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES, "qrels.jsonl": qrels() + judged}
    skipped = SkipList()
    assert read(write(tmp_path, files), skipped=skipped) == EXPECTED
    assert skipped == {"judgement without a number": 1}


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path):
    judged = [*QRELS, ("q1", "d1", 1), ("q9", "d1", 1), ("q2", "d9", 1), ("q2", "d5", 1), ("q2", "d1", "much")]
    corpus = [*CORPUS, {"_id": "d1", "title": "", "text": "another d1"}, {"_id": "d5", "title": " ", "text": ""}]
    queries = [*QUERIES, {"_id": "q1", "text": "another q1"}, {"_id": "q2", "text": ""}]
    files = {"corpus.jsonl": corpus, "queries.jsonl": queries, "qrels/test.tsv": qrels(rows=judged)}
    folder = write(tmp_path, files)
    with open(f"{folder}/corpus.jsonl", "ab") as file:
        file.write(b'{"_id": "d1"\n\xff\n')
    with open(f"{folder}/qrels/test.tsv", "ab") as file:
        file.write(b"q1\td1\n\n")
    skipped = SkipList()
    assert read(folder, skipped=skipped) == EXPECTED
    assert skipped == {
        "judgement repeated": 1,
        "judgement without a number": 1,
        "judged query is missing": 1,
        "judged document is missing": 2,
        "document id repeated": 1,
        "empty document": 1,
        "query id repeated": 2,
        "line is no JSON": 1,
        "line is not UTF-8": 1,
        "line has other columns than the first": 1,
    }


@pytest.mark.parametrize("left_out", ["corpus", "queries", "qrels"])
def test_a_missing_part_is_an_error(tmp_path, left_out):
    files = {name: rows for name, rows in FLAT.items() if not name.startswith(left_out)}
    message = f"rivers has no {left_out} file; a BEIR folder holds corpus, queries and qrels"
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, files))


def test_a_missing_column_or_folder_or_match_is_an_error(tmp_path):
    with pytest.raises(UserError, match="There is no BEIR folder"):
        read(tmp_path / "nowhere")
    wrong = FLAT | {"qrels.parquet": [{"query-id": "q1", "document": "d1", "score": 1}]}
    with pytest.raises(UserError, match=r"qrels\.parquet has no column corpus-id; it has query-id, document, score"):
        read(write(tmp_path, wrong))
    strangers = FLAT | {"qrels.parquet": qrels(UNDERSCORED, [("q7", "d1", 1)])}
    with pytest.raises(UserError, match="no query with a right document; check that its ids are those of its qrels"):
        read(write(tmp_path, strangers))


@pytest.mark.parametrize("name,pairs,labelled", [("xquad", 14199, 0), ("humaneval-x", 984, 984)])
def test_real_folders_read_whole(shared_data, name, pairs, labelled):
    """Counts as in their READMEs; each problem of HumanEval-X has six right documents."""
    skipped = SkipList()
    records = read(shared_data / f"eval-{name}", skipped=skipped)
    assert len(records) == pairs and not skipped
    assert sum(record.label is not None for record in records) == labelled
    assert all(record.query.strip() and record.positive.strip() for record in records)


# Data sets of the hub

PAIRS = [{"query": "q", "positive": "p"}]
MMARCO = {"mmarco_deu.parquet": PAIRS, "mmarco_fra.jsonl": PAIRS, "data/train.jsonl.gz": PAIRS, "loader.py": PAIRS}


@pytest.fixture
def hub_with(monkeypatch, tmp_path):
    """Replaces the hub by one with these files; returns the calls that asked it. It sends what the patterns allow."""

    def install(files: dict[str, list[dict]]) -> list[tuple]:
        calls = []

        def snapshot_download(repo_id, *, repo_type, revision, allow_patterns, ignore_patterns):
            calls.append((repo_id, repo_type, revision))
            sent = {
                name: rows
                for name, rows in files.items()
                if any(fnmatch(name, p) for p in allow_patterns) and not any(fnmatch(name, p) for p in ignore_patterns)
            }
            (tmp_path / "rivers").mkdir(exist_ok=True)
            return write(tmp_path, sent)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return install


@pytest.mark.parametrize(
    "spec,sources",
    [
        ("hub:org/name/mmarco_deu.parquet", ["mmarco_deu"]),
        ("hub:org/name/mmarco_*", ["mmarco_deu", "mmarco_fra"]),
        ("hub:org/name/data", ["rivers"]),
        ("hub:org/name/data/", ["rivers"]),
        ("hub:org/name", ["rivers", "mmarco_deu", "mmarco_fra"]),
    ],
)
def test_files_of_the_hub_read_as_local_ones(hub_with, spec, sources):
    calls = hub_with(MMARCO)
    records = list(open_source(spec, "train", SkipList()))
    assert [record.source for record in records] == sources
    assert calls == [("org/name", "dataset", None)]


def test_no_code_is_fetched_and_a_revision_can_be_chosen(hub_with, tmp_path):
    calls = hub_with(MMARCO)
    found = hub.fetch_dataset("hub:org/name@v1.2", (".parquet", ".jsonl"))
    assert list(found) == ["mmarco_deu.parquet", "mmarco_fra.jsonl"]
    assert calls == [("org/name", "dataset", "v1.2")]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".parquet", ".jsonl"}


def test_files_that_are_ignored_are_not_downloaded(hub_with, tmp_path):
    hub_with({"mmarco_deu.parquet": PAIRS, "data/imdb.parquet": PAIRS, "imdb_part2.parquet": PAIRS})
    assert expand("hub:org/name", files_after_stage_1()) == [str(tmp_path / "rivers/mmarco_deu.parquet")]
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["mmarco_deu.parquet"]


def test_files_that_lie_in_the_cache_from_another_call_are_not_taken(hub_with):
    hub_with(MMARCO)
    hub.fetch_dataset("hub:org/name", (".parquet", ".jsonl"))
    assert list(hub.fetch_dataset("hub:org/name/mmarco_d*", (".parquet", ".jsonl"))) == ["mmarco_deu.parquet"]


def test_a_beir_data_set_of_the_hub_reads_as_a_folder(hub_with):
    hub_with(LAYOUTS["as BEIR publishes it"])
    assert read("hub:org/rivers") == EXPECTED


@pytest.mark.parametrize(
    "spec,word",
    [
        ("hub:org", "hub:org does not name a data set of the hub; write hub:org/name"),
        (
            "hub:org/name/nothing",
            r"holds no data file; they end in \.parquet, \.arrow, \.jsonl, .* \.csv, \.tsv or \.txt",
        ),
    ],
)
def test_a_wrong_spec_is_an_error(hub_with, spec, word):
    hub_with(MMARCO)
    with pytest.raises(UserError, match=word):
        list(open_source(spec, "train", SkipList()))


def test_a_hub_that_cannot_be_reached_is_an_error(monkeypatch):
    def snapshot_download(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"could not be fetched from the Hugging Face hub \(LocalEntryNotFoundError\)"):
        list(open_source("hub:org/name", "train", SkipList()))


@pytest.mark.parametrize("layout", ["as BEIR publishes it", "gzipped"])
def test_a_folder_without_its_prefix_is_told_of_it(tmp_path, layout):
    folder = write(tmp_path, LAYOUTS[layout])
    with pytest.raises(UserError, match=rf"has no column query; .* qrels is named beir:{folder}\."):
        list(open_source(folder, "train", SkipList()))
