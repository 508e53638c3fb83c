"""Writes a model as a GGUF file for llama.cpp and related tools: weights, tokenizer, pooling and end token.

Two kinds of tokenizers can be written: Qwen's byte-level BPE, and SentencePiece models as f2jax trains them. Unlike
Qwen's tokenizer, llama.cpp does not compose Unicode characters (NFC), and it does not truncate.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from f2jax import files
from f2jax.checkpoints import hf, package
from f2jax.checkpoints.model_card import NOTHING, RunHistory
from f2jax.data.tokenizer import SPACE, Tokenizer
from f2jax.data.tokenizer_checks import QWEN_SPLIT
from f2jax.errors import UserError, require_extra
from f2jax.model.sizes import Qwen3Config

# {Hugging Face's name without `.weight`: GGUF's name}. GGUF puts `blk.N.` before the names of a layer.
TOP_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BLOCK = 32  # values that share a scale in Q8_0


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in GGUF's terms, in the order of its ids."""

    model: str  # llama: pieces with scores; gpt2: byte-level tokens with merges
    tokens: list[str]
    types: Sequence[int]
    scores: list[float]  # for `llama`
    merges: list[str]  # for `gpt2`


def vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """Returns the tokenizer in GGUF's terms, padded to the number of rows of the token table.

    Raises:
        UserError: `gguf` is not installed, or llama.cpp has no such tokenizer.
    """
    require_extra("gguf", "A GGUF format")
    from gguf import TokenType

    spec = json.loads(tokenizer.to_hf_json())
    kind, model, added = _kind(spec), spec["model"], {token["id"]: token for token in spec["added_tokens"]}
    tokens = {number: token for token, number in model["vocab"].items()} | {n: t["content"] for n, t in added.items()}
    types = []
    for number in range(rows):
        if number in added:
            types.append(TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED)
        elif number not in tokens:
            types.append(TokenType.UNUSED)
        elif tokens[number] == model["unk_token"]:
            types.append(TokenType.UNKNOWN)
        elif kind == "llama" and len(tokens[number]) == 6 and tokens[number].startswith("<0x"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    rank: dict[str, int] = {}
    for i, (a, b) in enumerate(model["merges"]):
        rank.setdefault(a + b, i)
    names = [tokens.get(number, f"[unused {number}]") for number in range(rows)]
    return Vocabulary(
        kind, names, types, [-float(rank.get(name, 0)) for name in names], [f"{a} {b}" for a, b in model["merges"]]
    )


def _kind(spec: dict) -> str:
    """Returns the name of llama.cpp's tokenizer model for a `tokenizer.json`."""
    split, model = spec["pre_tokenizer"], spec["model"]
    steps = split["pretokenizers"] if split and split["type"] == "Sequence" else []
    if model["type"] == "BPE" and model["byte_fallback"] and not split:
        normal = spec["normalizer"] or {}
        if (normal.get("pattern"), normal.get("content")) == ({"String": " "}, SPACE):
            return "llama"
    qwen = [step["type"] for step in steps] == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == QWEN_SPLIT
    if model["type"] == "BPE" and qwen:
        return "gpt2"
    raise UserError(
        "The model's tokenizer cannot be written to GGUF; only Qwen's byte-level one and SentencePiece models "
        "trained by f2jax can. Leave the GGUF formats out."
    )


def write_gguf(
    folder: str | Path,
    config: Qwen3Config,
    params,
    tokenizer: Tokenizer,
    max_length: int,
    kind: str = "whole",
    about: RunHistory = NOTHING,
) -> str:
    """Writes the file into a package, holding one weight in memory at a time, and returns its name there.

    Args:
        max_length: maximum tokens of a text, including the end token.
        kind: `whole` keeps the dtype of the weights; `q8_0` stores matrices in 8 bits, with a scale per 32 values.
        about: has the licence.

    Raises:
        UserError: as for `vocabulary`, a width is not a multiple of 32 for `q8_0`, or the folder cannot be written.
    """
    words = vocabulary(tokenizer, config.vocab_size)
    check_blocks(config, kind)
    import gguf

    name = package.GGUF[kind]
    entries = hf.hf_entries(params)
    types = {key: _type(entry, kind) for key, entry in entries.items()}
    with files.atomic_path(files.join(folder, name)) as part, files.clear_errors(files.join(folder, name), "written"):
        writer = gguf.GGUFWriter(part, "qwen3")
        writer.add_name(str(folder).rstrip("/").rsplit("/", 1)[-1])
        writer.add_file_type(_file_type(types))
        if about.license:
            writer.add_license(about.license)
        if licence_name := about.license_details.get("license_name"):
            writer.add_license_name(licence_name)
        if link := about.license_details.get("license_link"):
            writer.add_license_link(link)
        _add_architecture(writer, config, max_length)
        _add_tokenizer(writer, words, tokenizer)
        for key, entry in entries.items():
            block, size = gguf.GGML_QUANT_SIZES[types[key]]
            nbytes = math.prod(entry.shape) // block * size
            writer.add_tensor_info(_name(key), entry.shape, np.dtype(np.float32), nbytes, types[key])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for key, matrix in hf.hf_tensors(params):
            writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(matrix, np.float32), types[key]))
        writer.close()
    return name


def check_blocks(config: Qwen3Config, kind: str) -> None:
    """Raises UserError if the rows of a matrix cannot be divided into the blocks of `q8_0`."""
    rows = {"width": config.width, "mlp": config.mlp, "heads x head_dim": config.heads * config.head_dim}
    wrong = [f"{name} {length}" for name, length in rows.items() if length % BLOCK]
    if kind == "q8_0" and wrong:
        raise UserError(f"GGUF's q8_0 needs multiples of {BLOCK}, not {', '.join(wrong)}; use the format gguf.")


def _type(entry: hf.Entry, kind: str):
    from gguf import GGMLQuantizationType as Type

    if len(entry.shape) == 1:
        return Type.F32  # llama.cpp needs norms in float32
    if kind == "q8_0":
        return Type.Q8_0
    return Type.BF16 if entry.dtype == ml_dtypes.bfloat16 else Type.F32


def _file_type(types: dict):
    """Returns llama.cpp's file type, which is the type of most weights."""
    from gguf import GGMLQuantizationType as Type
    from gguf import LlamaFileType

    of_table = types["embed_tokens.weight"]
    kinds = {Type.Q8_0: LlamaFileType.MOSTLY_Q8_0, Type.BF16: LlamaFileType.MOSTLY_BF16}
    return kinds.get(of_table, LlamaFileType.ALL_F32)


def _name(key: str) -> str:
    """Returns GGUF's name for a weight: `layers.3.mlp.up_proj.weight` → `blk.3.ffn_up.weight`."""
    stem = key.removesuffix(".weight")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.weight"
    _, number, part = stem.split(".", 2)
    return f"blk.{number}.{LAYER_NAMES[part]}.weight"


def _add_architecture(writer, config: Qwen3Config, max_length: int) -> None:
    from gguf import PoolingType

    writer.add_context_length(max_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp)
    writer.add_block_count(config.layers)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_pooling_type(PoolingType.LAST)


def _add_tokenizer(writer, words: Vocabulary, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.model == "llama":
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(False)
    else:
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges(words.merges)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
