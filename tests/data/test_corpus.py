"""A corpus on disk gives the rows and the batches that the same records give in memory."""

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f2jax.data import corpus as lib
from f2jax.data import instructions
from f2jax.data import loader as loader_lib
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.dataset import build_datasets
from f2jax.data.loader import Loader
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import Restart, UserError
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.run import prepare
from tests import tiny
from tests.data import corpora

STAGES = {
    "stage 1": replace(corpora.OPTIONS, instructions=instructions.Instructions(enabled=False)),
    "stage 2": replace(corpora.OPTIONS, instructions=replace(corpora.OPTIONS.instructions, seed=3), seed=3),
}


@pytest.fixture(scope="module", params=STAGES)
def both(request, tmp_path_factory):
    """(splits in memory, splits of a corpus) of the same files."""
    folder, options = tmp_path_factory.mktemp("both"), STAGES[request.param]
    inputs = corpora.write_inputs(folder / "in")
    corpora.make(folder, inputs, options)
    records = [record for path in inputs for record in open_source(path, "train", Counter())]
    tokenizer = load_tokenizer(folder / "tokenizer")
    datasets = build_datasets(records, tokenizer, options.max_length, options.instructions)
    in_memory = [dataset.split(options.validation_share, options.seed) for dataset in datasets]
    return in_memory, PreparedCorpus(folder / "corpus").splits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a corpus. Read only."""
    folder = tmp_path_factory.mktemp("corpus")
    corpora.make(folder)
    return folder


def plain(row) -> tuple:
    negatives = [ids.tolist() for ids in row.negatives]
    return row.query.tolist(), row.positive.tolist(), negatives, row.positive_id, row.negative_ids, row.label_id


def test_data_sets_are_those_in_memory(both):
    for expected, found in zip(*both, strict=True):
        for a, b in zip(expected, found, strict=True):
            assert (a.name, a.kind, len(a), a.max_negatives) == (b.name, b.kind, len(b), b.max_negatives)
        assert expected[0].languages == found[0].languages


@pytest.mark.parametrize("negatives", [0, 2, 9])
def test_rows_are_those_in_memory_in_the_same_order(both, negatives):
    rng = np.random.default_rng(negatives)
    for expected, found in zip(*both, strict=True):
        for a, b in zip(expected, found, strict=True):
            numbers, columns = rng.permutation(len(a)), rng.permutation(a.max_negatives)
            rows = [plain(row) for row in a.rows(numbers, columns, negatives)]
            assert rows == [plain(row) for row in b.rows(numbers, columns, negatives)]
            assert len(rows) == len(a) > 0


def test_batches_are_those_in_memory(both, tmp_path):
    config = tiny.config(tmp_path)
    loaders = [Loader([training for training, _ in splits], config, 0) for splits in both]
    for step in range(loaders[0].steps_per_epoch):
        (name, a), (other, b) = (loader.batch(step) for loader in loaders)
        assert (name, a.kind, a.useful_tokens) == (other, b.kind, b.useful_tokens)
        assert all(np.array_equal(x, b.arrays()[key]) for key, x in a.arrays().items())


class CountedVectors:
    """A teacher's vectors of two numbers each; counts how often they are read."""

    reads = 0

    def read(self, entry, part, numbers):
        self.reads += 1
        return np.zeros((len(numbers), 2), np.float32)


def test_a_teachers_vectors_are_read_for_batches_and_not_to_choose_shapes(folder, tmp_path):
    vectors = CountedVectors()
    datasets = [training for training, _ in PreparedCorpus(folder / "corpus").splits(vectors)]
    loader = Loader(datasets, tiny.config(tmp_path, **{"data.max_length": 48, "data.row_length": 48}), 0)
    assert vectors.reads == 0
    loader.batch(0)
    assert vectors.reads == 2, "of queries, and of documents"


# Files


def test_opening_a_corpus_reads_its_card_alone(folder, tmp_path):
    shutil.copy(folder / "corpus/corpus.json", tmp_path)
    splits = PreparedCorpus(tmp_path).splits()
    assert [len(training) for training, _ in splits] == [len(a) for a, _ in PreparedCorpus(folder / "corpus").splits()]
    with pytest.raises(UserError, match=r"rows-train.array_record-00000-of-00001 is missing, damaged or cut short"):
        splits[0][0].rows([0], [], 0)


def test_a_disk_that_fails_for_a_moment_asks_for_a_restart(folder, monkeypatch):
    def failing(*_):
        raise RuntimeError("INTERNAL: while reading: Input/output error")

    monkeypatch.setattr(Reader, "_file", failing)
    with pytest.raises(Restart, match=r"could not be read just now .*; run the same command again"):
        PreparedCorpus(folder / "corpus").splits()[0][0].rows([0], [], 0)


