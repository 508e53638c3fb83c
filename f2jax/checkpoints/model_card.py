"""The model card, README.md of a package: what the model is, how it was trained, its scores, and how to use it."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import yaml

from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config

LANGUAGES = 30  # number of languages to list
LICENSE_DETAILS = ("license_name", "license_link")  # in the hub's metadata, beside `license: other`
KEPT = ("## Training", "## Limits", "## Data and licences")  # sections that stay true of a package exported again


@dataclass(frozen=True)
class TrainingStage:
    """A training run: its config, and the data card of its corpus."""

    config: dict
    datasets: tuple[dict, ...] = ()  # entries of the data card; none where rows were read directly
    step: int | str | None = None  # of the checkpoint that is taken; None: the newest


@dataclass(frozen=True)
class RunHistory:
    """The content of a model card besides what the model itself tells."""

    stages: tuple[TrainingStage, ...] = ()  # in the order of training
    scores: dict[str, dict] = field(default_factory=dict)  # {task: {dimensions: score, 0 to 1}}
    license: str | None = None  # an identifier on the Hugging Face hub, or `other`
    formats: tuple[str, ...] = ()  # of f2jax export
    background: "Background | None" = None
    earlier: "EarlierCard | None" = None  # of the package that is exported again
    golden: bool = False  # whether the package has a golden set
    license_details: dict[str, str] = field(default_factory=dict)  # LICENSE_DETAILS of `other`


@dataclass(frozen=True)
class EarlierCard:
    """What stays true of a package that is exported again: its origin, but not its scores."""

    summary: str
    languages: tuple[str, ...]  # codes in the metadata for the hub
    sections: dict[str, str]  # {title: text}
    meta: dict[str, Any] = field(default_factory=dict)  # fields of its model_meta.json


@dataclass(frozen=True)
class Background:
    """Information that is in no config: the origin of a model's data and teacher, and the model's limits."""

    summary: str  # a sentence on what the model is and what it is for
    teacher: str  # name and licence
    licenses: dict[str, str]  # {data set: licence}
    limits: tuple[str, ...]  # a sentence for each


NOTHING = RunHistory()


def render_model_card(
    architecture: Qwen3Config,
    max_length: int,
    dims: Sequence[int],
    prompts: dict,
    about: RunHistory,
    as_int8: bool = False,
) -> str:
    """Returns the card as Markdown, which starts with the metadata for the hub.

    Args:
        as_int8: whether the weights are in int8, which only f2jax reads.
    """
    languages = _languages(about.stages)
    codes = [code for code in languages if re.fullmatch("[a-z]{2,3}", code)]
    library = "f2jax" if as_int8 else "sentence-transformers"
    head = [f"library_name: {library}", "pipeline_tag: sentence-similarity"]
    head += [f"license: {about.license}"] if about.license else []
    head += [f"{name}: {json.dumps(text, ensure_ascii=False)}" for name, text in about.license_details.items()]
    earlier = about.earlier or EarlierCard("A text-embedding model trained with f2jax.", (), {})
    codes = codes or list(earlier.languages)
    head += [f"language: {json.dumps(codes)}"] if codes else []
    head += [f"tags: [{'' if as_int8 else 'sentence-transformers, '}feature-extraction, f2jax]"]
    facts = [
        ("parameters", f"{architecture.parameters:,}"),
        ("dimensions", f"{architecture.width}"),
        ("Matryoshka dimensions", f"{', '.join(map(str, sorted(dims)))} (truncate first, then normalize)"),
        ("context length", f"{max_length} tokens, end token included"),
        ("encoder", "causal Qwen3; the state of the end token, normalized"),
        ("licence", _license(about)),
        *([("weights", "int8, a scale for each row; norms in full. Only f2jax reads them")] if as_int8 else []),
    ]
    named = "\n".join(f"- `{name}`: `{json.dumps(text, ensure_ascii=False)}`" for name, text in prompts.items())
    parts = [
        "---\n" + "\n".join(head) + "\n---",
        about.background.summary if about.background else earlier.summary,
        _table(("", ""), facts),
        "## Prompts\n\n" + (named or "none: texts are embedded as they are."),
        "## Use\n\n" + (INT8_USE if as_int8 else _use(about.formats, about.golden)),
    ]
    if about.scores:
        parts.append("## Scores\n\n" + _scores(about.scores))
    if about.stages:
        parts.append("## Training\n\n" + "\n\n".join(_stage(i + 1, stage) for i, stage in enumerate(about.stages)))
    if languages:
        rest = f", and {len(languages) - LANGUAGES} more" if len(languages) > LANGUAGES else ""
        parts.append(f"Languages of the rows, the most frequent first: {', '.join(languages[:LANGUAGES])}{rest}.")
    if about.background:
        parts += _background(about.background)
    new = {part.partition("\n")[0] for part in parts}
    parts += [f"{title}\n\n{text}" for title, text in earlier.sections.items() if title not in new]
    return "\n\n".join(parts) + "\n"


def parse_model_card(text: str, origin: str = "README.md") -> RunHistory:
    """Returns the licence that a card names and, if `render_model_card` made it, what else stays true of it.

    >>> parse_model_card(render_model_card(…, RunHistory(license="mit"))).license
    'mit'

    Raises:
        UserError: the metadata is not YAML.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    head, _, body = text.removeprefix("---\n").partition("\n---\n") if text.startswith("---\n") else ("", "", text)
    try:
        metadata = yaml.load(head, yaml.BaseLoader)  # all values are strings; by default, `no` would be False
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 2}" if where else ""
        raise UserError(f"The metadata of {origin} is not YAML{line}; correct it, or remove the file.") from error
    metadata = metadata if isinstance(metadata, dict) else {}
    licenses, details = _strings(metadata.get("license")), {name: metadata.get(name) for name in LICENSE_DETAILS}
    if len(licenses) > 1:
        licenses, details["license_name"] = ["other"], details["license_name"] or ", ".join(licenses)
    about = RunHistory(
        license=licenses[0] if licenses else None,
        license_details={name: text for name, text in details.items() if isinstance(text, str) and text},
    )
    if "f2jax" not in _strings(metadata.get("tags")):
        return about
    summary, *sections = re.split(r"^(?=## )", body.strip(), flags=re.M)
    kept = {title: text.strip() for title, _, text in (part.partition("\n") for part in sections) if title in KEPT}
    languages = tuple(_strings(metadata.get("language")))
    return replace(about, earlier=EarlierCard(summary.partition("\n\n")[0], languages, kept))


