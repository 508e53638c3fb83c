"""Checks the settings in the JSON files of a model folder, key by key.

The keys are those that transformers 5 and sentence-transformers 6 read. Each key is either obeyed, or allowed only with
values that f2jax supports, or known not to affect vectors. Unknown keys are logged. docs/model_folder.md gives the
reasons.
"""

import fnmatch
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

from f2jax import files
from f2jax.errors import UserError
from f2jax.model.sizes import Qwen3Config

log = logging.getLogger(__name__)


# The model_type of a Qwen3 with matrices in f2jax's int8. Other tools do not know this type and refuse the folder; they
# would ignore an unknown key, and take the int8 numbers for weights.
INT8_TYPE = "f2jax-qwen3-int8"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class FileKeys:
    """How f2jax treats the keys of a file."""

    obeyed: frozenset[str] = frozenset()
    allowed: dict[str, tuple] = field(default_factory=dict)  # by key: the values that are supported
    harmless: frozenset[str] = frozenset()  # cannot change a vector

    def check(self, content: dict, origin: str) -> dict:
        """Returns `content` unchanged, after logging unknown keys.

        Raises:
            UserError: keys have values that f2jax does not support; the message names all of them.
        """
        refused = [
            f"{key} = {json.dumps(content[key], ensure_ascii=False)[:80]}"
            for key, values in self.allowed.items()
            if key in content and content[key] not in values
        ]
        if refused:
            raise UserError(
                f"{origin} sets {', '.join(refused)}, which f2jax does not support; it computes plain causal Qwen3 "
                "with last-token pooling. Use another model, or correct the file if it is wrong."
            )
        known = self.obeyed | self.allowed.keys() | self.harmless
        if unknown := [key for key in content if key not in known]:
            log.warning("%s has settings that f2jax does not know and ignores: %s.", origin, ", ".join(unknown))
        return content