@pytest.mark.parametrize("size", [0, 100, 0.7])
def test_a_file_that_is_cut_short_is_one_clear_error(folder, tmp_path, size):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    (path,) = (tmp_path / "corpus/documents/pairs/1.0.0").glob("*array_record*")
    whole = path.read_bytes()
    path.write_bytes(whole[: size if size >= 1 or not size else int(size * len(whole))])
    training, _ = PreparedCorpus(tmp_path / "corpus").splits()[0]
    with pytest.raises(UserError, match=r"documents-train.*cut short .*prepare the corpus again"):
        training.rows(range(len(training)), range(9), 9)


def test_few_files_are_open_at_once(folder):
    card = PreparedCorpus(folder / "corpus").card
    reader = Reader(open_files=2)
    datasets = [lib.StoredDataset(folder / "corpus", entry, "train", reader) for entry in card["datasets"]]
    first = [plain(dataset.rows([0], [0], 1)[0]) for dataset in datasets]
    assert [plain(dataset.rows([0], [0], 1)[0]) for dataset in datasets] == first
    assert len(reader._open) == 2


def test_threads_that_share_a_reader_close_no_file_under_each_other(monkeypatch):
    class SlowFile:
        def __init__(self, path, **options):
            self.path, self.closed = path, False

        def read(self, numbers):
            time.sleep(0.02)
            if self.closed:
                raise RuntimeError("closed while it was read")
            return [self.path]

        def close(self):
            self.closed = True

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordReader", SlowFile)
    reader = Reader(open_files=1)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda path: reader.read(path, [0]), "abab")) == [["a"], ["b"], ["a"], ["b"]]


