"""Writes data sets for TFDS, in ArrayRecord and without TensorFlow: documents, rows, and their original texts.

A shard is a function of sorted texts, so its bytes do not depend on who writes it, a local process or a worker of
Apache Beam. TFDS defines the records and describes the files. (Its own writers hold an ordered data set in memory, need
TensorFlow above 1 GB, and run a Beam pipeline per data set.)
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from f2jax import files
from f2jax.data.corpus import SCORES, TOKENIZER, VERSION
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.prepare.options import PrepareOptions
from f2jax.prepare.spill import Document

T = TypeVar("T")
SHARD_ROWS = 65_536
CHUNK = 4_096  # texts that are tokenized at once
NUMBERS = "numbers of the positive, then of the negatives, in the documents of the same name"
TOKENS = "tokens, end token included"
RERANKED = "a reranker's, of the positive, then of the negatives; a row that has none lacks the field"
TEXT = "without instruction and not cut; UTF-8, lone surrogates as they are"


def _tensor(dtype: type, doc: str) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None,), dtype=dtype, encoding="bytes", doc=doc)


DESCRIPTIONS = {
    "documents": "Tokenized documents, each once, in the order of `spill.document_key`.",
    "rows": "Rows in the order of the inputs: a tokenized query and its documents.",
    "texts": "Texts before they were tokenized, of documents and of the queries of rows, in their order.",
}
FEATURES = {
    "documents": {
        "id": tfds.features.Scalar(np.int64, doc="hash of the text before its instruction"),
        "tokens": _tensor(np.int32, TOKENS),
    },
    "rows": {
        "query": _tensor(np.int32, TOKENS),
        "documents": _tensor(np.int64, NUMBERS),
        "label": tfds.features.Scalar(np.int64, doc="hash of the label; -1: none"),
        "id": tfds.features.Scalar(np.int64, doc="hash of the query before its instruction"),
        "language": tfds.features.Text(doc="of the query"),
        "positive_language": tfds.features.Text(doc="of the documents"),
    },
    "texts": {"text": tfds.features.Text(doc=TEXT)},
}
# Of a data set with scores. Without an encoding TFDS takes the field for none in a row that lacks it.
SCORED_ROWS = FEATURES["rows"] | {SCORES: tfds.features.Tensor(shape=(None,), dtype=np.float32, doc=RERANKED)}


class Shard(NamedTuple):
    """A file that was written."""

    kind: str  # documents, rows or texts
    split: str
    number: int
    records: int
    size: int  # bytes of the records
    scored: bool  # whether a record has scores


@dataclasses.dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one data set."""

    output: str  # folder of the corpus, local or remote
    name: str  # of the data set's folders
    tokenizer: str  # fingerprint of the corpus's tokenizer
    options: PrepareOptions

    def documents(self, number: int, count: int, documents: Iterable[Document]) -> list[Shard]:
        """Writes shard `number` of `count`: documents in the order of their keys."""
        records: Iterator[dict[str, dict]] = (
            {"documents": {"id": found.id, "tokens": tokens}, "texts": {"text": found.text[found.start :]}}
            for found, tokens in self._tokenized(documents, lambda document: document.text)
        )
        return self.write({"documents": "train", "texts": "documents"}, number, count, records)

    def rows(self, split: str, number: int, count: int, rows: Iterable[dict], keys: np.ndarray) -> list[Shard]:
        """Writes shard `number` of `count`: rows in their order.

        Args:
            rows: fields of `spill.ROW_FIELDS`.
            keys: keys of all documents of the data set, ascending; the number of a document is the rank of its key.
        """
        records = (
            {"rows": _row(row, tokens, keys), "texts": {"text": row["query"][row["start"] :]}}
            for row, tokens in self._tokenized(rows, lambda row: row["query"])
        )
        return self.write({"rows": split, "texts": split}, number, count, records)

    def _tokenized(self, items: Iterable[T], text: Callable[[T], bytes]) -> Iterator[tuple[T, np.ndarray]]:
        """Yields items with the token ids of their texts, which are in the encoding of `spill`."""
        rest = iter(items)
        while some := list(islice(rest, CHUNK)):
            decoded = [text(item).decode("utf-8", "surrogatepass") for item in some]
            tokenizer = _tokenizer(f"{self.output}/{TOKENIZER}", self.tokenizer)
            tokens = tokenizer.encode(decoded, self.options.max_length)
            yield from zip(some, tokens, strict=True)

    def write(self, splits: dict[str, str], number: int, count: int, records: Iterable[dict[str, dict]]) -> list[Shard]:
        """Writes records of several kinds, given the split of each."""
        from array_record.python.array_record_module import ArrayRecordWriter

        kinds = [kind for kind in splits if kind != "texts" or self.options.keep_texts]
        features = {kind: tfds.features.FeaturesDict(FEATURES[kind]) for kind in kinds}
        scored_rows = tfds.features.FeaturesDict(SCORED_ROWS)
        written, sizes, scored = 0, dict.fromkeys(kinds, 0), dict.fromkeys(kinds, False)
        with ExitStack() as stack:
            names = (f"{self.folder(kind)}/{_file_name(kind, splits[kind], number, count)}" for kind in kinds)
            paths = [str(stack.enter_context(files.atomic_path(name))) for name in names]
            writers = {kind: ArrayRecordWriter(path, "group_size:1") for kind, path in zip(kinds, paths, strict=True)}
            for record in records:
                for kind, writer in writers.items():
                    has_scores = SCORES in record[kind]
                    scored[kind] |= has_scores
                    row_features = scored_rows if has_scores else features[kind]
                    example = tf_example_pb2.Example.FromString(row_features.serialize_example(record[kind]))
                    raw = example.SerializeToString(deterministic=True)  # else fields are in the order of the process
                    writer.write(raw)
                    sizes[kind] += len(raw)
                written += 1
            for writer in writers.values():
                writer.close()
        return [Shard(kind, splits[kind], number, written, sizes[kind], scored[kind]) for kind in kinds]

    def folder(self, kind: str) -> str:
        return f"{self.output}/{kind}/{self.name}/{VERSION}"

    def describe(self, shards: Iterable[Shard]) -> dict[str, dict[str, list[int]]]:
        """Writes TFDS's description of all shards, given in order; returns {kind: {split: records of each}}."""
        found: dict[str, dict[str, list[Shard]]] = {}
        for shard in shards:
            found.setdefault(shard.kind, {}).setdefault(shard.split, []).append(shard)
        for kind, splits in found.items():
            with tempfile.TemporaryDirectory() as folder:
                self._describe(kind, splits, Path(folder))
                for path in Path(folder).glob("*.json"):
                    files.write_atomically(f"{self.folder(kind)}/{path.name}", path.read_bytes())
        return {
            kind: {split: [shard.records for shard in some] for split, some in splits.items()}
            for kind, splits in found.items()
        }

    def _describe(self, kind: str, splits: dict[str, list[Shard]], folder: Path) -> None:
        """Writes TFDS's description of one kind to a local folder."""
        template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=kind, filetype_suffix="array_record")
        infos = []
        for split, shards in splits.items():
            (folder / _file_name(kind, split, 0, len(shards))).touch()  # TFDS takes the names from there
            lengths, size = [shard.records for shard in shards], sum(shard.size for shard in shards)
            infos.append(tfds.core.SplitInfo(split, lengths, size, template))
        scored = any(shard.scored for shards in splits.values() for shard in shards)
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=SCORED_ROWS if scored else FEATURES[kind],
            split_infos=infos,
            version=VERSION,
            check_data=False,
            description=DESCRIPTIONS[kind],
            disable_shuffling=True,
        )


def _row(row: dict, tokens: np.ndarray, keys: np.ndarray) -> dict:
    numbers = np.searchsorted(keys, np.array(row["documents"], np.int64))
    scores = {SCORES: np.array(row["scores"], np.float32)} if row["scores"] else {}
    return {name: row[name] for name in FEATURES["rows"]} | {"query": tokens, "documents": numbers} | scores


def _file_name(kind: str, split: str, number: int, count: int) -> str:
    return f"{kind}-{split}.array_record-{number:05d}-of-{count:05d}"


@lru_cache(maxsize=1)
def _tokenizer(path: str, fingerprint: str) -> Tokenizer:
    """Loads a tokenizer once per process, because large ones take a second; the fingerprint identifies a new one."""
    return load_tokenizer(path)
