"""`f2jax evaluate`: score a model on built-in tasks, on local ones, or on those of MTEB."""

from importlib.util import find_spec

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError, require_extra
from f2jax.evaluation.options import EvaluationOptions

MTEB_ONLY = ("languages", "dims", "precisions", "cache", "prompts", "prompt", "name")


def main(argv: list[str]) -> None:
    from f2jax.evaluation.builtin import LOCAL_NAMES, TASKS, unknown_task

    options = Arguments(
        "evaluate",
        "Score a model at every Matryoshka dimension, on all devices; run again, the same command resumes. On several "
        f"hosts, run it on each: the first one scores. Built-in tasks: {', '.join(TASKS)}; with --data: "
        f"{', '.join(LOCAL_NAMES)}.",
        "--model release --benchmark english --output scores",
        argv,
        EvaluationOptions,
    ).read(EvaluationOptions)

    from f2jax.parallel import hosts  # brings JAX, which --help does without

    hosts.start()
    others = options.data or options.benchmark or options.baseline
    for name in options.tasks:
        if name not in (*TASKS, *LOCAL_NAMES) and not find_spec("mteb"):
            raise unknown_task(name)
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
    print(builtin.results_table(results))
    if str(embedder.truncation):
        print(embedder.truncation)
    if options.output:
        builtin.write_results(
            results,
            options.output,
            embedder.fingerprint,
            builtin.model_name(options.model),
            embedder.architecture.parameters,
        )
        print(f"Table and plot: {options.output}")


def _evaluate_with_mteb(options: EvaluationOptions) -> None:
    require_extra("mteb", "f2jax evaluate on these tasks")

    from f2jax.evaluation import run, runner

    scores = run.evaluate(options)
    if scores is not None:
        print(runner.scores_table(scores))
        print(f"Results: {options.output}/results")
