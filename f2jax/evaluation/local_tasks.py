"""What the local tasks share: they lie in parquet files of a data folder and are scored by mteb's own task types."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import mteb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from mteb.abstasks.task_metadata import TaskMetadata
from threadpoolctl import threadpool_limits

from f2jax.errors import UserError

# ISO 15924 scripts of languages that are not in Latin script, where the data names the language alone.
SCRIPTS = {
    "ara": "Arab", "ell": "Grek", "hin": "Deva", "jpn": "Jpan",
    "kor": "Hang", "rus": "Cyrl", "tha": "Thai", "zho": "Hans",
}  # fmt: skip


def tag(language: str) -> str:
    """The tag of an ISO 639-3 language: zho → zho-Hans, deu → deu-Latn."""
    return f"{language}-{SCRIPTS.get(language, 'Latn')}"


def like(original: str, name: str, description: str) -> TaskMetadata:
    """The metadata of a task of mteb for another selection of its data; mteb's prompt for it holds here too."""
    metadata = mteb.get_task(original).metadata
    changes = {"name": name, "description": description, "adapted_from": [original], "superseded_by": None}
    return metadata.model_copy(update=changes | {"eval_splits": ["test"]})


class LocalTask:
    """To be mixed in before a task type of mteb.

    A task names its `files` and reads them in `subsets`: {subset: (language tags, data)} where data is what the task
    type keeps for a subset. The revision of the data set is a hash of the files.

    Raises:
        UserError: a file is missing or cannot be read.
    """

    files: Sequence[str]  # below the data folder

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.found = self.subsets()
        self.metadata = type(self).metadata.model_copy(
            update={
                "dataset": {"path": f"local/{self.files[0]}", "revision": self._revision()},
                "eval_langs": {name: languages for name, (languages, _) in self.found.items()},
            }
        )
        super().__init__()

    @abstractmethod
    def subsets(self) -> dict[str, tuple[list[str], dict]]:
        """{subset: (language tags, {split: data})}"""

    def load_data(self, num_proc=None, **kwargs) -> None:
        """mteb asks for the data so."""
        if not self.data_loaded:
            self.dataset = {name: data for name, (_, data) in self.found.items()}
            self.data_loaded = True

    def evaluate(self, *args, **kwargs) -> dict:
        """As mteb does, in one thread: thousands of tiny fits, for which threads cost more than they bring."""
        with threadpool_limits(1):
            return super().evaluate(*args, **kwargs)

    def table(self, number: int = 0) -> pa.Table:
        """One of the files."""
        return read(str(self.folder / self.files[number]))

    def _revision(self) -> str:
        digest = hashlib.sha256()
        for number, name in enumerate(self.files):
            self.table(number)  # raises where the file is missing
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()[:40]


@cache
def read(path: str) -> pa.Table:
    """A parquet file. Raises UserError where it cannot be read."""
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); --data should name the folder of the sets.") from error


def groups(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """(value, rows) for each value of a column, in alphabetical order; rows keep their order."""
    values = table[column]
    for value in sorted(pc.unique(values).to_pylist()):
        yield value, table.filter(pc.equal(values, value))


def dataset(table: pa.Table, **columns: str) -> Dataset:
    """Rows as mteb reads them; `columns` gives each new name its column."""
    return Dataset.from_dict({new: table[old].to_pylist() for new, old in columns.items()})


def retrieval(corpus: pa.Table, queries: pa.Table, qrels: pa.Table) -> dict:
    """The data of a retrieval subset; relevance pairs of other documents or queries are left out."""
    documents, questions = set(corpus["_id"].to_pylist()), set(queries["_id"].to_pylist())
    relevant: dict[str, dict[str, int]] = {}
    for row in qrels.to_pylist():
        if row["query_id"] in questions and row["corpus_id"] in documents:
            relevant.setdefault(row["query_id"], {})[row["corpus_id"]] = int(row["score"])
    return {
        "corpus": dataset(corpus, id="_id", title="title", text="text"),
        "queries": dataset(queries, id="_id", text="text"),
        "relevant_docs": relevant,
        "top_ranked": None,
    }
