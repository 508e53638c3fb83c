"""`f2jax cache_teacher`: embed a corpus by a teacher, once for all trainings."""

from f2jax.commands.options import model_options, parser_of
from f2jax.errors import UserError


def main(argv: list[str]) -> None:
    parser = parser_of("cache_teacher", "Embed a prepared corpus by a teacher, once; the same command goes on.")
    parser.add_argument("--corpus", required=True, help="folder that f2jax prepare wrote")
    parser.add_argument("--output", help="folder of the vectors: teacher.cache of a training config")
    model_options(parser, required=False)
    parser.add_argument("--width", type=int, default=0, help="first dimensions to keep: the student's width; 0: all")
    parser.add_argument("--store", default="bfloat16", help="type of the stored numbers: bfloat16 or float32")
    parser.add_argument("--batch-size", type=int, default=1024, help="texts of a device batch at most")
    parser.add_argument("--vectors", metavar="FILE.npy", help="made elsewhere, a row for each text; instead of --model")
    parser.add_argument("--list-texts", metavar="FILE.jsonl", help="write these texts, in order, and do nothing else")
    args = parser.parse_args(argv)
    if not args.list_texts and (not args.output or bool(args.model) == bool(args.vectors)):
        raise UserError("f2jax cache_teacher needs --output and either --model or --vectors, or else --list-texts.")

    from f2jax.data.corpus import PreparedCorpus
    from f2jax.train import cache_teacher as lib

    corpus = PreparedCorpus(args.corpus)
    if args.list_texts:
        print(f"{args.list_texts}: {lib.list_texts(corpus, args.list_texts):,} texts.")
        return
    if args.vectors:
        source = lib.from_file(args.vectors, corpus)
    else:
        source = lib.by_model(args.model, args.dtype, corpus, args.batch_size)
    card = lib.cache_teacher(corpus, args.output, source, args.width, args.store)
    print(
        f"{args.output}: vectors of {card.width} x {card.dtype}; train with --config.teacher.cache={args.output} "
        f"--config.data.sources=\"('corpus:{args.corpus}',)\"."
    )
