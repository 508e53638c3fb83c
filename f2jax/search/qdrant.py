"""Documents in Qdrant, for updates, filters and serving, and the same two passes there.

A point has two vectors, `first` (the first dimensions) and `whole`; Qdrant normalizes each. A search is one query with
a prefetch: candidates by `first`, their order by `whole`. A place is a folder (Qdrant's local mode: exact, in this
process, for up to some ten thousand documents) or the address of a server, which the same calls speak to.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from f2jax.errors import UserError, require_extra
from f2jax.inference.vectors import unit_vectors
from f2jax.search.files import Results, SearchTexts, clean, write_results
from f2jax.search.top_k import check_first_pass
from f2jax.search.two_pass import SearchOptions, SearchResult

COLLECTION = "f2jax"
QUANTIZED = {"NoneType": "float32", "ScalarQuantization": "int8", "BinaryQuantization": "binary"}  # Qdrant's names
PIECE = 256  # points or queries of a request


@contextmanager
def open_store(place: str) -> Iterator:
    """A client of the store in a folder, or at an http:// address.

    Raises:
        UserError: qdrant-client is not installed, or the place cannot be used.
    """
    require_extra("store", "--store", "qdrant_client")
    from qdrant_client import QdrantClient

    try:
        client = QdrantClient(url=place, check_compatibility=False) if "://" in place else QdrantClient(path=place)
        client.collection_exists(COLLECTION)
    except Exception as error:  # each transport has classes of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"The store {place} cannot be opened ({reason}); check the place.") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Local mode is not recommended")
            yield client
    finally:
        client.close()


def fill_store(client, documents: SearchTexts, dims: int, precision: str = "float32") -> int:
    """Put the documents there, under their numbers, in the place of an earlier fill. Returns how many there are.

    Args:
        precision: of the first pass on a server; a folder keeps float32.

    Raises:
        UserError: there are no documents, an option is out of range, or the store holds vectors of other sizes.
    """
    from qdrant_client import models

    check_first_pass(documents.vectors, dims, precision)
    total, width = documents.vectors.shape
    if client.collection_exists(COLLECTION):
        if sizes(client) != (dims, width):
            there = " and ".join(f"{size:,}" for size in sizes(client))
            raise UserError(
                f"The store has vectors of {there} dimensions, not {dims:,} and {width:,}; use another place."
            )
    else:
        quantization = {
            "int8": models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8)),
            "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig()),
        }.get(precision)
        cosine = models.Distance.COSINE
        parameters = {
            "first": models.VectorParams(size=dims, distance=cosine, quantization_config=quantization),
            "whole": models.VectorParams(size=width, distance=cosine, on_disk=True),
        }
        client.create_collection(COLLECTION, vectors_config=parameters)
    for start in tqdm(range(0, total, PIECE), desc="storing", unit="piece", dynamic_ncols=True):
        x_ne = unit_vectors(documents.vectors, slice(start, start + PIECE), "documents")
        numbers = range(start, start + len(x_ne))
        known = {"text": documents.texts, "place": documents.places}
        batch = models.Batch(
            ids=list(numbers),
            vectors={"first": x_ne[:, :dims].tolist(), "whole": x_ne.tolist()},
            payloads=[{name: clean(some[n]) for name, some in known.items() if some} for n in numbers],
        )
        client.upsert(COLLECTION, batch)
    while beyond := client.scroll(COLLECTION, offset=total, limit=PIECE, with_payload=False)[0]:  # of a larger fill
        client.delete(COLLECTION, [point.id for point in beyond])
    return client.count(COLLECTION).count


def check_kept(client, is_server: bool, precision: str) -> None:
    """A folder keeps float32, and a server what it was filled in first.

    Raises:
        UserError: the precision asked for is another known one.
    """
    if precision not in QUANTIZED.values():
        return  # `fill` says what there is
    if not is_server and precision != "float32":
        raise UserError(f"A store in a folder keeps float32; leave out --precision {precision}.")
    if is_server and client.collection_exists(COLLECTION):
        kept = type(client.get_collection(COLLECTION).config.params.vectors["first"].quantization_config).__name__
        if QUANTIZED.get(kept) != precision:
            kept = QUANTIZED.get(kept, kept)
            raise UserError(f"The store searches first in {kept}, not in {precision}; use another place.")


def sizes(client) -> tuple[int, int]:
    """Dimensions of the first pass and of the second.

    Raises:
        UserError: there are no documents of `fill`.
    """
    if not client.collection_exists(COLLECTION):
        raise UserError("The store holds no documents; give --vectors, --documents or --folder once.")
    vectors = client.get_collection(COLLECTION).config.params.vectors
    return vectors["first"].size, vectors["whole"].size


def search_store(
    client, queries: np.ndarray, options: SearchOptions, where=None
) -> tuple[SearchResult, dict[int, dict]]:
    """(what is found for queries [q, e], what the store knows of each found document).

    Args:
        where: a `qdrant_client.models.Filter` on what the store knows of a document.

    Raises:
        UserError: the store is empty, or holds vectors of other sizes.
    """
    from qdrant_client import models

    dims, width = sizes(client)
    if queries.shape[1] != width or options.dims != dims:
        raise UserError(
            f"The store searches by {dims:,} of {width:,} dimensions, not {options.dims:,} of {queries.shape[1]:,}; "
            "give its --dims and its model."
        )
    q_qe = unit_vectors(queries, slice(None), "queries")
    requests = [
        models.QueryRequest(
            prefetch=models.Prefetch(query=q_e[:dims].tolist(), using="first", limit=options.candidates, filter=where),
            query=q_e.tolist(),
            using="whole",
            limit=options.k,
            with_payload=True,
        )
        for q_e in q_qe
    ]
    scores_qk = np.full((len(q_qe), options.k), -np.inf, np.float32)
    numbers_qk = np.full((len(q_qe), options.k), -1, np.int32)
    known: dict[int, dict] = {}
    for start in tqdm(range(0, len(requests), PIECE), desc="searching", unit="piece", dynamic_ncols=True):
        for row, answer in enumerate(client.query_batch_points(COLLECTION, requests[start : start + PIECE]), start):
            scores_qk[row, : len(answer.points)] = [point.score for point in answer.points]
            numbers_qk[row, : len(answer.points)] = [point.id for point in answer.points]
            known |= {point.id: point.payload for point in answer.points}
    return SearchResult(scores_qk, numbers_qk), known


def use(
    place: str, documents: SearchTexts | None, queries: SearchTexts | None, options: SearchOptions, output: str | None
) -> None:
    """`f2jax search --store`: fill the store where there are documents, search it where there are queries.

    Raises:
        UserError: the store cannot be used, or keeps another precision.
    """
    with open_store(place) as client:
        if documents:
            options = options.for_width(documents.vectors.shape[1])
            check_kept(client, "://" in place, options.precision)
            count = fill_store(client, documents, options.dims, options.precision)
            print(f"{place}: {count:,} documents, {options.dims} dimensions first.")
        if not queries:
            return
        options = options.for_width(sizes(client)[1])
        found, known = search_store(client, np.asarray(queries.vectors), options)
        texts, places = ({n: of[name] for n, of in known.items() if name in of} for name in ("text", "place"))
        results = Results(SearchTexts(None, texts, places), queries, options, found)
        if output:
            write_results(results, output)
            print(f"{output}: {options.k} nearest documents for {len(queries.vectors):,} queries.")
        else:
            print(results.lines())
