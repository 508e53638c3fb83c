"""The TFDS data sets of a data set, in ArrayRecord and without TensorFlow: documents, rows, and their original texts.

TFDS writes them shard by shard, in this process or on any runner of Apache Beam. A shard is a function of spilled
files, so the bytes do not depend on who writes it. (TFDS's shuffling writers hold a data set with a given order in
memory, and need TensorFlow above 1 GB.)
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from f2jax.data.corpus import VERSION
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.prepare.spill import SPLITS, WORK, batches, documents_path, rows_path, unique_documents

SHARD_ROWS = 65_536
CHUNK = 4_096  # texts that are tokenized at once

Shard = Callable[[], Iterator[tuple[int, dict]]]


@dataclasses.dataclass(frozen=True)
class Spilled:
    """The place of a data set's texts, and how they are tokenized."""

    inputs: tuple[str, ...]  # folders that `spill` wrote, in the order of the inputs
    folder: str  # name of the data set in each
    keys: str  # folder for the keys of its documents
    buckets: int
    tokenizer: str  # folder
    fingerprint: str  # of the tokenizer
    max_length: int

    def paths(self, name: str) -> list[Path]:
        return [Path(folder) / name for folder in self.inputs]

    def keys_path(self, bucket: int) -> Path:
        return Path(self.keys) / f"keys-{bucket:05d}.npy"

    def tokens(self, texts: list[bytes]) -> list[np.ndarray]:
        """The token ids of each text, encoded as `spill` does."""
        decoded = [text.decode("utf-8", "surrogatepass") for text in texts]
        return _tokenizer(self.tokenizer, self.fingerprint).encode(decoded, self.max_length)

    def all_keys(self) -> np.ndarray:
        """All keys, sorted, 8 bytes each: the number of a document is the rank of its key."""
        return np.concatenate([np.load(self.keys_path(bucket)) for bucket in range(self.buckets)])


@lru_cache(maxsize=1)
def _tokenizer(path: str, fingerprint: str) -> Tokenizer:
    """Loads a tokenizer once per process, since a large one takes a second; the fingerprint tells a new one apart."""
    return load_tokenizer(path)


@dataclasses.dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
    """The configuration of one data set: its name, and a function for each shard of each split."""

    shards: dict[str, list[Shard]] = dataclasses.field(default_factory=dict, repr=False)


class _SameBytes(ExampleWriter):
    """Writes the fields of each record in a fixed order; protobuf's own differs from process to process."""

    def write(self, path, examples):
        parsed = ((key, tf_example_pb2.Example.FromString(raw)) for key, raw in examples)
        return super().write(path, ((key, example.SerializeToString(deterministic=True)) for key, example in parsed))


class _Sharded(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # untyped
    """A builder whose shards come with its configuration."""

    VERSION = tfds.core.Version(VERSION)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Shard]]:
        return self.builder_config.shards

    def _example_writer(self) -> ExampleWriter:
        return _SameBytes(self.info.file_format)

    def _describe(self, description: str, features: dict) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, description=description, features=features, disable_shuffling=True)


class Documents(_Sharded, skip_registration=True):  # type: ignore[call-arg]  # untyped
    """Each distinct document once, in the order of `spill.document_key`. One split, `train`."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Scalar(np.int64, doc="hash of the text before its instruction"),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes", doc="end token included"),
        }
        return self._describe("Tokenized documents, each once.", features)


class Rows(_Sharded, skip_registration=True):  # type: ignore[call-arg]  # untyped
    """Training rows in the order of the inputs. Splits `train` and `validation`, without empty ones."""

    def _info(self) -> tfds.core.DatasetInfo:
        numbers = "numbers of the positive, then of the negatives, in the documents of the same name"
        features = {
            "query": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes", doc="tokens, end included"),
            "documents": tfds.features.Tensor(shape=(None,), dtype=np.int64, encoding="bytes", doc=numbers),
            "label": tfds.features.Scalar(np.int64, doc="hash of the label; -1: none"),
            "id": tfds.features.Scalar(np.int64, doc="hash of the query before its instruction"),
            "language": tfds.features.Text(doc="of the query"),
            "positive_language": tfds.features.Text(doc="of the documents"),
        }
        return self._describe("Rows: a tokenized query and its documents.", features)


class Texts(_Sharded, skip_registration=True):  # type: ignore[call-arg]  # untyped
    """The original text of each document and of each row's query, in their order: splits `documents` and those of Rows.

    Training does not read them.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        doc = "without instruction and not cut; UTF-8, lone surrogates as they are"
        return self._describe("Texts before they were tokenized.", {"text": tfds.features.Text(doc=doc)})


def document_shards(spilled: Spilled) -> dict[str, list[Shard]]:
    return {"train": [partial(document_shard, spilled, bucket) for bucket in range(spilled.buckets)]}


