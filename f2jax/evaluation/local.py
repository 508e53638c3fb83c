"""Evaluation tasks on data in a local folder, scored by mteb's own task types.

Each task reads parquet files in the data folder. To add a task, write its class and list it in `TASKS`.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mteb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskBitextMining,
    AbsTaskClustering,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType
from threadpoolctl import threadpool_limits

from f2jax.errors import UserError
from f2jax.evaluation.rows import Classification, to_dataset

TEXT_COLUMNS = ("sentence1", "sentence2", "sentences")
Subsets = dict[str, tuple[list[str], Any]]  # {subset: (language tags, data in the task type's form)}

# ISO 15924 scripts of languages that are not written in Latin script, for data that state only the language.
SCRIPTS = {
    "ara": "Arab", "ell": "Grek", "hin": "Deva", "jpn": "Jpan",
    "kor": "Hang", "rus": "Cyrl", "tha": "Thai", "zho": "Hans",
}  # fmt: skip


def language_tag(language: str) -> str:
    """Returns mteb's tag for an ISO 639-3 language: zho → zho-Hans, deu → deu-Latn."""
    return f"{language}-{SCRIPTS.get(language, 'Latn')}"


def adapt_metadata(original: str, name: str, description: str) -> TaskMetadata:
    """Returns the metadata of an mteb task for another selection of its data; its prompt stays valid."""
    metadata = mteb.get_task(original).metadata
    changes = {"name": name, "description": description, "adapted_from": [original], "superseded_by": None}
    return metadata.model_copy(update=changes | {"eval_splits": ["test"]})


class LocalTask(AbsTask):
    """Base class of the local tasks; a subclass has one of mteb's task types as its second base.

    A subclass sets `paths` and returns its data from `subsets`. The revision of the data set is a hash of the protocol
    and the files, so that results on different data are not confused.

    Raises:
        UserError: a file is missing or cannot be read.
    """

    paths: Sequence[str]  # parquet files below the data folder
    protocol = ""  # changes if the same files are scored in a new way

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._subsets = self.subsets()
        self.metadata = type(self).metadata.model_copy(
            update={
                "dataset": {"path": f"local/{self.paths[0]}", "revision": self._revision()},
                "eval_langs": {name: languages for name, (languages, _) in self._subsets.items()},
            }
        )
        super().__init__()

    @abstractmethod
    def subsets(self) -> Subsets:
        """Returns the language tags and the data of each subset."""

    def load_data(self, num_proc=None, **kwargs) -> None:
        """Sets `dataset`; mteb calls this before it reads it."""
        if not self.data_loaded:
            self.dataset = {name: data for name, (_, data) in self._subsets.items()}
            self.data_loaded = True

    def evaluate(self, *args, **kwargs):
        """Scores as mteb does, but in one thread, which is faster for thousands of tiny fits."""
        with threadpool_limits(1):
            return super().evaluate(*args, **kwargs)

    def texts(self) -> Iterator[tuple[PromptType | None, list[str]]]:
        """Yields the texts to encode for the chosen subsets, with their role in retrieval."""
        for _, data in (self._subsets[name] for name in self.hf_subsets):
            if not isinstance(data, DatasetDict):  # retrieval
                corpus, queries = data["test"]["corpus"], data["test"]["queries"]
                yield PromptType.query, queries["text"]
                titled = zip(corpus["title"], corpus["text"], strict=True)
                yield PromptType.document, [f"{title} {text}".strip() for title, text in titled]
            elif isinstance(self, Classification):
                texts = data["train"]["text"]
                yield None, [texts[row] for row in set().union(*self.draws(data["train"]))] + data["test"]["text"]
            else:
                yield from ((None, data["test"][name]) for name in data["test"].column_names if name in TEXT_COLUMNS)

    def table(self, number: int = 0) -> pa.Table:
        """Returns the content of one of the files."""
        return read_parquet(str(self.folder / self.paths[number]))

    def _revision(self) -> str:
        digest = hashlib.sha256(self.protocol.encode())
        for number, name in enumerate(self.paths):
            self.table(number)  # raises if the file is missing
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:40]


