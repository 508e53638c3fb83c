"""The documents nearest to queries by the first dimensions of their vectors, exactly, on all devices of this process.

Documents are kept small: cut, then normalized, then quantized. Queries stay float32, so that a score is the exact
product of a query and of what the quantized document stands for: no bit is lost twice. The devices share the documents
of a chunk; a device multiplies block by block and keeps only the highest score of each group of documents. A query's k
nearest documents lie in its k best groups, since k better groups would hold k better documents: only those are then
scored one by one. Sorting, dear on a CPU, sees a sixteenth of the scores, and no device holds them all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import UserError, did_you_mean
from f2jax.inference.quantize import int8_ranges, quantize
from f2jax.inference.vectors import Vectors, unit_vectors

PRECISIONS = ("float32", "int8", "binary")
STORED = {"float32": "float32", "int8": "uint8", "binary": "ubinary"}  # the same bits, easier to unpack
GROUP = 16  # documents whose highest score stands for them in the first round
BLOCK = 4_096  # documents that a device multiplies at once: their scores stay in the cache of a CPU
SAMPLE = 65_536  # documents that say what a step of int8, or a bit, is worth

SHARED = PartitionSpec("documents")  # the first axis of an array is shared out over the devices
WHOLE = PartitionSpec()  # each device has all of it


@dataclass(frozen=True)
class Blocks:
    """How much is worked on at once."""

    queries: int = 256
    chunk: int = 2**28  # bytes of documents that a device is sent at once
    resident: int = 2**31  # bytes of documents that stay on a device, not to be read again for the next queries


BLOCKS = Blocks()


def check_first_pass(documents: Vectors, dims: int, precision: str) -> None:
    """Raises UserError where there are no documents, or an option is out of range."""
    total, width = documents.shape
    if not total:
        raise UserError("There are no documents to search; give at least one.")
    if not 1 <= dims <= width:
        raise UserError(f"dims={dims} is out of range; the vectors have 1 to {width} dimensions.")
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision '{precision}' of a search{did_you_mean(precision, PRECISIONS)}")


class TopK:
    """Finds the documents nearest to queries by the cosine of their first dimensions.

    Args:
        documents: vectors [n, e]; of a `np.memmap` no more than a chunk is read at once.
        dims: of a vector, the first ones; default: all.
        precision: a name in PRECISIONS.
        approximate: share of the nearest that `jax.lax.approx_max_k` is to find, for TPUs; default: all.

    Raises:
        UserError: an option is out of range, or a vector is not finite.
    """

    def __init__(
        self,
        documents: Vectors,
        dims: int | None = None,
        precision: str = "float32",
        approximate: float | None = None,
        blocks: Blocks = BLOCKS,
    ):
        total, width = documents.shape
        self.dims = width if dims is None else dims
        check_first_pass(documents, self.dims, precision)
        if approximate is not None and not 0 < approximate < 1:
            raise UserError(f"approximate={approximate} should be a share between 0 and 1.")
        devices = jax.local_devices()
        mesh = Mesh(np.array(devices), "documents")
        self._on_devices, self._everywhere = NamedSharding(mesh, SHARED), NamedSharding(mesh, WHOLE)
        self._merge = _on(mesh, precision, approximate)
        self._documents, self._precision, self.block = documents, precision, blocks.queries

        row = math.ceil(self.dims / 8) if precision == "binary" else self.dims * (4 if precision == "float32" else 1)
        each = math.ceil(total / len(devices))
        self._block = min(BLOCK, math.ceil(each / GROUP) * GROUP)
        least = math.ceil(each / math.ceil(each / max(blocks.chunk // row, 1)))  # equal chunks, hence one program
        self._chunk = len(devices) * math.ceil(least / self._block) * self._block
        self._resident = blocks.resident * len(devices) // (self._chunk * row)
        self._kept: dict[int, jax.Array] = {}
        self._ranges, self._worth_e = None, np.float32(1)
        if precision != "float32":
            sample = self._cut(documents, slice(None, None, math.ceil(total / SAMPLE)), "documents")
            self._ranges = int8_ranges(sample)  # a value outside becomes the nearest inside
            steps_e = (self._ranges[1] - self._ranges[0]) / 255
            self._worth_e = steps_e if precision == "int8" else np.abs(sample).mean(axis=0)

    def __call__(
        self, queries: np.ndarray, k: int, progress: Callable[[int], None] = lambda documents: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [q, k], document numbers int32 [q, k]), highest first, equal ones by number.

        Where there is no further document the score is -inf and the number -1. Scores of int8 and binary are good for
        ordering alone: each is a query's cosine times a number, plus a number.

        Args:
            queries: float vectors [q, e], of as many dimensions as the documents or at least of `dims`.
            progress: is told, for each block of queries, how many more documents were compared.

        Raises:
            UserError: k is not positive, the vectors are too short, or one is not finite.
        """
        if k < 1:
            raise UserError(f"k={k} should be at least 1.")
        found = [self._nearest(queries[at : at + self.block], k, progress) for at in range(0, len(queries), self.block)]
        if not found:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _nearest(self, queries: np.ndarray, k: int, progress: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray]:
        """Of one block of queries."""
        q_qe = self._cut(queries, slice(None), "queries")
        count = len(q_qe)
        padding = -self.dims % 8 if self._precision == "binary" else 0
        rows = min(self.block, 2 ** math.ceil(math.log2(count)))  # few different sizes, hence few programs
        q_qe = np.pad(q_qe * self._worth_e, ((0, rows - count), (0, padding)))
        start = np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int32)
        q_qe, *best = jax.device_put((q_qe, *start), self._everywhere)
        total = self._documents.shape[0]
        for offset in range(0, total, self._chunk):
            chunk = self._load(offset)
            jax.block_until_ready(best)  # one chunk at work and one in waiting, no more
            best = self._merge(*best, q_qe, chunk, offset, total)
            progress(min(self._chunk, total - offset))
        return tuple(np.asarray(x)[:count] for x in best)

    def _load(self, offset: int) -> jax.Array:
        """A chunk of documents on the devices, [blocks, block, bytes or dims]; the last document fills it up."""
        if offset not in self._kept:
            stop = min(offset + self._chunk, self._documents.shape[0])
            pieces = (slice(at, min(at + BLOCK, stop)) for at in range(offset, stop, BLOCK))
            parts = (self._cut(self._documents, piece, "documents") for piece in pieces)
            d_de = np.concatenate([quantize(x_ne, STORED[self._precision], self._ranges) for x_ne in parts])
            d_de = np.pad(d_de, ((0, self._chunk - len(d_de)), (0, 0)), mode="edge")
            chunk = jax.device_put(d_de.reshape(-1, self._block, d_de.shape[1]), self._on_devices)
            if len(self._kept) >= self._resident:
                return chunk
            self._kept[offset] = chunk
        return self._kept[offset]

    def _cut(self, vectors: Vectors, index: slice, kind: str) -> np.ndarray:
        """float32 [n, dims] of length 1."""
        x_ne = vectors[index]
        if x_ne.shape[1] < self.dims:
            raise UserError(f"The {kind} have {x_ne.shape[1]} dimensions, but the search needs {self.dims}.")
        return unit_vectors(x_ne[:, : self.dims], slice(None), kind)


