"""`f2jax encode`: embed the texts of a file."""

from f2jax.commands.options import model_options, parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("encode", "Embed the texts of a file; the same command resumes an interrupted run.")
    model_options(parser)
    parser.add_argument("--input", required=True, help=".txt (a text a line), .jsonl or .parquet")
    parser.add_argument("--output", required=True, help=".npy, or .parquet with text and embedding")
    parser.add_argument("--column", default="text", help="field of the text in .jsonl and .parquet")
    parser.add_argument("--prompt", help="put before every text")
    parser.add_argument("--prompt-name", help="a prompt of the model, e.g. query")
    parser.add_argument("--truncate-dim", type=int, help="keep the first so many dimensions")
    parser.add_argument("--precision", default="float32", help="float32, int8, uint8, binary or ubinary")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    args = parser.parse_args(argv)

    from f2jax import Embedder
    from f2jax.inference.encode_file import encode_file

    names = ("prompt", "prompt_name", "truncate_dim", "precision", "batch_size")
    options = {name: getattr(args, name) for name in names}
    embedder = Embedder.from_pretrained(args.model, args.dtype)
    rows, dim = encode_file(embedder, args.input, args.output, args.column, **options)
    print(f"{args.output}: {rows:,} vectors of {dim} x {args.precision}.")
