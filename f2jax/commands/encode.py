"""`f2jax encode`: embed the texts of a file."""

from f2jax.commands.options import devices_option, model_options, parser_of


def main(argv: list[str]) -> None:
    parser = parser_of(
        "encode",
        "Embed the texts of a file on all devices; the same command resumes an interrupted run. On several hosts, run "
        "it on each: the first one reads and writes.",
    )
    model_options(parser)
    devices_option(parser)
    parser.add_argument("--input", required=True, help=".txt (a text a line), .jsonl or .parquet")
    parser.add_argument("--output", required=True, help=".npy, or .parquet with text and embedding")
    parser.add_argument("--column", default="text", help="field of the text in .jsonl and .parquet")
    parser.add_argument("--prompt", help="put before every text")
    parser.add_argument("--prompt-name", help="a prompt of the model, e.g. query")
    parser.add_argument("--truncate-dim", type=int, help="keep the first so many dimensions")
    parser.add_argument("--precision", default="float32", help="float32, int8, uint8, binary or ubinary")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    args = parser.parse_args(argv)

    from f2jax.inference import multihost
    from f2jax.inference.embedder import Embedder
    from f2jax.inference.encode_file import encode_file
    from f2jax.parallel import hosts

    names = ("prompt", "prompt_name", "truncate_dim", "precision", "batch_size")
    options = {name: getattr(args, name) for name in names}
    hosts.start()
    embedder = Embedder.from_pretrained(args.model, args.dtype, fsdp=args.fsdp)
    shape = multihost.follow_first(
        embedder, lambda: encode_file(embedder, args.input, args.output, args.column, **options)
    )
    if shape:
        print(f"{args.output}: {shape[0]:,} vectors of {shape[1]} x {args.precision}.")