def test_a_folder_without_a_whole_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no corpus.json; run `f2jax prepare"):
        PreparedCorpus(tmp_path)


def test_a_corpus_of_another_version_is_refused(tmp_path):
    (tmp_path / "corpus.json").write_text('{"version": "0.1"}')
    with pytest.raises(UserError, match=r"of version 0.1"):
        PreparedCorpus(tmp_path)


# What the rows of a run are


def facts(corpus, tokenizer):
    return loader_lib.data_fingerprints(
        load_tokenizer(tokenizer), [training for training, _ in PreparedCorpus(corpus).splits()]
    )


def test_a_corpus_that_was_moved_is_the_same_and_no_record_is_read_to_know_it(folder, tmp_path):
    shutil.copy(folder / "corpus/corpus.json", tmp_path)
    found = facts(tmp_path, folder / "tokenizer")
    assert found == facts(folder / "corpus", folder / "tokenizer")
    assert "data set pairs" in found and "retrieval" in found["data set pairs"]


def test_a_corpus_with_another_row_differs_in_that_data_set_alone(folder, tmp_path):
    paths = corpora.write_inputs(tmp_path / "in")
    text = Path(paths[0]).read_text()
    Path(paths[0]).write_text(text.replace("river", "stone", 1))
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    corpora.make(tmp_path, paths)
    before, after = (facts(one / "corpus", folder / "tokenizer") for one in (folder, tmp_path))
    assert [name for name in before | after if before.get(name) != after.get(name)] == ["data set pairs"]


def test_the_order_of_data_sets_and_the_tokenizer_are_facts_of_a_run(folder, tmp_path):
    tokenizer, (first, second, *_) = load_tokenizer(folder / "tokenizer"), PreparedCorpus(folder / "corpus").splits()
    other = corpora.train_sentencepiece([f"another {i} text" for i in range(99)], 300, None)
    before = loader_lib.data_fingerprints(tokenizer, [first[0], second[0]])
    swapped, changed = (
        loader_lib.data_fingerprints(tokenizer, [second[0], first[0]]),
        loader_lib.data_fingerprints(other, [first[0], second[0]]),
    )
    assert {name for name in before if before[name] != swapped[name]} == {"the order of data sets"}
    assert {name for name in before if before[name] != changed[name]} == {"the tokenizer"}


# Training


def load(folder, tmp_path, **changes):
    sources = f"('corpus:{folder / 'corpus'}',)"
    values = {"data.sources": sources, "tokenizer.train_vocab": 0, "data.validation_share": 0.5}
    config = tiny.config(tmp_path, **(values | changes))
    return config, loader_lib.load_data(config, "", "", 10_000, Counter())


def test_a_run_takes_data_and_tokenizer_from_its_corpus(folder, tmp_path):
    _, (tokenizer, splits) = load(folder, tmp_path)
    assert tokenizer.fingerprint() == load_tokenizer(folder / "corpus/tokenizer").fingerprint()
    assert [training.name for training, _ in splits] == ["pairs", "colours", "../hostile name"]
    assert all(len(held) < len(training) for training, held in splits), "the corpus decides what is held out"


@pytest.mark.parametrize("where", ["kept", "configured", "beside"])
def test_a_corpus_of_another_tokenizer_is_refused(folder, tmp_path, where):
    other = tmp_path / ("tokenizer" if where == "kept" else "other")
    corpora.train_sentencepiece([f"another {i} text" for i in range(99)], 300, other)
    changes = {"tokenizer.path": str(other)} if where == "configured" else {}
    config = tiny.config(tmp_path, **{"data.sources": f"('corpus:{folder / 'corpus'}',)"} | changes)
    with pytest.raises(UserError, match=f"made with another tokenizer than {other}; prepare it with --tokenizer"):
        beside = str(other) if where == "beside" else ""
        loader_lib.load_data(config, other if where == "kept" else "", beside, 10_000, Counter())


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"data.use_instructions": False}, "prepared with instructions and data.use_instructions=False"),
        ({"data.max_length": 16}, "texts of up to 32 tokens, above data.max_length=16"),
        ({"data.columns": "('query=Frage',)"}, "A corpus has no columns to name; leave data.columns empty"),
        ({"data.include": "('pears',)"}, r"No data set is named 'pears' \(data.include\); did you mean 'pairs'"),
    ],
)
def test_a_run_that_does_not_fit_its_corpus_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load(folder, tmp_path, **changes)


def test_a_corpus_stands_alone(folder, tmp_path):
    with pytest.raises(UserError, match="names a corpus and more"):
        load(folder, tmp_path, **{"data.sources": f"('cldr:labels', 'corpus:{folder / 'corpus'}')"})


def test_several_corpora_are_the_data_sets_of_all(folder, tmp_path):
    tokenizer = folder / "corpus/tokenizer"
    new = corpora.write(tmp_path / "new.jsonl", corpora.rows(30, 9))
    prepare([new], tmp_path / "second", tokenizer, corpora.OPTIONS)
    sources = {"data.sources": f"('corpus:{folder / 'corpus'}', 'corpus:{tmp_path / 'second'}')"}
    _, (_, together) = load(folder, tmp_path, **sources)
    (alone,) = PreparedCorpus(tmp_path / "second").splits()
    assert [training.name for training, _ in together] == ["pairs", "colours", "../hostile name", "new"]
    for ours, theirs in zip(together[-1], alone, strict=True):
        assert len(ours) == len(theirs) > 0 and ours.fingerprint() == theirs.fingerprint()
    with pytest.raises(UserError, match=r"teacher\.cache holds the vectors of one corpus"):
        load(folder, tmp_path, **sources | {"teacher.cache": "vectors"})


@pytest.mark.parametrize(
    "changes,name,message",
    [
        ({"seed": 1}, "new", r"were prepared with different options \(seed\); prepare one of them again"),
        ({"curate": CurationOptions(evaluation_sets=())}, "new", r"with different options \(curate\)"),
        ({"tokenizer": True}, "new", r"with different options \(tokenizer\)"),
        ({}, "pairs", "both have a data set pairs; give one of them another source"),
    ],
)
def test_corpora_that_do_not_fit_each_other_are_refused(folder, tmp_path, changes, name, message):
    tokenizer = folder / "corpus/tokenizer"
    if changes.pop("tokenizer", False):
        corpora.train_sentencepiece([f"another {i} text" for i in range(99)], 300, tokenizer := tmp_path / "other")
    new = corpora.write(tmp_path / f"{name}.jsonl", corpora.rows(30, 9))
    prepare([new], tmp_path / "second", tokenizer, replace(corpora.OPTIONS, **changes))
    with pytest.raises(UserError, match=message):
        load(folder, tmp_path, **{"data.sources": f"('corpus:{folder / 'corpus'}', 'corpus:{tmp_path / 'second'}')"})


def test_a_model_with_a_small_token_table_is_refused(folder, tmp_path):
    config = tiny.config(tmp_path, **{"data.sources": f"('corpus:{folder / 'corpus'}',)"})
    with pytest.raises(UserError, match="token table has 7 rows"):
        loader_lib.load_data(config, "", "", 7, Counter())


def test_a_run_trains_on_what_it_selects_as_often_as_it_weighs(folder, tmp_path):
    config, (_, splits) = load(
        folder, tmp_path, **{"data.exclude": "('*hostile*',)", "data.weights": "('pairs=3',)", "data.batch_size": 8}
    )
    datasets = [training for training, _ in splits]
    loader = Loader(datasets, config, 0, weights=loader_lib.mixture_weights(datasets, config))
    drawn = Counter(loader.batch(step)[0] for step in range(loader.steps_per_epoch))
    assert drawn == {"pairs": 3 * -(-len(datasets[0]) // 8), "colours": -(-len(datasets[1]) // 8)}


@pytest.mark.parametrize(
    "changes",
    [{"options": None}, {"options": {"max_length": "9"}}, {"datasets": {}}, {"datasets": [1]}, {"version": 1}, None],
    ids=str,
)
def test_a_card_of_another_shape_is_one_clear_error(folder, tmp_path, changes):
    card = json.loads((folder / "corpus/corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps([card] if changes is None else card | changes))
    with pytest.raises(UserError, match=r"corpus\.json|is a corpus of version 1"):
        PreparedCorpus(tmp_path)
