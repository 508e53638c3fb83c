"""The options of `f2jax search`: documents, queries, the two passes, and where results go."""

from dataclasses import dataclass, replace
from typing import Literal

from f2jax.errors import UserError, check_choices
from f2jax.inference.options import Dtype

DIMS = 64  # default dimensions of the first pass, if there are as many


@dataclass(frozen=True)
class DocumentOptions:
    """Documents: a file of vectors, of texts, or both in the same order; or a folder of texts."""

    vectors: str | None = None  # .npy file of floats with a row for each document; made from --documents if missing
    documents: str | None = None  # .txt (one text per line), or rows as .jsonl, .csv, .parquet … (see --column)
    folder: str | None = None  # folder of text files (.txt, .md, .rst, .org, .tex), searched passage by passage


@dataclass(frozen=True)
class QueryOptions:
    """Queries, and the model."""

    queries: str | None = None  # .npy file of vectors, or a file of texts like --documents
    query: tuple[str, ...] = ()  # queries themselves, instead of --queries
    column: str = "text"  # column with the text, in files of rows
    model: str | None = None  # a folder, hub id, gs:// path or workdir (RUN, RUN@STEP, RUN@best), or mini
    dtype: Dtype = "float32"  # precision of the weights and the computation
    batch_size: int = 1024  # largest number of texts in a batch


@dataclass(frozen=True)
class SearchOptions:
    """Search: the first pass compares a few dimensions, the second all of them.

    Raises:
        UserError: a value is out of range.
    """

    k: int = 10  # number of documents to find for each query
    dims: int | None = None  # number of dimensions in the first pass; None: 64, or all if there are fewer
    candidates: int = 200  # number of documents that the first pass selects for the second
    precision: Literal["float32", "int8", "binary"] = "float32"  # precision of the first pass
    approximate: float | None = None  # share of the candidates that approx_max_k should find, for TPUs; None: all

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
        """Returns the options with `dims` filled in for vectors of `width` dimensions."""
        return replace(self, dims=self.first_dims(width))


@dataclass(frozen=True)
class ResultOptions:
    """Results."""

    output: str | None = None  # .jsonl file with an object for each query; None: print the results
    recall_queries: int = 100  # number of queries to compare with an exact search by all dimensions
    serve: bool = False  # serve a search page on this machine
    port: int = 8000  # port of the page; 0: any free port
    store: str | None = None  # fill and search Postgres, in a folder or at a postgresql:// address
    exact: bool = False  # do not use the index of the store, so that the first pass is exact
