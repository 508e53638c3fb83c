"""A corpus on disk gives the rows and the batches that the same records give in memory."""

import json
import re
import shutil
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from f2jax.data import corpus as lib
from f2jax.data import instructions
from f2jax.data import loader as loader_lib
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.dataset import build_datasets
from f2jax.data.loader import Loader
from f2jax.data.packing import SHARED, WHOLE, RowShare
from f2jax.data.skip_list import SkipList
from f2jax.data.sources import open_source
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import Restart, UserError
from f2jax.prepare import describe as describe_lib
from f2jax.prepare.curate import CurationOptions
from f2jax.prepare.describe import add_index
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
    records = [record for path in inputs for record in open_source(path, "train", SkipList())]
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


def plain(rows) -> list[tuple]:
    """Of each row its label, and the tokens of its texts, the ids of its documents."""
    found = []
    for b, label in enumerate(rows.label_b.tolist()):
        present = np.flatnonzero(rows.length_bi[b])
        texts = [ids.tolist() for ids in rows.tokens(np.full(len(present), b), present)]
        assert [len(ids) for ids in texts] == rows.length_bi[b, present].tolist()
        found.append((label, texts, rows.id_bi[b, present[1:]].tolist()))
    return found


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
            rows, stored = (one.rows(numbers, columns, negatives) for one in (a, b))
            assert plain(rows) == plain(stored)
            assert len(rows.label_b) == len(a) > 0
            tokens = {}
            present = np.nonzero(stored.length_bi)
            for key, ids in zip(stored.key_bi[present].tolist(), stored.tokens(*present), strict=True):
                assert tokens.setdefault(key, ids.tobytes()) == ids.tobytes()
            assert len(set(tokens.values())) == len(tokens), "one key for each distinct sequence of tokens"


def test_batches_are_those_in_memory(both, tmp_path):
    config = tiny.config(tmp_path)
    loaders = [Loader([training for training, _ in splits], config, 0) for splits in both]
    for step in range(loaders[0].steps_per_epoch):
        (name, a), (other, b) = (loader.batch(step) for loader in loaders)
        assert (name, a.kind, a.useful_tokens) == (other, b.kind, b.useful_tokens)
        assert all(np.array_equal(x, b.arrays()[key]) for key, x in a.arrays().items())


def test_batches_are_the_same_without_an_index(folder, tmp_path, caplog):
    ignored = shutil.ignore_patterns("index")
    shutil.copytree(folder / "corpus", tmp_path / "corpus", ignore=ignored)
    with_index, without = (loader_of(one, tmp_path) for one in (folder, tmp_path))
    assert [dataset.is_indexed for one in (with_index, without) for dataset in one.datasets] == 3 * [True] + 3 * [False]
    for step in range(with_index.steps_per_epoch):
        a, b = (loader.batch(step)[1].arrays() for loader in (with_index, without))
        assert all(np.array_equal(x, b[key]) for key, x in a.items())
    assert "index" not in caplog.text
    loader_of(folder, tmp_path, RowShare(2, (1,)))
    loader_of(tmp_path, tmp_path, RowShare(2, (0, 1)))
    assert "index" not in caplog.text
    loader_of(tmp_path, tmp_path, RowShare(2, (1,)))
    assert "3 data sets of the corpus have no index" in caplog.text and "prepare --add --output CORPUS" in caplog.text


# Several processes


class MadeUpVectors:
    """A teacher's vectors of three numbers, which say whose they are; counts them."""

    card, count = "made up", 0

    def read(self, entry, part, numbers):
        self.count += len(numbers)
        part = sum(part.encode()) + sum(entry["name"].encode())
        return np.column_stack([numbers, numbers**2, np.full(len(numbers), part)]).astype(np.float32)


def loader_of(folder, tmp_path, share=WHOLE, vectors=None, **changes) -> Loader:
    datasets = [training for training, _ in PreparedCorpus(folder / "corpus").splits(vectors)]
    changes = {"data.max_length": 48, "data.row_length": 48, "data.negatives.clustering": 3} | changes
    return Loader(datasets, tiny.config(tmp_path, **changes), 0, share)


@pytest.mark.parametrize("owners", [[(0,), (1,), (2,), (3,)], [(0, 3), (1, 2)]], ids=["four", "two"])
@pytest.mark.parametrize("chunk_rows", [0, 1])
def test_the_batches_of_all_processes_put_together_are_those_of_one(folder, tmp_path, owners, chunk_rows):
    changes = {"model.chunk_rows": chunk_rows, "data.batch_size": 15}
    whole = loader_of(folder, tmp_path, RowShare(4, (0, 1, 2, 3)), MadeUpVectors(), **changes)
    shares = [RowShare(4, own) for own in owners]
    loaders = [loader_of(folder, tmp_path, share, MadeUpVectors(), **changes) for share in shares]
    for step in range(whole.steps_per_epoch):
        expected = whole.batch(step)[1]
        assert len(expected.teacher_se) % 4 == 0 <= len(expected.teacher_se) - len(expected.row_s) < 4
        joined = {name: np.full_like(getattr(expected, name), -7) for name in SHARED}
        for share, loader in zip(shares, loaders, strict=True):
            found = loader.batch(step)[1]
            for name, array in found.arrays().items():
                if name in SHARED:
                    joined[name][share.rows(len(joined[name]))] = array
                else:
                    assert np.array_equal(array, getattr(expected, name)), name
            assert (found.useful_tokens, found.tokens) == (expected.useful_tokens, expected.tokens)
        assert all(np.array_equal(joined[name], getattr(expected, name)) for name in SHARED)
        check_vectors(whole, step, expected)