def _strings(value: str | list | dict | None) -> list[str]:
    """Returns the strings of a field of the metadata, which may have one or a list of them."""
    return [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, str) and x]


def _license(about: RunHistory) -> str:
    """Returns the licence as a table of the card names it: with `other`, by its name and link."""
    name, link = (about.license_details.get(key) for key in LICENSE_DETAILS)
    text = name or about.license or "not stated"
    return f"[{text}]({link})" if link else text


def model_meta(
    architecture: Qwen3Config, dtype: str, max_length: int, similarity: str, about: RunHistory
) -> dict[str, Any]:
    """Returns the fields of mteb's `ModelMeta`; null stands for what a package does not know.

    Args:
        dtype: dtype of the weights.
    """
    names = [entry["name"] for stage in about.stages for entry in stage.datasets]
    codes = [code.replace("_", "-") for code in _languages(about.stages) if code != "und"]
    earlier = about.earlier.meta if about.earlier else {}
    languages = [code for code in codes if re.fullmatch("[a-z]{3}(-[A-Z][a-z]{3})?", code)]  # ISO 639-3
    return {
        "loader": None,
        "name": None,
        "revision": None,
        "release_date": None,
        "languages": languages or earlier.get("languages"),
        "n_parameters": architecture.parameters,
        "n_embedding_parameters": architecture.table_parameters,
        "memory_usage_mb": round(architecture.parameters * ml_dtypes.finfo(dtype).bits / 8 / 2**20),
        "max_tokens": max_length,
        "embed_dim": architecture.width,
        "license": about.license_details.get("license_link") if about.license == "other" else about.license,
        "open_weights": None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["JAX", "Sentence Transformers", "safetensors"],
        "similarity_fn_name": similarity,
        "use_instructions": True,
        "training_datasets": sorted(set(names)) or earlier.get("training_datasets"),
    }


