"""`f2jax export`: writes a package with its golden set, and the model in formats for other runtimes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from f2jax import files
from f2jax.checkpoints import hf, package, workdir
from f2jax.checkpoints.model_card import NOTHING, Background, RunHistory, TrainingStage
from f2jax.data.corpus import CARD
from f2jax.errors import UserError, did_you_mean, require_extra
from f2jax.evaluation import builtin
from f2jax.inference.embedder import Embedder
from f2jax.release import gguf, golden, onnx

FORMATS = ("onnx", "onnx-int8", "gguf", "gguf-q8")
ADVICE = "evaluate what is exported, with this --dtype and --max-length."
# Fields of a run's config that the model card shows.
CONFIG_FIELDS: dict = {"data": dict, "loss": dict, "optim": dict, "teacher": dict, "init_from": str, "seed": int}
CONFIG_FIELDS |= {"steps": int, "epochs": float}
CONFIG_SECTIONS: dict[str, dict] = {
    "data": {"sources": list[str], "batch_size": int, "max_length": int, "negatives": dict},
    "loss": {"temperature": float, "matryoshka": bool},
    "optim": {"name": str, "peak_lr": float, "schedule": str},
    "teacher": {"path": str},
}


def export_package(
    embedder: Embedder,
    folder: str | Path,
    formats: Sequence[str] = (),
    about: RunHistory = NOTHING,
    as_int8: bool = False,
) -> None:
    """Writes the package, its golden set, and then each of the formats.

    Args:
        about: content of the model card, to which the formats are added.
        as_int8: store matrices in int8, which only f2jax reads; the golden vectors are those of the rounded weights.

    Raises:
        UserError: a format is unknown, lacks its library or does not fit the model, the model's vectors are not finite
            (in these cases nothing is written), or the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"There is no format '{name}'{did_you_mean(name, FORMATS)}")
    if formats and as_int8:
        raise UserError(f"A package with int8 weights has no other formats; export it without {' and '.join(formats)}.")
    for name in formats:
        _check_format(name, embedder)
    hf.check_finite(embedder.params, "The model")
    vectors = golden.embed_golden(rounded(embedder) if as_int8 else embedder)
    architecture, params = embedder.architecture, embedder.params
    about = replace(about, formats=tuple(formats), golden=True)
    package.write_package(folder, architecture, params, embedder.tokenizer, embedder.settings, about, as_int8)
    golden.write_golden(folder, vectors)
    for name in formats:
        if name.startswith("onnx"):
            onnx.write_onnx(folder, architecture, params, "int8" if name == "onnx-int8" else "float32")
        else:
            kind = "q8_0" if name == "gguf-q8" else "whole"
            gguf.write_gguf(folder, architecture, params, embedder.tokenizer, embedder.max_length, kind, about)


def _check_format(name: str, embedder: Embedder) -> None:
    """Raises UserError if a format lacks its library or does not fit the model."""
    if name.startswith("onnx"):
        require_extra("onnx", "An ONNX format")
    else:
        gguf.vocabulary(embedder.tokenizer, embedder.architecture.vocab_size)
        gguf.check_blocks(embedder.architecture, "q8_0" if name == "gguf-q8" else "whole")


def rounded(embedder: Embedder) -> Embedder:
    """Returns the model with its weights rounded to int8, as its int8 package loads it, with the same fingerprint."""
    params = hf.round_to_int8(embedder.params)
    return Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings)


def read_background(path: str | Path) -> Background:
    """Reads the parts of a model card that are not in any config.

    Raises:
        UserError: the file is missing or has another form.
    """
    fields = {"summary": str, "teacher": str, "licenses": dict[str, str], "limits": list[str]}
    content = files.read_json_object(path, fields)
    if unknown := sorted(content.keys() - fields.keys()):
        raise UserError(f"{path} has the field {', '.join(unknown)}; a model card has {', '.join(fields)}.")
    return Background(**content | {"limits": tuple(content["limits"])})


def read_stages(path: str, step: int | str | None = None) -> tuple[TrainingStage, ...]:
    """Returns the runs that led to a workdir, as far as they still exist; empty if `path` is not a workdir.

    Args:
        step: step of the checkpoint; None: the newest.

    Raises:
        UserError: a config or a data card has another form, for example from another version of f2jax.
    """
    stages: list[TrainingStage] = []
    seen: set[str] = set()
    while path and path not in seen and workdir.is_workdir(path):
        seen.add(path)
        name = files.join(path, "config.json")
        config = files.read_json_object(name)
        for section, fields in {"": CONFIG_FIELDS, **CONFIG_SECTIONS}.items():
            files.check_object(config[section] if section else config, f"{name} {section}".rstrip(), fields)
        stages.insert(0, TrainingStage(config, _datasets(config["data"]["sources"]), step))
        path, step = workdir.split_step(config["init_from"])
    return tuple(stages)


def _datasets(sources: Sequence[str]) -> tuple[dict, ...]:
    """Returns the entries on data sets in the data cards of prepared corpora."""
    prepared = [source.removeprefix("corpus:") for source in sources if source.startswith("corpus:")]
    cards = [card for folder in prepared if files.exists(card := files.join(folder, CARD))]
    entries = [entry for card in cards for entry in files.read_json_object(card, {"datasets": list[dict]})["datasets"]]
    fields = {"name": str, "kind": str, "rows": dict[str, int], "languages": dict[str, int]}
    return tuple(files.check_object(entry, "A data set in the data card", fields) for entry in entries)


def _builtin_scores(results: dict, path: str) -> dict[str, dict]:
    files.check_object(results, path, {"tasks": dict[str, dict]})
    for task, content in results["tasks"].items():
        files.check_object(content, f"The task {task} in {path}", {"dims": dict[str, float]})
    return {task: content["dims"] for task, content in results["tasks"].items()}


def read_scores(folder: str | Path, fingerprint: str) -> dict[str, dict]:
    """Returns {task: {dimension: score}} from a folder, local or gs://, that `f2jax evaluate --output FOLDER` wrote.

    Args:
        fingerprint: fingerprint of the model; MTEB's results may include baselines and other models.

    Raises:
        UserError: there are no scores of this model, they were made with several sets of prompts, or a file has
            another form.
    """
    if not files.exists(folder):
        raise UserError(f"There is no folder {folder}; give the --output of f2jax evaluate.")
    scores: dict[str, dict] = {}
    if stored := builtin.stored_results(folder):
        has_others = files.exists(files.join(folder, "results"))
        places = [place for place, results in stored.items() if results.get("revision") == fingerprint]
        if places:
            scores = _builtin_scores(stored[places[0]], files.join(places[0], builtin.RESULTS))
        elif not has_others:
            path = files.join(folder, builtin.RESULTS)
            raise UserError(f"{path} has scores, but not of exactly this model; {ADVICE}")
        if not has_others:
            return scores
    require_extra("mteb", "Reading results of MTEB")
    from f2jax.evaluation.results import read_results

    runs = read_results([folder])
    model_runs = [run for run in runs if run.revision == fingerprint and not run.tasks().keys() <= scores.keys()]
    if not model_runs and not scores:
        others = ", ".join(sorted({run.model for run in runs}))
        raise UserError(f"{folder} has scores of {others}, not of exactly this model; {ADVICE}")
    if len(names := sorted({run.model for run in model_runs})) > 1:
        raise UserError(f"{folder} has scores of {' and '.join(names)}; evaluate one of them into a folder of its own.")
    for run in model_runs:
        if run.variant.precision == "float32":
            for task, score in run.tasks().items():
                scores.setdefault(task, {})[str(run.variant.dim)] = score
    return scores
