"""With `data.mixed_batches` a batch has rows of several data sets of a kind, each as its own data set gives it."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from f2jax.data import packing
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.dataset import RowTexts, build_datasets, texts_of
from f2jax.data.instructions import Instructions
from f2jax.data.loader import Loader
from f2jax.data.mixed import MixedDataset, drawn_datasets
from f2jax.data.packing import WHOLE, RowShare
from f2jax.data.record import Record
from f2jax.data.shapes import RowRules
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError
from f2jax.plan.lengths import rows_of_lengths
from f2jax.train.loop import train
from tests import tiny
from tests.data import corpora

WIDTH = 3  # of the vectors of the teacher below


@dataclass(frozen=True)
class NumberedVectors:
    """A teacher whose vectors say which text they are of."""

    card: str = "numbered"

    def read(self, entry: dict, part: str, numbers: np.ndarray) -> np.ndarray:
        place = sum(map(ord, entry["name"])), len(part)
        return np.array([(*place, number) for number in numbers], np.float32).reshape(-1, WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    corpora.make(folder)
    return folder


@pytest.fixture(params=["corpus", "memory"])
def parts(request, folder):
    """Two data sets of one kind; those in memory have scores in one of them."""
    if request.param == "corpus":
        splits = PreparedCorpus(folder / "corpus").splits(NumberedVectors())
        return [training for training, _ in splits if training.kind == "retrieval"]
    records = [
        Record(f"query {i}", f"word {i % 3}", ("no",) * (i % 4), source=source, scores=(i,) * (1 + i % 4) * scored)
        for source, scored in (("plain", 0), ("scored", 1))
        for i in range(20)
    ]
    return build_datasets(records, load_tokenizer(folder / "tokenizer"), 32, Instructions(enabled=False))


def described(rows: RowTexts, b: int) -> tuple:
    """All that row b has: label, tokens, ids, keys by text, teacher's vectors, scores."""
    present = np.flatnonzero(rows.length_bi[b])
    where = np.full(len(present), b), present
    tokens = [ids.tolist() for ids in rows.tokens(*where)]
    vectors = rows.vectors(*where).tolist() if rows.vectors else None
    scores = [] if rows.score_bk is None else rows.score_bk[b][~np.isnan(rows.score_bk[b])].tolist()
    return rows.label_b[b], tokens, rows.id_bi[b, present].tolist(), rows.key_bi[b, present].tolist(), vectors, scores


@pytest.mark.parametrize("negatives", [0, 2, 4])
def test_each_row_is_that_of_its_data_set(parts, negatives):
    mixed, rng = MixedDataset("retrieval", parts), np.random.default_rng(negatives)
    owners = [(part, i) for part in parts for i in range(len(part))]
    assert len(mixed) == len(owners)
    order, columns = rng.permutation(len(mixed)), rng.permutation(mixed.max_negatives)
    rows = mixed.rows(order.tolist(), columns.tolist(), negatives)
    for b, number in enumerate(order.tolist()):
        part, i = owners[number]
        own = part.rows([i], [c for c in columns.tolist() if c < part.max_negatives], negatives)
        assert described(rows, b) == described(own, 0)


def test_equal_tokens_have_one_key_across_data_sets(parts):
    rows = MixedDataset("retrieval", [*parts, *parts]).rows([0, len(parts[0]) + len(parts[1])], [], 0)
    assert rows.key_bi[0].tolist() == rows.key_bi[1].tolist()
    assert len(rows.distinct()) == len(set(rows.key_bi[0].tolist()))


def test_rows_whose_tokens_are_there_have_those_keys_too(parts):
    rows = parts[0].rows([0, 1], [], 0)
    again = texts_of([tiny_row(rows, b) for b in range(2)])
    assert again.key_bi.tolist() == rows.key_bi.tolist()


def test_there_is_one_data_set_for_each_kind_and_nothing_is_lost(folder):
    training = [training for training, _ in PreparedCorpus(folder / "corpus").splits()]
    mixed = drawn_datasets(training, mixing(folder))
    assert [one.name for one in mixed] == ["mixed-retrieval", "mixed-clustering"]
    assert sum(map(len, mixed)) == sum(map(len, training))
    languages = sum((Counter(one.languages) for one in training), Counter())
    assert sum((Counter(one.languages) for one in mixed), Counter()) == languages
    assert len({one.fingerprint() for one in [*training, *mixed]}) == len(training) + len(mixed)