def _table(titles: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _languages(stages: Sequence[TrainingStage]) -> list[str]:
    counts: Counter = Counter()
    for entry in (entry for stage in stages for entry in stage.datasets):
        counts.update({code: rows for code, rows in entry["languages"].items() if code})
    return [code for code, _ in counts.most_common()]


def _scores(scores: dict[str, dict]) -> str:
    dims = sorted({int(dim) for by_dim in scores.values() for dim in by_dim})
    rows = [[task, *(_percent(by_dim.get(str(dim))) for dim in dims)] for task, by_dim in sorted(scores.items())]
    return _table(["main score", *(f"{dim} dims" for dim in dims)], rows)


def _percent(score: float | None) -> str:
    return "" if score is None else f"{score:.1%}"


def _stage(number: int, stage: TrainingStage) -> str:
    """Returns the data and hyperparameters of a run; local paths are reduced to their last part."""
    c = stage.config
    teacher = c["teacher"]["path"] or c["teacher"].get("cache", "")
    total = c["steps"] or f"{c['epochs']} epochs"
    values = [
        ("started from", _last(c["init_from"]) or "fresh weights"),
        ("teacher", _last(teacher) or "none"),
        ("steps", total if stage.step is None else f"{stage.step} of {total}"),
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


def _background(background: Background) -> list[str]:
    """Returns the sections on a model's limits, its teacher, and the licences of its data."""
    limits = "\n".join(f"- {limit}" for limit in background.limits)
    licenses = _table(("data set", "licence"), sorted(background.licenses.items()))
    return [f"## Limits\n\n{limits}", f"## Data and licences\n\nTeacher: {background.teacher}.\n\n{licenses}"]


def _last(path: str) -> str:
    """Returns the last part of a path; hub ids and prefixed sources stay unchanged."""
    is_path = "://" in path or path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists()
    return path.rstrip("/").rsplit("/", 1)[-1] if is_path else path


INT8_USE = """```python
from f2jax import Embedder

vectors = Embedder.from_pretrained("this/folder").encode(["a text"])
```

`f2jax export --model this/folder --output another/folder` writes the folder that sentence-transformers and transformers
load: in float32, four times as large, with the same vectors. They refuse this one."""


def _use(formats: Sequence[str], golden: bool) -> str:
    uses = [
        (
            "sentence-transformers",
            "python",
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("this/folder")  # truncate_dim=… for a Matryoshka dimension\n'
            'queries, documents = model.encode_query(["a question"]), model.encode_document(["a text"])\n'
            "# with truncate_dim, pass normalize_embeddings=True: it truncates after it has normalized",
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
                f'    "this/folder/onnx/{"model.onnx" if "onnx" in formats else "model_quantized.onnx"}"\n)\n'
                'vectors = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})',
            )
        )
    if any(name.startswith("gguf") for name in formats):
        name = "model.gguf" if "gguf" in formats else "model-q8_0.gguf"
        uses.append(("llama.cpp", "", f'llama-embedding --model this/folder/gguf/{name} --prompt "a text"'))
    blocks = [f"{tool}:\n\n```{language}\n{code}\n```" for tool, language, code in uses]
    if golden:
        blocks.append(
            "`f2jax verify this/folder` embeds the texts in `golden/` with each of these tools that it finds."
        )
    return "\n\n".join(blocks)