CONFIG = FileKeys(
    obeyed=_words(
        """architectures model_type hidden_size intermediate_size num_hidden_layers num_attention_heads
        num_key_value_heads head_dim vocab_size rms_norm_eps rope_theta rope_parameters rope_scaling layer_types
        max_position_embeddings tie_word_embeddings is_matryoshka matryoshka_dimensions"""
    ),
    allowed={
        "attention_bias": (False, None),
        "auto_map": (None, {}),  # code that comes with the model
        "hidden_act": ("silu",),
        "is_causal": (True, None),
        "is_decoder": (True, False, None),
        "is_encoder_decoder": (False, None),
        "add_cross_attention": (False, None),
        "partial_rotary_factor": (1, None),
        "per_layer_config": (None, {}),
        "pruned_heads": (None, {}),
        "quantization_config": (None, {}),
        "use_bidirectional_attention": (False, None),
        "use_sliding_window": (False, None),
    },
    harmless=_words(
        """attention_dropout attn_implementation _attn_implementation _attn_implementation_autoset _commit_hash
        _name_or_path name_or_path bos_token_id chunk_size_feed_forward cross_attention_hidden_size
        decoder_start_token_id dtype eos_token_id finetuning_task id2label initializer_range label2id max_window_layers
        num_labels original_max_position_embeddings
        output_attentions output_hidden_states pad_token_id prefix problem_type return_dict sep_token_id
        sliding_window task_specific_params tf_legacy_loss tie_encoder_decoder tokenizer_class torch_dtype torchscript
        transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache

        assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens diversity_penalty
        do_sample early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
        exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length
        max_new_tokens min_length no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule
        num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
        return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p typical_p"""
    ),
)
ROPE = FileKeys(  # rope_parameters, or rope_scaling of older configs
    obeyed=_words("rope_theta"),
    allowed={"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1, None)},
    harmless=_words(  # read for other types of scaling only
        """attention_factor beta_fast beta_slow factor high_freq_factor long_factor low_freq_factor mrope_section mscale
        mscale_all_dim original_max_position_embeddings short_factor truncate"""
    ),
)
TOKENIZER_CONFIG = FileKeys(
    obeyed=_words(
        """eos_token pad_token bos_token unk_token sep_token cls_token mask_token added_tokens_decoder
        additional_special_tokens extra_special_tokens model_specific_special_tokens model_max_length max_len
        tokenizer_class"""
    ),
    allowed={
        "auto_map": (None, {}),
        "split_special_tokens": (False, None),
        "truncation_side": ("right", None),
    },
    harmless=_words(  # tokenizer.json holds the ids; these concern decoding, chats, padding or bookkeeping
        """add_bos_token add_eos_token add_prefix_space add_special_tokens backend chat_control_tokens chat_template
        clean_up_tokenization_spaces clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output errors
        files_loaded fix_mistral_regex from_slow init_inputs is_local legacy local_files_only max_length name_or_path
        pad_to_multiple_of pad_token_type_id padding_side response_schema response_template
        sp_model_kwargs spaces_between_special_tokens special_tokens_map_file stride tokenizer_file
        truncation_strategy use_default_system_prompt use_fast verbose"""
    ),
)
SENTENCE_TRANSFORMERS = FileKeys(  # config_sentence_transformers.json
    obeyed=_words("prompts default_prompt_name similarity_fn_name matryoshka_dimensions"),
    allowed={"model_type": ("SentenceTransformer", None), "truncate_dim": (None,)},
    harmless=_words("__version__ requirements"),
)
TEXT_MODALITY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
TRANSFORMER = FileKeys(  # sentence_bert_config.json
    obeyed=_words("max_seq_length"),
    allowed={
        "do_lower_case": (False, None),
        "transformer_task": ("feature-extraction",),
        "modality_config": (TEXT_MODALITY,),  # one with messages renders texts by the chat template
        "module_output_name": ("token_embeddings",),
        "tokenizer_name_or_path": (None,),
        **dict.fromkeys(("config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"), (None, {})),
        **dict.fromkeys(("processing_kwargs", "query_expansion"), (None, {})),
        **dict.fromkeys(("query_length", "document_length"), (None,)),
    },
    harmless=_words("backend cache_dir model_args model_kwargs unpad_inputs"),
)
POOLING = FileKeys(
    obeyed=_words(
        """pooling_mode pooling_mode_cls_token pooling_mode_max_tokens pooling_mode_mean_tokens
        pooling_mode_mean_sqrt_len_tokens pooling_mode_weightedmean_tokens pooling_mode_lasttoken"""
    ),
    harmless=_words("embedding_dimension word_embedding_dimension include_prompt"),
)
NORMALIZE = FileKeys(
    allowed=dict.fromkeys(("module_input_name", "module_output_name"), ("sentence_embedding", None)),
)
MODULE_KINDS = ("Transformer", "Pooling", "Normalize", "Dropout")  # the last one does nothing outside of training
TRANSFORMER_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def read_optional(folder: str, name: str, keys: FileKeys, types: dict | None = None) -> dict:
    """Returns the checked content of a JSON file in a model folder, or {} if it is missing.

    Raises:
        UserError: it is not a JSON object, a field has the wrong type, or a setting is not supported.
    """
    path = files.join(folder, name)
    return keys.check(files.read_json_object(path, optional=types or {}), path) if files.exists(path) else {}


def config_from_hf(hf, origin: str = "config.json") -> Qwen3Config:
    """Returns the architecture described by the content of a `config.json`.

    Raises:
        UserError: it is not a dense Qwen3, a field is missing or has the wrong type, or a setting is not supported.
    """
    if isinstance(hf, dict) and hf.get("model_type") not in ("qwen3", INT8_TYPE):
        raise UserError(
            f"{origin} has model_type {json.dumps(hf.get('model_type'))}; only dense 'qwen3' models can be loaded."
        )
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    required = {**dict.fromkeys((*sizes, "max_position_embeddings"), int), "rms_norm_eps": float}
    optional = {
        "head_dim": int,
        "num_key_value_heads": int | None,
        "tie_word_embeddings": bool | None,
        "architectures": list[str] | None,
        "layer_types": list[str] | None,
        "rope_parameters": dict | None,
        "rope_scaling": dict | None,
    }
    CONFIG.check(files.check_object(hf, origin, required, optional), origin)
    if others := [name for name in hf.get("architectures") or () if not name.startswith("Qwen3")]:
        raise UserError(f"{origin} names the architecture {', '.join(others)}; only Qwen3 is supported.")
    if set(hf.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        raise UserError(f"{origin} has other layer_types than 'full_attention'; only full attention is supported.")
    if wrong := [name for name in (*sizes, "max_position_embeddings") if hf[name] < 1]:
        raise UserError(f"{origin} has {', '.join(f'{name}={hf[name]}' for name in wrong)}; it should be at least 1.")
    theta = _rope_theta(hf, origin)
    try:
        return Qwen3Config(
            width=hf["hidden_size"],
            mlp=hf["intermediate_size"],
            layers=hf["num_hidden_layers"],
            heads=hf["num_attention_heads"],
            kv_heads=hf.get("num_key_value_heads") or hf["num_attention_heads"],
            head_dim=hf.get("head_dim", 128),  # Qwen3's default, whatever the width
            vocab_size=hf["vocab_size"],
            rope_theta=theta,
            rms_norm_eps=hf["rms_norm_eps"],
            tie_word_embeddings=hf.get("tie_word_embeddings", True) is not False,
            max_length=hf["max_position_embeddings"],
        )
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def read_config(folder: str | Path) -> Qwen3Config:
    """Returns the architecture described by the `config.json` in a folder.

    Raises:
        UserError: the folder contains another kind of model, or as for `config_from_hf`.
    """
    path = files.join(folder, "config.json")
    check_kind(str(folder))
    return config_from_hf(files.read_json(path), path)


def stores_int8(folder: str | Path) -> bool:
    """Returns whether a folder declares matrices in int8, with a scale for each row."""
    path = files.join(folder, "config.json")
    return files.exists(path) and files.read_json_object(path).get("model_type") == INT8_TYPE


def config_to_hf(config: Qwen3Config, dtype: str, eos_id: int, pad_id: int, as_int8: bool = False) -> dict:
    """Returns the content of a `config.json` that transformers and the serving tools load as `Qwen3Model`.

    Args:
        as_int8: the weights are f2jax's int8, and other tools must not load them.
    """
    return {
        "architectures": None if as_int8 else ["Qwen3Model"],
        "model_type": INT8_TYPE if as_int8 else "qwen3",
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_length,
        "layer_types": ["full_attention"] * config.layers,  # transformers 5 checks the length
        "max_window_layers": config.layers,
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": False,
        "dtype": dtype,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    }


def _rope_theta(hf: dict, origin: str) -> float:
    """Returns the base of the rotary angles in a `config.json`; `rope_scaling` overrides `rope_parameters`.

    Raises:
        UserError: the angles are scaled, or there is no base.
    """
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError(f"{origin} has rotary embeddings that differ between layers; only equal ones are supported.")
    ROPE.check(rope, f"The rotary embedding in {origin}")
    theta = rope.get("rope_theta", hf.get("rope_theta"))
    if not isinstance(theta, int | float) or not 0 < theta < math.inf:
        raise UserError(f"{origin} lacks the field 'rope_theta', a number above 0; add it.")
    return float(theta)


@dataclass(frozen=True)
class Modules:
    """The settings in `modules.json` and in the folders that it names."""

    max_seq_length: int | None = None
    normalizes: bool = True


def read_modules(folder: str) -> Modules | None:
    """Returns the settings of a folder's sentence-transformers modules, or None if it has no `modules.json`.

    Raises:
        UserError: the modules are not a Qwen3 transformer, last-token pooling and optionally a normalization.
    """
    path = files.join(folder, "modules.json")
    if not files.exists(path):
        return None
    modules = files.read_json(path)
    fields = {"type": str, "path": str}
    if not isinstance(modules, list) or not modules:
        raise UserError(f"{path} is not a list of modules; restore it from its origin.")
    kinds = []
    for module in modules:
        name = files.check_object(module, f"A module of {path}", fields)["type"]
        package, _, kind = name.rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or kind not in MODULE_KINDS:
            built = ", ".join(MODULE_KINDS)
            raise UserError(
                f"{folder} has a module {name} in modules.json; only {built} of sentence-transformers are supported."
            )
        kinds.append(kind)
    order = [kind for kind in kinds if kind != "Dropout"]
    if order[:2] != ["Transformer", "Pooling"] or set(order[2:]) - {"Normalize"}:
        raise UserError(
            f"{path} has the modules {', '.join(kinds)}; only Transformer, Pooling and Normalize work, in this order."
        )
    if modules[0]["path"].strip("./"):
        raise UserError(
            f"{folder} keeps its transformer in the folder '{modules[0]['path']}' (see modules.json); move the files "
            'of that folder up, and set its path to "".'
        )
    limit = None
    for name in TRANSFORMER_FILES:
        if content := read_optional(folder, name, TRANSFORMER, {"max_seq_length": int | None}):
            limit = content.get("max_seq_length")
            break
    for module, kind in zip(modules, kinds, strict=True):
        inside = f"{module['path']}/config.json"
        if kind == "Pooling":
            _check_pooling(folder, inside)
        elif kind == "Normalize":
            read_optional(folder, inside, NORMALIZE)
    return Modules(limit, "Normalize" in kinds)


def _check_pooling(folder: str, name: str) -> None:
    """Raises UserError unless a pooling module uses the last token; without a mode, it would use the mean."""
    content = read_optional(folder, name, POOLING)
    modes = content.get("pooling_mode")
    if modes is None:
        modes = [key for key, on in content.items() if key.startswith("pooling_mode_") and on] or "mean"
    if modes not in ("lasttoken", ["lasttoken"], ["pooling_mode_lasttoken"]):
        raise UserError(f"{folder} pools by {modes} in {name}; only pooling of the last token is supported.")


# Files of other kinds of models, with advice.
OTHER_KINDS = {
    "pytorch_model*.bin": "has its weights as a pickle ({file}), which can run code; save it again in "
    "transformers with AutoModel.from_pretrained(folder).save_pretrained(new_folder)",
    "*.gguf": "has its weights as GGUF ({file}); give the safetensors folder that it was made from",
    "tf_model.h5": "has TensorFlow weights ({file}); convert it to safetensors in transformers",
    "flax_model.msgpack": "has Flax weights of transformers ({file}); convert it to safetensors there",
    "consolidated*": "has its weights in Mistral's format ({file}); convert it to a Qwen3 folder of transformers",
    "*.onnx": "holds an ONNX graph ({file}); give the safetensors folder that it was made from",
    "openvino_model*": "holds an OpenVINO graph ({file}); give the safetensors folder that it was made from",
    "checkpoint-*": "holds checkpoints of a trainer ({file} and others); give one of them",
}


def check_kind(folder: str) -> None:
    """Raises UserError if a folder is not a model in safetensors; the message names what it is."""
    if files.exists(adapter := files.join(folder, "adapter_config.json")):
        base = files.read_json_object(adapter).get("base_model_name_or_path")
        raise UserError(
            f"{folder} is a PEFT adapter of {base}; merge it into that model with merge_and_unload() of peft, and save "
            "the result."
        )
    names = files.list_names(folder) if files.exists(folder) else []
    if "config.json" in names:
        config = files.read_json(files.join(folder, "config.json"))
        if isinstance(config, dict) and "model_type" not in config and "optim" in config:
            raise UserError(f"{folder} is a training workdir without a model yet; train a little longer.")
        if any(name.endswith(".safetensors") for name in names):
            return
    if "0_Transformer" in names:
        raise UserError(f"{folder} keeps its transformer in 0_Transformer; move the files of that folder up.")
    for pattern, text in OTHER_KINDS.items():
        if matches := sorted(fnmatch.filter(names, pattern)):
            raise UserError(f"{folder} {text.format(file=matches[0])}.")