@cache
def read_parquet(path: str) -> pa.Table:
    """Returns the rows of a parquet file; raises UserError if it cannot be read."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read ({reason}); a folder in --data should hold the files of the local tasks. Name your "
            "own files one by one, such as faq.csv, or as beir:FOLDER."
        ) from error


def split_by(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Yields (value, rows) for each value of a column, in alphabetical order; rows keep their order."""
    for value in sorted(pc.unique(table[column]).to_pylist()):
        yield value, table.filter(pc.equal(table[column], value))


def to_retrieval(corpus: pa.Table, queries: pa.Table, qrels: pa.Table) -> dict:
    """Returns the data of a retrieval subset, without relevance judgements of other documents or queries."""
    document_ids, query_ids = set(corpus["_id"].to_pylist()), set(queries["_id"].to_pylist())
    relevant: dict[str, dict[str, int]] = {}
    for row in qrels.to_pylist():
        if row["query_id"] in query_ids and row["corpus_id"] in document_ids:
            relevant.setdefault(row["query_id"], {})[row["corpus_id"]] = int(row["score"])
    return {
        "corpus": to_dataset(corpus, id="_id", title="title", text="text"),
        "queries": to_dataset(queries, id="_id", text="text"),
        "relevant_docs": relevant,
        "top_ranked": None,
    }


class Tatoeba(LocalTask, AbsTaskBitextMining):
    """Finds the English translation of a sentence among the translations of all sentences in its language."""

    metadata = adapt_metadata(
        "Tatoeba", "Tatoeba.local", "Up to 1,000 sentences with their English translation, 112 languages."
    )
    paths = ("eval-tatoeba/bitext.parquet",)

    def subsets(self) -> Subsets:
        languages = mteb.get_task("Tatoeba").metadata.hf_subsets_to_langscripts
        return {
            pair: (
                languages[pair],
                DatasetDict(test=to_dataset(rows, sentence1="sentence1", sentence2="sentence2")),
            )
            for pair, rows in split_by(self.table(), "subset")
        }


class STSB(LocalTask, AbsTaskSTS):
    """The STS benchmark in 14 languages: correlation of cosines with human scores of sentence pairs."""

    metadata = adapt_metadata(
        "STSBenchmarkMultilingualSTS",
        "STSB.local",
        "Test pairs of the STS benchmark in 14 languages, without the parts MSRpar, MSRvid and deft-*.",
    )
    paths = ("eval-stsb-multi/sts.parquet",)

    def subsets(self) -> Subsets:
        test = self.table().filter(pc.field("split") == "test")
        columns = {name: name for name in ("sentence1", "sentence2", "score")}
        return {
            language: ([language_tag(language)], DatasetDict(test=to_dataset(rows, **columns)))
            for language, rows in split_by(test, "language")
        }


class Banking77(LocalTask, Classification):
    """Classifies a customer's question into 77 intents, with ten classifiers on eight questions per intent."""

    metadata = adapt_metadata(
        "Banking77Classification", "Banking77.local", "Questions to a bank in 77 intents, as published."
    )
    paths = ("eval-banking77/data.parquet",)

    def subsets(self) -> Subsets:
        splits = {
            split: to_dataset(self.table().filter(pc.field("split") == split), text="text", label="label")
            for split in ("train", "test")
        }
        return {"default": (["eng-Latn"], DatasetDict(splits))}


SIB200_DEV, SIB200_TRAIN = "eval-sib200-dev/data.parquet", "sib200-topics/train.parquet"


