"""`f2jax evaluate`: score a model on built-in tasks, on your own files, or on MTEB."""

from contextlib import nullcontext
from importlib import util
from shlex import quote

from f2jax.commands.options import Arguments, changed
from f2jax.errors import UserError, require_extra
from f2jax.evaluation.options import EvaluationOptions

SCORES = "folder of scores"
SCORE_FILES = ("results.json", "vectors")  # by which a folder of an older version is recognised
MTEB_ONLY = ("columns", "languages", "dims", "precisions", "cache", "prompts", "prompt", "name")


def main(argv: list[str]) -> None:
    from f2jax.evaluation.builtin import LOCAL_NAMES, TASKS, unknown_task

    options = Arguments(
        "evaluate",
        "Score a model at several numbers of dimensions, on all devices. The same command resumes after an "
        "interruption. On several hosts, run it on each of them: all encode, and the first one scores. "
        f"Built-in tasks: {', '.join(TASKS)}. Local tasks, with --data FOLDER: {', '.join(LOCAL_NAMES)}.",
        "--model release --benchmark english --output scores",
        argv,
        EvaluationOptions,
    ).read(EvaluationOptions)

    from f2jax.parallel import hosts  # imports JAX, which --help does not need

    hosts.start()
    others = options.data or options.benchmark or options.baseline  # built-in tasks always show TF-IDF
    for name in options.tasks:
        if name not in (*TASKS, *LOCAL_NAMES) and not util.find_spec("mteb"):
            raise unknown_task(name)
    if others or not set(options.tasks) <= set(TASKS):
        _evaluate_with_mteb(options)
    else:
        _evaluate_built_in(options)


def _evaluate_built_in(options: EvaluationOptions) -> None:
    if unused := changed(options, *MTEB_ONLY):
        raise UserError(
            f"{unused} does not apply to the built-in tasks; leave it out, or give --tasks, --benchmark or --data."
        )
    model, output = options.model, options.output
    if not model:
        raise UserError("f2jax evaluate needs --model.")

    from f2jax.evaluation import builtin
    from f2jax.inference import multihost
    from f2jax.inference.embedder import Embedder
    from f2jax.outputs import output_folder

    embedder = Embedder.from_pretrained(
        model, options.dtype, fsdp=options.fsdp, revision=options.revision, max_length=options.max_length
    )

    def score() -> None:
        with output_folder(output, SCORES, SCORE_FILES) if output else nullcontext():
            if output:
                builtin.stored_results(output)  # damaged ones are refused before texts are encoded
            results = builtin.evaluate_builtin(embedder, options.tasks or builtin.TASKS)
            print(builtin.accuracy_table(results))
            if str(embedder.truncation):
                print(embedder.truncation)
            if output:
                size = embedder.architecture.parameters
                builtin.write_results(results, output, embedder.fingerprint, builtin.model_name(model), size)
                print(f"Table and plot: {output}")

    multihost.follow_first(embedder, score)


def _evaluate_with_mteb(options: EvaluationOptions) -> None:
    require_extra("mteb", "f2jax evaluate on these tasks")

    from f2jax.evaluation import run, runner
    from f2jax.outputs import output_folder

    folder = output_folder(options.output, SCORES, SCORE_FILES) if options.output else nullcontext()
    with folder:  # if there is none, `evaluate` explains what is missing
        scores = run.evaluate(options)
    if scores is not None and options.output:
        print(runner.scores_table(scores))
        print(f"Results: {options.output}/results\nNext: f2jax report {quote(options.output)} --output PAGE")
