"""The released package: a folder that transformers, sentence-transformers and serving tools can load.

It avoids known faults of released embedding models (recipe 5): it states the correct pooling dimension, length of
`layer_types`, end token in `tokenizer.json`, context length and Matryoshka dimensions.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax

from f2jax import files
from f2jax.checkpoints import hf, model_card, settings, workdir
from f2jax.data.prompts import read_prompts
from f2jax.data.tokenizer import NAMES as TOKENIZERS
from f2jax.data.tokenizer import Tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.model.nested import matryoshka_dims
from f2jax.model.sizes import Qwen3Config

LAST = ("config.json", "modules.json")  # the files that make the folder a model and a package
META = "model_meta.json"  # for mteb, which does not read packages in int8
GOLDEN = ("golden/texts.json", "golden/vectors.npy")  # for f2jax verify
ONNX = {"float32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}  # by precision; Transformers.js' names
FORMER_ONNX = "onnx/model_int8.onnx"  # of older packages
GGUF = {"whole": "gguf/model.gguf", "q8_0": "gguf/model-q8_0.gguf"}  # by type: that of the package, or 8 bits
EXPORTED = (  # by f2jax export, from the weights
    *(f"{name}{ending}" for name in (*ONNX.values(), FORMER_ONNX) for ending in ("", "_data")),
    *GGUF.values(),
    *GOLDEN,
)


@dataclass(frozen=True)
class ModelSettings:
    """Settings that are needed to use a model correctly, besides its weights and tokenizer."""

    max_length: int  # maximum tokens of a text, including the end token
    prompts: dict[str, str] = field(default_factory=dict)  # {name: prompt}; `query` and `document` are used by default
    matryoshka_dims: tuple[int, ...] = ()  # in descending order
    default_prompt_name: str | None = None  # name of the prompt to use by default
    similarity: str = "cosine"  # how to compare two vectors: one of settings.SIMILARITIES
    normalizes: bool = True  # whether the package has a Normalize module for sentence-transformers


def read_settings(path: str, architecture: Qwen3Config) -> ModelSettings:
    """Reads the settings of a training workdir (from its config and its data's prompts) or of a model folder.

    Raises:
        UserError: a file has another form, or needs something that f2jax does not support (docs/model_folder.md).
    """
    if workdir.is_workdir(path):
        sections = {"loss": dict, "data": dict, "prompts": dict[str, str]}
        config = files.read_json_object(files.join(path, "config.json"), sections)
        dims: tuple[int, ...] = (architecture.width,)
        if config["loss"]["matryoshka"]:
            dims = matryoshka_dims(architecture.width, config["loss"]["matryoshka_min"])
        prompts = read_prompts(path)
        return ModelSettings(config["data"]["max_length"], config["prompts"] if prompts is None else prompts, dims)

    modules = settings.read_modules(path) or settings.Modules()
    tokenizer = settings.read_optional(
        path, "tokenizer_config.json", settings.TOKENIZER_CONFIG, {"model_max_length": float | None}
    )
    declared = settings.read_optional(
        path,
        "config_sentence_transformers.json",
        settings.SENTENCE_TRANSFORMERS,
        {"prompts": dict[str, str | None] | None, "default_prompt_name": str | None, "similarity_fn_name": str | None},
    )
    config_path = files.join(path, "config.json")
    config = files.read_json_object(config_path) if files.exists(config_path) else {}
    files.check_object(config, config_path, optional={"matryoshka_dimensions": list[int] | None})
    prompts = {name: text or "" for name, text in (declared.get("prompts") or {}).items()}
    default = declared.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise UserError(
            f"{path} has no prompt of the name '{default}', its default; correct config_sentence_transformers.json."
        )
    if "document" not in prompts and (name := next((name for name in ("passage", "corpus") if name in prompts), None)):
        settings.log.warning(
            "%s has no prompt named 'document', so encode_document adds none, like "
            "sentence-transformers; to use its prompt '%s', pass prompt_name='%s'.",
            path,
            name,
            name,
        )
    similarity = declared.get("similarity_fn_name") or "cosine"
    if similarity not in settings.SIMILARITIES:
        raise UserError(
            f"{path} compares vectors by '{similarity}' (see config_sentence_transformers.json), which is not supported"
            f"{did_you_mean(similarity, settings.SIMILARITIES)}"
        )
    limits = (tokenizer.get("model_max_length"), architecture.max_length)
    return ModelSettings(
        max_length=_max_length(path, modules.max_seq_length or int(min(limit for limit in limits if limit))),
        prompts=prompts,
        matryoshka_dims=tuple(config.get("matryoshka_dimensions") or (architecture.width,)),
        default_prompt_name=default,
        similarity=similarity,
        normalizes=modules.normalizes,
    )


def _max_length(path: str, tokens: int) -> int:
    if tokens < 1:
        raise UserError(f"{path} limits texts to {tokens} tokens; correct its max_seq_length or model_max_length.")
    return tokens


def check_output(folder: str | Path, models: Iterable[str]) -> None:
    """Raises UserError if a package would replace one of its source models, which an interrupted write would lose."""

    def absolute(path: str | Path) -> str:
        return str(path).rstrip("/") if files.is_remote(path) else str(Path(path).resolve())

    if absolute(folder) in map(absolute, models):
        raise UserError(f"{folder} holds a model that goes into the package; choose another folder.")


def read_earlier_card(path: str | Path) -> model_card.RunHistory:
    """Returns what stays true of a package that is exported again: the licence, and the origin if f2jax wrote its card.

    Raises:
        UserError: a file cannot be read, or its metadata is not YAML.
    """
    name, meta = files.join(path, "README.md"), files.join(path, META)
    if not path or not files.exists(name):
        return model_card.NOTHING
    about = model_card.parse_model_card(files.read_bytes(name).decode("utf-8", "replace"), name)
    if about.earlier and files.exists(meta):
        return replace(about, earlier=replace(about.earlier, meta=files.read_json_object(meta)))
    return about


def write_package(
    folder: str | Path,
    architecture: Qwen3Config,
    params,
    tokenizer: Tokenizer,
    model_settings: ModelSettings,
    about: model_card.RunHistory = model_card.NOTHING,
    as_int8: bool = False,
) -> None:
    """Writes the package to a local folder or gs://.

    `config.json` and `modules.json` are written last, because no tool loads the folder without them. Exported formats
    of an earlier model are removed. An existing package stays complete until the first new file of weights is complete.

    Args:
        as_int8: store matrices in int8 and the tokenizer in its smallest file, which only f2jax reads.

    Raises:
        UserError: the folder cannot be written or is a training workdir, or a weight is NaN or infinite.
    """
    if workdir.is_workdir(folder):
        raise UserError(f"{folder} is a training workdir; choose another folder for the package.")
    hf.check_finite(params, "The model")
    dtype = str(jax.tree.leaves(params)[0].dtype)
    # First, because some tokenizers cannot be converted.
    contents = _file_contents(architecture, dtype, tokenizer, model_settings, about, as_int8)

    def remove_old() -> None:
        for name in (*LAST, *EXPORTED, *TOKENIZERS, META):
            files.remove_file(files.join(folder, name))

    hf.save_hf(folder, params, before_replacing=remove_old, as_int8=as_int8)
    if model_settings.normalizes and not files.is_remote(folder):  # gs:// has no empty folders
        Path(folder, "2_Normalize").mkdir(exist_ok=True)
    for name, content in contents.items():
        files.write_atomically(files.join(folder, name), content)


def _file_contents(
    architecture: Qwen3Config,
    dtype: str,
    tokenizer: Tokenizer,
    model_settings: ModelSettings,
    about: model_card.RunHistory,
    as_int8: bool,
) -> dict[str, str | bytes]:
    """Returns the content of all files except the weights, in the order in which they are written."""
    dims = list(model_settings.matryoshka_dims)
    config = settings.config_to_hf(architecture, dtype, tokenizer.eos_id, tokenizer.pad_id, as_int8)
    config |= {"is_matryoshka": len(dims) > 1, "matryoshka_dimensions": dims}
    contents = {
        "tokenizer_config.json": tokenizer.hf_config(model_settings.max_length),
        "sentence_bert_config.json": {"max_seq_length": model_settings.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": model_settings.prompts,
            "default_prompt_name": model_settings.default_prompt_name,
            "similarity_fn_name": model_settings.similarity,
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
        ][: 3 if model_settings.normalizes else 2],
    }
    readme = model_card.render_model_card(
        architecture, model_settings.max_length, model_settings.matryoshka_dims, model_settings.prompts, about, as_int8
    )
    name, content = tokenizer.smallest_file() if as_int8 else ("tokenizer.json", tokenizer.to_hf_json())
    plain: dict[str, str | bytes] = {name: content, "README.md": readme}
    if not as_int8:
        meta = model_card.model_meta(architecture, dtype, model_settings.max_length, model_settings.similarity, about)
        contents = {META: meta} | contents
    return plain | {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in contents.items()
    }
