"""Search in two passes (the paper's dynamic retrieval): all documents by a few dimensions, then a few by all.

The first pass finds the `candidates` nearest documents by the first `dims` dimensions, optionally quantized. The second
ranks these by the cosine of all dimensions. Each pass is exact, so a document can be missed only if the first `dims`
dimensions rank it too low; `recall` measures how often that happens.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from f2jax.errors import UserError
from f2jax.inference.top_k import BLOCKS, SearchBlocks, TopK
from f2jax.inference.vectors import Vectors, unit_vectors
from f2jax.search.options import SearchOptions

EQUAL = 1e-6  # scores that differ by less count as equal, because the passes sum in different orders


OPTIONS = SearchOptions()


@dataclass(frozen=True)
class SearchResult:
    """The documents found for a block of queries, nearest first; ties are in the order of their numbers."""

    scores_qk: np.ndarray  # float32, cosines; -inf if there are no more documents
    numbers_qk: np.ndarray  # int32; -1 if there are no more documents
    first_pass: float = 0.0  # seconds
    second_pass: float = 0.0


class Search:
    """A search in documents [c, e] of any float type, not necessarily normalized; an `np.memmap` stays on disk.

    >>> search = Search(np.load("documents.npy", mmap_mode="r"), SearchOptions(k=5))
    >>> search(model.encode_query(["where is Kenya?"])).numbers_qk

    Raises:
        UserError: an option does not fit the documents.
    """

    def __init__(self, documents: Vectors, options: SearchOptions = OPTIONS, blocks: SearchBlocks = BLOCKS):
        self.documents, self.options = documents, options.for_width(documents.shape[1])
        self._first = TopK(documents, self.options.dims, options.precision, options.approximate, blocks)

    def blocks(self, queries: Vectors) -> Iterator[SearchResult]:
        """Yields the results for queries [q, e], block by block.

        Raises:
            UserError: the widths differ, or a vector is not finite.
        """
        check_widths(queries, self.documents)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for at in range(0, queries.shape[0], self._first.block):
                q_qe = unit_vectors(queries, slice(at, at + self._first.block), "queries")
                start = time.perf_counter()
                _, candidates_qc = self._first(q_qe, min(self.options.candidates, self.documents.shape[0]))
                middle = time.perf_counter()
                # On the host: sending the vectors to a device would take longer than multiplying them.
                ranked = list(pool.map(self._rank, q_qe, candidates_qc))
                scores_qk, numbers_qk = (np.stack(values) for values in zip(*ranked, strict=True))
                yield SearchResult(scores_qk, numbers_qk, middle - start, time.perf_counter() - middle)

    def __call__(self, queries: Vectors) -> SearchResult:
        """Returns the result for queries [q, e].

        Raises:
            UserError: the widths differ, or a vector is not finite.
        """
        return join_blocks(self.blocks(queries), self.options.k)

    def _rank(self, q_e: np.ndarray, candidates_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cosines [k] and numbers [k] of the candidates nearest to a query."""
        numbers_c = np.sort(candidates_c[candidates_c >= 0])
        # Not BLAS, which starts its own threads above some 450 documents; they compete with those of the pool.
        scores_c = np.einsum("ce,e->c", unit_vectors(self.documents, numbers_c, "documents"), q_e)
        order_k = np.argsort(-scores_c, kind="stable")[: self.options.k]
        rest = self.options.k - len(order_k)
        scores_k = np.pad(scores_c[order_k], (0, rest), constant_values=-np.inf)
        return scores_k, np.pad(numbers_c[order_k], (0, rest), constant_values=-1)


def join_blocks(blocks: Iterable[SearchResult], k: int) -> SearchResult:
    """Returns the results of all blocks as one."""
    results = [SearchResult(np.empty((0, k), np.float32), np.empty((0, k), np.int32)), *blocks]
    return SearchResult(
        np.concatenate([block.scores_qk for block in results]),
        np.concatenate([block.numbers_qk for block in results]),
        sum(block.first_pass for block in results),
        sum(block.second_pass for block in results),
    )


def exact_search(
    queries: Vectors,
    documents: Vectors,
    k: int,
    progress: Callable[[int], None] = lambda documents: None,
) -> SearchResult:
    """Searches by all dimensions in one pass, as the reference for `recall`.

    Args:
        progress: called for each block of queries with the number of documents compared.

    Raises:
        UserError: k is not positive, the widths differ, or a vector is not finite.
    """
    check_widths(queries, documents)
    start = time.perf_counter()
    nearest = TopK(documents)(queries, k, progress)
    return SearchResult(*nearest, first_pass=time.perf_counter() - start)


def recall(result: SearchResult, exact: SearchResult) -> float:
    """Returns the share of the nearest documents that were found; ties with the last of them count as found."""
    last_q1 = np.where(np.isneginf(exact.scores_qk), np.inf, exact.scores_qk).min(axis=1, keepdims=True)
    hits = (result.scores_qk >= last_q1 - EQUAL).sum()
    return float(hits / np.isfinite(exact.scores_qk).sum())


def check_widths(queries: Vectors, documents: Vectors) -> None:
    """Raises UserError if queries and documents have different numbers of dimensions."""
    if queries.shape[1] != documents.shape[1]:
        widths = f"{queries.shape[1]} and {documents.shape[1]}"
        raise UserError(f"Queries and documents have {widths} dimensions; embed both with one model.")