def check_vectors(loader: Loader, step: int, batch) -> None:
    """Each text's vector, read by itself."""
    plan = loader.mixture.plan(step)
    dataset = loader.datasets[plan.dataset]
    rows = dataset.rows(plan.rows, plan.columns, plan.negatives)
    columns = rows.length_bi.shape[1]
    for b, i in np.ndindex(len(plan.rows), columns):
        s = b if i == 0 else 15 + b if i == 1 else 30 + b * (len(batch.row_s) // 15 - 2) + i - 2
        one = rows.vectors(np.array([b]), np.array([i]))[0] if rows.length_bi[b, i] else np.zeros(3)
        assert np.array_equal(batch.teacher_se[s], one)


@pytest.fixture
def records_read(monkeypatch) -> Counter:
    """How many records were read since the last look."""
    counts, read = Counter(), Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, path, numbers: counts.update(n=len(numbers)) or read(self, path, numbers)
    )
    return counts


def test_each_process_reads_the_texts_of_its_own_rows_alone(folder, tmp_path, records_read):
    """Short texts lie in the last rows, so that a process reads more texts than another, of as many tokens."""
    shares = [RowShare(4, (0, 1, 2, 3)), *(RowShare(4, (n,)) for n in range(4))]
    loaders = [loader_of(folder, tmp_path, share, **{"data.batch_size": 64}) for share in shares]
    assert not records_read, "not even to choose shapes"
    found = []
    for loader in loaders:
        for step in range(loader.steps_per_epoch):
            loader.batch(step)
        found.append(records_read.pop("n"))
    assert sum(found[1:]) == found[0] and max(found[1:]) < found[0] / 2


def test_each_process_reads_the_vectors_of_its_own_texts_alone(folder, tmp_path):
    vectors = [MadeUpVectors() for _ in range(3)]
    shares = RowShare(2, (0, 1)), RowShare(2, (0,)), RowShare(2, (1,))
    loaders = [loader_of(folder, tmp_path, *pair) for pair in zip(shares, vectors, strict=True)]
    assert not any(one.count for one in vectors), "not to choose shapes"
    for loader in loaders:
        loader.batch(0)
    assert all(0.3 < one.count / vectors[0].count < 0.7 for one in vectors[1:])


def test_the_memory_that_an_index_takes_does_not_grow_with_its_texts(folder, tmp_path, monkeypatch):
    entry = PreparedCorpus(folder / "corpus").card["datasets"][0]
    monkeypatch.setattr(describe_lib, "parse_row", lambda raw: (np.zeros(4, np.int32), np.arange(3), -1))
    monkeypatch.setattr(describe_lib, "row_details", lambda raw: (7, "en", "en"))
    monkeypatch.setattr(describe_lib, "parse_document", lambda raw: (7, np.zeros(4, np.int32)))

    def peak(count: int) -> int:
        shards = SimpleNamespace(lengths=(count,), read_all=lambda reader: iter([b""] * count))
        monkeypatch.setattr(describe_lib, "shards_of", lambda *_: shards)
        tracemalloc.start()
        describe_lib.describe(tmp_path, entry)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(10_000), peak(30_000)
    assert many - few < 20_000 * 10, "8 bytes are those of the list of made up records"
    (path,) = tmp_path.glob("index/*/*/train.npy")
    rows, numbers = np.load(path), np.load(path.with_name("train-documents.npy"))
    assert rows["start"].tolist() == list(range(0, 90_000, 3)) and numbers.tolist() == 30_000 * [0, 1, 2]


ADVICE = r"delete (\S*index/pairs\S*) and run `f2jax prepare --add --output CORPUS`"