def sib200_variants(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yields (ace_Arab, rows) for each language in each of its scripts."""
    for language, rows in split_by(table, "language"):
        for script, written in split_by(rows, "script"):
            yield f"{language}_{script}", written


def topics(table: pa.Table) -> pa.Table:
    """Returns each training sentence of a variant once, with its topic, which both texts of a clustering row have."""
    pairs = table.filter(pc.field("kind") == "clustering")
    sides = [table.select(["query", "subset", "label"]), pairs.select(["positive", "subset", "label"])]
    merged = pa.concat_tables([side.rename_columns(["text", "subset", "label"]) for side in sides])
    return (
        merged.group_by(["text", "subset"], use_threads=False)
        .aggregate([("label", "first")])
        .rename_columns(["text", "subset", "label"])
    )


class SIB200(LocalTask, Classification):
    """Classifies the topic of a sentence in 205 language variants, with ten classifiers on eight sentences per topic.

    The sentences are drawn from all training sentences with a known topic; a topic with fewer than eight uses all.
    """

    metadata = adapt_metadata(
        "SIB200Classification.v3", "SIB200.local", "Seven topics of the dev sentences, fitted on train ones."
    )
    paths = (SIB200_DEV, SIB200_TRAIN)
    protocol = "ten draws of eight sentences a topic"

    def subsets(self) -> Subsets:
        train = dict(split_by(topics(self.table(1)), "subset"))
        return {
            name: (
                [name.replace("_", "-")],
                DatasetDict(
                    train=to_dataset(train[name], text="text", label="label"),
                    test=to_dataset(rows, text="text", label="label"),
                ),
            )
            for name, rows in sib200_variants(self.table())
        }


class SIB200Clustering(LocalTask, AbsTaskClustering):
    """k-means with k = 7 on samples of the 99 sentences of a language, drawn with replacement as in mteb."""

    metadata = adapt_metadata(
        "SIB200ClusteringS2S", "SIB200Clustering.local", "Topics of the dev sentences as clusters."
    )
    paths = (SIB200_DEV,)
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 99
    n_clusters = 10

    def subsets(self) -> Subsets:
        return {
            name: ([name.replace("_", "-")], DatasetDict(test=to_dataset(rows, sentences="text", labels="label")))
            for name, rows in sib200_variants(self.table())
        }


class XQuAD(LocalTask, AbsTaskRetrieval):
    """Finds the paragraph that answers a question, among all paragraphs in the same language."""

    metadata = adapt_metadata(
        "XQuADRetrieval", "XQuAD.local", "1,190 questions on 240 paragraphs, in each of 12 languages."
    )
    paths = ("eval-xquad/corpus.parquet", "eval-xquad/queries.parquet", "eval-xquad/qrels.parquet")

    def subsets(self) -> Subsets:
        corpus, queries, qrels = (self.table(number) for number in range(3))
        return {
            language: (
                [language_tag(language)],
                {"test": to_retrieval(rows, queries.filter(pc.field("language") == language), qrels)},
            )
            for language, rows in split_by(corpus, "language")
        }


class HumanEvalX(LocalTask, AbsTaskRetrieval):
    """Finds the solution of a problem stated in English, among all solutions in one programming language."""

    metadata = adapt_metadata(
        "HumanEvalRetrieval", "HumanEvalX.local", "164 problems and their solutions in six languages."
    )
    paths = ("eval-humaneval-x/corpus.parquet", "eval-humaneval-x/queries.parquet", "eval-humaneval-x/qrels.parquet")

    def subsets(self) -> Subsets:
        corpus, queries, qrels = (self.table(number) for number in range(3))
        tags = {"cpp": "c++"}  # mteb's spelling
        subsets: Subsets = {}
        for code, rows in split_by(corpus, "language"):
            name = code.removeprefix("code:")
            subsets[name] = (["eng-Latn", f"{tags.get(name, name)}-Code"], {"test": to_retrieval(rows, queries, qrels)})
        return subsets


TASKS: dict[str, type[LocalTask]] = {
    task.metadata.name: task for task in (Tatoeba, STSB, Banking77, SIB200, SIB200Clustering, XQuAD, HumanEvalX)
}
