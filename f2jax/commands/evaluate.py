"""`f2jax evaluate`: score a model on built-in tasks, on local ones, or on those of MTEB."""

import argparse
from difflib import get_close_matches

from f2jax.commands.options import devices_option, dimension, model_options, pairs, parser_of
from f2jax.errors import UserError, did_you_mean, require_extra


def main(argv: list[str]) -> None:
    from f2jax.evaluation.tasks import TASKS

    parser = parser_of(
        "evaluate",
        "Score a model at every Matryoshka dimension, on all devices; the same command goes on. On several hosts, "
        "run it on each: the first one scores.",
    )
    model_options(parser, required=False)
    devices_option(parser)
    parser.add_argument("--output", help="folder of the results; tasks of mteb need it")
    which = parser.add_argument_group(
        "tasks",
        f"Default: those in --data; without --data: built in are {', '.join(TASKS)}, for which nothing is installed or "
        "downloaded. All others run by mteb (pip install 'f2jax[mteb]').",
    )
    which.add_argument("--tasks", nargs="+", help="names: built-in, local, or mteb's")
    which.add_argument("--benchmark", help="english, multilingual, german …, or mteb's name: 'MTEB(eng, v2)'")
    which.add_argument("--data", help="folder of the local tasks' data")
    which.add_argument("--languages", nargs="+", help="only these, as ISO 639-3 codes: deu fra")
    vectors = parser.add_argument_group("vectors", "Texts are encoded once, whatever is scored of them.")
    vectors.add_argument(
        "--dims", nargs="+", type=dimension, help="numbers, or all; default: every second Matryoshka dimension"
    )
    vectors.add_argument("--precisions", nargs="*", help="at the largest dimension, default: int8 binary; may be none")
    vectors.add_argument("--cache", help="folder of the vectors, default: OUTPUT/vectors; may be deleted at any time")
    prompts = parser.add_argument_group(
        "prompts", "Default: the instructions of F2LLM-v2 in mteb, after the template 'Instruct: … \\nQuery: '."
    )
    prompts.add_argument("--prompts", help="JSON file {task, type or query: instruction}, with 'template'; or: none")
    prompts.add_argument("--prompt", nargs="+", help="NAME=INSTRUCTION in the place of one of these")
    parser.add_argument("--baseline", nargs="+", help="also score: tfidf, or random (untrained weights)")
    parser.add_argument("--name", help="of the model in the results, default: f2jax/ and its folder's name")
    args = parser.parse_args(argv)

    from f2jax.parallel import hosts  # brings JAX, which --help does without

    hosts.start()
    others = args.data or args.benchmark or args.baseline
    for name in args.tasks or ():
        if not others and name not in TASKS and get_close_matches(name, TASKS):
            raise UserError(f"There is no built-in task '{name}'{did_you_mean(name, TASKS)}")
    if others or not set(args.tasks or ()) <= set(TASKS):
        _evaluate_with_mteb(args)
    else:
        _evaluate_built_in(args)


def _evaluate_built_in(args: argparse.Namespace) -> None:
    for name in ("languages", "dims", "precisions", "cache", "prompts", "prompt", "name"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for other tasks than the built-in ones; give --tasks, --benchmark or --data.")
    if not args.model:
        raise UserError("f2jax evaluate needs --model.")

    from f2jax.evaluation import builtin
    from f2jax.inference import multihost
    from f2jax.inference.embedder import Embedder

    embedder = Embedder.from_pretrained(args.model, args.dtype, fsdp=args.fsdp)
    results = multihost.follow_first(embedder, lambda: builtin.evaluate_builtin(embedder, args.tasks or builtin.TASKS))
    if results is None:
        return
    print(builtin.table(results))
    if args.output:
        builtin.write(results, args.output, embedder.fingerprint)
        print(f"Table and plot: {args.output}")


def _evaluate_with_mteb(args: argparse.Namespace) -> None:
    if not args.output:
        raise UserError("f2jax evaluate needs --output for these tasks.")
    require_extra("mteb", "f2jax evaluate on these tasks")

    from f2jax.evaluation import run, runner

    args.prompt = pairs(args.prompt or [], "--prompt")
    given = {name: value for name, value in vars(args).items() if value is not None}
    scores = run.evaluate(run.EvaluationOptions(**given))
    if scores is not None:
        print(runner.table(scores))
        print(f"Results: {args.output}/results")
