"""From a config to batches: a batch is a function of (seed, step), and the thread that packs ahead hides nothing."""

import threading
from collections import Counter

import numpy as np
import pytest

from f2jax.checkpoints import workdir
from f2jax.data import loader as loader_lib
from f2jax.data.dataset import Dataset, build_datasets, is_held_out
from f2jax.data.loader import Loader, make_tokenizer, read_records
from f2jax.data.packing import WHOLE, RowShare
from f2jax.data.record import stable_id
from f2jax.data.skip_list import SkipList
from f2jax.data.tokenizer import load_tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError
from tests import tiny
from tests.data import corpora


def make_loader(folder, share=WHOLE, **changes) -> Loader:
    config = tiny.config(folder, **changes)
    records = list(read_records(config, SkipList()))
    tokenizer = make_tokenizer(config, "", "", records)
    datasets = build_datasets(records, tokenizer, config.data.max_length, loader_lib.instructions(config))
    return Loader(datasets, config, tokenizer.pad_id, share)


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    return make_loader(tmp_path_factory.mktemp("loader"))


def same(a, b) -> bool:
    """(name, batch) and (name, batch): equal in every array and word."""
    arrays = [batch.arrays() for _, batch in (a, b)]
    words = [(name, batch.kind, batch.useful_tokens) for name, batch in (a, b)]
    return words[0] == words[1] and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def packing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


# Batches


def test_a_batch_is_a_function_of_seed_and_step_alone(loader, tmp_path):
    again, other = make_loader(tmp_path), make_loader(tmp_path, seed=1)
    steps = range(2 * loader.steps_per_epoch)
    backwards = {step: again.batch(step) for step in reversed(steps)}
    assert all(same(loader.batch(step), backwards[step]) for step in steps)
    assert not all(same(loader.batch(step), other.batch(step)) for step in steps)


def test_an_epoch_brings_each_row_once(loader):
    """96 pairs and 96 colours in batches of 16."""
    assert loader.steps_per_epoch == 12
    names = Counter()
    for step in range(12):
        name, batch = loader.batch(step)
        names[name] += int(batch.row_mask_b.sum())
    assert names == {"pairs": 96, "colours": 96}


def test_a_batch_holds_the_rows_that_the_mixture_plans(loader):
    for step in range(4):
        plan, (name, batch) = loader.mixture.plan(step), loader.batch(step)
        dataset = loader.datasets[plan.dataset]
        assert (name, batch.kind) == (dataset.name, dataset.kind)
        for b, i in enumerate(plan.rows):
            row, col = batch.row_s[b], batch.col_s[b]
            query = batch.tokens_bt[row, batch.segments_bt[row] == batch.segments_bt[row, col]]
            (expected,) = dataset.rows([i], [], 0).tokens(np.array([0]), np.array([0]))
            assert query.tolist() == expected.tolist()


def test_all_batches_of_an_epoch_and_held_out_ones_run_the_programs_chosen_at_the_start(tmp_path):
    """96 rows of each kind in batches of 23: the last ones have 4. A program for each kind is the fewest."""
    changes = {"data.batch_size": 23, "data.programs": 2}
    loader = make_loader(tmp_path, **changes)
    held_out = Loader(loader.datasets[:1], tiny.config(tmp_path, **changes), loader.pad_id, like=loader)
    batches = [one.batch(step)[1] for one in (loader, held_out) for step in range(one.steps_per_epoch)]
    assert {batch.row_mask_b.sum() for batch in batches} == {23, 4}
    assert len({batch.program for batch in batches}) == 2
    chosen = {(kind, shape.rows) for kind, shapes in loader.rules.programs.items() for shape in shapes}
    assert {(batch.kind, batch.rows) for batch in batches} == chosen


def test_runs_on_a_corpus_with_another_seed_have_the_same_programs(tmp_path):
    """So they find each other's compiled ones; their batches differ."""
    corpora.make(tmp_path)
    found = []
    for seed in (0, 1):
        config = tiny.config(tmp_path, seed=seed, **{"data.sources": f"('corpus:{tmp_path}/corpus',)"})
        tokenizer, splits = loader_lib.load_data(config, "", "", 10_000, SkipList())
        found.append(Loader([training for training, _ in splits], config, tokenizer.pad_id))
    lengths = [[sample.lengths_u.tolist() for sample in one.samples] for one in found]
    assert lengths[0] == lengths[1] and found[0].rules == found[1].rules
    assert not same(found[0].batch(0), found[1].batch(0))


