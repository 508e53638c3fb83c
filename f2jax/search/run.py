"""What `f2jax search` does with its options: where documents, queries and results go."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from f2jax.inference.embedder import DOCUMENT_PROMPTS, Embedder
from f2jax.inference.vector_cache import VectorCache
from f2jax.search.files import SearchTexts, read_corpus, search_corpus, write_results
from f2jax.search.options import DocumentOptions, QueryOptions, ResultOptions, SearchOptions
from f2jax.search.passages import read_folder

VECTORS = ".f2jax-vectors"  # in a searched folder: the vectors of its passages, by model and text


def run(given: DocumentOptions, asked: QueryOptions, options: SearchOptions, results: ResultOptions) -> None:
    """Searches, serves a page or fills a store, as `f2jax search` is told.

    Raises:
        UserError: an option or a file cannot be used.
    """
    embedder = Embedder.from_pretrained(asked.model, asked.dtype) if asked.model else None
    documents = _documents(given, asked, embedder)
    queries = partial(_queries, asked, embedder, documents.vectors.shape[1] if documents else None)
    if results.store:
        from f2jax.search import qdrant

        qdrant.use(results.store, documents, queries(), options, results.output)
        return
    options = options.for_width(documents.vectors.shape[1])
    if results.serve:
        from f2jax.search.serve import serve

        serve(documents, embedder, options, results.port)
        return
    found = search_corpus(documents, queries(), options, results.recall_queries)
    if results.output:
        write_results(found, results.output)
        print(f"{results.output}: {found}")
    else:
        print(f"{found.lines()}\n{found}")


def _documents(given: DocumentOptions, asked: QueryOptions, embedder: Embedder | None) -> SearchTexts | None:
    """Returns the documents; None where only the store has them."""
    if given.folder:
        return folder_corpus(given.folder, embedder, asked.batch_size)
    if not (given.documents or given.vectors):
        return None
    return read_corpus(given.documents, given.vectors, **_encoding(asked, embedder, "document"))


def _queries(asked: QueryOptions, embedder: Embedder | None, width: int | None) -> SearchTexts | None:
    """Returns the queries; those of a model are cut to the documents' width, where it is one of the model's."""
    if not (asked.query or asked.queries):
        return None
    if asked.query:
        queries = SearchTexts(embedder.encode_query(list(asked.query), show_progress_bar=False), list(asked.query))
    elif asked.queries.endswith(".npy"):
        return read_corpus(None, asked.queries, **_encoding(asked, embedder, "query"))
    else:
        queries = read_corpus(asked.queries, None, **_encoding(asked, embedder, "query"))
    return replace(queries, vectors=queries.vectors[:, :width]) if width in embedder.matryoshka_dims else queries


def _encoding(asked: QueryOptions, embedder: Embedder | None, kind: str) -> dict[str, Any]:
    """Returns how texts become vectors, and what these depend on."""
    if embedder is None:
        return {"encode": None, "call": {}, "column": asked.column}
    encode = embedder.encode_document if kind == "document" else embedder.encode_query
    return {
        "encode": partial(encode, batch_size=asked.batch_size, show_progress_bar=False),
        "call": {"model": embedder.fingerprint, "kind": kind},
        "column": asked.column,
    }


def folder_corpus(folder: str, embedder: Embedder, batch_size: int = 1_024) -> SearchTexts:
    """The passages of a folder; their vectors stay in it, so that only new texts are embedded the next time.

    Raises:
        UserError: the folder cannot be used, or holds no text.
    """
    passages = read_folder(folder)
    texts = [passage.text for passage in passages]
    prompt = next((embedder.prompts[name] for name in DOCUMENT_PROMPTS if name in embedder.prompts), "")
    cache = VectorCache(Path(folder) / VECTORS / f"{embedder.fingerprint[:16]}.sqlite")
    vectors = cache.vectors(prompt, texts, partial(embedder.encode, prompt="", batch_size=batch_size))
    return SearchTexts(vectors, texts, [passage.place for passage in passages])
