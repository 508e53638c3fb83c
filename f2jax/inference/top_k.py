"""Exact search on all devices: the documents nearest to each query by the cosine of their first dimensions.

Documents are truncated, normalized and quantized; queries stay in float32, so that scores have no rounding errors
besides those of the documents. The devices share the documents of a chunk. Each multiplies them block by block, and
keeps only the highest score of each group of 16 documents. A query's k nearest documents must be in its k best groups,
because each better group holds a better document, so only these groups are scored again, document by document. That
way sorting, which is slow on a CPU, sees a sixteenth of the scores, and no device holds all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import UserError, did_you_mean
from f2jax.inference.quantize import int8_ranges, quantize
from f2jax.inference.vectors import Vectors, unit_vectors

PRECISIONS = ("float32", "int8", "binary")
STORED = {"float32": "float32", "int8": "uint8", "binary": "ubinary"}  # unsigned, which is easier to unpack
GROUP = 16  # documents in a group, of which the first round keeps the highest score
SAMPLE = 65_536  # documents from which the scale of int8 steps, or of bits, is estimated
QUERIES_AT_ONCE = 16  # in the second round, on accelerators; a CPU takes them one by one

SHARED = PartitionSpec("documents")  # the first axis is divided among the devices
REPLICATED = PartitionSpec()


@dataclass(frozen=True)
class SearchBlocks:
    """Sizes of the blocks in which a search works."""

    queries: int = 256
    documents: int = 4_096  # documents that a device multiplies at once; their scores fit the cache of a CPU
    chunk: int = 2**28  # bytes of documents that are sent to a device at once
    resident: int = 2**31  # bytes of documents that stay on a device for the next queries


BLOCKS = SearchBlocks()


def check_first_pass(documents: Vectors, dims: int, precision: str) -> None:
    """Raises UserError if there are no documents, or an option is out of range."""
    total, width = documents.shape
    if not total:
        raise UserError("There are no documents to search; give at least one.")
    if not 1 <= dims <= width:
        raise UserError(f"dims={dims} is out of range; the vectors have 1 to {width} dimensions.")
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}' of a search{did_you_mean(precision, PRECISIONS)}")


class TopK:
    """Finds the documents nearest to queries by the cosine of their first dimensions.

    >>> scores_qk, numbers_qk = TopK(documents_ce)(queries_qe, k=10)

    Args:
        documents: vectors [c, e]; an `np.memmap` is read a chunk at a time.
        dims: number of leading dimensions to compare; default: all.
        precision: a name in PRECISIONS.
        approximate: recall that `jax.lax.approx_max_k` should reach, for TPUs; default: search exactly.
        labels_cl: int32 labels of each document, from 0 and padded with -2.

    Raises:
        UserError: an option is out of range, or a vector is not finite.
    """

    def __init__(
        self,
        documents: Vectors,
        dims: int | None = None,
        precision: str = "float32",
        approximate: float | None = None,
        blocks: SearchBlocks = BLOCKS,
        labels_cl: np.ndarray | None = None,
    ):
        total, width = documents.shape
        self.dims = width if dims is None else dims
        check_first_pass(documents, self.dims, precision)
        if approximate is not None and not 0 < approximate < 1:
            raise UserError(f"approximate={approximate} should be a share between 0 and 1.")
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), "documents")
        self._on_devices, self._everywhere = NamedSharding(mesh, SHARED), NamedSharding(mesh, REPLICATED)
        self._merge = _compile(mesh, precision, approximate)
        self._documents, self._precision, self.block = documents, precision, blocks.queries
        self._labels_cl = np.zeros((total, 0), np.int32) if labels_cl is None else labels_cl

        row = math.ceil(self.dims / 8) if precision == "binary" else self.dims * (4 if precision == "float32" else 1)
        per_device = math.ceil(total / len(devices))
        self._block = math.ceil(min(blocks.documents, per_device) / GROUP) * GROUP
        equal = math.ceil(per_device / math.ceil(per_device / max(blocks.chunk // row, 1)))  # hence one program
        self._chunk = len(devices) * math.ceil(equal / self._block) * self._block
        self._resident = blocks.resident * len(devices) // (self._chunk * row)
        self._kept: dict[int, tuple[jax.Array, jax.Array]] = {}
        self._loading = Lock()
        self._ranges, self._worth_e = None, np.float32(1)
        if precision != "float32":
            sample_ce = self._cut(documents, slice(None, None, math.ceil(total / SAMPLE)), "documents")
            self._ranges = int8_ranges(sample_ce)  # values outside are clipped
            steps_e = (self._ranges[1] - self._ranges[0]) / 255
            self._worth_e = steps_e if precision == "int8" else np.abs(sample_ce).mean(axis=0)

    def __call__(
        self,
        queries: Vectors,
        k: int,
        progress: Callable[[int], None] = lambda documents: None,
        labels_ql: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns scores, float32 [q, k], and document numbers, int32 [q, k], by descending score, then by number.

        If there are fewer than k documents, the rest has score -inf and number -1. With int8 and binary, scores only
        rank the documents: they are a linear function of the cosine. Several threads may call this at the same time.

        Args:
            queries: float vectors [q, e] with at least `dims` dimensions.
            progress: called for each block of queries with the number of documents compared.
            labels_ql: int32 labels of each query, padded with -1; documents that share a label are left out.

        Raises:
            UserError: k is not positive, the vectors are too short, or one is not finite.
        """
        if k < 1:
            raise UserError(f"k={k} should be at least 1.")
        count = queries.shape[0]
        scores_qk, numbers_qk = np.empty((count, k), np.float32), np.empty((count, k), np.int32)
        labels_ql = np.zeros((count, 0), np.int32) if labels_ql is None else labels_ql
        for start in range(0, count, self.block):
            block = slice(start, min(start + self.block, count))
            q_qe = self._cut(queries, block, "queries")
            scores_qk[block], numbers_qk[block] = self._nearest(q_qe, labels_ql[block], k, progress)
        return scores_qk, numbers_qk

    def _nearest(self, q_qe: np.ndarray, labels_ql: np.ndarray, k: int, progress: Callable[[int], None]):
        """Searches for a block of queries."""
        count = len(q_qe)
        padding = -self.dims % 8 if self._precision == "binary" else 0
        rows = min(self.block, 2 ** math.ceil(math.log2(count)))  # few sizes need few programs
        q_qe = np.pad(q_qe * self._worth_e, ((0, rows - count), (0, padding)))
        labels_ql = np.pad(labels_ql, ((0, rows - count), (0, 0)), constant_values=-1)
        nothing = np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int32)
        q_qe, labels_ql, *best = jax.device_put((q_qe, labels_ql, *nothing), self._everywhere)
        total = self._documents.shape[0]
        for offset in range(0, total, self._chunk):
            with self._loading:
                chunk = self._load(offset)
            jax.block_until_ready(best)  # so that at most one chunk waits while another is searched
            best = self._merge(*best, q_qe, labels_ql, *chunk, offset, total)
            progress(min(self._chunk, total - offset))
        scores_qk, numbers_qk = best
        return np.asarray(scores_qk)[:count], np.asarray(numbers_qk)[:count]

    def _load(self, offset: int) -> tuple[jax.Array, jax.Array]:
        """Loads a chunk of documents, [blocks, block, bytes or dims], and labels, [blocks, block, l], onto the devices.

        The last chunk is padded with copies of the last document.
        """
        if offset not in self._kept:
            stop = min(offset + self._chunk, self._documents.shape[0])
            pieces = (slice(start, min(start + self._block, stop)) for start in range(offset, stop, self._block))
            parts = (self._cut(self._documents, piece, "documents") for piece in pieces)
            stored_ce = np.concatenate([quantize(x_ce, STORED[self._precision], self._ranges) for x_ce in parts])
            arrays = [stored_ce, self._labels_cl[offset:stop]]
            arrays = [np.pad(x, ((0, self._chunk - len(x)), (0, 0)), mode="edge") for x in arrays]
            blocks = self._chunk // self._block
            chunk = jax.device_put([x.reshape(blocks, self._block, x.shape[1]) for x in arrays], self._on_devices)
            if len(self._kept) >= self._resident:
                return chunk
            self._kept[offset] = chunk
        return self._kept[offset]

    def _cut(self, vectors: Vectors, index: slice, kind: str) -> np.ndarray:
        """Returns these vectors truncated and normalized, float32 [i, dims]."""
        if vectors.shape[1] < self.dims:
            raise UserError(f"The {kind} have {vectors.shape[1]} dimensions, but the search needs {self.dims}.")
        return unit_vectors(vectors, index, kind, self.dims)