def test_the_sampled_batches_are_full_ones_of_rows_from_everywhere(loader):
    rows = loader.datasets[0].rows(range(96), range(2), 2)
    assert [len(sample.lengths_u) > 16 for sample in loader.samples] == 12 * [True]
    first = [sample for sample in loader.samples if sample.kind == "retrieval"]
    assert sum(sample.lengths_u.sum() for sample in first) >= rows.distinct().sum()


def test_data_sets_of_a_kind_share_programs_whatever_their_negatives(tmp_path):
    loader = make_loader(tmp_path, **{"data.negatives.retrieval": 3})
    more = loader.datasets[0]
    fewer = replace_negatives(more, 1)
    both = Loader([more, fewer], tiny.config(tmp_path, **{"data.negatives.retrieval": 3}), loader.pad_id)
    slots = {both.batch(step)[1].negative_mask_bj.shape for step in range(both.steps_per_epoch)}
    assert slots == {(16, 3)}


def replace_negatives(dataset: Dataset, count: int) -> Dataset:
    """The data set with fewer negatives in each row."""
    rows = [(*row[:2], row[2][:count], *row[3:]) for row in dataset._rows]
    return Dataset("fewer", dataset.kind, dataset._texts, rows)


def test_rows_divide_among_the_devices(tmp_path):
    loader = make_loader(tmp_path, RowShare(6, tuple(range(6))))
    assert {loader.batch(step)[1].tokens_bt.shape[0] % 6 for step in range(12)} == {0}


# The thread that packs ahead


@pytest.mark.parametrize("start,stop", [(0, 13), (5, 13), (12, 13), (13, 13), (14, 13)])
def test_batches_from_any_start_are_those_of_their_steps(loader, start, stop):
    found = list(loader.batches(range(start, stop)))
    assert [step for step, _, _ in found] == list(range(start, stop))
    assert all(same((name, batch), loader.batch(step)) for step, name, batch in found)
    assert not packing_threads()


def test_the_thread_packs_a_few_steps_ahead_and_no_more(loader, monkeypatch):
    packed, enough = [], threading.Event()

    def batch(step):
        packed.append(step)
        if step == 4:
            enough.set()
        return "name", step

    monkeypatch.setattr(loader, "batch", batch)
    batches = loader.batches(range(100), ahead=3)
    assert next(batches) == (0, "name", 0)
    assert enough.wait(600), "1, 2 and 3 are ready, 4 waits for room"
    assert packed == [0, 1, 2, 3, 4]
    batches.close()
    assert packed == [0, 1, 2, 3, 4]


def test_an_error_in_the_thread_reaches_the_consumer_after_the_batches_before_it(loader, monkeypatch):
    error = UserError("The row is broken.")

    def batch(step):
        if step == 3:
            raise error
        return "name", step

    monkeypatch.setattr(loader, "batch", batch)
    batches = loader.batches(range(1, 9))
    assert [next(batches)[0] for _ in range(2)] == [1, 2]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert caught.value is error and not packing_threads()


def test_closing_early_ends_the_thread(loader):
    batches = loader.batches(range(10**9))
    next(batches)
    assert packing_threads()
    batches.close()
    assert not packing_threads()


def test_an_error_of_the_consumer_ends_the_thread(loader):
    def consume():
        for step, _, _ in loader.batches(range(10**9)):
            if step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not packing_threads()


# Records and tokenizer of a config


def test_records_come_source_by_source_and_bad_rows_are_counted(tmp_path):
    config = tiny.config(tmp_path)
    pairs, _ = config.data.sources
    with open(pairs, "a") as file:
        file.write('{"query": "", "passage": "p"}\n')
    skipped = SkipList()
    records = list(read_records(config, skipped))
    assert [record.source for record in records] == ["pairs"] * 96 + ["colours"] * 96
    assert skipped == {"empty query": 1}


def test_no_sources_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        list(read_records(tiny.config(tmp_path, **{"data.sources": "()"}), SkipList()))


