"""What `f2jax search` does with its options: where documents, queries and results go."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from f2jax.inference.embedder import DOCUMENT_PROMPTS, Embedder
from f2jax.inference.vector_cache import VectorCache
from f2jax.search.files import SearchTexts, read_corpus, search_corpus, write_results
from f2jax.search.passages import read_folder
from f2jax.search.two_pass import SearchOptions

DIMS = 64  # of the first pass, where there are as many
VECTORS = ".f2jax-vectors"  # in a searched folder: the vectors of its passages, by model and text


def run(args: Namespace) -> None:
    """Raises UserError where an option or a file cannot be used."""
    embedder = Embedder.from_pretrained(args.model, args.dtype) if args.model else None
    documents = _documents(args, embedder)
    queries = partial(_queries, args, embedder, documents.vectors.shape[1] if documents else None)
    if args.store:
        from f2jax.search import qdrant

        qdrant.use(args.store, documents, queries(), partial(_options, args), args.output)
        return
    options = _options(args, documents.vectors.shape[1])
    if args.serve:
        from f2jax.search.serve import serve

        serve(documents, embedder, options, args.port)
        return
    results = search_corpus(documents, queries(), options, args.recall_queries)
    if args.output:
        write_results(results, args.output)
        print(f"{args.output}: {results}")
    else:
        print(f"{results.lines()}\n{results}")


def _options(args: Namespace, width: int) -> SearchOptions:
    dims = min(DIMS, width) if args.dims is None else args.dims
    return SearchOptions(args.k, dims, args.candidates, args.precision, args.approximate)


def _documents(args: Namespace, embedder: Embedder | None) -> SearchTexts | None:
    """None where there are none, but a store that has them."""
    if args.folder:
        return folder_corpus(args.folder, embedder, args.batch_size)
    if not (args.documents or args.vectors):
        return None
    return read_corpus(args.documents, args.vectors, **_encoding(args, embedder, "document"))


def _queries(args: Namespace, embedder: Embedder | None, width: int | None) -> SearchTexts | None:
    """Those of a model are cut to the documents' width, where it is one of the model's."""
    if not (args.query or args.queries):
        return None
    if args.query:
        queries = SearchTexts(embedder.encode_query(args.query, show_progress_bar=False), args.query)
    elif args.queries.endswith(".npy"):
        return read_corpus(None, args.queries, **_encoding(args, embedder, "query"))
    else:
        queries = read_corpus(args.queries, None, **_encoding(args, embedder, "query"))
    return replace(queries, vectors=queries.vectors[:, :width]) if width in embedder.matryoshka_dims else queries


def _encoding(args: Namespace, embedder: Embedder | None, kind: str) -> dict:
    """How texts become vectors, and what these depend on."""
    if embedder is None:
        return {"encode": None, "call": {}, "column": args.column}
    encode = embedder.encode_document if kind == "document" else embedder.encode_query
    return {
        "encode": partial(encode, batch_size=args.batch_size, show_progress_bar=False),
        "call": {"model": embedder.fingerprint, "kind": kind},
        "column": args.column,
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
