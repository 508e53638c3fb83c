"""Evaluation tasks on your own files, scored by mteb's own task types.

| data | task |
|---|---|
| `beir:FOLDER` | retrieval among all documents, with the relevance judgements of the split `test` |
| FILE of pairs or triplets | retrieval of each query's positives among all documents in the file |
| FILE of scored pairs, `sts:FILE` | similarity: correlation of cosines with the scores |
| FILE of labelled texts | both of the next |
| `classification:FILE` | classifiers on eight texts per label from one half, scored on the other half |
| `clustering:FILE` | k-means with as many clusters as labels |
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from datasets import DatasetDict
from mteb.abstasks import AbsTaskClustering, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from f2jax import files
from f2jax.data.record import in_share, stable_id
from f2jax.data.skip_list import SkipList, say_once
from f2jax.data.sources import beir, labelled, open_source, source_files
from f2jax.data.sources.columns import parse_columns, recognise
from f2jax.data.sources.schema import source_of
from f2jax.data.sources.tables import TABLES
from f2jax.errors import UserError
from f2jax.evaluation.local import LocalTask, Subsets, adapt_metadata, to_retrieval
from f2jax.evaluation.rows import Classification, to_dataset

PREFIXES = ("beir", "sts", "classification", "clustering")
PROMPTLESS = "as texts"  # protocol of pairs in which neither text is a query
UNKNOWN = ["und-Zyyy"]  # tag of unknown language and script


def is_own(spec: str) -> bool:
    """Returns whether a value of `--data` is your own file or folder, and not the folder of the local tasks."""
    prefix, rest = _split(spec)
    return bool(prefix) or rest.partition("#")[0].endswith(TABLES)


class OwnTask(LocalTask):
    """Base class of the tasks on your own files; a subclass has one of mteb's task types as its second base."""

    kind = ""  # suffix of the task's name
    alike = False  # whether neither of the texts of a pair is a query

    def __init__(self, spec: str, data: Any, revision: str):
        """Makes a task of one subset.

        Args:
            data: data of the only subset, in the task type's form.
        """
        self._subsets: Subsets = {"default": (UNKNOWN, data)}
        self.metadata = type(self).metadata.model_copy(
            update={
                "name": f"{_name(spec)}-{self.kind}",
                "description": f"Rows of {spec}.",
                "dataset": {"path": f"own/{spec}", "revision": revision},
                "eval_langs": {"default": UNKNOWN},
            }
        )
        super(LocalTask, self).__init__()

    def subsets(self) -> Subsets:
        return self._subsets


def _metadata(original: str) -> TaskMetadata:
    """Returns the metadata of an mteb task without what describes its data."""
    return adapt_metadata(original, "own", "").model_copy(update={"adapted_from": None, "prompt": None})


class OwnRetrieval(OwnTask, AbsTaskRetrieval):
    """Finds the relevant documents of a query."""

    kind, metadata = "retrieval", _metadata("XQuADRetrieval")


class OwnSTS(OwnTask, AbsTaskSTS):
    """Correlates the cosines of pairs with their scores."""

    kind, metadata = "similarity", _metadata("STSBenchmarkMultilingualSTS")


class OwnClassification(OwnTask, Classification):
    """Fits ten classifiers, each on eight texts per label."""

    kind, metadata = "classification", _metadata("Banking77Classification")


class OwnClustering(OwnTask, AbsTaskClustering):
    """Clusters ten samples by k-means, with as many clusters as labels."""

    kind, metadata = "clustering", _metadata("SIB200ClusteringS2S")
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 2_048
    n_clusters = 10


TYPES = {task.kind: task.metadata.type for task in (OwnRetrieval, OwnSTS, OwnClassification, OwnClustering)}


def own_tasks(spec: str, columns: Mapping[str, str]) -> list[OwnTask]:
    """Returns the tasks for a file or folder, as in the table above.

    Args:
        columns: {name: column} for columns whose names f2jax does not recognise.

    Raises:
        UserError: the data cannot be read, or have no rows for such a task.
    """
    prefix, rest = _split(spec)
    path, _, listed = rest.partition("#")
    named = parse_columns(f"{name}={column}" for name, column in columns.items())
    skipped = SkipList()
    revision = _revision(spec, columns)
    if prefix == "beir":
        tasks: list[OwnTask] = [OwnRetrieval(path, _collection(path, skipped), revision)]
    else:
        known, names = (prefix, named) if prefix else recognise(path, named)
        if known == "sts":
            rows = _values("sts", path, listed, skipped, names)
            table = pa.table(dict(zip(("sentence1", "sentence2", "score"), zip(*rows, strict=True), strict=True)))
            columns_of = {name: name for name in table.column_names}
            tasks = [OwnSTS(path, DatasetDict(test=to_dataset(table, **columns_of)), revision)]
        elif known in ("classification", "clustering"):
            rows = _values(known, path, listed, skipped, names)
            tasks = []
            if prefix != "clustering":
                tasks.append(OwnClassification(path, _halves(path, rows, skipped), revision))
            if prefix != "classification":
                data = DatasetDict(test=_labelled(rows, "sentences", "labels"))
                tasks.append(OwnClustering(path, data, revision))
        elif known:
            raise UserError(f"{path} has rows of {known}, for which there is no task; give pairs, scores or labels.")
        else:
            data, alike = _pairs(path, columns, skipped)
            tasks = [OwnRetrieval(path, data, _revision(spec, columns, PROMPTLESS) if alike else revision)]
            tasks[0].alike = alike
    if skipped:
        say_once(f"{spec}: left out are {', '.join(f'{count} {reason}' for reason, count in skipped.items())}.")
    return tasks


