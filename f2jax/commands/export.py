"""`f2jax export`: write a folder that other embedding tools load."""

from f2jax.commands.options import model_options, parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("export", "Write the folder that sentence-transformers and transformers load as it is.")
    model_options(parser)
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--truncate-layers", type=int, help="keep the first layers, of a model trained with loss.exits")
    parser.add_argument("--table-rank", type=int, help="keep so many columns of a factorized token table")
    args = parser.parse_args(argv)

    from f2jax import Embedder

    embedder = Embedder.from_pretrained(args.model, args.dtype, args.truncate_layers, args.table_rank)
    embedder.save_pretrained(args.output)
    print(f"{args.output}: {embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {args.dtype}.")
