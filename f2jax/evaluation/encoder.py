"""Adapts `Embedder` and the baselines to the encoder protocol of mteb 2."""

import dataclasses
import hashlib
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
from f2jax.evaluation.local import LocalTask
from f2jax.evaluation.prompts import NONE, Prompts
from f2jax.evaluation.rows import narrow
from f2jax.evaluation.variants import Variant
from f2jax.inference.embedder import Embedder
from f2jax.inference.vector_cache import VectorCache
from f2jax.model.qwen3 import init_params

EncodeTexts = Callable[[str, list[str]], np.ndarray]  # (prompt, texts) → float32 [i, width], not normalized
TFIDF_FEATURES = 4_096  # width of the dense vectors that n-grams are hashed to
RANDOM_WIDTH = 64


class Encoder(AbsEncoder):
    """An mteb encoder for one variant (dimension and precision); all variants of a model share a cache.

    Every text gets a prompt, except documents in retrieval (recipe 4.1) unless the user gives one for them.
    `AbsEncoder` looks up the instruction and computes similarities, which are cosines.
    """

    prompts_dict: dict[str, str]
    mteb_model_meta: ModelMeta

    def __init__(self, encode_texts: EncodeTexts, meta: ModelMeta, variant: Variant, prompts: Prompts):
        """Wraps a function from texts to vectors.

        Args:
            meta: metadata of the model at full width in float32.
        """
        self.encode_texts, self.variant = encode_texts, variant
        self.prompts_dict, self.instruction_template = prompts.instructions, prompts.template
        self.given_prompts, self.whole_prompts = prompts.given, prompts.whole
        self.mteb_model_meta = variant_meta(meta, variant, prompts)
        self.used_prompts: dict[str, str] = {}  # by `query` and `document`, or `text`

    def prompt(self, task_metadata, prompt_type: PromptType | None) -> str:
        """Returns the string to prepend to each text of a task."""
        if not any(name in self.given_prompts for name in _instruction_names(task_metadata, prompt_type)):
            if (whole := self.whole_prompts.get(task_metadata.name)) is not None:
                return whole[prompt_type.value if prompt_type else "text"]
            if prompt_type == PromptType.document:
                return ""
        return self.get_task_instruction(task_metadata, prompt_type) if self.instruction_template else ""

    def get_instruction(self, task_metadata, prompt_type: PromptType | None) -> str:
        """Returns the instruction as `AbsEncoder` does, except that our empty instructions mean none."""
        names, known = _instruction_names(task_metadata, prompt_type), (self.given_prompts, self.prompts_dict)
        ours = next((prompts[name] for prompts in known for name in names if name in prompts), None)
        return super().get_instruction(task_metadata, prompt_type) if ours is None else ours

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs) -> np.ndarray:
        """Returns vectors of all texts in a `DataLoader`, float32 [i, dim]; for clustering, [i, at most i]."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self.prompt(task_metadata, prompt_type)
        self.used_prompts[prompt_type.value if prompt_type else "text"] = prompt
        x_ie = self.variant.of(self.encode_texts(prompt, texts))
        return narrow(x_ie) if task_metadata.type == "Clustering" else x_ie  # k-means needs only distances

    def encode_ahead(self, task: LocalTask) -> None:
        """Encodes all texts of a task into the cache at once, because few large batches are faster."""
        if isinstance(self.encode_texts, CachedEncode):
            by_prompt: dict[str, list[str]] = {}
            for prompt_type, texts in task.texts():
                by_prompt.setdefault(self.prompt(task.metadata, prompt_type), []).extend(texts)
            for prompt, texts in by_prompt.items():
                self.encode_texts.fill(prompt, texts)


def _instruction_names(task_metadata, prompt_type: PromptType | None) -> tuple[str, ...]:
    """Returns the names under which an instruction is looked up, in this order."""
    if prompt_type == PromptType.document:
        return ("document",)
    return (task_metadata.name, task_metadata.type, *([prompt_type.value] if prompt_type else []))


@dataclasses.dataclass(frozen=True)
class CachedEncode:
    """The `encode_texts` of a model with a cache."""

    embedder: Embedder
    cache: VectorCache
    progress: Callable[[int], None]  # called after each piece with the number of texts encoded

    def __call__(self, prompt: str, texts: list[str]) -> np.ndarray:
        return self.cache.vectors(prompt, texts, self._encode, self.progress)

    def fill(self, prompt: str, texts: list[str]) -> None:
        self.cache.fill(prompt, texts, self._encode, self.progress)

    def _encode(self, texts: list[str]) -> np.ndarray:
        dim = self.embedder.dim
        return self.embedder.encode(
            texts, prompt="", truncate_dim=dim, normalize_embeddings=False, show_progress_bar=False
        )


def tfidf_encode(prompt: str, texts: list[str]) -> np.ndarray:
    """Returns TF-IDF vectors, with document frequencies from the texts of this call; the prompt is ignored."""
    return tfidf_vectors(texts, texts, TFIDF_FEATURES).toarray()


def random_encode(prompt: str, texts: list[str]) -> np.ndarray:
    """Returns a random Gaussian vector for each distinct text, which shows the score of a task without any model."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    rows = [
        np.random.default_rng(int.from_bytes(digest)).standard_normal(RANDOM_WIDTH, np.float32) for digest in digests
    ]
    return np.array(rows, np.float32).reshape(-1, RANDOM_WIDTH)


