"""The released package: a folder that transformers, sentence-transformers and the serving tools load as it is.

Written to avoid the known faults of released embedding models (recipe 5): the true pooling dimension, `layer_types` of
the true length, the end token in `tokenizer.json`, the context length, and the Matryoshka dimensions.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from f2jax import files
from f2jax.checkpoints import hf, model_card, workdir
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError
from f2jax.model.nested import matryoshka_dims
from f2jax.model.sizes import Qwen3Config

LAST = ("config.json", "modules.json")  # the files that make the folder a model and a package
GOLDEN = ("golden/texts.json", "golden/vectors.npy")  # what f2jax verify embeds again, and should find
ONNX = {"float32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}  # by precision
GGUF = {"whole": "gguf/model.gguf", "q8_0": "gguf/model-q8_0.gguf"}  # by type: that of the package, or 8 bits
MODULES = ("Transformer", "Pooling", "Normalize")  # kinds of modules of sentence-transformers that are built here
MADE = (  # by f2jax export, from the weights
    *ONNX.values(),
    *(f"{name}_data" for name in ONNX.values()),
    *GGUF.values(),
    *GOLDEN,
)


@dataclass(frozen=True)
class ModelSettings:
    """What a model needs to be used rightly, besides its weights and its tokenizer."""

    max_length: int  # tokens of a text, end token included
    prompts: dict[str, str] = field(default_factory=dict)  # by name; `query` and `document` are the defaults
    matryoshka_dims: tuple[int, ...] = ()  # largest first
    default_prompt_name: str | None = None  # of the prompt where a caller names none


def read_settings(path: str, architecture: Qwen3Config) -> ModelSettings:
    """The card of a training workdir (from its config) or of a released folder (from its metadata).

    Raises:
        UserError: the folder says that its vectors are made in another way than from the last token's state, or its
            default prompt is none of its prompts.
    """
    if workdir.is_workdir(path):
        config = files.read_json(files.join(path, "config.json"))
        dims = (architecture.width,)
        if config["loss"]["matryoshka"]:
            dims = matryoshka_dims(architecture.width, config["loss"]["matryoshka_min"])
        return ModelSettings(config["data"]["max_length"], config["prompts"], dims)

    def optional(name: str) -> dict:
        return files.read_json(files.join(path, name)) if files.exists(files.join(path, name)) else {}

    for module in optional("modules.json"):
        if module["type"].rpartition(".")[2] not in MODULES:
            kinds = ", ".join(MODULES)
            raise UserError(f"{path} has a module {module['type']} in modules.json; only {kinds} are built.")
    pooling = optional("1_Pooling/config.json")
    modes = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on] or pooling.get(
        "pooling_mode"
    )
    if modes not in (None, "lasttoken", ["lasttoken"], ["pooling_mode_lasttoken"]):
        raise UserError(f"{path} pools by {modes} in 1_Pooling/config.json; only pooling of the last token is built.")
    limits = (
        optional("sentence_bert_config.json").get("max_seq_length"),
        optional("tokenizer_config.json").get("model_max_length"),
        architecture.max_length,
    )
    declared = optional("config_sentence_transformers.json")
    prompts = {name: text or "" for name, text in (declared.get("prompts") or {}).items()}
    default = declared.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise UserError(
            f"{path} has no prompt of the name '{default}', its default; mend config_sentence_transformers.json."
        )
    return ModelSettings(
        max_length=min(int(limit) for limit in limits if limit),
        prompts=prompts,
        matryoshka_dims=tuple(optional("config.json").get("matryoshka_dimensions") or (architecture.width,)),
        default_prompt_name=default,
    )


def check_output(folder: str | Path, models: Iterable[str]) -> None:
    """Raises UserError where a package would be written over a model that goes into it: stopped, it would be gone."""

    def place(path: str | Path) -> str:
        return str(path).rstrip("/") if files.is_remote(path) else str(Path(path).resolve())

    if place(folder) in map(place, models):
        raise UserError(f"{folder} holds a model that goes into the package; choose another folder.")


def write_package(
    folder: str | Path,
    architecture: Qwen3Config,
    params,
    tokenizer: Tokenizer,
    card: ModelSettings,
    about: model_card.RunHistory = model_card.NOTHING,
) -> None:
    """Write the package, to a local folder or gs://.

    `config.json` and `modules.json` come last: without them nothing loads the folder. What `f2jax export` made of an
    earlier model's weights goes.

    Raises:
        UserError: the folder cannot be written, or is a training workdir.
    """
    if workdir.is_workdir(folder):
        raise UserError(f"{folder} is a training workdir; choose another folder for the package.")
    dtype = str(jax.tree.leaves(params)[0].dtype)
    texts = _texts(architecture, dtype, tokenizer, card, about)  # before the folder: not every tokenizer converts
    for name in (*LAST, *MADE):
        files.remove_file(files.join(folder, name))
    hf.save_hf(folder, params)
    if not files.is_remote(folder):  # where a folder without files cannot be
        Path(folder, "2_Normalize").mkdir(exist_ok=True)
    for name, text in texts.items():
        files.write_atomically(files.join(folder, name), text)


def _texts(
    architecture: Qwen3Config, dtype: str, tokenizer: Tokenizer, card: ModelSettings, about: model_card.RunHistory
) -> dict[str, str]:
    """The content of all files but the weights, in the order of writing."""
    dims = list(card.matryoshka_dims)
    config = hf.config_to_hf(architecture, dtype, tokenizer.eos_id, tokenizer.pad_id)
    config |= {"is_matryoshka": len(dims) > 1, "matryoshka_dimensions": dims}
    contents = {
        "tokenizer_config.json": tokenizer.hf_config(card.max_length),
        "sentence_bert_config.json": {"max_seq_length": card.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": card.prompts,
            "default_prompt_name": card.default_prompt_name,
            "similarity_fn_name": "cosine",
            "matryoshka_dimensions": dims,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": architecture.width,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
        "config.json": config,
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
    }
    readme = model_card.render_model_card(architecture, card.max_length, card.matryoshka_dims, card.prompts, about)
    plain = {"tokenizer.json": tokenizer.to_hf_json(), "README.md": readme}
    return plain | {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()
    }