def _split(spec: str) -> tuple[str, str]:
    """Splits `sts:PATH` into ("sts", PATH); returns ("", PATH) if there is no known prefix."""
    prefix, colon, rest = spec.partition(":")
    return (prefix, rest) if colon and prefix in PREFIXES else ("", spec)


def _name(path: str) -> str:
    return source_of(f"{path.rstrip('/')}/data") if not path.endswith(TABLES) else source_of(path)


def _revision(spec: str, columns: Mapping[str, str], protocol: str = "") -> str:
    """Returns a hash of the files and of how they are read."""
    digest = hashlib.sha256(f"{(bool(_split(spec)[0]) and spec, sorted(columns.items()))!r}{protocol}".encode())
    for path in source_files(spec):
        with files.open_file(path) as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:40]


def _values(kind: str, path: str, listed: str, skipped: SkipList, named: Mapping[str, str]) -> list[tuple]:
    by_source = labelled.read_values(kind, [path], tuple(filter(None, listed.split(","))), skipped, named)
    rows = [values for rows in by_source.values() for _, values in rows]
    if len({values[-1] for values in rows}) < 2:
        what = "score" if kind == "sts" else "label"
        raise UserError(f"{path} has fewer than two values of its {what}, so there is nothing to distinguish.")
    return rows


def _labelled(rows: Iterable[tuple], text: str, label: str):
    texts, labels = zip(*rows, strict=True)
    return to_dataset(pa.table({text: texts, label: labels}), **{text: text, label: label})


def _halves(path: str, rows: list[tuple], skipped: SkipList) -> DatasetDict:
    """Splits texts by their hash into halves to train and test on, and keeps only labels that occur in both."""
    tests = [in_share(stable_id(text), 0.5, "test", 0) for text, _ in rows]
    train, test = ([row for row, is_test in zip(rows, tests, strict=True) if is_test == half] for half in (False, True))
    labels = {label for _, label in train} & {label for _, label in test}
    if alone := sum(label not in labels for _, label in rows):
        skipped["to classify, of labels that one half of the texts has alone"] += alone
        train, test = ([row for row in half if row[1] in labels] for half in (train, test))
    if len(labels) < 2:
        raise UserError(f"{path} has too few texts: each label needs some to train on and some to test on.")
    return DatasetDict(train=_labelled(train, "text", "label"), test=_labelled(test, "text", "label"))


def _pairs(path: str, columns: Mapping[str, str], skipped: SkipList) -> tuple[dict, bool]:
    """Returns the data for retrieval among the distinct documents of a file, and whether all its rows are symmetric."""
    alike = True
    queries: dict[str, set[str]] = {}
    documents: dict[str, None] = {}
    for record in open_source(path, "train", skipped, columns=[f"{name}={column}" for name, column in columns.items()]):
        queries.setdefault(record.query, set()).add(record.positive)
        documents.update(dict.fromkeys(record.documents))
        alike = alike and record.symmetric
    if len(documents) < 2:
        raise UserError(f"{path} has a single document, so there is nothing to search.")
    number = {text: f"d{i}" for i, text in enumerate(documents)}
    texts = [(f"q{i}", query, right) for i, (query, right) in enumerate(queries.items())]
    data = _retrieval(
        {number[text]: text for text in documents},
        {query_id: query for query_id, query, _ in texts},
        {query_id: {number[text]: 1.0 for text in right} for query_id, _, right in texts},
    )
    return data, alike


def _collection(folder: str, skipped: SkipList) -> dict:
    queries, documents, scores = beir.read_collection(folder, "test", skipped)
    if broken := [score for by_id in scores.values() for score in by_id.values() if score % 1]:
        raise UserError(
            f"{folder} has a judgement of {broken[0]:g}; mteb scores whole numbers, so multiply or round them."
        )
    data = _retrieval(documents, queries, scores)
    if not any(score > 0 for relevant in data["test"]["relevant_docs"].values() for score in relevant.values()):
        raise UserError(f"{folder} has no query with a right document; check that its ids are those of its qrels.")
    return data


def _retrieval(documents: Mapping[str, str], queries: Mapping[str, str], scores: Mapping[str, dict]) -> dict:
    """Returns the data of a retrieval task from texts by id and the scores of each query's documents."""
    judged = [(query, document, score) for query, by_id in scores.items() for document, score in by_id.items()]
    query_ids, document_ids, values = zip(*judged, strict=True) if judged else ((), (), ())
    corpus = {"_id": list(documents), "title": [""] * len(documents), "text": list(documents.values())}
    data = to_retrieval(
        pa.table(corpus),
        pa.table({"_id": list(queries), "text": list(queries.values())}),
        pa.table({"query_id": query_ids, "corpus_id": document_ids, "score": values}),
    )
    return {"test": data}