BASELINES: dict[str, tuple[EncodeTexts, str, int]] = {  # (encode_texts, revision, width)
    "tfidf": (tfidf_encode, f"char_wb-1-4-{TFIDF_FEATURES}", TFIDF_FEATURES),
    "random": (random_encode, f"gaussian-{RANDOM_WIDTH}", RANDOM_WIDTH),
}


def baseline(name: str) -> Encoder:
    """Returns the encoder of one of `BASELINES`, which is called f2jax/NAME in the results."""
    encode, revision, width = BASELINES[name]
    changes = {"revision": revision, "embed_dim": width, "n_parameters": 0}
    return Encoder(encode, empty_meta(f"f2jax/{name}").model_copy(update=changes), Variant(width), NONE)


def untrained(embedder: Embedder, seed: int = 0) -> Embedder:
    """Returns a model with the same architecture, tokenizer and prompts, but random weights."""
    model = embedder.model
    return Embedder(
        embedder.architecture, init_params(model, seed), embedder.tokenizer, embedder.settings, str(model.dtype)
    )


def model_meta(embedder: Embedder, name: str) -> ModelMeta:
    """Returns mteb's metadata of a model, whose revision is the fingerprint of weights, prompts, length and dtype."""
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
    """Returns the metadata of a model about which only the name is known."""
    fields: dict[str, Any] = {field: None for field, info in ModelMeta.model_fields.items() if info.is_required()}
    return ModelMeta(**fields | {"name": name, "framework": [], "similarity_fn_name": "cosine"})


def variant_meta(meta: ModelMeta, variant: Variant, prompts: Prompts) -> ModelMeta:
    """Adds the differences of the variant as mteb's `experiment_kwargs`, from which its results folder is named."""
    experiment: dict[str, int | str] = {}
    if variant.dim != meta.embed_dim:
        experiment["embed_dim"] = variant.dim
    if variant.precision != "float32":
        experiment["output_dtypes"] = variant.precision
    if prompts.mark:
        experiment["prompts"] = prompts.mark
    return meta.model_copy(update={"embed_dim": variant.dim, "experiment_kwargs": experiment or None})


def task_settings(encoder: Encoder, task: str) -> dict:
    """Returns what is needed to reproduce the scores of a task, besides mteb's own records."""
    meta = encoder.mteb_model_meta
    variant = dataclasses.asdict(encoder.variant)
    return {"task": task, "revision": meta.revision, **meta.loader_kwargs, **variant, "prompts": encoder.used_prompts}


def write_settings(path: Path, record: dict) -> None:
    """Adds the record of a task to a JSON lines file, or replaces its older one."""
    lines_before = path.read_text().splitlines() if path.exists() else []
    old = [files.check_object(files.parse_json(line, path), path, {"task": str}) for line in lines_before]
    kept = [line for line in old if line["task"] != record["task"]]
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, record]]
    files.write_atomically(path, "".join(lines))
