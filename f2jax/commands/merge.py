"""`f2jax merge`: average checkpoints into one model."""

from f2jax.commands.options import parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("merge", "Average checkpoints, weight by weight: of one run's tail, or of several runs.")
    parser.add_argument("models", nargs="+", help="folders, hub ids, gs:// paths, workdirs or WORKDIR@STEP")
    parser.add_argument("--output", required=True, help="folder to write, as export does")
    parser.add_argument(
        "--last", type=int, metavar="STEPS", help="all kept checkpoints of a workdir's last steps: 2500"
    )
    parser.add_argument("--method", default="average", help="average, or slerp (along the arc between them)")
    parser.add_argument("--weights", type=float, nargs="+", help="of the models, in their order; default: equal")
    parser.add_argument("--decay", type=float, help="each model counts this times the one after it, e.g. 0.8")
    parser.add_argument("--dtype", default="float32", help="of the result: float32 or bfloat16")
    args = parser.parse_args(argv)

    from f2jax.release import merge as lib

    models = lib.sources(args.models, args.last)
    made, shares = lib.merge_models(models, args.output, args.method, args.weights, args.decay, args.dtype)
    for model, share in zip(models, shares, strict=True):
        print(f"{share:7.1%}  {model}")
    print(f"{args.output}: {made.parameters:,} parameters, {args.method} of {len(models)}.")
