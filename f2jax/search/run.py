"""Runs `f2jax search`: loads documents and queries, and searches, serves a page or fills a store."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from f2jax.errors import UserError
from f2jax.inference.embedder import UNLIMITED, Embedder
from f2jax.inference.vector_cache import VectorCache
from f2jax.search.files import EmbedTexts, SearchTexts, read_corpus, search_corpus, write_report
from f2jax.search.options import DocumentOptions, QueryOptions, ResultOptions, SearchOptions
from f2jax.search.passages import MAX_TOKENS, read_folder

VECTORS = ".f2jax-vectors"  # folder inside a searched folder that caches the vectors of its passages


def run(given: DocumentOptions, asked: QueryOptions, options: SearchOptions, results: ResultOptions) -> None:
    """Searches, serves a page or fills a store, as the options say.

    Raises:
        UserError: an option or a file cannot be used.
    """
    embedder = Embedder.from_pretrained(asked.model, asked.dtype) if asked.model else None
    texts_alone = embedder and not given.vectors  # otherwise, the width is that of the file
    if embedder and texts_alone and options.dims is not None and not 1 <= options.dims <= embedder.dim:
        raise UserError(f"dims={options.dims} is out of range; the vectors have 1 to {embedder.dim} dimensions.")
    documents = _documents(given, asked, embedder)
    if results.store:
        from f2jax.search import postgres

        queries = _queries(asked, embedder, documents.vectors.shape[1] if documents else None)
        postgres.fill_and_search(results.store, documents, queries, options, results.output, results.exact)
    elif documents and results.serve and embedder:
        from f2jax.search.serve import serve

        serve(documents, embedder, options.for_width(documents.vectors.shape[1]), results.port)
    elif documents and (queries := _queries(asked, embedder, documents.vectors.shape[1])):
        report = search_corpus(documents, queries, options, results.recall_queries)
        if results.output:
            write_report(report, results.output)
            print(f"{results.output}: {report}")
        else:
            print(f"{report.lines()}\n{report}")
    if embedder and str(embedder.truncation):
        print(embedder.truncation)


def _documents(given: DocumentOptions, asked: QueryOptions, embedder: Embedder | None) -> SearchTexts | None:
    """Returns the documents, or None if they are already in the store."""
    if given.folder and embedder:
        return folder_corpus(given.folder, embedder, asked.batch_size)
    if not (given.documents or given.vectors):
        return None
    return read_corpus(given.documents, given.vectors, _embed(asked, embedder, "document"), asked.column)


def _queries(asked: QueryOptions, embedder: Embedder | None, width: int | None) -> SearchTexts | None:
    """Returns the queries, truncated to the documents' width if that is a Matryoshka dimension of the model."""
    if not (asked.query or asked.queries):
        return None
    embed = _embed(asked, embedder, "query")
    if asked.query and embed:
        texts = list(asked.query)
        queries = SearchTexts(embed.encode(texts), texts, model=embed.model, prompt=embed.prompt)
    elif asked.queries and asked.queries.endswith(".npy"):
        return read_corpus(None, asked.queries, embed)
    else:
        queries = read_corpus(asked.queries, None, embed, asked.column)
    if embedder and width in embedder.matryoshka_dims:
        return replace(queries, vectors=queries.vectors[:][:, :width])
    return queries


def _embed(asked: QueryOptions, embedder: Embedder | None, kind: str) -> EmbedTexts | None:
    """Returns how to embed texts with the model's prompt named `kind`, or None without a model."""
    if embedder is None:
        return None
    prompt = embedder.prompts.get(kind, "")
    encode = partial(embedder.encode, prompt=prompt, batch_size=asked.batch_size, show_progress_bar=False)
    return EmbedTexts(encode, embedder.vectors_key, prompt, embedder.truncation)


def folder_corpus(folder: str, embedder: Embedder, batch_size: int = 1_024) -> SearchTexts:
    """Returns the passages of a folder with their vectors; passages fit the model and have up to `MAX_TOKENS` tokens.

    The vectors are cached in the folder, so that only new texts are embedded the next time.

    Raises:
        UserError: the folder cannot be used, or holds no text.
    """
    prompt = embedder.prompts.get("document", "")

    def count_tokens(texts: list[str]) -> list[int]:
        return [len(ids) - around for ids in embedder.tokenizer.encode([prompt + text for text in texts], UNLIMITED)]

    around = 0  # number of tokens of the prompt and of those that the tokenizer adds
    (around,) = count_tokens([""])
    passages = read_folder(folder, count_tokens, max(1, min(MAX_TOKENS, embedder.max_length - around)))
    texts = [passage.text for passage in passages]
    cache = VectorCache(Path(folder) / VECTORS / f"{embedder.vectors_key[:16]}.sqlite")
    vectors = cache.vectors(prompt, texts, partial(embedder.encode, prompt="", batch_size=batch_size))
    places = [passage.place for passage in passages]
    return SearchTexts(vectors, texts, places, embedder.vectors_key, prompt)
