"""`f2jax evaluate` on tasks of mteb: from options to results."""

from pathlib import Path

from tqdm import tqdm

from f2jax import files
from f2jax.errors import UserError, did_you_mean
from f2jax.evaluation import baselines, prompts, runner, selection
from f2jax.evaluation.encoder import Encoder, cached, model_meta
from f2jax.evaluation.options import EvaluationOptions
from f2jax.evaluation.variants import Variant, variants
from f2jax.inference import multihost
from f2jax.inference.embedder import Embedder
from f2jax.inference.vector_cache import VectorCache


def evaluate(options: EvaluationOptions) -> list[runner.Score] | None:
    """Score a model, baselines or both. Of several processes the first one does, and the others get None.

    Raises:
        UserError: an option is wrong; each is looked at before the first text is encoded.
    """
    if files.is_remote(options.output):
        raise UserError(f"{options.output} should be a local folder; copy the results from there.")
    if options.cache and files.is_remote(options.cache):
        raise UserError(f"--cache {options.cache} should be a local folder.")
    for name in options.baseline:
        if name not in baselines.NAMES:
            raise UserError(f"There is no baseline '{name}'{did_you_mean(name, baselines.NAMES)}")
    if not options.model and set(options.baseline) != {"tfidf"}:
        raise UserError("f2jax evaluate needs --model (or --baseline tfidf alone).")
    tasks = selection.select_tasks(options.tasks, options.benchmark, options.data, options.languages)
    chosen = prompts.read_prompts(options.prompts, options.prompt).for_tasks(tasks)
    embedder = Embedder.from_pretrained(options.model, options.dtype, fsdp=options.fsdp) if options.model else None

    def score() -> list[runner.Score]:
        with tqdm(unit="score", dynamic_ncols=True) as bar:
            encoders = _encoders(embedder, options, chosen, bar)
            bar.reset(len(encoders) * len(tasks))
            return runner.run_tasks(encoders, tasks, options.output, bar)

    return multihost.follow_first(embedder, score) if embedder else score()


def _encoders(
    embedder: Embedder | None, options: EvaluationOptions, chosen: prompts.Prompts, bar: tqdm
) -> list[Encoder]:
    """Of the model, a variant each; then of the baselines, at full width."""
    found = []
    if embedder:
        some = variants(embedder.dim, embedder.matryoshka_dims, options.dims, options.precisions)
        found += _of_embedder(embedder, _name(options), some, options, chosen, bar)
    if "random" in options.baseline:
        fresh = baselines.untrained(embedder)
        found += _of_embedder(fresh, f"{_name(options)}-untrained", [Variant(fresh.dim)], options, chosen, bar)
    if "tfidf" in options.baseline:
        raw, meta = baselines.tfidf()
        found.append(Encoder(raw, meta, Variant(meta.embed_dim), prompts.NONE))
    return found


def _of_embedder(embedder, name, some, options, chosen, bar) -> list[Encoder]:
    folder = Path(options.cache or Path(options.output, "vectors"))
    cache = VectorCache(folder / f"{embedder.fingerprint}.sqlite")
    raw, meta = cached(embedder, cache, runner.progress(bar)), model_meta(embedder, name)
    return [Encoder(raw, meta, variant, chosen) for variant in some]


def _name(options: EvaluationOptions) -> str:
    """ORG/NAME as mteb wants it: the hub id, or f2jax/ and the folder's name."""
    if options.name:
        return options.name if "/" in options.name else f"f2jax/{options.name}"
    if files.is_remote(options.model) or Path(options.model).expanduser().is_dir():
        return f"f2jax/{options.model.rstrip('/').rpartition('/')[2]}"
    return options.model
