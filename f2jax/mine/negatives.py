"""Hard negatives: the documents nearest to a query that are wrong answers, and not so near that they may be right ones.

The defaults are the recipe's (3.2), the rules those of sentence-transformers' `mine_hard_negatives`, with which the
authors mined. Of the `top` documents nearest to a query, beside its right answers, those below both thresholds pass;
the first `skip` that pass are left out, the next `keep` are its negatives. Equal scores go by document number. A score
that equals a limit does not pass, as the recipe says (there it does).

Documents pass the devices block by block, and only the nearest of each query stay: the memory of a device does not grow
with the data.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.data.mixture import permute
from f2jax.data.record import stable_id
from f2jax.errors import UserError
from f2jax.inference.vectors import Vectors, unit_vectors
from f2jax.mine.options import MiningOptions

GROUP = 16  # documents whose highest score stands for them in the first round
PAIRS = 8_192  # of query and document, scored at once on the host
AHEAD = 2  # blocks of queries at work: while one sorts, which on a CPU keeps one core busy, the other multiplies
WALK = 256  # documents that a random draw looks at, at once


@dataclass(frozen=True)
class Blocks:
    """How much is worked on at once.

    For each of two blocks of queries a device holds `queries` x `documents` scores, 128 MiB by default, and as many
    documents; and up to `resident` bytes of documents that are then not read again for each block of queries.
    """

    queries: int = 1_024  # of each device
    documents: int = 32_768
    resident: int = 2**30


BLOCKS = Blocks()


class Answers:
    """What is never a negative of a query. Queries and documents go by number.

    Args:
        right: the right documents of each query, at least one, each once.
        own: for each query the document with the same text, -1 where there is none; default: nowhere.
        query_labels, document_labels: labels (numbers from 0) of each query and each document; a document that shares
            one with the query is no negative. Scores are compared once for each pair of a query's and a document's
            label, counted by the texts that have most.
    """

    def __init__(
        self,
        right: Sequence[Sequence[int]],
        own: np.ndarray | None = None,
        query_labels: Sequence[Sequence[int]] = (),
        document_labels: Sequence[Sequence[int]] = (),
    ):
        self._ends = np.cumsum([0, *(len(some) for some in right)])
        self._right = np.fromiter((number for some in right for number in sorted(some)), np.int64, self._ends[-1])
        self.most = max((len(some) for some in right), default=0)  # right documents of one query
        self.own_q = np.full(len(right), -1, np.int64) if own is None else own
        self.query_labels_ql = _padded(query_labels, -1)
        self.document_labels_dl = _padded(document_labels, -2)

    def right(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(query, counted from `start`; right document), both ascending."""
        counts = np.diff(self._ends[start : stop + 1])
        return np.repeat(np.arange(len(counts)), counts), self._right[self._ends[start] : self._ends[stop]]


def _padded(lists: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """int32 [n, longest]."""
    out = np.full((len(lists), max((len(some) for some in lists), default=0)), fill, np.int32)
    for row, some in zip(out, lists, strict=True):
        row[: len(some)] = some
    return out


@dataclass(frozen=True)
class Mined:
    """The negatives of a block of queries: nearest first, then those drawn at random."""

    start: int  # number of the first query
    documents_bk: np.ndarray  # int64 [block, keep]; -1 where there is none
    scores_bk: np.ndarray  # float32 [block, keep]; 0 where there is none
    counts: Counter  # documents that were rejected, by reason, and that were drawn at random


def mine_negatives(
    queries: Vectors,
    documents: Vectors,
    answers: Answers,
    options: MiningOptions,
    ids: Sequence[int] | None = None,
    start: int = 0,
    blocks: Blocks = BLOCKS,
) -> Iterator[Mined]:
    """Negatives of the queries from number `start` on, block by block, on all devices of this process.

    Args:
        queries, documents: vectors, of length 1 or not: scores are cosines.
        ids: a stable id of each query, by which it draws at random; default: its number.

    Raises:
        UserError: the widths differ, or a vector is not finite.
    """
    if queries.shape[1] != documents.shape[1]:
        widths = f"{queries.shape[1]} and {documents.shape[1]}"
        raise UserError(f"Vectors of queries and documents have {widths} dimensions; embed both with one model.")
    ids = range(queries.shape[0]) if ids is None else ids
    search = _Search(queries, documents, answers, options.top + answers.most, blocks)
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future] = deque()
        for first in range(start, queries.shape[0], search.block):
            waiting.append(pool.submit(search.nearest, first))
            if len(waiting) > AHEAD:
                yield _choose(waiting.popleft().result(), queries, documents, answers, options, ids)
        while waiting:
            yield _choose(waiting.popleft().result(), queries, documents, answers, options, ids)


# On the devices

SHARED = PartitionSpec("queries")  # the first axis of an array is shared out over the devices
WHOLE = PartitionSpec()  # each device has all of it


