"""What a model card tells of runs and scores, read from their folders."""

from collections.abc import Sequence
from pathlib import Path

from f2jax import files
from f2jax.checkpoints import workdir
from f2jax.checkpoints.model_card import TrainingStage
from f2jax.data.corpus import CARD
from f2jax.errors import UserError, require_extra


def read_stages(path: str) -> tuple[TrainingStage, ...]:
    """The runs that led to a workdir, as far back as they are still there; none for a folder that is no workdir."""
    stages: list[TrainingStage] = []
    seen: set[str] = set()
    while path and path not in seen and workdir.is_workdir(path):
        seen.add(path)
        config = files.read_json(files.join(path, "config.json"))
        stages.insert(0, TrainingStage(config, _datasets(config["data"]["sources"])))
        path = config["init_from"]
    return tuple(stages)


def _datasets(sources: Sequence[str]) -> tuple[dict, ...]:
    prepared = [source.removeprefix("corpus:") for source in sources if source.startswith("corpus:")]
    cards = [files.join(folder, CARD) for folder in prepared]
    return tuple(entry for card in cards if files.exists(card) for entry in files.read_json(card)["datasets"])


def read_scores(folder: str | Path, fingerprint: str) -> dict[str, dict]:
    """Scores by task and dimension that `f2jax evaluate --output FOLDER` wrote, on built-in tasks or on those of MTEB.

    Args:
        fingerprint: of the model; among MTEB's results may be those of baselines and of other models.

    Raises:
        UserError: there are none of this model, or they were made with several sets of prompts.
    """
    builtin = Path(folder, "results.json")
    if builtin.exists():
        found = files.read_json(builtin)
        if found.get("revision") != fingerprint:
            raise UserError(f"{builtin} has scores, but not of this model as it is; evaluate it with this --dtype.")
        return {task: scores["dims"] for task, scores in found["tasks"].items()}
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}; give the --output of f2jax evaluate.")
    require_extra("mteb", "Reading results of MTEB")
    from f2jax.evaluation import results

    runs = results.read_results([folder])
    own = [run for run in runs if run.revision == fingerprint]
    if not own:
        others = ", ".join(sorted({run.model for run in runs}))
        raise UserError(f"{folder} has scores of {others}, not of this model as it is; evaluate it with this --dtype.")
    if len(names := sorted({run.model for run in own})) > 1:
        raise UserError(f"{folder} has scores of {' and '.join(names)}; evaluate one of them into a folder of its own.")
    scores: dict[str, dict] = {}
    for run in own:
        if run.variant.precision == "float32":
            for task, score in run.tasks().items():
                scores.setdefault(task, {})[str(run.variant.dim)] = score
    return scores
