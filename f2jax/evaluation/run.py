"""`f2jax evaluate` on tasks of mteb: from options to results."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from f2jax import files
from f2jax.errors import UserError, did_you_mean
from f2jax.evaluation import builtin, prompts, runner, selection
from f2jax.evaluation.encoder import (
    BASELINES,
    CachedEncode,
    Encoder,
    baseline,
    model_meta,
    untrained,
)
from f2jax.evaluation.local import LocalTask
from f2jax.evaluation.options import EvaluationOptions
from f2jax.evaluation.variants import Variant, variants
from f2jax.inference import multihost
from f2jax.inference.embedder import Embedder
from f2jax.inference.vector_cache import VectorCache


def evaluate(options: EvaluationOptions) -> list[runner.TaskScore] | None:
    """Scores a model, baselines or both. Of several processes, the first one does, and the others get None.

    Prints how much of the texts the model did not read, if it did not read all.

    Raises:
        UserError: an option is wrong; all are checked before the first text is encoded.
    """
    output, model = options.output, options.model
    if options.cache and files.is_remote(options.cache):
        raise UserError(f"--cache {options.cache} should be a local folder.")
    check_baselines(options.baseline)
    if not model and not (options.baseline and set(options.baseline) <= set(BASELINES)):
        raise UserError("f2jax evaluate needs --model, or else --baseline with tfidf or random alone.")
    tasks = selection.select_tasks(options.tasks, options.benchmark, options.data, options.languages, options.columns)
    if not output:
        raise UserError("f2jax evaluate needs --output for these tasks.")
    if not tasks:
        raise UserError(
            "--baseline needs tasks of --tasks, --benchmark or --data; the built-in ones always have TF-IDF beside "
            "them, so for these leave it out."
        )
    instructions = prompts.read_instructions(options.prompts, options.prompt, tasks).for_tasks(tasks)
    embedder, named = None, builtin.model_name(model or "", options.name)
    if model:
        if named.removeprefix("f2jax/") in BASELINES or named.endswith(runner.UNTRAINED):
            raise UserError(f"{named} is the name of a baseline; give the model another one by --name.")
        embedder = Embedder.from_pretrained(
            model, options.dtype, fsdp=options.fsdp, revision=options.revision, max_length=options.max_length
        )
        if instructions.template:
            instructions = instructions.for_own(tasks, embedder)
    usual = list(BASELINES) if all(isinstance(task, LocalTask) for task in tasks) else []
    baselines: list[str] = [*options.baseline] or usual

    def score() -> list[runner.TaskScore]:
        usual_prompts = not instructions.mark and len(instructions.whole) < len(tasks)
        if embedder and usual_prompts and not any(embedder.prompts.values()):
            print(
                f"{model} has no prompts of its own, so the instructions of F2LLM-v2 are put before the texts. If the "
                "model was not trained with them, give --prompts none."
            )
        with files.mirrored(output, runner.RESULTS) as mirror, tqdm(unit="score", dynamic_ncols=True) as bar:
            encoders = []
            if embedder:
                cache = Path(options.cache or mirror.folder / "vectors")
                encoders = _model_encoders(embedder, named, options, cache, instructions, bar)
            encoders += [baseline(name) for name in BASELINES if name in baselines]
            bar.reset(len(encoders) * len(tasks))
            scores = runner.run_tasks(encoders, tasks, mirror, bar)
        if embedder and str(embedder.truncation):
            print(f"Of what was encoded now, {embedder.truncation}")
        return scores

    return multihost.follow_first(embedder, score) if embedder else score()


def check_baselines(names: Sequence[str]) -> None:
    """Raises UserError if a baseline is unknown, or if `none` is combined with others."""
    for name in names:
        if name not in (known := (*BASELINES, "untrained", "none")):
            raise UserError(f"There is no baseline '{name}'{did_you_mean(name, known)}")
    if "none" in names and len(names) > 1:
        raise UserError("--baseline none cannot be combined with another; give one of them.")


def _model_encoders(
    embedder: Embedder,
    name: str,
    options: EvaluationOptions,
    cache_folder: Path,
    instructions: prompts.Prompts,
    bar: tqdm,
) -> list[Encoder]:
    """Returns an encoder for each variant of the model, and one for the untrained model if it is a baseline."""
    places = instructions, cache_folder, runner.count_texts(bar)
    trained = variants(embedder.dim, embedder.matryoshka_dims, options.dims, options.precisions)
    found = variant_encoders(embedder, name, trained, *places)
    if "untrained" in options.baseline:
        found += variant_encoders(untrained(embedder), name + runner.UNTRAINED, [Variant(embedder.dim)], *places)
    return found


def variant_encoders(
    embedder: Embedder,
    name: str,
    chosen: Sequence[Variant],
    instructions: prompts.Prompts,
    folder: str | Path,
    progress: Callable[[int], None] = lambda texts: None,
) -> list[Encoder]:
    """Returns an encoder for each of these variants of a model, with a shared cache of vectors.

    Args:
        folder: folder of the cache.
        progress: called after each piece with the number of texts encoded.
    """
    cache = VectorCache(Path(folder) / f"{embedder.fingerprint}.sqlite")
    encode, meta = CachedEncode(embedder, cache, progress), model_meta(embedder, name)
    return [Encoder(encode, meta, variant, instructions) for variant in chosen]
