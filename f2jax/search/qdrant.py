"""Documents in Qdrant, for updates, filters and serving, and the same two passes there.

A point has two vectors, `first` (the first dimensions) and `whole`; Qdrant normalizes each. A search is one query with
a prefetch: candidates by `first`, ordered by `whole`. A place is a folder (Qdrant's local mode: exact, in this process,
for up to some ten thousand documents) or the address of a server; the same calls serve both. The collection's metadata
records the model and the prompt of the documents.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from f2jax.errors import UserError, require_extra
from f2jax.inference.top_k import check_first_pass
from f2jax.inference.vectors import unit_vectors
from f2jax.search.files import SearchReport, SearchTexts, replace_surrogates, write_report
from f2jax.search.two_pass import SearchOptions, SearchResult

COLLECTION = "f2jax"
QUANTIZED = {"NoneType": "float32", "ScalarQuantization": "int8", "BinaryQuantization": "binary"}  # Qdrant's names
FIELDS = ("text", "place")  # of a payload
PIECE = 256  # points or queries of a request


@contextmanager
def open_store(place: str) -> Iterator:
    """Yields a client of the store in a folder, or at an http:// address.

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
    """Puts the documents into the store, under their numbers, replacing an earlier fill. Returns their number.

    Args:
        precision: of the first pass on a server; a folder keeps float32.

    Raises:
        UserError: there are no documents, an option is out of range, a vector is not finite, or the store holds
            vectors of other sizes, of another model or after another prompt.
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
        if _origin(client) != (documents.model, documents.prompt):
            raise UserError("The store holds documents of another model, or after another prompt; use another place.")
    else:
        quantization: models.ScalarQuantization | models.BinaryQuantization | None = None
        if precision == "int8":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8)
            quantization = models.ScalarQuantization(scalar=scalar)
        elif precision == "binary":
            quantization = models.BinaryQuantization(binary=models.BinaryQuantizationConfig())
        cosine = models.Distance.COSINE
        parameters = {
            "first": models.VectorParams(size=dims, distance=cosine, quantization_config=quantization),
            "whole": models.VectorParams(size=width, distance=cosine, on_disk=True),
        }
        origin = {"model": documents.model, "prompt": documents.prompt}
        client.create_collection(COLLECTION, vectors_config=parameters, metadata=origin)
    fields = dict(zip(FIELDS, (documents.texts, documents.places), strict=True))
    for start in tqdm(range(0, total, PIECE), desc="storing", unit="piece", dynamic_ncols=True):
        x_ce = unit_vectors(documents.vectors, slice(start, start + PIECE), "documents")
        numbers = range(start, start + len(x_ce))
        batch = models.Batch(
            ids=list(numbers),
            vectors={"first": x_ce[:, :dims].tolist(), "whole": x_ce.tolist()},
            payloads=[
                {name: replace_surrogates(values[n]) for name, values in fields.items() if values} for n in numbers
            ],
        )
        client.upsert(COLLECTION, batch)
    while beyond := client.scroll(COLLECTION, offset=total, limit=PIECE, with_payload=False)[0]:  # of a larger fill
        client.delete(COLLECTION, [point.id for point in beyond])
    return client.count(COLLECTION).count


def check_precision_kept(client, is_server: bool, precision: str) -> None:
    """Raises UserError if the store keeps another precision for its first pass."""
    if precision not in QUANTIZED.values():
        return  # `fill_store` names those that exist
    if not is_server and precision != "float32":
        raise UserError(f"A store in a folder keeps float32; leave out --precision {precision}.")
    if is_server and client.collection_exists(COLLECTION):
        kept = type(client.get_collection(COLLECTION).config.params.vectors["first"].quantization_config).__name__
        if QUANTIZED.get(kept) != precision:
            kept = QUANTIZED.get(kept, kept)
            raise UserError(f"The store searches first in {kept}, not in {precision}; use another place.")


def sizes(client) -> tuple[int, int]:
    """Returns the numbers of dimensions of the first pass and of the second.

    Raises:
        UserError: the store holds no documents.
    """
    if not client.collection_exists(COLLECTION):
        raise UserError("The store holds no documents; give --vectors, --documents or --folder once.")
    vectors = client.get_collection(COLLECTION).config.params.vectors
    return vectors["first"].size, vectors["whole"].size


def _origin(client) -> tuple[str, str]:
    """Returns the model and the prompt of the documents; both empty if they are unknown."""
    metadata = client.get_collection(COLLECTION).config.metadata or {}
    return metadata.get("model", ""), metadata.get("prompt", "")


def search_store(
    client, queries: np.ndarray, options: SearchOptions, where=None, model: str = ""
) -> tuple[SearchResult, dict[int, dict]]:
    """Returns what is found for queries [q, e], and the payload of each document in it.

    Args:
        where: a `qdrant_client.models.Filter` on the payloads.
        model: fingerprint of the queries' model; empty: unknown.

    Raises:
        UserError: the store is empty, or holds vectors of other sizes or of another model.
    """
    from qdrant_client import models

    dims, width = sizes(client)
    if queries.shape[1] != width or options.dims != dims:
        raise UserError(
            f"The store searches by {dims:,} of {width:,} dimensions, not {options.dims:,} of {queries.shape[1]:,}; "
            "give its --dims and its model."
        )
    stored = _origin(client)[0]
    if model and stored and model != stored:
        raise UserError("The documents in the store were embedded by another model than the queries; give its --model.")
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
    payloads: dict[int, dict] = {}
    for start in tqdm(range(0, len(requests), PIECE), desc="searching", unit="piece", dynamic_ncols=True):
        for row, answer in enumerate(client.query_batch_points(COLLECTION, requests[start : start + PIECE]), start):
            scores_qk[row, : len(answer.points)] = [point.score for point in answer.points]
            numbers_qk[row, : len(answer.points)] = [point.id for point in answer.points]
            payloads |= {point.id: point.payload for point in answer.points}
    return SearchResult(scores_qk, numbers_qk), payloads


def fill_and_search(
    place: str, documents: SearchTexts | None, queries: SearchTexts | None, options: SearchOptions, output: str | None
) -> None:
    """`f2jax search --store`: fills the store if there are documents, searches it if there are queries.

    Raises:
        UserError: the store cannot be used, or keeps another precision.
    """
    with open_store(place) as client:
        if documents:
            dims = options.first_dims(documents.vectors.shape[1])
            check_precision_kept(client, "://" in place, options.precision)
            count = fill_store(client, documents, dims, options.precision)
            print(f"{place}: {count:,} documents, {dims} dimensions first.")
        if not queries:
            return
        options = options.for_width(sizes(client)[1])
        result, payloads = search_store(client, np.asarray(queries.vectors[:]), options, model=queries.model)
        texts, places = ({n: payload[name] for n, payload in payloads.items() if name in payload} for name in FIELDS)
        report = SearchReport(result, options, queries.texts, texts, places)
        if output:
            write_report(report, output)
            print(f"{output}: {options.k} nearest documents for {queries.vectors.shape[0]:,} queries.")
        else:
            print(report.lines())