class _Search:
    """The `k` nearest documents of a block of queries, right ones among them. The devices share the queries."""

    def __init__(
        self,
        queries: Vectors,
        documents: Vectors,
        answers: Answers,
        k: int,
        blocks: Blocks,
    ):
        self.queries, self.documents, self.answers = queries, documents, answers
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), "queries")
        self._shared, self._whole = NamedSharding(mesh, SHARED), NamedSharding(mesh, WHOLE)
        self._merge = _on(mesh)
        self.block = len(devices) * _size(-(-queries.shape[0] // len(devices)), blocks.queries)
        self._k, self._documents = k, _size(documents.shape[0], blocks.documents, GROUP)
        self._resident = blocks.resident // (self._documents * documents.shape[1] * 4)
        self._kept: dict[int, tuple] = {}
        self._loading = Lock()

    def nearest(self, first: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        """(first query, one past the last, scores and document numbers [block, k], highest first).

        The score is -inf where there is no further document.
        """
        stop = min(first + self.block, self.queries.shape[0])
        q_be = unit_vectors(self.queries, slice(first, stop), "queries")
        rows = (
            _filled(q_be, self.block),
            _filled(_labels(self.answers.query_labels_ql, first, stop), self.block),
            np.full((self.block, self._k), -np.inf, np.float32),
            np.full((self.block, self._k), -1, np.int32),
        )
        q_qe, labels_ql, *best = jax.device_put(rows, self._shared)
        for offset in range(0, self.documents.shape[0], self._documents):
            with self._loading:
                block = self._load(offset)
            jax.block_until_ready(best)  # one block of documents at work and one in waiting, no more
            best = self._merge(*best, q_qe, labels_ql, *block)
        return first, stop, *(np.asarray(x)[: stop - first] for x in best)

    def _load(self, offset: int) -> tuple:
        """A block of documents on the devices: vectors, labels, number of its first document and one past its last."""
        if offset not in self._kept:
            stop = min(offset + self._documents, self.documents.shape[0])
            d_de = unit_vectors(self.documents, slice(offset, stop), "documents")
            labels_dl = _labels(self.answers.document_labels_dl, offset, stop)
            grouped = [_grouped(_filled(x, self._documents)) for x in (d_de, labels_dl)]
            block = (*jax.device_put(grouped, self._whole), offset, stop)
            if len(self._kept) >= self._resident:
                return block
            self._kept[offset] = block
        return self._kept[offset]


def _size(n: int, most: int, multiple: int = 1) -> int:
    """The size of equal blocks that hold `n` with little waste; few different sizes, so that few programs compile."""
    step = max(most // 16 // multiple, 1) * multiple
    block = -(-n // -(-n // most))
    return -(-block // step) * step


def _labels(labels_nl: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The labels from `start` to `stop`, [n, 0] where nothing has a label."""
    return labels_nl[start:stop].reshape(stop - start, labels_nl.shape[1])


def _filled(x: np.ndarray, rows: int) -> np.ndarray:
    """As many rows as a full block has; the last is repeated."""
    return x if len(x) == rows else np.pad(x, ((0, rows - len(x)), (0, 0)), mode="edge")


def _grouped(x_de: np.ndarray) -> np.ndarray:
    """[documents, e] → [GROUP, groups, e]: the documents of a group follow each other in number."""
    return np.ascontiguousarray(x_de.reshape(len(x_de) // GROUP, GROUP, x_de.shape[1]).swapaxes(0, 1))


@lru_cache
def _on(mesh: Mesh) -> Callable:
    """`_merge`, compiled for devices that need nothing from each other."""
    specs = (*[SHARED] * 4, *[WHOLE] * 4)
    return jax.jit(jax.shard_map(_merge, mesh=mesh, in_specs=specs, out_specs=(SHARED, SHARED)))


def _merge(best_qk, numbers_qk, q_qe, query_labels_ql, d_gne, document_labels_gnl, first, stop):
    """The k nearest documents of those known and of one more block, by score, then by number.

    Sorting is dear, so it is done in two rounds. First groups are compared by their best document: each of the k
    nearest lies in one of the k best groups, since k better groups would hold k better documents. Then the documents
    of those groups are compared.
    """
    (queries, k), (group, groups, _) = best_qk.shape, d_gne.shape
    scores_qgn = jnp.einsum("qe,gne->qgn", q_qe, d_gne, precision="highest")
    if document_labels_gnl.shape[2]:
        same = query_labels_ql[:, None, None, :, None] == document_labels_gnl[None, :, :, None, :]
        scores_qgn = jnp.where(same.any((3, 4)), -jnp.inf, scores_qgn)

    starts_n = first + jnp.arange(groups) * group  # a group that is partly filled up repeats its own last document
    highest_qn = jnp.where(starts_n < stop, scores_qgn.max(axis=1), -jnp.inf)
    _, near_qn = jax.lax.top_k(highest_qn, min(k, groups))
    near_qn = jnp.sort(near_qn, axis=1)  # top_k takes the first of equals: they must stand by number
    scores_qng = jnp.take_along_axis(scores_qgn, near_qn[:, None, :], axis=2).swapaxes(1, 2)
    numbers_qng = starts_n[near_qn][:, :, None] + jnp.arange(group)
    scores_qng = jnp.where(numbers_qng < stop, scores_qng, -jnp.inf)

    scores_qc = jnp.concatenate([best_qk, scores_qng.reshape(queries, -1)], axis=1)
    numbers_qc = jnp.concatenate([numbers_qk, numbers_qng.reshape(queries, -1)], axis=1)
    best_qk, chosen_qk = jax.lax.top_k(scores_qc, k)
    return best_qk, jnp.take_along_axis(numbers_qc, chosen_qk, axis=1)


# On the host


def _choose(
    found: tuple,
    queries: Vectors,
    documents: Vectors,
    answers: Answers,
    options: MiningOptions,
    ids: Sequence[int],
) -> Mined:
    """The negatives among the nearest documents of a block of queries."""
    first, stop, scores_bc, numbers_bc = found
    q_be = unit_vectors(queries, slice(first, stop), "queries")
    query_r, document_r = answers.right(first, stop)
    worst_b = np.full(stop - first, np.inf, np.float32)  # score of the worst right answer
    np.minimum.at(worst_b, query_r, _scores(q_be, documents, query_r, document_r))

    row_b1, total = np.arange(stop - first)[:, None], documents.shape[0]
    right_bc = _member(row_b1 * total + numbers_bc, query_r * total + document_r)
    wrong_bc = ~np.isneginf(scores_bc) & ~right_bc & (numbers_bc != answers.own_q[first:stop, None])
    high_bc = wrong_bc & (scores_bc >= (np.inf if options.max_score is None else options.max_score))
    near_bc = wrong_bc & ~high_bc & (scores_bc >= _limit(worst_b, options.relative)[:, None])
    passed_bc = wrong_bc & ~high_bc & ~near_bc
    slot_bc = np.cumsum(passed_bc, axis=1) - 1 - options.skip
    counts = Counter({"max_score": int(high_bc.sum()), "relative": int(near_bc.sum()), "random": 0})

    documents_bk = np.full((stop - first, options.keep), -1, np.int64)
    scores_bk = np.zeros(documents_bk.shape, np.float32)
    row_n, column_n = np.nonzero(passed_bc & (slot_bc >= 0) & (slot_bc < options.keep))
    slot_n = slot_bc[row_n, column_n]
    documents_bk[row_n, slot_n] = numbers_bc[row_n, column_n]
    scores_bk[row_n, slot_n] = scores_bc[row_n, column_n]

    if options.fewer == "random":
        never_bc = np.where(passed_bc, -1, numbers_bc)
        for row in np.flatnonzero(documents_bk[:, -1] < 0):
            drawn = _draw(first + row, documents_bk[row], never_bc[row], total, answers, options.seed, ids)
            empty = np.flatnonzero(documents_bk[row] < 0)[: len(drawn)]
            documents_bk[row, empty] = drawn
            scores_bk[row, empty] = _scores(q_be, documents, np.full(len(drawn), row), drawn)
            counts["random"] += len(drawn)
    return Mined(first, documents_bk, scores_bk, counts)


def _member(x: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """`np.isin` for few values that are in order already."""
    at = np.minimum(np.searchsorted(ascending, x), len(ascending) - 1)
    return ascending[at] == x


def _limit(worst_b: np.ndarray, relative: float | None) -> np.ndarray:
    """A negative scores below `relative` x the score of the right answer; where that is negative, as far below it."""
    return worst_b - (np.abs(worst_b) * (1 - relative) if relative is not None else -np.inf)


def _scores(q_be: np.ndarray, documents: Vectors, query_r: np.ndarray, document_r: np.ndarray) -> np.ndarray:
    """Cosines [r] of pairs of a query of the block and a document."""
    out_r = np.empty(len(query_r), np.float32)
    for at in range(0, len(query_r), PAIRS):
        piece = slice(at, at + PAIRS)
        d_re = unit_vectors(documents, document_r[piece], "documents")
        out_r[piece] = np.einsum("re,re->r", q_be[query_r[piece]], d_re)
    return out_r


def _draw(
    query: int, chosen: np.ndarray, never: np.ndarray, total: int, answers: Answers, seed: int, ids
) -> np.ndarray:
    """Documents for the empty places of `chosen`: the first that may be, in an order of all by seed and query id."""
    labels_l, labels_dl = answers.query_labels_ql[query : query + 1], answers.document_labels_dl
    _, right = answers.right(query, query + 1)
    taken = np.concatenate([chosen, never, right, answers.own_q[query : query + 1]])
    wanted, key = int((chosen < 0).sum()), stable_id(f"random negatives {seed} {ids[query]}")
    drawn = np.empty(0, np.int64)
    for at in range(0, total, WALK):
        walk = permute(np.arange(at, min(at + WALK, total)), total, key)
        walk = walk[~np.isin(walk, taken)]
        if labels_dl.size:
            walk = walk[~np.isin(labels_dl[walk], labels_l).any(axis=1)]
        drawn = np.concatenate([drawn, walk])[:wanted]
        if len(drawn) == wanted:
            break
    return drawn
