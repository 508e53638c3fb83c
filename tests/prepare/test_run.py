"""`prepare`: what it writes is TFDS's, is the same whoever writes it, and is made once."""

import json
import math
import random
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from tensorflow_datasets import builder_from_directory

from f2jax.data.corpus import PreparedCorpus, Reader, parse_document, parse_row, row_details, shards_of
from f2jax.data.dataset import build_datasets
from f2jax.data.instructions import Instructions
from f2jax.data.record import stable_id
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import load_tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError
from f2jax.prepare import datasets, read_inputs, run, spill, tfds
from f2jax.prepare.curate import CurationOptions as Curation
from f2jax.prepare.data_card import table
from f2jax.prepare.datasets import folder_name
from f2jax.prepare.run import prepare
from tests.data import corpora
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus. Read only."""
    folder = tmp_path_factory.mktemp("builder")
    corpora.make(folder)
    return folder


def contents(card: dict) -> dict:
    """{data set: hash over all its records in order}."""
    return {entry["name"]: entry["content"] for entry in card["datasets"]}


def entry(folder, name: str) -> dict:
    return next(entry for entry in PreparedCorpus(folder / "corpus").card["datasets"] if entry["name"] == name)


def raw(folder, name: str, part: str) -> list[bytes]:
    shards = shards_of(folder / "corpus", entry(folder, name), part)
    return shards.read(np.arange(sum(shards.lengths)), Reader())


def queries(folder, name: str) -> list[str]:
    tokenizer = corpora.make_tokenizer(folder / "tokenizer")
    return [tokenizer.decode(parse_row(row)[0]) for row in raw(folder, name, "train")]


# TFDS


@pytest.mark.parametrize("name", ["pairs", "colours", "../hostile name"])
def test_tfds_opens_the_folders_and_sees_the_same(folder, name):
    inside = folder / "corpus"
    rows = builder_from_directory(inside / f"rows/{folder_name(name)}/1.0.0")
    documents = builder_from_directory(inside / f"documents/{folder_name(name)}/1.0.0")
    for split in ("train", "validation"):
        seen = list(rows.as_data_source(split=split))
        records = raw(folder, name, split)
        assert len(seen) == len(records) == rows.info.splits[split].num_examples > 0
        for example, record in zip(seen, records, strict=True):
            query, numbers, label = parse_row(record)
            assert example["query"].tolist() == query.tolist() and example["documents"].tolist() == numbers.tolist()
            languages = (example["language"].decode(), example["positive_language"].decode())
            assert (example["id"], *languages) == row_details(record) and example["label"] == label
    for example, record in zip(documents.as_data_source(split="train"), raw(folder, name, "documents"), strict=True):
        assert (example["id"], example["tokens"].tolist()) == (
            parse_document(record)[0],
            parse_document(record)[1].tolist(),
        )


def test_each_document_is_stored_once_in_the_order_of_its_id(folder):
    """`pairs` is not symmetric, so its documents carry no instruction: the key is the id."""
    ids = [parse_document(record)[0] for record in raw(folder, "pairs", "documents")]
    given = corpora.rows(80, 1) + corpora.rows(40, 2)
    assert ids == sorted({stable_id(text) for row in given for text in (row["positive"], *row["negatives"])})


def test_the_card_counts_what_is_there(folder):
    card = PreparedCorpus(folder / "corpus").card
    pairs = entry(folder, "pairs")
    assert sum(pairs["rows"].values()) == 120 and pairs["rows"]["validation"] > 10
    assert sum(pairs["languages"].values()) == pairs["rows"]["train"] and set(pairs["languages"]) == {"en", "de", "sw"}
    lengths = sorted(len(parse_document(record)[1]) for record in raw(folder, "pairs", "documents"))
    assert pairs["documents"] == len(lengths) and pairs["max_negatives"]["train"] == 4
    assert pairs["tokens"]["document"]["p50"] == lengths[-(-len(lengths) // 2) - 1]
    assert pairs["tokens"]["document"]["p100"] == lengths[-1]
    assert card["skipped"] == {"empty query": 1}


def test_both_directions_of_a_pair_are_on_one_side_of_the_split_and_what_is_on_both_is_counted(tmp_path):
    """In memory and on disk. One text is in many pairs, and so on both sides, with other texts."""
    red, blue, hub, green = WORDS[:4]
    pairs = [{"sentence1": f"{red} {i}", "sentence2": f"{blue} {i}", "score": 5} for i in range(60)]
    pairs += [{"sentence1": hub, "sentence2": f"{green} {i}", "score": 5} for i in range(30)]
    source = f"sts:{corpora.write(tmp_path / 'pairs.jsonl', pairs)}"
    card = corpora.make(tmp_path, [source], replace(corpora.OPTIONS, instructions=Instructions(enabled=False)))
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    (dataset,) = build_datasets(open_source(source, "train", SkipList()), tokenizer, 32, Instructions(enabled=False))
    for splits in (dataset.split(0.2, 0), *PreparedCorpus(tmp_path / "corpus").splits()):
        sides = [
            {
                (tuple(row.query.tolist()), tuple(row.positive.tolist()))
                for row in corpora.listed(part.rows(list(range(len(part))), (), 0))
            }
            for part in splits
        ]
        assert all(side == {(b, a) for a, b in side} for side in sides) and len(sides[1]) > 20
        shared = {a for a, _ in sides[0]} & {a for a, _ in sides[1]}
        assert shared == {tuple(tokenizer.encode([hub], 32)[0].tolist())}
    assert card["datasets"][0]["queries_in_both_splits"] == 1
    assert "1 held-out queries of pairs are in training rows too" in table(card)


# Who writes it


def test_two_processes_write_the_same_bytes(folder, tmp_path):
    found = corpora.make(tmp_path, inputs=inputs_of(folder), jobs=2)
    assert contents(found) == contents(PreparedCorpus(folder / "corpus").card)


def inputs_of(folder) -> list[str]:
    return [str(folder / "in" / name) for name in ("pairs.jsonl", "pairs_part2.jsonl", "mixed.jsonl", "more.jsonl")]


def test_many_shards_hold_what_one_holds(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "SHARD_BYTES", 1000)
    monkeypatch.setattr(tfds, "SHARD_ROWS", 7)
    monkeypatch.setattr(tfds, "CHUNK", 5)
    monkeypatch.setattr(spill, "FLUSH", 500)
    found = corpora.make(tmp_path, inputs=inputs_of(folder))
    assert all(
        len(data["shards"]["documents"]) > 2 < len(data["shards"]["rows"]["train"]) for data in found["datasets"]
    )
    assert contents(found) == contents(PreparedCorpus(folder / "corpus").card)


# What it reads


def test_the_disk_that_texts_take_is_said_before_freed_by_each_data_set_and_below_three_corpora(
    tmp_path, monkeypatch, caplog
):
    """Texts that hardly shrink, of several bytes a character, in queries and documents, and queries alone."""
    rng = np.random.default_rng(0)
    phrases = ["".join(map(chr, rng.integers(0x4E00, 0x9FFF, 50_000).tolist())) for _ in range(24)]
    rows = [{"query": a, "positive": b} for a, b in pairwise(phrases[:13])]
    inputs = [corpora.write(tmp_path / "pairs.jsonl", rows)]
    inputs += [corpora.write(tmp_path / "alone.jsonl", [{"query": a, "kind": "texts"} for a in phrases[13:]])]
    write, found = run.write_dataset, []

    def size_of(folder) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def measured(plan, *rest):
        (said,) = [record.message for record in caplog.records if "takes up to" in record.message]
        found.append((size_of(tmp_path / "corpus" / spill.WORK), plan.text_bytes, said))
        return write(plan, *rest)

    monkeypatch.setattr(run, "write_dataset", measured)
    corpora.make(tmp_path, inputs)
    assert all(0.5 * most < size <= most for size, most, _ in found) and len(found) == 2
    assert f"takes up to {math.ceil(max(most for _, most, _ in found) / 1e6)} MB" in found[0][2]
    assert not (tmp_path / "corpus" / spill.WORK).exists()
    assert max(size for size, *_ in found) < 3 * size_of(tmp_path / "corpus")


@pytest.mark.parametrize(
    "curate", [None, Curation(evaluation_sets=()), Curation(evaluation_sets=(), near_duplicates=0.8, band=2)]
)
def test_the_disk_that_a_row_takes_permanently_is_said_before_it_is_read_and_all_of_it_after(tmp_path, caplog, curate):
    if curate and curate.near_duplicates:
        pytest.importorskip("rensa")
    (path,) = corpora.write_inputs(tmp_path / "in")[:1]
    corpora.make(tmp_path, [path], replace(corpora.OPTIONS, curate=curate))
    (survey,) = (tmp_path / "corpus/survey").iterdir()
    kept = sum(file.stat().st_size for file in survey.iterdir() if file.name != read_inputs.SUMMARY)
    before, after = (record.message for record in caplog.records if "survey permanently" in record.message)
    assert before.endswith(f"corpus/survey permanently takes {kept / 80:,.0f} bytes of disk for each kept row.")
    assert after.endswith("corpus/survey permanently takes 1 MB.") and kept % 80 == 0


def test_a_cap_keeps_the_same_rows_in_whatever_order_they_come(tmp_path):
    given = corpora.rows(90)
    kept = []
    for number, shuffled in enumerate([given, random.Random(0).sample(given, 90)]):
        here = tmp_path / str(number)
        here.mkdir()
        inputs = [corpora.write(here / "s.jsonl", shuffled[:30]), corpora.write(here / "s_part2.jsonl", shuffled[30:])]
        card = corpora.make(here, inputs, replace(corpora.OPTIONS, cap=40))
        assert sum(card["datasets"][0]["rows"].values()) == 40
        kept.append(sorted(queries(here, "s")))
    assert kept[0] == kept[1]
    other = corpora.make(tmp_path / "0", inputs, replace(corpora.OPTIONS, cap=40, seed=1))
    assert sum(other["datasets"][0]["rows"].values()) == 40 and sorted(queries(tmp_path / "0", "s")) != kept[0]


def test_data_sets_with_one_name_are_refused(tmp_path):
    names = [("a", "retrieval"), ("a", "clustering"), ("a-clustering", "retrieval")]
    given = [row for source, kind in names for row in corpora.rows(3, source=source, kind=kind)]
    with pytest.raises(UserError, match="Two data sets would be called a-clustering"):
        corpora.make(tmp_path, [corpora.write(tmp_path / "x.jsonl", given)])


@pytest.mark.parametrize("name", ["../x", "a/b", "ä", "", "a b", "A" * 300, ".", "x:y"])
def test_folder_names_are_safe_and_differ(name):
    safe = folder_name(name)
    assert safe.isascii() and "/" not in safe and not safe.startswith(".") and len(safe) < 110
    assert safe != folder_name(name.replace("/", "_") + "_")


def test_a_damaged_input_is_one_clear_error(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut.parquet is damaged, cut short or no parquet file"):
        corpora.make(tmp_path, [str(tmp_path / "cut.parquet")])


def test_a_run_that_fails_leaves_a_finished_corpus_with_its_own_tokenizer(tmp_path):
    inputs = corpora.write_inputs(tmp_path / "in")[:1]
    card = corpora.make(tmp_path, inputs)
    train_sentencepiece([f"{a} {b}" for a in WORDS for b in WORDS], 300, tmp_path / "other")
    damaged = tmp_path / "cut.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut.parquet is damaged"):
        prepare([*inputs, str(damaged)], tmp_path / "corpus", tmp_path / "other", corpora.OPTIONS)
    found = PreparedCorpus(tmp_path / "corpus").card
    kept = load_tokenizer(tmp_path / "corpus/tokenizer").fingerprint()
    assert contents(found) == contents(card) and kept == found["tokenizer"] == card["tokenizer"]


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_an_input_that_is_read_in_part_leaves_nothing_behind(tmp_path, monkeypatch, error):
    inputs, read = corpora.write_inputs(tmp_path / "in")[:1], read_inputs.open_source

    def breaks_off(*args):
        yield from islice(read(*args), 9)
        raise error

    monkeypatch.setattr(read_inputs, "open_source", breaks_off)
    with pytest.raises(error):
        corpora.make(tmp_path, inputs)
    assert list((tmp_path / "corpus/survey").iterdir()) == []


def test_what_a_killed_run_left_of_an_input_is_removed_by_the_next_even_if_that_fails_too(tmp_path):
    left = tmp_path / "corpus/survey/0a1b.2c3d.part"
    left.mkdir(parents=True)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut.parquet is damaged"):
        corpora.make(tmp_path, [str(tmp_path / "cut.parquet")])
    assert not left.exists()


# Made once


class Built:
    """Which data sets were written, and an interruption before one of them."""

    def __init__(self, monkeypatch):
        self.names, self.stop_at, write = [], None, tfds.ShardWriter.write

        def noted(writer, splits, *rest):
            name = next(iter(splits)), writer.name
            if name == self.stop_at:
                raise KeyboardInterrupt
            if name not in self.names:
                self.names.append(name)
            return write(writer, splits, *rest)

        monkeypatch.setattr(tfds.ShardWriter, "write", noted)


@pytest.mark.parametrize("stop_at", [("documents", "colours"), ("rows", "colours"), ("rows", "pairs")])
def test_an_interrupted_run_goes_on_where_it_was(folder, tmp_path, monkeypatch, stop_at):
    built = Built(monkeypatch)
    inputs, built.stop_at = inputs_of(folder), stop_at
    with pytest.raises(KeyboardInterrupt):
        corpora.make(tmp_path, inputs)
    finished = {name for kind, name in built.names if kind == "rows"}
    with pytest.raises(UserError, match=r"holds no corpus.json"):
        PreparedCorpus(tmp_path / "corpus")
    built.names.clear()
    built.stop_at = None
    card = corpora.make(tmp_path, inputs)
    assert {name for _, name in built.names}.isdisjoint(finished)
    assert contents(card) == contents(PreparedCorpus(folder / "corpus").card)
    built.names.clear()
    assert corpora.make(tmp_path, inputs) == card and built.names == []
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == [
        "corpus.json", "documents", "finished", "index", "rows", "survey", "texts", "tokenizer",
    ]  # fmt: skip


def test_what_a_changed_input_feeds_is_made_again(tmp_path, monkeypatch):
    inputs = corpora.write_inputs(tmp_path / "in")
    before = contents(corpora.make(tmp_path, inputs))
    built = Built(monkeypatch)
    with open(inputs[1], "a") as file:
        file.write(json.dumps(corpora.rows(1, 99)[0]) + "\n")
    after = corpora.make(tmp_path, inputs)
    assert built.names == [("documents", "pairs"), ("rows", "pairs")]
    assert {name for name in before if before[name] != contents(after)[name]} == {"pairs"}
    assert sum(entry(tmp_path, "pairs")["rows"].values()) == 121


@pytest.mark.parametrize("changes", [{"max_length": 9}, {"validation_share": 0.5}, {"seed": 1}])
def test_other_options_make_all_again(tmp_path, changes):
    inputs = corpora.write_inputs(tmp_path / "in")[:1]
    before = corpora.make(tmp_path, inputs)
    after = corpora.make(tmp_path, inputs, replace(corpora.OPTIONS, **changes))
    assert contents(before) != contents(after)
