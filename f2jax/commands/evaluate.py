"""`f2jax evaluate`: score a model on built-in tasks, on local ones, or on those of MTEB."""

from difflib import get_close_matches

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError, did_you_mean, require_extra
from f2jax.evaluation.options import EvaluationOptions

MTEB_ONLY = ("languages", "dims", "precisions", "cache", "prompts", "prompt", "name")


def main(argv: list[str]) -> None:
    from f2jax.evaluation.tasks import TASKS

    options = Arguments(
        "evaluate",
        "Score a model at every Matryoshka dimension, on all devices; run again, the same command resumes. On several "
        f"hosts, run it on each: the first one scores. Built-in tasks: {', '.join(TASKS)}.",
        "--model release --benchmark english --output scores",
        argv,
        EvaluationOptions,
    ).read(EvaluationOptions)

    from f2jax.parallel import hosts  # brings JAX, which --help does without

    hosts.start()
    others = options.data or options.benchmark or options.baseline
    for name in options.tasks:
        if not others and name not in TASKS and get_close_matches(name, TASKS):
            raise UserError(f"There is no built-in task '{name}'{did_you_mean(name, TASKS)}")
    if others or not set(options.tasks) <= set(TASKS):
        _evaluate_with_mteb(options)
    else:
        _evaluate_built_in(options)


def _evaluate_built_in(options: EvaluationOptions) -> None:
    if unused := changed(options, *MTEB_ONLY):
        raise UserError(f"{unused} is for other tasks than the built-in ones; give --tasks, --benchmark or --data.")
    if not options.model:
        raise UserError("f2jax evaluate needs --model.")

    from f2jax.evaluation import builtin
    from f2jax.inference import multihost
    from f2jax.inference.embedder import Embedder

    embedder = Embedder.from_pretrained(options.model, options.dtype, fsdp=options.fsdp)
    results = multihost.follow_first(
        embedder, lambda: builtin.evaluate_builtin(embedder, options.tasks or builtin.TASKS)
    )
    if results is None:
        return
    print(builtin.table(results))
    if options.output:
        builtin.write(results, options.output, embedder.fingerprint)
        print(f"Table and plot: {options.output}")


def _evaluate_with_mteb(options: EvaluationOptions) -> None:
    if not options.output:
        raise UserError("f2jax evaluate needs --output for these tasks.")
    require_extra("mteb", "f2jax evaluate on these tasks")

    from f2jax.evaluation import run, runner

    scores = run.evaluate(options)
    if scores is not None:
        print(runner.table(scores))
        print(f"Results: {options.output}/results")
