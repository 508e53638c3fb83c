"""`f2jax search`: find documents in two passes, print them, write them, serve a page, or fill a store."""

from f2jax.commands.options import changed, model_options, parser_of
from f2jax.errors import UserError

UNUSED = {"serve": ("query", "queries", "output", "recall_queries"), "store": ("approximate", "recall_queries")}


def main(argv: list[str]) -> None:
    parser = parser_of(
        "search",
        "Find documents in two passes, by few dimensions, then by all; the same command resumes interrupted embedding.",
    )
    documents = parser.add_argument_group("documents", "Vectors, texts, both in the same order, or a folder of texts.")
    documents.add_argument("--vectors", metavar="FILE.npy", help="floats, one row a document; made from --documents")
    documents.add_argument("--documents", metavar="FILE", help=".txt (a text a line), .jsonl or .parquet; see --column")
    documents.add_argument("--folder", help="text files (.txt, .md, .rst, .org, .tex), searched by passage")
    queries = parser.add_argument_group("queries")
    queries.add_argument("--queries", metavar="FILE", help=".npy of vectors, or texts like --documents")
    queries.add_argument("--query", nargs="+", metavar="TEXT", help="in the place of --queries")
    queries.add_argument("--column", default="text", help="field of the text in .jsonl and .parquet")
    model_options(queries, required=False)
    queries.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    passes = parser.add_argument_group("passes")
    passes.add_argument("--k", type=int, default=10, help="documents to find for a query")
    passes.add_argument(
        "--dims", type=int, help="dimensions of the first pass; default: 64, or all where there are less"
    )
    passes.add_argument(
        "--candidates", type=int, default=200, help="documents that the first pass leaves to the second"
    )
    passes.add_argument("--precision", default="float32", help="of the first pass: float32, int8 or binary")
    passes.add_argument(
        "--approximate", type=float, help="share of the candidates to find by TPUs' approx_max_k, as 0.95"
    )
    results = parser.add_argument_group("results")
    results.add_argument("--output", metavar="FILE.jsonl", help="a JSON object for each query; default: print them")
    results.add_argument(
        "--recall-queries", type=int, default=100, help="queries to compare with an exact search by all dimensions"
    )
    results.add_argument("--serve", action="store_true", help="a page to search in, on this machine alone")
    results.add_argument("--port", type=int, default=8000, help="of the page; 0: any free one")
    results.add_argument(
        "--store", metavar="PLACE", help="Qdrant: a folder, or the http:// address of a server; filled and searched"
    )
    args = parser.parse_args(argv)
    _check(args)
    _check_unused(parser, args)

    from f2jax.search.run import run

    run(args)


def _check(args) -> None:
    if args.folder and (args.documents or args.vectors):
        raise UserError("Give either --folder, or --documents and --vectors.")
    if not (args.folder or args.documents or args.vectors or args.store):
        raise UserError("f2jax search needs --vectors, --documents or --folder.")
    if args.query and args.queries:
        raise UserError("Give either --query or --queries.")
    if args.serve and args.store:
        raise UserError("Give either --serve or --store.")
    if args.serve and not (args.folder or args.documents):
        raise UserError("--serve shows texts; give --folder or --documents.")
    if not (args.query or args.queries or args.serve or args.store):
        raise UserError("f2jax search needs --query, --queries or --serve.")
    if not (args.query or args.queries or args.serve or args.folder or args.documents or args.vectors):
        raise UserError("--store needs documents to fill it, or --query or --queries to search it.")
    if args.output and not (args.query or args.queries or args.serve):
        raise UserError("--output is for what queries find; give --query or --queries.")
    documents = args.folder or (args.documents and not args.vectors)  # vectors may have been made elsewhere
    texts = documents or args.query or args.serve or not (args.queries or ".npy").endswith(".npy")
    if texts and not args.model:
        raise UserError("Texts are embedded by a model; give --model.")
    if args.output and not args.output.endswith(".jsonl"):
        raise UserError(f"{args.output} should end in .jsonl.")


def _check_unused(parser, args) -> None:
    for option, names in UNUSED.items():
        if getattr(args, option) and (some := changed(parser, args, *names)):
            raise UserError(f"{some} would change nothing with --{option}; leave out what is named.")
    if args.store and not (args.folder or args.documents or args.vectors) and changed(parser, args, "precision"):
        raise UserError("--precision is chosen when a store is filled; leave it out to search what is there.")