def test_a_batch_mixes_data_sets_and_an_epoch_brings_each_row_once(parts, tmp_path):
    mixed, config = MixedDataset("retrieval", parts), tiny.config(tmp_path)
    loader, ends = Loader([mixed], config, 0), np.cumsum([len(part) for part in parts])
    plans = [loader.mixture.plan(step) for step in range(loader.steps_per_epoch)]
    assert sorted(np.concatenate([plan.rows for plan in plans]).tolist()) == list(range(len(mixed)))
    assert any(len(set(np.searchsorted(ends, plan.rows, side="right").tolist())) > 1 for plan in plans)
    assert sum(loader.batch(step)[1].row_mask_b.sum() for step in range(loader.steps_per_epoch)) == len(mixed)


def test_weights_are_those_of_kinds(folder, tmp_path):
    from f2jax.data.loader import mixture_weights

    training = [training for training, _ in PreparedCorpus(folder / "corpus").splits()]
    config = mixing(tmp_path, **{"data.weights": ("mixed-clustering=2",)})
    mixed = drawn_datasets(training, config)
    assert mixture_weights(mixed, config) == [1.0, 2.0]
    with pytest.raises(UserError, match="pairs"):
        mixture_weights(mixed, mixing(tmp_path, **{"data.weights": ("pairs=2",)}))
    with pytest.raises(UserError, match=r"language_temperature weights data sets, which data\.mixed_batches joins"):
        drawn_datasets(training, mixing(tmp_path, **{"data.language_temperature": 2.0}))


@pytest.mark.parametrize("own", range(4))
def test_each_process_has_the_vectors_of_its_share_even_of_no_text(folder, tmp_path, own):
    """Two rows in a batch of 16, on four processes: some have no text of it."""
    splits = PreparedCorpus(folder / "corpus").splits(NumberedVectors())
    parts = [training for training, _ in splits if training.kind == "retrieval"]
    rows = MixedDataset("retrieval", parts).rows([0, len(parts[0])], [], 0)
    found = [
        packing.assemble(rows, 0, kind="retrieval", batch_size=16, rules=RowRules(32, 0), pad_id=0, share=share)
        for share in (WHOLE, RowShare(4, (own,)))
    ]
    whole_se, own_se = (batch.teacher_se for batch in found)
    assert own_se.tolist() == np.split(whole_se, 4)[own].tolist()


def test_a_run_draws_mixed_batches_where_its_config_says_so(folder, tmp_path, capsys):
    sources = {"data.sources": f"('corpus:{folder / 'corpus'}',)", "tokenizer.train_vocab": 0, "steps": 3}
    config = mixing(tmp_path, **sources, **{"tokenizer.path": str(folder / "tokenizer"), "log.validate_every": 0})
    train(config, tmp_path / "run")
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    held_out = [held for _, held in PreparedCorpus(folder / "corpus").splits() if held.kind == "retrieval"]
    assert int(table["mixed-retrieval"][-1]) == sum(map(len, held_out)) > 0
    assert "pairs" not in table


def test_a_plan_of_a_corpus_draws_them_too(folder, tmp_path):
    of_kinds = {"data.weights": ("mixed-retrieval=2",)}  # only mixed data sets have such names
    assert rows_of_lengths(mixing(tmp_path, **of_kinds), 1, str(folder / "corpus")).mean > 0
    with pytest.raises(UserError, match="mixed-retrieval"):
        rows_of_lengths(tiny.config(tmp_path, **of_kinds), 1, str(folder / "corpus"))


def mixing(folder, **changes):
    return tiny.config(folder, **{"data.mixed_batches": True, **changes})


def tiny_row(rows: RowTexts, b: int):
    from f2jax.data.dataset import Row

    present = np.flatnonzero(rows.length_bi[b])
    query, positive, *_ = rows.tokens(np.full(len(present), b), present)
    return Row(query, positive, [], int(rows.id_bi[b, 1]), [])