@pytest.mark.parametrize("name", ["documents.npy", "train.npy", "train-documents.npy"])
@pytest.mark.parametrize("damage", ["cut", "missing", "of another type", "of another data set"])
def test_a_damaged_index_is_one_clear_error(folder, tmp_path, name, damage):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    training, _ = PreparedCorpus(tmp_path / "corpus").splits()[0]
    (path,) = (tmp_path / "corpus/index/pairs").glob(f"*/{name}")
    content = np.load(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "missing":
        path.unlink()
    else:
        np.save(path, content[:-1] if damage == "of another data set" else np.zeros(len(content), np.int8))
    with pytest.raises(UserError, match=ADVICE):
        training.rows([0], [], 0)


def test_an_index_of_other_texts_is_written_anew_as_its_message_says(folder, tmp_path):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    (path,) = (tmp_path / "corpus/index/pairs").glob("*/documents.npy")
    whole, content = path.read_bytes(), np.load(path)
    content["key"] += 1
    np.save(path, content)
    with pytest.raises(UserError, match=f"The index of pairs belongs to other texts; {ADVICE}") as error:
        plain(PreparedCorpus(tmp_path / "corpus").splits()[0][0].rows([0], [], 0))
    damaged = re.search(ADVICE, str(error.value))[1]
    add_index(tmp_path / "corpus")
    assert path.read_bytes() != whole, "what is there stays"
    shutil.rmtree(damaged)
    add_index(tmp_path / "corpus")
    assert path.read_bytes() == whole


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
        plain(PreparedCorpus(folder / "corpus").splits()[0][0].rows([0], [], 0))


@pytest.mark.parametrize("size", [0, 100, 0.7])
def test_a_file_that_is_cut_short_is_one_clear_error(folder, tmp_path, size):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    (path,) = (tmp_path / "corpus/documents/pairs/1.0.0").glob("*array_record*")
    whole = path.read_bytes()
    path.write_bytes(whole[: size if size >= 1 or not size else int(size * len(whole))])
    training, _ = PreparedCorpus(tmp_path / "corpus").splits()[0]
    with pytest.raises(UserError, match=r"documents-train.*cut short .*prepare the corpus again"):
        plain(training.rows(range(len(training)), range(9), 9))


def test_few_files_are_open_at_once(folder):
    card = PreparedCorpus(folder / "corpus").card
    reader = Reader(open_files=2)
    datasets = [lib.StoredDataset(folder / "corpus", entry, "train", reader) for entry in card["datasets"]]
    first = [plain(dataset.rows([0], [0], 1)) for dataset in datasets]
    assert [plain(dataset.rows([0], [0], 1)) for dataset in datasets] == first
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
    with pytest.raises(UserError, match=r"corpus version 0.1"):
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
    return config, loader_lib.load_data(config, "", "", 10_000, SkipList())


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
        loader_lib.load_data(config, other if where == "kept" else "", beside, 10_000, SkipList())


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"data.use_instructions": False}, "prepared with instructions and data.use_instructions=False"),
        ({"data.max_length": 16}, "texts of up to 32 tokens, above data.max_length=16"),
        ({"data.columns": "('query=Frage',)"}, "data.columns is for files, not for a prepared corpus; leave it empty"),
        ({"data.include": "('pears',)"}, r"No data set is named 'pears' \(data.include\); did you mean 'pairs'"),
    ],
)
def test_a_run_that_does_not_fit_its_corpus_is_refused(folder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load(folder, tmp_path, **changes)


def test_settings_of_files_that_a_corpus_does_not_use_are_named(folder, tmp_path, caplog):
    load(folder, tmp_path)
    assert "not used" not in caplog.text
    load(folder, tmp_path, **{"data.hold_out_texts": True, "data.kinds": "('a=retrieval',)"})
    assert "data.kinds, data.hold_out_texts: not used, since a corpus is trained on as f2jax" in caplog.text


def test_a_corpus_stands_alone(folder, tmp_path):
    with pytest.raises(UserError, match="mixes corpora and files"):
        load(folder, tmp_path, **{"data.sources": f"('cldr:labels', 'corpus:{folder / 'corpus'}')"})


def test_several_corpora_are_the_data_sets_of_all(folder, tmp_path):
    tokenizer = folder / "corpus/tokenizer"
    new = corpora.write(tmp_path / "new.jsonl", corpora.rows(30, 9))
    prepare([new], tmp_path / "second", tokenizer, corpora.OPTIONS)
    sources = {"data.sources": f"('corpus:{folder / 'corpus'}', 'corpus:{tmp_path / 'second'}')", "data.batch_size": 8}
    config, (_, together) = load(folder, tmp_path, **sources)
    (alone,) = PreparedCorpus(tmp_path / "second").splits()
    assert [training.name for training, _ in together] == ["pairs", "colours", "../hostile name", "new"]
    for ours, theirs in zip(together[-1], alone, strict=True):
        assert len(ours) == len(theirs) > 0 and ours.fingerprint() == theirs.fingerprint()
    shares = RowShare(2, (0, 1)), RowShare(2, (0,)), RowShare(2, (1,))
    whole, *loaders = (Loader([training for training, _ in together], config, 0, share) for share in shares)
    names = set()
    for step in range(whole.steps_per_epoch):
        (name, batch), *parts = (loader.batch(step) for loader in (whole, *loaders))
        names.add(name)
        assert np.array_equal(batch.tokens_bt, np.concatenate([part.tokens_bt for _, part in parts]))
    assert names == {training.name for training, _ in together}
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
        loader_lib.load_data(config, "", "", 7, SkipList())


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
    with pytest.raises(UserError, match=r"corpus\.json|has the corpus version 1"):
        PreparedCorpus(tmp_path)
