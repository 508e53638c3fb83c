"""Each pass of a search finds what brute force finds, whatever the blocks, the precision, the devices and the ties."""

import os
import subprocess
import sys

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.inference.quantize import int8_ranges, quantize
from f2jax.inference.top_k import SearchBlocks, TopK
from f2jax.search.two_pass import Search, SearchOptions, SearchResult, exact_search, recall
from tests import tiny
from tests.mine.test_negatives import exact_vectors

SMALL = SearchBlocks(queries=8, documents=32, chunk=2**14)


def vectors(count: int, seed: int, dim: int = 96) -> np.ndarray:
    """Float vectors of any length whose first dimensions have most of the energy."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, dim)) * (np.arange(dim) + 1.0) ** -0.4).astype(np.float32)


def unit(x) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def stands_for(documents: np.ndarray, dims: int, precision: str) -> np.ndarray:
    """What the stored documents are worth, float64 [n, dims]."""
    x = unit(documents[:, :dims]).astype(np.float32)
    if precision == "int8":
        low, high = int8_ranges(x).astype(np.float64)
        return low + (quantize(x, "int8", int8_ranges(x)) + 128.5) * (high - low) / 255
    return np.where(x > 0, 1, -1) * np.abs(x).mean(axis=0, dtype=np.float64) if precision == "binary" else x


def check_nearest(numbers_qk: np.ndarray, scores_qd: np.ndarray) -> None:
    """The documents are k of the best, best first; where scores differ by rounding alone any order will do."""
    k = min(numbers_qk.shape[1], scores_qd.shape[1])
    assert (numbers_qk[:, k:] == -1).all()
    assert all(len(set(row)) == k for row in numbers_qk[:, :k].tolist())
    found = np.take_along_axis(scores_qd, numbers_qk[:, :k].astype(int), axis=1)
    np.testing.assert_allclose(found, -np.sort(-scores_qd, axis=1)[:, :k], atol=2e-6)


# First pass


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
@pytest.mark.parametrize("documents, k, dims", [(1, 3, 8), (333, 10, 20), (2_000, 40, 96)])
def test_the_first_pass_finds_the_nearest_of_the_stored_vectors(documents, k, dims, precision):
    q, d = vectors(11, 0), vectors(documents, 1)
    _, numbers = TopK(d, dims, precision, blocks=SMALL)(q, k)
    check_nearest(numbers, unit(q[:, :dims]) @ stands_for(d, dims, precision).T)


def test_float32_scores_are_cosines():
    q, d = vectors(5, 0), vectors(70, 1)
    scores, _ = TopK(d, 32, blocks=SMALL)(q, 4)
    np.testing.assert_allclose(scores, -np.sort(-unit(q[:, :32]) @ unit(d[:, :32]).T, axis=1)[:, :4], atol=1e-6)


@pytest.mark.parametrize(
    "blocks", [SMALL, SearchBlocks(3, 16, 1), SearchBlocks(64, chunk=40_000, resident=0), SearchBlocks()], ids=str
)
def test_equal_scores_go_by_document_number_in_blocks_of_any_size(blocks):
    documents, k = 257, 40
    q, d = exact_vectors(20, 0), exact_vectors(documents, 1)  # exact in float32 and full of ties
    scores = q.astype(np.float64) @ d.astype(np.float64).T
    wanted = [sorted(range(documents), key=lambda n: (-row[n], n))[:k] for row in scores]
    found = TopK(d, blocks=blocks)(q, k)[1]
    assert [row[row >= 0].tolist() for row in found] == wanted


def test_what_fills_up_the_last_block_is_never_found():
    """The last document, which fills it up, is the nearest: its copies would take the next places."""
    q = exact_vectors(1, 0)
    d = np.concatenate([np.tile(-q, (18, 1)), q])
    assert TopK(d, blocks=SMALL)(q, 5)[1].tolist() == [[18, 0, 1, 2, 3]]
    assert TopK(d, blocks=SMALL)(q, 30)[1].tolist() == [[18, *range(18), *[-1] * 11]]


def test_an_approximate_first_pass_finds_at_least_the_share_asked_for():
    q, d = vectors(20, 0), vectors(2_000, 1)
    wanted, found = (TopK(d, 32, approximate=share, blocks=SMALL)(q, 20)[1] for share in (None, 0.9))
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(wanted.tolist(), found.tolist(), strict=True)]) >= 0.9


# Both passes


@pytest.mark.parametrize(
    "k, candidates, dims, precision", [(1, 1, 8, "float32"), (10, 50, 16, "int8"), (7, 400, 96, "binary")]
)
def test_the_second_pass_orders_the_candidates_of_the_first_by_whole_vectors(k, candidates, dims, precision):
    q, d = vectors(11, 0), vectors(333, 1)
    first = TopK(d, dims, precision)(q, candidates)[1]
    scores = unit(q) @ unit(d).T
    found = Search(d, SearchOptions(k, dims, candidates, precision), SMALL)(q)
    for row, among, numbers, values in zip(scores, first, found.numbers_qk, found.scores_qk, strict=True):
        wanted = sorted(among[among >= 0].tolist(), key=lambda n: (-row[n], n))[:k]
        assert numbers.tolist() == wanted
        np.testing.assert_allclose(values, row[wanted], atol=1e-6)


def test_all_documents_as_candidates_make_a_search_exact_by_any_dimensions():
    q, d = vectors(9, 0), vectors(100, 1)
    found = Search(d, SearchOptions(k=5, dims=2, candidates=1_000, precision="binary"))(q)
    np.testing.assert_array_equal(found.numbers_qk, np.argsort(-unit(q) @ unit(d).T, axis=1)[:, :5])
    assert recall(found, exact_search(q, d, 5)) == 1


def test_fewer_documents_than_k_leave_places_empty():
    found = Search(vectors(3, 1), SearchOptions(k=5, dims=8))(vectors(2, 0))
    assert (found.numbers_qk[:, 3:] == -1).all()
    assert np.isneginf(found.scores_qk[:, 3:]).all()
    assert all(sorted(row) == [0, 1, 2] for row in found.numbers_qk[:, :3].tolist())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_memory_mapped_vectors_of_any_float_type_give_the_same(tmp_path, dtype):
    q, d = vectors(4, 0).astype(np.float16), vectors(90, 1).astype(np.float16)
    np.save(tmp_path / "d.npy", d.astype(dtype))
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    found, wanted = (Search(x, SearchOptions(k=5, dims=16, candidates=20), SMALL)(q) for x in (mapped, d))
    np.testing.assert_array_equal(found.numbers_qk, wanted.numbers_qk)
    np.testing.assert_array_equal(found.scores_qk, wanted.scores_qk)


def test_no_more_than_a_chunk_of_the_file_is_read_at_once():
    class Counted:
        shape = (5_000, 96)
        most = 0

        def __getitem__(self, index):
            x = vectors(5_000, 1)[index]
            Counted.most = max(Counted.most, len(x))
            return x

    Search(Counted(), SearchOptions(dims=16, candidates=50), SMALL)(vectors(3, 0))
    assert 0 < Counted.most <= 4_096


DEVICES = """
import jax, numpy as np
from f2jax.search.two_pass import Search, SearchOptions
from tests.search.test_two_pass import SMALL, vectors
from tests.mine.test_negatives import exact_vectors
from f2jax.inference.top_k import TopK
assert jax.device_count() == {devices}
rows = [Search(vectors(333, 1), SearchOptions(7, 16, 30, p), SMALL)(vectors(11, 0)).numbers_qk
        for p in ("float32", "int8", "binary")]