# On the devices


@lru_cache
def _compile(mesh: Mesh, precision: str, approximate: float | None) -> Callable:
    """Returns `_merge`, compiled for devices that share the documents and exchange only the nearest ones."""
    specs = (*[REPLICATED] * 4, *[SHARED] * 2, *[REPLICATED] * 2)
    merge = partial(_merge, precision=precision, approximate=approximate)
    return jax.jit(jax.shard_map(merge, mesh=mesh, in_specs=specs, out_specs=(REPLICATED, REPLICATED), check_vma=False))


def _merge(best_qk, numbers_qk, q_qe, labels_ql, stored_nbe, labels_nbl, first, total, precision, approximate):
    """Merges a chunk of n blocks of b documents into the k nearest so far, by descending score, then by number."""
    (queries, k), (blocks, block, width) = best_qk.shape, stored_nbe.shape
    groups = blocks * block // GROUP
    first += jax.lax.axis_index("documents") * blocks * block

    def highest(_, stored_and_labels):
        stored_be, labels_bl = stored_and_labels
        scores_bq = jnp.einsum("be,qe->bq", _decode(stored_be, precision), q_qe, precision="highest")
        scores_bq = _exclude(scores_bq, labels_bl, labels_ql)
        return None, scores_bq.reshape(block // GROUP, GROUP, queries).max(axis=1)

    highest_qg = jax.lax.scan(highest, None, (stored_nbe, labels_nbl))[1].reshape(groups, queries).T
    starts_g = first + jnp.arange(groups) * GROUP  # padding repeats the last document, in its own group
    highest_qg = jnp.where(starts_g < total, highest_qg, -jnp.inf)
    near_qg = _top(highest_qg, min(k, groups), approximate)
    near_qg = jnp.sort(near_qg, axis=1)  # top_k prefers the first of equal scores, so keep the order
    members_gce = stored_nbe.reshape(groups, GROUP, width)
    labels_gcl = labels_nbl.reshape(groups, GROUP, labels_nbl.shape[2])

    def nearest_members(query):
        q_e, labels_l, near_g = query
        scores_c = jnp.einsum(
            "ce,e->c", _decode(members_gce[near_g].reshape(-1, width), precision), q_e, precision="highest"
        )
        scores_c = _exclude(scores_c[None], labels_l[None], labels_gcl[near_g].reshape(len(scores_c), -1))[0]
        numbers_c = (starts_g[near_g][:, None] + jnp.arange(GROUP)).reshape(-1)
        scores_c = jnp.where(numbers_c < total, scores_c, -jnp.inf)
        scores_k, chosen_k = jax.lax.top_k(scores_c, min(k, len(scores_c)))
        return scores_k, jnp.where(jnp.isneginf(scores_k), -1, numbers_c[chosen_k])

    # A few queries at a time, because the documents of all would not fit into memory.
    at_once = None if jax.default_backend() == "cpu" else QUERIES_AT_ONCE
    nearest = jax.lax.map(nearest_members, (q_qe, labels_ql, near_qg), batch_size=at_once)
    scores_qc, numbers_qc = (jax.lax.all_gather(x, "documents", axis=1, tiled=True) for x in nearest)
    best_qk, chosen_qk = jax.lax.top_k(jnp.concatenate([best_qk, scores_qc], axis=1), k)
    return best_qk, jnp.take_along_axis(jnp.concatenate([numbers_qk, numbers_qc], axis=1), chosen_qk, axis=1)


def _exclude(scores_qc, labels_ql, labels_cl):
    """Sets the scores of queries and documents that share a label to -inf."""
    if not labels_cl.size:
        return scores_qc
    return jnp.where((labels_ql[:, None, :, None] == labels_cl[None, :, None, :]).any((2, 3)), -jnp.inf, scores_qc)


def _top(x_qg, k: int, approximate: float | None):
    """Returns the indices of the k highest values."""
    if approximate is None:
        return jax.lax.top_k(x_qg, k)[1]
    return jax.lax.approx_max_k(x_qg, k, recall_target=approximate)[1]


def _decode(stored_ce, precision: str):
    """Returns stored documents as float32 [c, e]: uint8 as numbers of steps, bits as 1 and -1."""
    if precision == "binary":
        bits_ce8 = stored_ce[:, :, None] >> jnp.arange(7, -1, -1, dtype=stored_ce.dtype) & 1
        return (bits_ce8.astype(jnp.float32) * 2 - 1).reshape(len(stored_ce), -1)
    return stored_ce.astype(jnp.float32)
