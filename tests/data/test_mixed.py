"""With `data.mixed_batches` a batch has rows of several data sets of a kind, each as its own data set gives it."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from f2jax.data.corpus import PreparedCorpus
from f2jax.data.dataset import RowTexts, build_datasets, texts_of
from f2jax.data.instructions import Instructions
from f2jax.data.loader import Loader
from f2jax.data.mixed import MixedDataset, mix
from f2jax.data.record import Record
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError
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
    mixed = mix(training)
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

    mixed = mix([training for training, _ in PreparedCorpus(folder / "corpus").splits()])
    config = tiny.config(tmp_path, **{"data.weights": ("mixed-clustering=2",)})
    assert mixture_weights(mixed, config) == [1.0, 2.0]
    with pytest.raises(UserError, match="pairs"):
        mixture_weights(mixed, tiny.config(tmp_path, **{"data.weights": ("pairs=2",)}))


def tiny_row(rows: RowTexts, b: int):
    from f2jax.data.dataset import Row

    present = np.flatnonzero(rows.length_bi[b])
    query, positive, *_ = rows.tokens(np.full(len(present), b), present)
    return Row(query, positive, [], int(rows.id_bi[b, 1]), [])
