"""`f2jax search`: find documents in two passes, and print or write them, serve a page, or fill a store."""

from contextlib import nullcontext

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError
from f2jax.search.options import DocumentOptions, QueryOptions, ResultOptions, SearchOptions


def main(argv: list[str]) -> None:
    arguments = Arguments(
        "search",
        "Find documents in two passes: first by a few dimensions, then by all of them. The same command resumes "
        "interrupted embedding.",
        '--model mini --folder notes --query "how do I renew a passport?"',
        argv,
        DocumentOptions,
        QueryOptions,
        SearchOptions,
        ResultOptions,
    )
    documents, queries = arguments.read(DocumentOptions), arguments.read(QueryOptions)
    passes, results = arguments.read(SearchOptions), arguments.read(ResultOptions)
    _check(documents, queries, results)
    _check_unused(documents, queries, passes, results)

    from f2jax.outputs import output_file
    from f2jax.search.run import run

    with output_file(results.output, "file of results") if results.output else nullcontext():
        run(documents, queries, passes, results)


def _check(documents: DocumentOptions, queries: QueryOptions, results: ResultOptions) -> None:
    """Raises UserError if options contradict each other, or if one is missing."""
    has_documents = documents.folder or documents.documents or documents.vectors
    has_queries = queries.query or queries.queries
    if documents.folder and (documents.documents or documents.vectors):
        raise UserError("Give either --folder, or --documents and --vectors.")
    if not (has_documents or results.store):
        raise UserError("f2jax search needs --vectors, --documents or --folder.")
    if queries.query and queries.queries:
        raise UserError("Give either --query or --queries.")
    if results.serve and results.store:
        raise UserError("Give either --serve or --store.")
    if results.exact and not results.store:
        raise UserError("--exact applies to --store; without it, both passes are exact already.")
    if results.serve and not (documents.folder or documents.documents):
        raise UserError("--serve needs texts to show; give --folder or --documents.")
    if not (has_queries or results.serve or results.store):
        raise UserError("f2jax search needs --query, --queries or --serve.")
    if not (has_queries or results.serve or has_documents):
        raise UserError("--store needs documents to fill it, or --query or --queries to search it.")
    if results.output and not (has_queries or results.serve):
        raise UserError("--output is for the results of queries; give --query or --queries.")
    texts = documents.folder or (documents.documents and not documents.vectors)  # vectors of another tool
    asked = queries.query or (queries.queries and not queries.queries.endswith(".npy"))
    if (texts or asked or results.serve) and not queries.model:
        raise UserError("A model is needed to embed the texts; give --model.")
    if results.output and not results.output.endswith(".jsonl"):
        raise UserError(f"{results.output} should end in .jsonl.")


def _reads_rows(documents: DocumentOptions, queries: QueryOptions) -> bool:
    """Returns whether texts are read from a file in which a column may be chosen."""
    from f2jax.data.sources.tables import is_text_file

    texts = [path for path in (documents.documents, queries.queries) if path and not path.endswith(".npy")]
    return not all(map(is_text_file, texts))


def _check_unused(
    documents: DocumentOptions, queries: QueryOptions, passes: SearchOptions, results: ResultOptions
) -> None:
    """Raises UserError if an option would have no effect."""
    asked = queries.query or queries.queries
    unused = {
        "with --serve": results.serve
        and [changed(queries, "query", "queries"), changed(results, "output", "recall_queries")],
        "without --serve": not results.serve and [changed(results, "port")],
        "without a model": not queries.model and [changed(queries, "dtype", "batch_size")],
        "without a file of rows": not _reads_rows(documents, queries) and [changed(queries, "column")],
        "with --store": results.store and [changed(passes, "approximate"), changed(results, "recall_queries")],
        "without queries": results.store
        and not asked
        and [changed(passes, "k", "candidates"), changed(results, "exact")],
    }
    for where, names in unused.items():
        if names and any(names):
            raise UserError(f"{' and '.join(filter(None, names))} would change nothing {where}; leave that out.")
    filled = documents.folder or documents.documents or documents.vectors
    if results.store and not filled and changed(passes, "precision"):
        raise UserError("The precision of a store is fixed when it is filled; leave out --precision to search it.")
