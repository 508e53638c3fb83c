"""`f2jax export`: write a folder that other embedding tools load."""

from f2jax.commands.options import model_options, parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("export", "Write the folder that sentence-transformers and transformers load as it is.")
    model_options(parser)
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--format", nargs="+", default=(), help="onnx, onnx-int8, gguf or gguf-q8, beside the weights")
    parser.add_argument("--scores", help="for the model card: the --output of f2jax evaluate")
    parser.add_argument("--license", help="for the model card: an identifier of the hub, such as apache-2.0")
    parser.add_argument("--truncate-layers", type=int, help="keep the first layers, of a model trained with loss.exits")
    parser.add_argument("--table-rank", type=int, help="keep so many columns of a factorized token table")
    args = parser.parse_args(argv)

    from f2jax import files
    from f2jax.checkpoints import model_card, package
    from f2jax.inference.embedder import Embedder
    from f2jax.release import about as about_lib
    from f2jax.release.export import export_package

    model = files.resolve_model(args.model)
    package.check_output(args.output, [model])
    embedder = Embedder.from_pretrained(model, args.dtype, args.truncate_layers, args.table_rank)
    scores = about_lib.read_scores(args.scores, embedder.fingerprint) if args.scores else {}
    about = model_card.RunHistory(about_lib.read_stages(model), scores, args.license)
    export_package(embedder, args.output, args.format, about)
    print(f"{args.output}: {embedder.architecture.parameters:,} parameters, {embedder.dim} dimensions, {args.dtype}.")
