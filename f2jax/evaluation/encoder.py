"""An `Embedder`, and the baselines next to it, as encoders of the mteb package (the encoder protocol of mteb 2)."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from f2jax import files
from f2jax.evaluation.builtin import tfidf_vectors
from f2jax.evaluation.prompts import Prompts
from f2jax.evaluation.variants import Variant
from f2jax.inference.embedder import Embedder
from f2jax.inference.vector_cache import VectorCache
from f2jax.model.qwen3 import init_params

EncodeTexts = Callable[[str, list[str]], np.ndarray]  # (prompt, texts) → float32 [i, width], not normalized
BASELINES = ("tfidf", "random")
TFIDF_FEATURES = 4_096  # n-grams are hashed to dense vectors of this width


class Encoder(AbsEncoder):
    """The vectors of one variant; all variants of a model read the same cache.

    A prompt goes before every text except the documents of retrieval (recipe 4.1). `AbsEncoder` looks up the
    instruction, and its similarities are cosines.
    """

    prompts_dict: dict[str, str]
    mteb_model_meta: ModelMeta

    def __init__(self, encode_texts: EncodeTexts, meta: ModelMeta, variant: Variant, prompts: Prompts):
        """Takes the metadata `meta` of the model at full width in float32."""
        self.encode_texts, self.variant = encode_texts, variant
        self.prompts_dict, self.instruction_template = prompts.instructions, prompts.template
        self.mteb_model_meta = variant_meta(meta, variant, prompts)
        self.used_prompts: dict[str, str] = {}  # by `query`, `document`, or `text` if a task makes no difference

    def prompt(self, task_metadata, prompt_type: PromptType | None) -> str:
        """Returns what goes before each text of a task."""
        if prompt_type == PromptType.document or not self.instruction_template:
            return ""
        return self.get_task_instruction(task_metadata, prompt_type)

    def get_instruction(self, task_metadata, prompt_type: PromptType | None) -> str:
        """Returns the instruction as `AbsEncoder` does, except that an empty one of ours means none."""
        names = (task_metadata.name, task_metadata.type, prompt_type.value if prompt_type else "")
        ours = next((self.prompts_dict[name] for name in names if name in self.prompts_dict), None)
        return super().get_instruction(task_metadata, prompt_type) if ours is None else ours

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs) -> np.ndarray:
        """Returns float32 [i, dim] of all texts of a `DataLoader`, in their order."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self.prompt(task_metadata, prompt_type)
        self.used_prompts[prompt_type.value if prompt_type else "text"] = prompt
        return self.variant.of(self.encode_texts(prompt, texts))


def cached_encode(embedder: Embedder, cache: VectorCache, progress: Callable[[int], None]) -> EncodeTexts:
    """Returns the `encode_texts` of a model, through the cache."""

    def encode(texts: list[str]) -> np.ndarray:
        return embedder.encode(
            texts, prompt="", truncate_dim=embedder.dim, normalize_embeddings=False, show_progress_bar=False
        )

    return lambda prompt, texts: cache.vectors(prompt, texts, encode, progress)


def tfidf_encode(prompt: str, texts: list[str]) -> np.ndarray:
    """TF-IDF as an `encode_texts`: document frequencies are those of the texts of one call; prompts are not read."""
    return tfidf_vectors(texts, texts, TFIDF_FEATURES).toarray()


def tfidf_meta() -> ModelMeta:
    changes = {"revision": f"char_wb-1-4-{TFIDF_FEATURES}", "embed_dim": TFIDF_FEATURES, "n_parameters": 0}
    return empty_meta("f2jax/tfidf").model_copy(update=changes)


def untrained(embedder: Embedder, seed: int = 0) -> Embedder:
    """Returns a model of the same architecture, tokenizer and prompts with fresh weights."""
    model = embedder.model
    return Embedder(
        embedder.architecture, init_params(model, seed), embedder.tokenizer, embedder.card, str(model.dtype)
    )


def model_meta(embedder: Embedder, name: str) -> ModelMeta:
    """Returns what mteb records of a model; its revision is the fingerprint of weights, prompts, length and dtype."""
    architecture = embedder.architecture
    return empty_meta(name).model_copy(
        update={
            "revision": embedder.fingerprint,
            "n_parameters": architecture.parameters,
            "n_embedding_parameters": architecture.table_parameters,
            "max_tokens": embedder.max_length,
            "embed_dim": embedder.dim,
            "use_instructions": True,
            "loader_kwargs": {"dtype": str(embedder.model.dtype), "max_seq_length": embedder.max_length},
        }
    )


def empty_meta(name: str) -> ModelMeta:
    """Returns the metadata of a model of which only the name is known."""
    fields: dict[str, Any] = {field: None for field, info in ModelMeta.model_fields.items() if info.is_required()}
    return ModelMeta(**fields | {"name": name, "framework": [], "similarity_fn_name": "cosine"})


def variant_meta(meta: ModelMeta, variant: Variant, prompts: Prompts) -> ModelMeta:
    """Adds what sets the variant apart as mteb's `experiment_kwargs`, which name its folder of results."""
    experiment: dict[str, int | str] = {}
    if variant.dim != meta.embed_dim:
        experiment["embed_dim"] = variant.dim
    if variant.precision != "float32":
        experiment["output_dtypes"] = variant.precision
    if prompts.mark:
        experiment["prompts"] = prompts.mark
    return meta.model_copy(update={"embed_dim": variant.dim, "experiment_kwargs": experiment or None})


def task_settings(encoder: Encoder, task: str) -> dict:
    """Returns what it takes to reproduce the scores of a task, besides mteb's own records."""
    meta = encoder.mteb_model_meta
    variant = dataclasses.asdict(encoder.variant)
    return {"task": task, "revision": meta.revision, **meta.loader_kwargs, **variant, "prompts": encoder.used_prompts}


def write_settings(path: Path, record: dict) -> None:
    """Puts the record of a task into a file of JSON lines, replacing an older one."""
    lines_before = path.read_text().splitlines() if path.exists() else []
    old = [files.check_object(files.parse_json(line, path), path, {"task": str}) for line in lines_before]
    kept = [line for line in old if line["task"] != record["task"]]
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, record]]
    files.write_atomically(path, "".join(lines))
