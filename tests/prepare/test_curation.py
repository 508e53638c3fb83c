"""`prepare` with curation: as the library does it in memory, over all inputs, counted once, listed on demand."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f2jax.data.corpus import PreparedCorpus, Reader, parse_row, row_details, shards_of
from f2jax.data.instructions import Instructions
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError
from f2jax.prepare import read_inputs, run
from f2jax.prepare.curate import CurationOptions as Curation
from f2jax.prepare.curate import CurationReport
from tests.data import corpora
from tests.prepare.curate.in_memory import curate

PLAIN = replace(corpora.OPTIONS, instructions=Instructions(enabled=False), validation_share=0.0)
CURATED = replace(PLAIN, curate=Curation(excluded_sources=("sib200*",), evaluation_sets=()))
HELD = [row["query"] for row in corpora.rows(30, 1)[20:26:2]]  # of rows that the inputs have once
NEAR = replace(PLAIN, curate=replace(CURATED.curate, near_duplicates=0.6, band=2))


def write_inputs(folder) -> list[str]:
    """Three files and data sets that share rows, exactly and nearly, one excluded source, and rows without a text."""
    folder.mkdir(parents=True, exist_ok=True)
    a, b, c = (corpora.rows(30, seed) for seed in range(3))
    poorer = [row | {"negatives": []} for row in a[:12]]
    spaced = [row | {"query": f"  {row['query']}", "negatives": []} for row in b[:6]]
    shouted = [row | {"query": row["query"].upper(), "positive": f"{row['positive']}!"} for row in a[20:]]
    excluded = [row | {"source": "sib200-bitext"} for row in c[:5]]
    return [
        corpora.write(folder / "a.jsonl", [*a, a[0], {"query": "", "positive": "p"}, *shouted]),
        corpora.write(folder / "b.jsonl", [*poorer, *b, {"query": "same", "positive": "same"}]),
        corpora.write(folder / "c.jsonl", [*c, *spaced, *excluded, {"query": "cafe\u0301", "positive": "p"}]),
    ]


def queries(folder) -> Counter:
    """(data set, query, negatives, language) of each row of a corpus."""
    corpus, reader = PreparedCorpus(folder / "corpus"), Reader()
    tokenizer, found = load_tokenizer(corpus.tokenizer_folder), Counter()
    for entry in corpus.card["datasets"]:
        shards = shards_of(corpus.folder, entry, "train")
        for raw in shards.read(np.arange(sum(shards.lengths)), reader):
            query, documents, _ = parse_row(raw)
            found[
                entry["name"], " ".join(tokenizer.decode(query).split()), len(documents) - 1, row_details(raw)[1]
            ] += 1
    return found


def in_memory(inputs: list[str], options) -> tuple[Counter, CurationReport]:
    skipped = SkipList()
    report = CurationReport(skipped=skipped)
    rows = [record for path in inputs for record in open_source(path, "train", skipped)]
    kept = curate(rows, options.curate, report)
    return Counter((r.source, " ".join(r.query.split()), len(r.negatives), r.language) for r in kept), report


def contents(card: dict) -> dict:
    return {entry["name"]: entry["content"] for entry in card["datasets"]}


@pytest.fixture(params=[CURATED, NEAR], ids=["exact", "near"])
def options(request, tmp_path):
    """Near duplicates are looked for together with evaluation texts, by the other alone."""
    if request.param is CURATED:
        return CURATED
    pytest.importorskip("rensa")
    (tmp_path / "held.txt").write_text("\n".join(HELD))
    sets = {"evaluation_sets": (f"held={tmp_path}/held.txt",), "fewest_letters": 3, "ngram": 0}
    return replace(NEAR, curate=replace(NEAR.curate, **sets))


def test_the_rows_are_those_that_the_library_keeps_in_memory(tmp_path, options):
    inputs = write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, options)
    rows, report = in_memory(inputs, options)
    assert queries(tmp_path) == rows
    assert card["skipped"] == report.skipped and card["skipped"]["exact duplicate"] == 1 + 12 + 6
    assert card["noted"] == report.noted | {"text normalized": 1}
    near = options is not CURATED
    assert near == (card["skipped"].get("near duplicate", 0) >= 8)
    assert near == (card["skipped"].get("query is in evaluation set held (whole)", 0) >= len(HELD))
    assert card["skipped"]["source sib200-bitext is among the excluded sources (sib200*)"] == 5


def test_the_order_of_inputs_does_not_matter(tmp_path, options):
    """Which of two equal rows stays, and in which data set, is decided by what they hold."""
    inputs, options = write_inputs(tmp_path / "in"), replace(options, cap=20)
    card = corpora.make(tmp_path, inputs, options)
    assert max(sum(entry["rows"].values()) for entry in card["datasets"]) == 20
    turned = corpora.make(tmp_path / "turned", inputs[::-1], options)
    assert contents(turned) == contents(card) and turned["skipped"] == card["skipped"]


def test_whoever_works_the_bytes_and_counts_and_lists_are_the_same(tmp_path):
    inputs = write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, CURATED, listing=tmp_path / "one.jsonl")
    other = corpora.make(tmp_path / "other", inputs, CURATED, listing=tmp_path / "other.jsonl", jobs=2)
    assert other == card
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "other.jsonl").read_text() != ""


def test_a_cap_counts_rows_that_are_no_duplicates(tmp_path):
    rows = corpora.rows(40)
    inputs = [corpora.write(tmp_path / "s.jsonl", rows + rows + rows)]
    card = corpora.make(tmp_path, inputs, replace(CURATED, cap=25))
    assert sum(card["datasets"][0]["rows"].values()) == 25 and set(queries(tmp_path).values()) == {1}


# Counted once, and listed


def test_every_input_is_read_twice_for_numbers_and_for_texts_and_never_again(tmp_path, monkeypatch):
    read = []

    def opened(spec, *rest):
        read.append(spec)
        return open_source(spec, *rest)

    monkeypatch.setattr(read_inputs, "open_source", opened)
    inputs = write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, CURATED)
    assert read == inputs * 2
    assert corpora.make(tmp_path, inputs, CURATED) == card and read == inputs * 2


def test_an_input_that_changes_while_it_is_read_is_one_clear_error(tmp_path, monkeypatch):
    for count in (3, 50):  # rows that are gone; other rows
        inputs, plan = [corpora.write(tmp_path / "x.jsonl", corpora.rows(50))], run.plan_datasets

        def change(*given, count=count, plan=plan, path=inputs[0]):
            corpora.write(Path(path), corpora.rows(count, 1)[::-1] if count == 50 else corpora.rows(count))
            return plan(*given)

        with monkeypatch.context() as patch, pytest.raises(UserError, match=r"x\.jsonl has changed since it was read"):
            patch.setattr(run, "plan_datasets", change)
            corpora.make(tmp_path, inputs, CURATED)


def test_skipped_rows_are_listed_with_reason_and_place(tmp_path):
    inputs = write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, CURATED, listing=tmp_path / "skipped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert Counter(line["reason"] for line in lines) == card["skipped"]
    places = {line["where"]: line["reason"] for line in lines}
    assert len(places) == len(lines)
    assert places[f"{inputs[0]}:32"] == "empty query" and places[f"{inputs[0]}:31"] == "exact duplicate"
    assert places[f"{inputs[1]}:43"] == "query is its own positive"
    assert {f"{inputs[1]}:{i}" for i in range(1, 13)} <= places.keys(), "they have fewer negatives than those in a"


def test_a_finished_corpus_can_still_be_listed(tmp_path):
    inputs = write_inputs(tmp_path / "in")
    card = corpora.make(tmp_path, inputs, CURATED)
    assert corpora.make(tmp_path, inputs, CURATED, listing=tmp_path / "late.jsonl") == card
    corpora.make(tmp_path / "other", inputs, CURATED, listing=tmp_path / "early.jsonl")
    assert (tmp_path / "late.jsonl").read_text() == (tmp_path / "early.jsonl").read_text()
    (tmp_path / "late.jsonl").unlink()
    assert corpora.make(tmp_path, inputs, CURATED, listing=tmp_path / "late.jsonl") == card
    assert (tmp_path / "late.jsonl").exists()


def test_languages_are_counted_with_their_shares(tmp_path):
    pytest.importorskip("py3langid")
    german = "Der Hund läuft schnell durch den Wald und bellt dabei laut."
    english = "The weather was so nice that we went out for a long walk."
    rows = [{"query": f"{text} {i}", "positive": f"p{i}"} for text in (german, english, english) for i in range(9)]
    inputs = [
        corpora.write(tmp_path / "s.jsonl", [row | {"query": f"{row['query']}{i}"} for i, row in enumerate(rows)])
    ]
    card = corpora.make(tmp_path, inputs, replace(PLAIN, curate=Curation(identify_language=True)))
    assert card["identified"]["deu"] == {"rows": 9, "share": 1 / 3} and card["identified"]["eng"]["rows"] == 18
    assert card["datasets"][0]["languages"] == {"deu": 9, "eng": 18} and card["noted"] == {"language set": 27}


# Made again where it must be


def finished(folder) -> dict:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "corpus" / "finished").iterdir()}


def test_another_input_makes_those_data_sets_again_that_lose_rows_to_it(tmp_path):
    inputs = write_inputs(tmp_path / "in")
    corpora.make(tmp_path, inputs, CURATED)
    before = finished(tmp_path)
    richer = [row | {"negatives": ["n", "m", "k", "l", "o", "r"]} for row in corpora.rows(30, 1)[:3]]
    card = corpora.make(tmp_path, [*inputs, corpora.write(tmp_path / "in/d.jsonl", richer)], CURATED)
    after = finished(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"b.json"}
    assert card["skipped"]["exact duplicate"] == 1 + 12 + 6 + 3


def test_evaluation_texts_go_and_another_set_is_noticed(tmp_path):
    rows = corpora.rows(30)
    inputs = [corpora.write(tmp_path / "s.jsonl", rows)]
    held = list({row["query"]: None for row in rows})[:4]
    options = replace(PLAIN, curate=Curation(fewest_letters=3, evaluation_sets=(f"mine={tmp_path}/eval.txt",)))
    for count in (2, 4):
        (tmp_path / "eval.txt").write_text("\n".join(held[:count]))
        card = corpora.make(tmp_path, inputs, options)
        assert not set(held[:count]) & {query for _, query, *_ in queries(tmp_path)}
        assert card["skipped"]["query is in evaluation set mine (whole)"] >= count


def test_a_data_set_that_is_renamed_leaves_nothing_behind(tmp_path):
    one = [corpora.write(tmp_path / "x.jsonl", corpora.rows(9, source="s"))]
    corpora.make(tmp_path, one, PLAIN)
    two = [*one, corpora.write(tmp_path / "y.jsonl", corpora.rows(9, 1, source="s", kind="clustering"))]
    card = corpora.make(tmp_path, two, PLAIN)
    names = {entry["folder"] for entry in card["datasets"]}
    assert names == {"s-retrieval", "s-clustering"}
    for folder in ("documents", "rows", "finished"):
        assert {path.name.removesuffix(".json") for path in (tmp_path / "corpus" / folder).iterdir()} == names
    assert len(list((tmp_path / "corpus" / run.SURVEYS).iterdir())) == 2


def test_files_beyond_the_limit_of_open_ones_are_no_hindrance(tmp_path):
    """In a process of its own: the limit is one of a process."""
    pytest.importorskip("rensa")
    corpora.make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "in").mkdir()
    for number in range(200):
        corpora.write(tmp_path / f"in/s_part{number}.jsonl", corpora.rows(2, number))
    program = (
        "import resource, sys; from f2jax import cli; resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150)); "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = ["prepare", "--input", f"{tmp_path}/in", "--output", f"{tmp_path}/corpus", "--near-duplicates", "0.8"]
    command += ["--tokenizer", f"{tmp_path}/tokenizer", "--evaluation-sets"]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_no_row_left_is_one_clear_error(tmp_path):
    inputs = [corpora.write(tmp_path / "sib200.jsonl", corpora.rows(5))]
    with pytest.raises(UserError, match=r"No row is left \(5 x source sib200 is among the excluded sources"):
        corpora.make(tmp_path, inputs, CURATED)


def test_a_new_data_set_of_mteb_in_the_cache_leaves_a_corpus_as_it_is(tmp_path, monkeypatch, caplog):
    """Also where its data sets are made anew, of rows that were chosen by the tests of then."""
    options = replace(PLAIN, curate=Curation(fewest_letters=3, evaluation_sets=("mteb",)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    rows = [{"query": f"a question number {n}", "positive": f"the answer number {n}"} for n in range(9)]

    def download(name: str, row: dict) -> None:
        folder = tmp_path / f"cache/datasets--mteb--{name}/snapshots/0"
        folder.mkdir(parents=True)
        corpora.write(folder / "test.jsonl", [{"text": row["query"]}])

    download("rivers", rows[0])
    inputs = [corpora.write(tmp_path / "rows.jsonl", rows)]
    first = corpora.make(tmp_path, inputs, options)
    download("lakes", rows[1])
    assert corpora.make(tmp_path, inputs, options) == first and "others than when this corpus was begun" in caplog.text
    shorter = corpora.make(tmp_path, inputs, replace(options, max_length=3))
    assert shorter["inputs"] == first["inputs"] and sum(shorter["datasets"][0]["rows"].values()) == 8
    shutil.rmtree(tmp_path / "corpus/evaluation")
    anew = corpora.make(tmp_path, inputs, options)
    assert anew["inputs"] != first["inputs"] and sum(anew["datasets"][0]["rows"].values()) == 7
