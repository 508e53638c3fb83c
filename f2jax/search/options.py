"""The options of `f2jax search`: documents, queries, the two passes, and where results go."""

from dataclasses import dataclass, replace
from typing import Literal

from f2jax.errors import UserError, check_choices
from f2jax.inference.options import Dtype

DIMS = 64  # of the first pass, where there are as many


@dataclass(frozen=True)
class DocumentOptions:
    """Documents: vectors, texts, both in the same order, or a folder of texts."""

    vectors: str | None = None  # .npy of floats, a row per document; made from --documents if it is missing
    documents: str | None = None  # .txt (a text per line), or rows as .jsonl, .csv, .parquet …; see --column
    folder: str | None = None  # folder of text files (.txt, .md, .rst, .org, .tex), searched by passage


@dataclass(frozen=True)
class QueryOptions:
    """Queries, and how texts are read and embedded."""

    queries: str | None = None  # .npy of vectors, or texts like --documents
    query: tuple[str, ...] = ()  # texts, instead of --queries
    column: str = "text"  # field of the text in .jsonl and .parquet
    model: str | None = None  # folder, hub id, gs:// path, workdir (RUN, RUN@STEP or RUN@best), or the built-in mini
    dtype: Dtype = "float32"  # type of weights and matmuls
    batch_size: int = 1024  # maximum number of texts in a device batch


@dataclass(frozen=True)
class SearchOptions:
    """How documents are found: the first pass by a few dimensions, the second by all.

    Raises:
        UserError: a value is out of range.
    """

    k: int = 10  # documents to find for a query
    dims: int | None = None  # dimensions of the first pass; None: 64, or all if there are fewer
    candidates: int = 200  # documents that the first pass leaves to the second
    precision: Literal["float32", "int8", "binary"] = "float32"  # precision of the first pass
    approximate: float | None = None  # share of the candidates that a TPU's approx_max_k is to find; None: all

    def __post_init__(self):
        check_choices(self)
        if self.k < 1:
            raise UserError(f"k={self.k} should be at least 1.")
        if self.candidates < self.k:
            raise UserError(f"candidates={self.candidates} should be at least k={self.k}.")

    def first_dims(self, width: int) -> int:
        """Returns the dimensions of the first pass for vectors of `width` dimensions."""
        return min(DIMS, width) if self.dims is None else self.dims

    def for_width(self, width: int) -> "SearchOptions":
        """Returns the options for vectors of `width` dimensions: `dims` is a number."""
        return replace(self, dims=self.first_dims(width))


@dataclass(frozen=True)
class ResultOptions:
    """Results."""

    output: str | None = None  # .jsonl file with an object for each query; None: print them
    recall_queries: int = 100  # queries to compare with an exact search by all dimensions
    serve: bool = False  # serve a page to search in, on this machine only
    port: int = 8000  # port of the page; 0: any free one
    store: str | None = None  # Postgres: a folder, or the postgresql:// address of a server; filled and searched
    exact: bool = False  # search all of the store's documents in the first pass, without its index