# On the devices


@lru_cache
def _on(mesh: Mesh, precision: str, approximate: float | None) -> Callable:
    """`_merge`, compiled for devices that share the documents and exchange only the nearest."""
    specs = (WHOLE, WHOLE, WHOLE, SHARED, WHOLE, WHOLE)
    merge = partial(_merge, precision=precision, approximate=approximate)
    return jax.jit(jax.shard_map(merge, mesh=mesh, in_specs=specs, out_specs=(WHOLE, WHOLE), check_vma=False))


def _merge(best_qk, numbers_qk, q_qe, d_nbe, first, total, precision, approximate):
    """The k nearest documents of those known and of one more chunk, by score, then by number."""
    (queries, k), (blocks, block, width) = best_qk.shape, d_nbe.shape
    groups = blocks * block // GROUP
    first += jax.lax.axis_index("documents") * blocks * block

    def highest(_, d_be):
        scores_bq = jnp.einsum("be,qe->bq", _decoded(d_be, precision), q_qe, precision="highest")
        return None, scores_bq.reshape(block // GROUP, GROUP, queries).max(axis=1)

    highest_qn = jax.lax.scan(highest, None, d_nbe)[1].reshape(groups, queries).T
    starts_n = first + jnp.arange(groups) * GROUP  # a group that is partly filled up repeats its own last document
    highest_qn = jnp.where(starts_n < total, highest_qn, -jnp.inf)
    near_qn = _top(highest_qn, min(k, groups), approximate)
    near_qn = jnp.sort(near_qn, axis=1)  # top_k takes the first of equals: they must stand by number
    d_nge = d_nbe.reshape(groups, GROUP, width)

    def members(query):
        q_e, near_n = query
        d_ce = _decoded(d_nge[near_n].reshape(-1, width), precision)
        scores_c = jnp.einsum("ce,e->c", d_ce, q_e, precision="highest")
        numbers_c = (starts_n[near_n][:, None] + jnp.arange(GROUP)).reshape(-1)
        scores_c, chosen = jax.lax.top_k(jnp.where(numbers_c < total, scores_c, -jnp.inf), min(k, len(numbers_c)))
        return scores_c, numbers_c[chosen]

    found = jax.lax.map(members, (q_qe, near_qn))  # one query after the other: no memory for all their documents
    scores_qc, numbers_qc = (jax.lax.all_gather(x, "documents", axis=1, tiled=True) for x in found)
    scores_qc = jnp.concatenate([best_qk, scores_qc], axis=1)
    numbers_qc = jnp.concatenate([numbers_qk, jnp.where(numbers_qc < total, numbers_qc, -1)], axis=1)
    best_qk, chosen_qk = jax.lax.top_k(scores_qc, k)
    return best_qk, jnp.take_along_axis(numbers_qc, chosen_qk, axis=1)


def _top(x_qn, k: int, approximate: float | None):
    """Places of the k highest."""
    if approximate is None:
        return jax.lax.top_k(x_qn, k)[1]
    return jax.lax.approx_max_k(x_qn, k, recall_target=approximate)[1]


def _decoded(d_ne, precision: str):
    """float32 [n, e] of stored documents: the steps of uint8, and the signs of bits."""
    if precision == "binary":
        bits_neb = d_ne[:, :, None] >> jnp.arange(7, -1, -1, dtype=d_ne.dtype) & 1
        return (bits_neb.astype(jnp.float32) * 2 - 1).reshape(len(d_ne), -1)
    return d_ne.astype(jnp.float32)