def words(tokenizer) -> list[int]:
    return tokenizer.encode(["red river", "small stone"], 99)[0].tolist()


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A tokenizer folder that is there already."""
    folder = tmp_path_factory.mktemp("ready")
    train_sentencepiece([f"red river {i} small" for i in range(99)], 300, folder)
    return folder


def test_a_tokenizer_is_trained_on_the_records_and_kept(tmp_path):
    config = tiny.config(tmp_path)
    records = list(read_records(config, SkipList()))
    made = make_tokenizer(config, "", "", records)
    assert made.vocab_size == 400
    made.save(tmp_path / "kept")
    assert words(make_tokenizer(config, tmp_path / "kept", "", [])) == words(made), "a resumed run does not train again"


def test_a_configured_tokenizer_comes_before_the_one_beside_the_weights(tmp_path, ready):
    config = tiny.config(tmp_path, **{"tokenizer.train_vocab": 0, "tokenizer.path": str(ready)})
    for beside in ("", "nowhere", str(ready)):
        assert words(make_tokenizer(config, "", beside, [])) == words(load_tokenizer(ready))


@pytest.mark.parametrize(
    "path,train_vocab,beside,message",
    [
        ("other", 0, "ready", "splits texts into other tokens than the starting weights, whose .*; leave it"),
        (
            "",
            400,
            "ready",
            "tokenizer.train_vocab=400 makes a new tokenizer and the weights of .* come with theirs; set",
        ),
        ("ready", 400, "", "tokenizer.train_vocab=400 makes a new tokenizer and tokenizer.path=.* is set; set it to 0"),
    ],
    ids=["another path", "trained beside weights", "trained and named"],
)
def test_weights_are_not_trained_on_tokens_that_they_do_not_know(tmp_path, ready, path, train_vocab, beside, message):
    train_sentencepiece([f"another {i} text" for i in range(99)], 300, tmp_path / "other")
    folders = {"": "", "ready": str(ready), "other": str(tmp_path / "other")}
    config = tiny.config(tmp_path, **{"tokenizer.train_vocab": train_vocab, "tokenizer.path": folders[path]})
    with pytest.raises(UserError, match=message):
        make_tokenizer(config, "", folders[beside], [])


def test_the_tokenizer_beside_the_weights_serves_where_none_is_configured(tmp_path, ready):
    config = tiny.config(tmp_path, **{"tokenizer.train_vocab": 0})
    assert words(make_tokenizer(config, "", str(ready), [])) == words(load_tokenizer(ready))


def test_without_any_tokenizer_the_error_says_what_to_set(tmp_path):
    config = tiny.config(tmp_path, **{"tokenizer.train_vocab": 0})
    with pytest.raises(UserError, match=r"set tokenizer\.path, tokenizer\.train_vocab, or init_from"):
        make_tokenizer(config, "", "", [])


@pytest.mark.parametrize("inside,expected", [(True, "{folder}/tokenizer"), (False, "{folder}")])
def test_the_tokenizer_of_a_workdir_lies_in_a_folder_of_its_own(tmp_path, inside, expected):
    if inside:
        (tmp_path / "tokenizer").mkdir()
    assert workdir.tokenizer_folder(str(tmp_path)) == expected.format(folder=tmp_path)
    assert workdir.tokenizer_folder("") == ""


def test_a_text_of_clustering_that_is_held_out_is_in_no_training_row(tmp_path):
    config = tiny.config(tmp_path, **{"data.validation_share": 0.3, "data.sources": "()"})
    rows = [{"text": f"{'red' if i % 2 else 'blue'} {i}", "label": i % 2} for i in range(60)]
    path = corpora.write(tmp_path / "texts.jsonl", rows)
    config.data.update(sources=(str(path),), hold_out_texts=True)
    records = list(read_records(config, SkipList()))
    held = {row["text"] for row in rows if is_held_out(stable_id(row["text"]), 0.3, config.seed)}
    trained = [record for record in records if record.query not in held]
    assert {record.query for record in records} >= held and len(held) > 5 and len(trained) > 20
    assert not held & {text for record in trained for text in record.documents}
    assert all(record.negatives for record in trained)
    config.data.hold_out_texts = False
    assert held & {text for r in read_records(config, SkipList()) if r.query not in held for text in r.documents}
