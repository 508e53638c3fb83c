"""An `Embedder` as an encoder of the mteb package: the encoder protocol of mteb 2."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from f2jax import files
from f2jax.evaluation.prompts import Prompts
from f2jax.evaluation.variants import Variant
from f2jax.inference.embedder import Embedder
from f2jax.inference.vector_cache import VectorCache


class Encoder(AbsEncoder):
    """Vectors of one variant; all variants of a model read the same cache.

    A prompt goes before every text but documents of retrieval (recipe 4.1). `AbsEncoder` looks its instruction up, and
    brings the similarities: cosines.
    """

    def __init__(
        self,
        raw: Callable[[str, list[str]], np.ndarray],
        meta: ModelMeta,
        variant: Variant,
        prompts: Prompts,
    ):
        """Args:
        raw: (prompt, texts) → float32 [n, width], not normalized.
        meta: of the model at full width in float32.
        """
        self.raw, self.variant = raw, variant
        self.prompts_dict, self.instruction_template = prompts.instructions, prompts.template
        self.mteb_model_meta = variant_meta(meta, variant, prompts)
        self.used: dict[str, str] = {}  # by `query`, `document` or, where texts play one part alone, `text`

    def prompt(self, task_metadata, prompt_type: PromptType | None) -> str:
        """What goes before each text of a task."""
        if prompt_type == PromptType.document or not self.instruction_template:
            return ""
        return self.get_task_instruction(task_metadata, prompt_type)

    def get_instruction(self, task_metadata, prompt_type: PromptType | None) -> str:
        """As in `AbsEncoder`, but an empty instruction of ours means none."""
        names = (task_metadata.name, task_metadata.type, prompt_type and prompt_type.value)
        ours = next((self.prompts_dict[name] for name in names if name in self.prompts_dict), None)
        return super().get_instruction(task_metadata, prompt_type) if ours is None else ours

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs) -> np.ndarray:
        """float32 [n, dim] of all texts of a `DataLoader`, in their order."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self.prompt(task_metadata, prompt_type)
        self.used[prompt_type.value if prompt_type else "text"] = prompt
        return self.variant.of(self.raw(prompt, texts))


def cached(embedder: Embedder, cache: VectorCache, progress: Callable[[int], None]) -> Callable:
    """`raw` of an `Encoder` from a model, through the cache."""

    def encode(texts: list[str]) -> np.ndarray:
        return embedder.encode(texts, prompt="", normalize_embeddings=False, show_progress_bar=False)

    return lambda prompt, texts: cache.vectors(prompt, texts, encode, progress)


def model_meta(embedder: Embedder, name: str) -> ModelMeta:
    """What mteb records of a model; its revision is the fingerprint of weights, prompts, length and dtype."""
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
    """A model of which no more than the name is known."""
    unknown = dict.fromkeys(field for field, info in ModelMeta.model_fields.items() if info.is_required())
    return ModelMeta(**unknown | {"name": name, "framework": [], "similarity_fn_name": "cosine"})


def variant_meta(meta: ModelMeta, variant: Variant, prompts: Prompts) -> ModelMeta:
    """The same with what sets the variant apart as mteb's `experiment_kwargs`: these name its folder of results."""
    experiment = {}
    if variant.dim != meta.embed_dim:
        experiment["embed_dim"] = variant.dim
    if variant.precision != "float32":
        experiment["output_dtypes"] = variant.precision
    if prompts.mark:
        experiment["prompts"] = prompts.mark
    return meta.model_copy(update={"embed_dim": variant.dim, "experiment_kwargs": experiment or None})


def settings(encoder: Encoder, task: str) -> dict:
    """What one must know to make the scores of a task again, beside mteb's own records."""
    meta = encoder.mteb_model_meta
    variant = dataclasses.asdict(encoder.variant)
    return {"task": task, "revision": meta.revision, **meta.loader_kwargs, **variant, "prompts": encoder.used}


def write_settings(path: Path, record: dict) -> None:
    """Put the record of a task into a file of JSON lines, in the place of an older one."""
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [line for line in old if line["task"] != record["task"]]
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, record]]
    files.write_atomically(path, "".join(lines))
