"""Hard negatives: documents near a query that are wrong answers, but not so near that they are likely to be right.

The defaults are those of recipe 3.2, and the rules those of sentence-transformers' `mine_hard_negatives`, which the
authors used. Of the `top` documents nearest to a query, without its right answers, those below both thresholds pass.
The first `skip` of these are left out, and the next `keep` are the negatives. Ties are ordered by document number. A
score equal to a limit does not pass, as the recipe says (in sentence-transformers, it does).
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from f2jax.data.mixture import permute
from f2jax.data.record import stable_id
from f2jax.errors import UserError
from f2jax.inference.top_k import SearchBlocks, TopK
from f2jax.inference.vectors import Vectors, unit_vectors
from f2jax.mine.options import MiningOptions

PAIRS = 8_192  # pairs of query and document to score at once on the host
AHEAD = 2  # blocks of queries at a time: while one sorts, on a single core of a CPU, another multiplies
WALK = 256  # documents that a random draw considers at once
BLOCKS = SearchBlocks(queries=1_024)


Ids = Sequence[int] | np.ndarray
Nearest = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # the first four arguments of `_choose`
NO_PAIRS = np.zeros((0, 2), np.int64)


class Answers:
    """The documents that must not be negatives of a query. Queries and documents are given by number.

    Args:
        queries, documents: their numbers.
        right_r2: pairs of a query and a right document, distinct and ascending; each query has at least one.
        own: for each query, the document with the same text, or -1; default: there are none.
        query_labels_i2, document_labels_i2: pairs of a query, or a document, and a label (from 0), distinct and
            ascending. Documents that share a label with a query are not its negatives. The cost grows with the largest
            number of labels of a query times that of a document.
        query_keys, document_keys: stable ids of their texts, for `false_pairs`.
        false_pairs: `pair_keys` of pairs that are known not to be negatives, ascending.
    """

    def __init__(
        self,
        queries: int,
        documents: int,
        right_r2: np.ndarray,
        own: np.ndarray | None = None,
        query_labels_i2: np.ndarray = NO_PAIRS,
        document_labels_i2: np.ndarray = NO_PAIRS,
        query_keys: np.ndarray | None = None,
        document_keys: np.ndarray | None = None,
        false_pairs: np.ndarray | None = None,
    ):
        counts_q = np.bincount(right_r2[:, 0], minlength=queries)
        self._ends = np.concatenate([[0], np.cumsum(counts_q)])
        self._right = right_r2[:, 1]
        self.most_right = int(counts_q.max(initial=0))  # right documents of one query
        self.own_q = np.full(queries, -1, np.int64) if own is None else own
        labelled = len(query_labels_i2) and len(document_labels_i2)
        self.query_labels_ql = _padded(query_labels_i2 if labelled else NO_PAIRS, queries, -1)
        self.document_labels_cl = _padded(document_labels_i2, documents, -2) if labelled else None
        self._keys, self._false = (query_keys, document_keys), false_pairs

    def is_false(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Returns which pairs are among the `false_pairs`; the arrays are broadcast."""
        query_keys, document_keys = self._keys
        if self._false is None or query_keys is None or document_keys is None:
            return np.zeros(np.broadcast_shapes(queries.shape, documents.shape), bool)
        return is_member(pair_keys(query_keys[queries], document_keys[documents]), self._false)

    def right(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns pairs of a query, counted from `start`, and a right document, both ascending."""
        counts = np.diff(self._ends[start : stop + 1])
        return np.repeat(np.arange(len(counts)), counts), self._right[self._ends[start] : self._ends[stop]]


def pair_keys(query_keys: np.ndarray, document_keys: np.ndarray) -> np.ndarray:
    """Returns uint64 hashes of pairs of texts, given their stable ids; the arrays are broadcast."""
    mixed = np.asarray(query_keys, np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
    return mixed + np.asarray(document_keys, np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)


def _padded(pairs_i2: np.ndarray, count: int, fill: int) -> np.ndarray:
    """int32 [count, most of one]."""
    counts = np.bincount(pairs_i2[:, 0], minlength=count)
    out = np.full((count, int(counts.max(initial=0))), fill, np.int32)
    columns = np.arange(len(pairs_i2)) - np.repeat(np.cumsum(counts) - counts, counts)
    out[pairs_i2[:, 0], columns] = pairs_i2[:, 1]
    return out


@dataclass(frozen=True)
class MinedBlock:
    """The negatives of a block of queries: first the nearest, then those drawn at random."""

    start: int  # number of the first query
    documents_qj: np.ndarray  # int64 [block, keep]; -1 if there are no more
    scores_qj: np.ndarray  # float32 [block, keep]; 0 if there are no more
    counts: Counter  # documents that were rejected, by reason, and that were drawn at random


def mine_negatives(
    queries: Vectors,
    documents: Vectors,
    answers: Answers,
    options: MiningOptions,
    ids: Ids | None = None,
    starts: Sequence[int] | None = None,
    blocks: SearchBlocks = BLOCKS,
) -> Iterator[MinedBlock]:
    """Yields the negatives of the queries, block by block, on all devices of this process.

    Args:
        queries, documents: vectors, not necessarily normalized; scores are cosines.
        ids: stable id of each query, which determines its random draws; default: its number.
        starts: first queries of the blocks to mine; default: all blocks.

    Raises:
        UserError: the widths differ, or a vector is not finite.
    """
    if queries.shape[1] != documents.shape[1]:
        widths = f"{queries.shape[1]} and {documents.shape[1]}"
        raise UserError(f"Vectors of queries and documents have {widths} dimensions; embed both with one model.")
    ids = range(queries.shape[0]) if ids is None else ids
    total, k = queries.shape[0], options.top + answers.most_right
    top_k = TopK(documents, blocks=blocks, labels_cl=answers.document_labels_cl)

    def nearest(first: int) -> Nearest:
        block = slice(first, min(first + top_k.block, total))
        q_qe = unit_vectors(queries, block, "queries")
        return first, q_qe, *top_k(q_qe, k, labels_ql=answers.query_labels_ql[block])

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[Nearest]] = deque()
        for first in range(0, total, top_k.block) if starts is None else starts:
            waiting.append(pool.submit(nearest, first))
            if len(waiting) > AHEAD:
                yield _choose(*waiting.popleft().result(), documents, answers, options, ids)
        while waiting:
            yield _choose(*waiting.popleft().result(), documents, answers, options, ids)


def _choose(
    first: int,
    q_qe: np.ndarray,
    scores_qc: np.ndarray,
    numbers_qc: np.ndarray,
    documents: Vectors,
    answers: Answers,
    options: MiningOptions,
    ids: Ids,
) -> MinedBlock:
    """Chooses the negatives of a block of queries, which starts at `first`, among their nearest documents."""
    count, total = len(q_qe), documents.shape[0]
    # r counts pairs of a query and a right document
    query_r, document_r = answers.right(first, first + count)
    worst_q = np.full(count, np.inf, np.float32)  # score of the worst right answer
    np.minimum.at(worst_q, query_r, _pair_scores(q_qe, documents, query_r, document_r))

    right_qc = is_member(np.arange(count)[:, None] * total + numbers_qc, query_r * total + document_r)
    wrong_qc = ~np.isneginf(scores_qc) & ~right_qc & (numbers_qc != answers.own_q[first : first + count, None])
    high_qc = wrong_qc & (scores_qc >= (np.inf if options.max_score is None else options.max_score))
    near_qc = wrong_qc & ~high_qc & (scores_qc >= _limit(worst_q, options.relative)[:, None])
    false_qc = wrong_qc & ~high_qc & ~near_qc & answers.is_false(np.arange(first, first + count)[:, None], numbers_qc)
    passed_qc = wrong_qc & ~high_qc & ~near_qc & ~false_qc
    slot_qc = np.cumsum(passed_qc, axis=1) - 1 - options.skip
    rejected = {"max_score": high_qc, "relative": near_qc, "rated": false_qc}
    counts = Counter({name: int(some_qc.sum()) for name, some_qc in rejected.items()} | {"random": 0})

    documents_qj = np.full((count, options.keep), -1, np.int64)
    scores_qj = np.zeros(documents_qj.shape, np.float32)
    rows, columns = np.nonzero(passed_qc & (slot_qc >= 0) & (slot_qc < options.keep))
    slots = slot_qc[rows, columns]
    documents_qj[rows, slots] = numbers_qc[rows, columns]
    scores_qj[rows, slots] = scores_qc[rows, columns]

    if options.fewer == "random":
        never_qc = np.where(passed_qc, -1, numbers_qc)
        for row in np.flatnonzero(documents_qj[:, -1] < 0).tolist():
            drawn = _draw(first + row, documents_qj[row], never_qc[row], total, answers, options.seed, ids)
            empty = np.flatnonzero(documents_qj[row] < 0)[: len(drawn)]
            documents_qj[row, empty] = drawn
            scores_qj[row, empty] = _pair_scores(q_qe, documents, np.full(len(drawn), row), drawn)
            counts["random"] += len(drawn)
    return MinedBlock(first, documents_qj, scores_qj, counts)


def places_in(ascending: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns the indices of values in an ascending array, or -1 for values that are not in it."""
    if not len(ascending):
        return np.full(x.shape, -1)
    places = np.minimum(np.searchsorted(ascending, x), len(ascending) - 1)
    return np.where(ascending[places] == x, places, -1)


def is_member(x: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Returns `np.isin` for sorted values."""
    return places_in(ascending, x) >= 0


def _limit(worst_q: np.ndarray, relative: float | None) -> np.ndarray:
    """Returns `relative` × the score of the right answer; if that is negative, a score equally far below it."""
    return worst_q - (np.abs(worst_q) * (1 - relative) if relative is not None else -np.inf)


def _pair_scores(q_qe: np.ndarray, documents: Vectors, query_r: np.ndarray, document_r: np.ndarray) -> np.ndarray:
    """Returns the cosines [r] of pairs of a query of the block and a document."""
    out_r = np.empty(len(query_r), np.float32)
    for start in range(0, len(query_r), PAIRS):
        piece = slice(start, start + PAIRS)
        d_re = unit_vectors(documents, document_r[piece], "documents")
        out_r[piece] = np.einsum("re,re->r", q_qe[query_r[piece]], d_re)
    return out_r


def _draw(
    query: int,
    chosen: np.ndarray,
    never: np.ndarray,
    total: int,
    answers: Answers,
    seed: int,
    ids: Ids,
) -> np.ndarray:
    """Fills the empty places of `chosen` with the first eligible documents in an order given by seed and query id."""
    labels_l, labels_cl = answers.query_labels_ql[query], answers.document_labels_cl
    _, right = answers.right(query, query + 1)
    taken = np.concatenate([chosen, never, right, answers.own_q[query : query + 1]])
    wanted, key = int((chosen < 0).sum()), stable_id(f"random negatives {seed} {ids[query]}")
    drawn = np.empty(0, np.int64)
    for start in range(0, total, WALK):
        walk = permute(np.arange(start, min(start + WALK, total)), total, key)
        walk = walk[~np.isin(walk, taken)]
        walk = walk[~answers.is_false(np.array([query]), walk)]
        if labels_cl is not None:
            walk = walk[~np.isin(labels_cl[walk], labels_l).any(axis=1)]
        drawn = np.concatenate([drawn, walk])[:wanted]
        if len(drawn) == wanted:
            break
    return drawn