ties = [TopK(exact_vectors(n, 1), blocks=SMALL)(exact_vectors(11, 0), 9)[1] for n in (5, 777)]
print([x.tolist() for x in rows + ties])
"""


def test_eight_devices_find_what_one_finds():
    """The candidates of float32, int8 and binary, and ties in their order; also with fewer documents than devices."""
    printed = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tiny.ROOT), "XLA_FLAGS": flags}
        command = [sys.executable, "-c", DEVICES.format(devices=devices)]
        printed.append(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    assert printed[0] == printed[1] and len(printed[0]) > 1_000


# Recall


def test_recall_is_the_share_of_the_nearest_that_was_found():
    wanted = SearchResult(np.array([[0.9, 0.8], [0.7, 0.5]]), np.array([[1, 2], [3, 4]]))
    found = SearchResult(np.array([[0.9, 0.3], [0.7, 0.5]]), np.array([[1, 9], [3, 4]]))
    assert recall(found, wanted) == 0.75


def test_another_document_with_the_same_score_counts_as_found():
    wanted = SearchResult(np.array([[0.9, 0.8]]), np.array([[1, 2]]))
    assert recall(SearchResult(np.array([[0.9, 0.8]]), np.array([[1, 7]])), wanted) == 1


def test_recall_asks_for_no_more_documents_than_there_are():
    wanted = SearchResult(np.array([[0.9, -np.inf]]), np.array([[0, -1]]))
    assert recall(wanted, wanted) == 1


# What is refused


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k": 0}, "k=0 should be at least 1"),
        ({"k": 20, "candidates": 10}, "candidates=10 should be at least k=20"),
        ({"dims": 97}, "dims=97 is out of range; the vectors have 1 to 96 dimensions"),
        ({"precision": "int4"}, "precision='int4' is not a choice; did you mean 'int8'"),
        ({"approximate": 1.5}, "should be a share between 0 and 1"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Search(vectors(30, 1), SearchOptions(**options))


@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_a_vector_that_is_not_finite_is_refused(kind):
    q, d = vectors(3, 0), vectors(30, 1)
    (q if kind == "queries" else d)[2, 5] = np.nan
    with pytest.raises(UserError, match=f"vectors of the {kind} hold values that are not finite"):
        Search(d, SearchOptions(dims=8))(q)


def test_queries_of_another_model_and_no_documents_are_refused():
    with pytest.raises(UserError, match="96 and 48 dimensions; embed both with one model"):
        Search(vectors(30, 1, dim=48), SearchOptions(dims=8))(vectors(3, 0))
    with pytest.raises(UserError, match="no documents to search"):
        Search(vectors(0, 1), SearchOptions(dims=8))


def test_the_length_of_a_vector_makes_no_difference_however_large_or_small():
    q, d = vectors(5, 0), vectors(60, 1)
    scale = 10.0 ** np.random.default_rng(0).integers(-33, 34, 60)
    scaled = (d * scale[:, None]).astype(np.float32)
    assert np.isfinite(scaled).all()
    options = SearchOptions(k=5, dims=16, candidates=20)
    np.testing.assert_array_equal(Search(scaled, options)(q).numbers_qk, Search(d, options)(q).numbers_qk)