def document_shard(spilled: Spilled, bucket: int) -> Iterator[tuple[int, dict]]:
    """Yields the documents of a bucket, after writing their keys to a file for the rows."""
    table = unique_documents(spilled.paths(documents_path(spilled.folder, bucket)))
    keys, ids, texts = table["key"].to_numpy(), table["id"].to_numpy(), table["text"].to_pylist()
    path = spilled.keys_path(bucket)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, keys)
    for start in range(0, len(texts), CHUNK):
        for i, ids_of_text in enumerate(spilled.tokens(texts[start : start + CHUNK]), start):
            yield int(keys[i]), {"id": ids[i], "tokens": ids_of_text}


def text_shards(spilled: Spilled) -> dict[str, list[Shard]]:
    """The shards of the original texts, which are those of documents and rows."""
    documents: list[Shard] = [partial(document_texts, spilled, bucket) for bucket in range(spilled.buckets)]
    return _row_shards(spilled, row_texts) | {"documents": documents}


def document_texts(spilled: Spilled, bucket: int) -> Iterator[tuple[int, dict]]:
    """Yields the original texts of a bucket's documents."""
    table = unique_documents(spilled.paths(documents_path(spilled.folder, bucket)))
    for key, text, start in zip(*(table[name].to_pylist() for name in ("key", "text", "start")), strict=True):
        yield key, {"text": text[start:]}


def row_texts(spilled: Spilled, split: str, start: int, stop: int) -> Iterator[tuple[int, dict]]:
    """Yields the original queries of a split from number `start` to `stop`."""
    for number, chunk in _row_chunks(spilled, split, start, stop):
        for i, (query, begin) in enumerate(zip(chunk["query"], chunk["start"], strict=True), number):
            yield i, {"text": query[begin:]}


def row_shards(spilled: Spilled) -> dict[str, list[Shard]]:
    """The shards of the rows."""
    return _row_shards(spilled, row_shard)


def _row_shards(spilled: Spilled, shard: Callable[..., Iterator[tuple[int, dict]]]) -> dict[str, list[Shard]]:
    """The shards of each split, the smaller one first: TFDS's Beam pipeline of a split repeats those before it."""
    shards: dict[str, list[Shard]] = {}
    for split in reversed(SPLITS):
        count = sum(batch.num_rows for batch in batches(spilled.paths(rows_path(spilled.folder, split))))
        starts = range(0, count, SHARD_ROWS)
        shards[split] = [partial(shard, spilled, split, start, min(start + SHARD_ROWS, count)) for start in starts]
    return {split: parts for split, parts in shards.items() if parts}


def row_shard(spilled: Spilled, split: str, start: int, stop: int) -> Iterator[tuple[int, dict]]:
    """Yields the rows of a split from number `start` to `stop`."""
    keys = spilled.all_keys()
    for number, chunk in _row_chunks(spilled, split, start, stop):
        del chunk["start"]
        chunk["query"] = spilled.tokens(chunk["query"])
        chunk["documents"] = [np.searchsorted(keys, np.array(used, np.int64)) for used in chunk["documents"]]
        for i, values in enumerate(zip(*chunk.values(), strict=True), number):
            yield i, dict(zip(chunk, values, strict=True))


def _row_chunks(spilled: Spilled, split: str, start: int, stop: int) -> Iterator[tuple[int, dict[str, list]]]:
    """Yields (number of the first row, columns) of the rows of a split from number `start` to `stop`."""
    number = 0  # of the batch's first row
    for batch in batches(spilled.paths(rows_path(spilled.folder, split))):
        first, last = max(start - number, 0), min(stop - number, batch.num_rows)
        for begin in range(first, last, CHUNK):
            yield number + begin, batch.slice(begin, min(CHUNK, last - begin)).to_pydict()
        number += batch.num_rows
        if number >= stop:
            return


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what TFDS says about downloads and about data sets that it does not know."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


def build(builder: type, name: str, folder: Path, shards: dict[str, list[Shard]], beam: dict) -> dict[str, list[int]]:
    """Writes one TFDS data set under `folder`, atomically.

    Args:
        beam: `beam_runner` and `beam_options` of TFDS; empty: this process.

    Returns:
        The number of records of each shard, by split.
    """
    config = CorpusConfig(name=name, version=VERSION, description=name, shards=shards)
    with _quiet():
        dataset = builder(config=config, data_dir=str(folder), file_format="array_record")
        downloads = str(folder / WORK / "downloads")  # TFDS needs one; it stays empty
        dataset.download_and_prepare(download_dir=downloads, download_config=tfds.download.DownloadConfig(**beam))
    return {split: list(info.shard_lengths) for split, info in dataset.info.splits.items()}
