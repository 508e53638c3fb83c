"""`f2jax mine`: give rows hard negatives."""

from f2jax.commands.options import changed, limit, model_options, parser_of
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of("mine", "Give rows hard negatives (recipe 3.2); the same command resumes an interrupted run.")
    parser.add_argument("--input", nargs="+", required=True, help="files, globs, folders or built-in sets of rows")
    parser.add_argument("--output", help=".parquet: the rows with negatives, in the order of the input")
    parser.add_argument("--corpus", help="further documents: .txt (a text a line), .jsonl or .parquet with 'text'")
    parser.add_argument("--kinds", nargs="+", default=[], help="SOURCE=KIND for files whose rows do not say their kind")
    parser.add_argument("--only", nargs="+", help="the kinds to mine for, default: all; other rows stay as they are")
    parser.add_argument("--across-sources", action="store_true", help="documents of all sources, not the row's own")
    parser.add_argument(
        "--replace", action="store_true", help="forget negatives that rows bring; else these come first"
    )
    vectors = parser.add_argument_group(
        "vectors",
        "By a model, or from .npy files of floats with a row for each text. Queries: each distinct query of the input "
        "once, in the order in which they first come, with the row's own instruction before it. Documents: each "
        "distinct positive likewise, then the texts of --corpus. The --list options write these and mine nothing.",
    )
    model_options(vectors, required=False)
    vectors.add_argument("--prompt-name", help="the model's prompt for queries; default: query, where it has that")
    vectors.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    vectors.add_argument("--query-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--document-embeddings", metavar="FILE.npy", help="in the place of --model")
    vectors.add_argument("--list-queries", metavar="FILE.jsonl", help="write the queries to embed, in order")
    vectors.add_argument("--list-documents", metavar="FILE.jsonl", help="write the documents to embed, in order")
    rules = parser.add_argument_group("rules", "Scores are cosines.")
    rules.add_argument("--top", type=int, default=100, help="nearest documents looked at, beside the right answers")
    rules.add_argument("--max-score", type=limit, default=0.8, help="a negative scores below this; or: off")
    rules.add_argument("--relative", type=limit, default=0.95, help="and below this x the right answer; or: off")
    rules.add_argument("--skip", type=int, default=5, help="of those that pass, leave out so many of the nearest")
    rules.add_argument("--keep", type=int, default=24, help="negatives of a row")
    rules.add_argument("--fewer", default="drop", help="a row with fewer: drop it, or draw the rest at random")
    rules.add_argument("--seed", type=int, default=0, help="of the random draw")
    args = parser.parse_args(argv)

    if args.query_embeddings and (some := changed(parser, args, "prompt_name", "dtype", "batch_size")):
        raise UserError(f"{some} would change nothing with --query-embeddings; leave out what is named.")

    from f2jax.mine import run

    given = run.Input(args.input, args.corpus, args.kinds, args.only or run.KINDS)
    if args.list_queries or args.list_documents:
        print(run.list_texts(given, args.list_queries, args.list_documents))
        return
    if not args.output:
        raise UserError("f2jax mine needs --output, or a --list option.")
    options = run.MiningOptions(**{name: getattr(args, name) for name in run.MiningOptions.__dataclass_fields__})
    vectors = run.choose_vectors(
        args.model, args.dtype, args.prompt_name, args.batch_size, args.query_embeddings, args.document_embeddings
    )
    print(run.mine_file(given, vectors, args.output, options, args.across_sources, args.replace))
