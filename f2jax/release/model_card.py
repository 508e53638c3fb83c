"""The model card (README.md of a package): what the model is, how it was trained, what it scores, how to use it."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from f2jax import files
from f2jax.data.corpus import CARD
from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config
from f2jax.train import workdir

LANGUAGES = 30  # that are named


@dataclass(frozen=True)
class Stage:
    """One training run: its config, and what the data card of its corpus says."""

    config: dict
    datasets: tuple[dict, ...] = ()  # entries of a prepared corpus; none where the data were read as they are


@dataclass(frozen=True)
class About:
    """What a card says besides the model's own facts."""

    stages: tuple[Stage, ...] = ()  # in the order of training
    scores: dict[str, dict] = field(default_factory=dict)  # {task: {dimensions: score, 0 to 1}}
    license: str | None = None  # an identifier of the Hugging Face hub
    formats: tuple[str, ...] = ()  # of f2jax export


NOTHING = About()


def read_stages(path: str) -> tuple[Stage, ...]:
    """The runs that led to a workdir, as far back as they are still there; none for a folder that is no workdir."""
    stages: list[Stage] = []
    seen: set[str] = set()
    while path and path not in seen and workdir.is_workdir(path):
        seen.add(path)
        config = files.read_json(files.join(path, "config.json"))
        stages.insert(0, Stage(config, _datasets(config["data"]["sources"])))
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
    from f2jax.commands.options import need_mteb

    need_mteb("Reading results of MTEB")
    from f2jax.evaluation import results

    runs = results.read([folder])
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


def render(architecture: Qwen3Config, max_length: int, dims: Sequence[int], prompts: dict, about: About) -> str:
    """The card as Markdown, with the metadata that the hub reads at its top."""
    languages = _languages(about.stages)
    codes = [code for code in languages if re.fullmatch("[a-z]{2,3}", code)]
    head = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity"]
    head += [f"license: {about.license}"] if about.license else []
    head += [f"language: {json.dumps(codes)}"] if codes else []
    head += ["tags: [sentence-transformers, feature-extraction, f2jax]"]
    facts = [
        ("parameters", f"{architecture.parameters:,}"),
        ("dimensions", f"{architecture.width}"),
        ("Matryoshka dimensions", f"{', '.join(map(str, sorted(dims)))} (truncate first, then normalize)"),
        ("context length", f"{max_length} tokens, end token included"),
        ("encoder", "causal Qwen3; the state of the end token, normalized"),
        ("licence", about.license or "not stated"),
    ]
    named = "\n".join(f"- `{name}`: `{json.dumps(text, ensure_ascii=False)}`" for name, text in prompts.items())
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        "A text-embedding model trained with f2jax.",
        _table(("", ""), facts),
        "## Prompts\n\n" + (named or "none: texts are embedded as they are."),
        "## Use\n\n" + _use(about.formats),
    ]
    if about.scores:
        parts.append("## Scores\n\n" + _scores(about.scores))
    if about.stages:
        parts.append("## Training\n\n" + "\n\n".join(_stage(i + 1, stage) for i, stage in enumerate(about.stages)))
    if languages:
        rest = f", and {len(languages) - LANGUAGES} more" if len(languages) > LANGUAGES else ""
        parts.append(f"Languages of the rows, the most frequent first: {', '.join(languages[:LANGUAGES])}{rest}.")
    return "\n\n".join(parts) + "\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _languages(stages: Sequence[Stage]) -> list[str]:
    counts: Counter = Counter()
    for entry in (entry for stage in stages for entry in stage.datasets):
        counts.update({code: rows for code, rows in entry["languages"].items() if code})
    return [code for code, _ in counts.most_common()]


def _scores(scores: dict[str, dict]) -> str:
    dims = sorted({int(dim) for found in scores.values() for dim in found})
    rows = [[task, *(_percent(found.get(str(dim))) for dim in dims)] for task, found in sorted(scores.items())]
    return _table(["main score", *(f"{dim} dims" for dim in dims)], rows)


def _percent(score: float | None) -> str:
    return "" if score is None else f"{score:.1%}"


def _stage(number: int, stage: Stage) -> str:
    """Data and hyper-parameters of one run; of local paths the last part alone."""
    c = stage.config
    teacher = c["teacher"]["path"] or c["teacher"].get("cache", "")
    values = [
        ("started from", _last(c["init_from"]) or "fresh weights"),
        ("teacher", _last(teacher) or "none"),
        ("steps", c["steps"] or f"{c['epochs']} epochs"),
        ("queries in a batch", c["data"]["batch_size"]),
        ("tokens of a text", c["data"]["max_length"]),
        ("hard negatives", ", ".join(f"{kind} {count}" for kind, count in c["data"]["negatives"].items())),
        ("optimizer", f"{c['optim']['name']}, peak learning rate {c['optim']['peak_lr']:g}, {c['optim']['schedule']}"),
        ("temperature", c["loss"]["temperature"]),
        ("Matryoshka losses", "yes" if c["loss"]["matryoshka"] else "no"),
        ("seed", c["seed"]),
    ]
    data = "Data: " + ", ".join(f"`{_last(source)}`" for source in c["data"]["sources"]) + "."
    if stage.datasets:
        rows = [(d["name"], d["kind"], f"{d['rows']['train']:,}", len(d["languages"])) for d in stage.datasets]
        data = _table(("data set", "kind", "rows", "languages"), rows)
    return f"### Stage {number}\n\n{_table(('', ''), values)}\n\n{data}"


def _last(path: str) -> str:
    """A hub id or a kind of source as it is; of a path the last part."""
    is_path = "://" in path or path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()
    return path.rstrip("/").rsplit("/", 1)[-1] if is_path else path


def _use(formats: Sequence[str]) -> str:
    uses = [
        (
            "sentence-transformers",
            "python",
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("this/folder")  # truncate_dim=… for a Matryoshka dimension\n'
            'queries, documents = model.encode_query(["a question"]), model.encode_document(["a text"])',
        ),
        (
            "f2jax",
            "python",
            'from f2jax import Embedder\n\nvectors = Embedder.from_pretrained("this/folder").encode(["a text"])',
        ),
        ("vLLM", "", 'vllm serve this/folder --runner pooling  # {"dimensions": …} in a request shortens the vectors'),
        ("Text Embeddings Inference", "", "text-embeddings-router --model-id this/folder --pooling last-token"),
    ]
    if any(name.startswith("onnx") for name in formats):
        uses.append(
            (
                "ONNX Runtime",
                "python",
                "session = onnxruntime.InferenceSession(\n"
                f'    "this/folder/onnx/{"model.onnx" if "onnx" in formats else "model_int8.onnx"}"\n)\n'
                'vectors = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})',
            )
        )
    if any(name.startswith("gguf") for name in formats):
        name = "model.gguf" if "gguf" in formats else "model-q8_0.gguf"
        uses.append(("llama.cpp", "", f'llama-embedding --model this/folder/gguf/{name} --prompt "a text"'))
    blocks = [f"{tool}:\n\n```{language}\n{code}\n```" for tool, language, code in uses]
    return "\n\n".join([*blocks, "`f2jax verify this/folder` embeds the golden set in `golden/` by each tool found."])
