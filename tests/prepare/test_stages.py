"""`f2jax prepare --stage`, on files that are named and shaped like those of the released corpus."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax import cli
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.released import find_released
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.sources.schema import source_of
from f2jax.data.tokenizer import load_tokenizer
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.options import STAGE_2_CAP, PrepareOptions
from tests.data import corpora
from tests.data.test_released import ROUTES

NAMES = [name for names in ROUTES.values() for name in names]
TASK = "Find the matching text."
FIRST = {"csn_go", "csn_ccr_php", "ocgi", "webfaq_deu", "mmarco_french", "clirmatrix_en", "paracrawl_en-sw"}
SECOND = {"imdb", "qqp", "massive_intent", "unpc_ar2en", "mkqa_de", "sib200"}


def rows(name: str) -> pa.Table:
    """Two rows with the columns of the published files: 24 numbered negatives, or one, and no kind."""
    negatives = range(1, 2 if name in ROUTES["classification"] else 25)
    return pa.table(
        {
            "query": [f"Instruct: {TASK}\nQuery: what is {name} {i}?" for i in "ab"],
            "passage": [f"This is {name} {i}." for i in "ab"],
            **{f"negative_{n}": [f"That is no {name}, but {n} {i}." for i in "ab"] for n in negatives},
        }
    )


def write(folder, names) -> str:
    folder.mkdir()
    for name in names:
        pq.write_table(rows(name), folder / f"{name}.parquet")
    return str(folder)


def prepared(tmp_path, *options: str) -> PreparedCorpus:
    corpora.make_tokenizer(tmp_path / "tokenizer")
    paths = ["--output", str(tmp_path / "corpus"), "--tokenizer", str(tmp_path / "tokenizer"), "--evaluation-sets"]
    assert cli.main(["prepare", *paths, *options]) == 0
    return PreparedCorpus(tmp_path / "corpus")


def test_a_folder_of_all_published_names_is_read_with_the_kind_of_each(tmp_path):
    skipped = SkipList()
    found = {}
    for record in open_source(write(tmp_path / "released", NAMES), "train", skipped):
        found.setdefault((record.source, record.kind, record.language, record.symmetric), []).append(record)
    expected = {(s.name, s.kind, s.language, s.symmetric) for s in map(find_released, map(source_of, NAMES))}
    assert not skipped and found.keys() == expected
    records = [record for same in found.values() for record in same]
    assert len(records) == 2 * len(NAMES)
    assert {record.instruction for record in records} == {TASK}
    assert not any(record.query.startswith("Instruct") for record in records)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_takes_its_sources_and_writes_its_instructions(tmp_path, caplog, stage):
    pytest.importorskip("py3langid")
    folder = write(tmp_path / "released", [*sorted(FIRST | SECOND), "ocgi_part2"])
    corpora.write(tmp_path / "mine.jsonl", corpora.rows(3))
    inputs = ["--input", folder, str(tmp_path / "mine.jsonl")]
    corpus = prepared(tmp_path, *inputs, "--stage", str(stage), "--validation-share", "0")
    kinds = {entry["name"]: entry["kind"] for entry in corpus.card["datasets"]}
    overlapping = {"mkqa_de", "sib200"}
    expected = {*FIRST, "mine"} | (SECOND - overlapping if stage == 2 else set())
    assert kinds == {name: find_released(name).kind if name != "mine" else "retrieval" for name in expected}
    assert {entry["name"]: entry["rows"]["train"] for entry in corpus.card["datasets"]}["ocgi"] == 4
    (csn,) = (train for train, _ in corpus.splits() if train.name == "csn_go")
    text = load_tokenizer(corpus.tokenizer_folder).decode(corpora.listed(csn.rows([0], (), 0))[0].query.tolist())
    assert text.startswith("Instruct:") == (stage == 2)
    assert ("imdb.parquet" in caplog.text) == (stage == 1)


def test_what_a_stage_sets():
    options = PrepareOptions(curate=CurationOptions())
    assert options.of_stage() == options
    first, second = (PrepareOptions(stage=stage, curate=CurationOptions()).of_stage() for stage in (1, 2))
    assert (first.instructions.enabled, first.cap, first.curate.identify_language) == (False, 0, True)
    assert (second.instructions.enabled, second.cap, second.curate.identify_language) == (True, STAGE_2_CAP, True)
    assert PrepareOptions(stage=2, cap=5).of_stage().cap == 5 and PrepareOptions(stage=2).of_stage().curate is None


def test_a_language_that_no_name_tells_is_identified(tmp_path):
    pytest.importorskip("py3langid")
    texts = ["Wie hoch ist der höchste Berg der Welt?", "Quelle est la plus haute montagne du monde ?"]
    table = pa.table({"query": texts, "passage": ["8849 m", "8 849 m"], "negative_1": ["a", "b"]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/clirmatrix_de-fr.parquet")
    corpus = prepared(tmp_path, "--stage", "1", "--input", str(tmp_path / "in"), "--validation-share", "0")
    assert corpus.card["datasets"][0]["languages"] == {"deu": 1, "fra": 1}


def test_a_stage_that_is_none_and_a_folder_without_a_file_of_it_are_one_line(tmp_path, capsys):
    folder = write(tmp_path / "released", ["imdb"])
    command = ["prepare", "--input", folder, "--output", str(tmp_path / "corpus"), "--tokenizer", "t", "--stage"]
    assert cli.main([*command, "3"]) == 1 and cli.main([*command, "1"]) == 1
    errors = capsys.readouterr().err
    assert "--stage 3 should be 1 or 2." in errors
    assert "holds only files that are left out (imdb.parquet); name others." in errors
