"""`f2jax start`: a student's first weights from a teacher's vectors."""

from f2jax.commands.options import parser_of


def main(argv: list[str]) -> None:
    parser = parser_of("start", "Make a student's first weights from a teacher's vectors; train from them afterwards.")
    parser.add_argument("--corpus", required=True, help="folder that f2jax prepare wrote, with the tokenizer")
    parser.add_argument("--teacher-vectors", required=True, help="folder that f2jax cache_teacher wrote for the corpus")
    parser.add_argument("--output", required=True, help="folder to write: what export writes, and train starts from")
    parser.add_argument("--size", default="mini", help="a name in f2jax/model/sizes.py")
    parser.add_argument("--texts", type=int, default=1_000_000, help="texts that are drawn from the corpus at most")
    parser.add_argument("--steps", type=int, default=3_000, help="optimizer steps of the token table")
    parser.add_argument("--batch-size", type=int, default=512, help="texts of a step")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--peak-lr", type=float, default=2e-2, help="learning rate after the warm-up")
    parser.add_argument("--temperature", type=float, default=0.05, help="of the softmaxes over in-batch scores")
    parser.add_argument("--seed", type=int, default=0, help="of the first table and of the order of the texts")
    args = parser.parse_args(argv)

    from f2jax.data.corpus import PreparedCorpus
    from f2jax.start.bag import BagOptions
    from f2jax.start.run import StartOptions, start_from_vectors

    bag = {name: getattr(args, name) for name in BagOptions.__dataclass_fields__ if hasattr(args, name)}
    options = StartOptions(args.size, args.texts, BagOptions(**bag))
    made, cosine = start_from_vectors(PreparedCorpus(args.corpus), args.teacher_vectors, args.output, options)
    print(
        f"{args.output}: {made.parameters:,} parameters, {made.vocab_size:,} tokens; mean cosine to the teacher "
        f"{cosine:.3f}. Train with --config.init_from={args.output} "
        f"--config.model.size={args.output}."
    )
