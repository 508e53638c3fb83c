"""Checks that a `tokenizer.json` and the `tokenizer_config.json` next to it agree.

f2jax uses only `tokenizer.json`. Settings with which transformers would give other tokens are refused here.
"""

import json

from f2jax import files
from f2jax.errors import UserError

QWEN_SPLIT = (  # how Qwen2 and later models split a text before merging; llama.cpp knows it as `qwen2`
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")  # transformers 5 replaces their splitting
PLAIN_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")  # these use tokenizer.json as it is
PROBE = "a b"
TYPES = {  # of fields of tokenizer_config.json
    "added_tokens_decoder": dict | None,
    "additional_special_tokens": list | None,
    "extra_special_tokens": list | dict | None,
    "tokenizer_class": str | None,
}


def appended_token(backend, origin: str) -> int | None:
    """Returns the id that the post-processor of a `tokenizers.Tokenizer` appends to a text, or None.

    Raises:
        UserError: it adds several tokens, or one before the text.
    """
    plain, full = (backend.encode(PROBE, add_special_tokens=special).ids for special in (False, True))
    if len(full) == len(plain):
        return None
    if full[:-1] == plain:
        return full[-1]
    if full[1:] == plain:
        token = backend.id_to_token(full[0])
        raise UserError(f"{origin} puts the token {token} before a text; only an end token behind it can be kept.")
    raise UserError(f"{origin} adds {len(full) - len(plain)} special tokens to a text; only an end token can be kept.")


def check_backend(backend, origin: str, config: dict) -> None:
    """Raises UserError if a `tokenizers.Tokenizer` truncates on the left or uses dropout."""
    truncation = backend.truncation or {}
    if truncation.get("direction") == "left" and config.get("truncation_side") != "right":
        raise UserError(f"{origin} cuts long texts on the left; only cutting on the right is supported.")
    if getattr(backend.model, "dropout", None):
        raise UserError(f"{origin} drops merges at random (dropout of its model); set its dropout to null.")


def check_tokenizer_config(backend, config: dict, folder: str) -> None:
    """Raises UserError if `tokenizer_config.json` contradicts `tokenizer.json`."""
    path = files.join(folder, "tokenizer_config.json")
    ends = [token_text(config.get(key)) for key in ("eos_token", "pad_token")]
    added = {token.content: (number, token) for number, token in backend.get_added_tokens_decoder().items()}
    for number, token in _named_tokens(config, path):
        known_number, known = added.get(token["content"], (None, None))
        if token["content"] in ends and number is None:  # `HFTokenizer` needs these in the vocabulary only
            continue
        if known is None or number not in (None, known_number):
            place = "" if number is None else f" with the id {number}"
            raise UserError(
                f"{path} names the token {token['content']}{place}, which is not among the added_tokens of "
                "tokenizer.json; remove it, or save the tokenizer again."
            )
        flags = {name: value for name, value in token.items() if name in ("lstrip", "rstrip", "normalized", "special")}
        if number is not None and any(getattr(known, name) != value for name, value in flags.items()):
            raise UserError(
                f"{path} matches the token {token['content']} in texts otherwise than tokenizer.json does; save the "
                "tokenizer again."
            )
    name = config.get("tokenizer_class")
    if name not in (*PLAIN_CLASSES, *QWEN_CLASSES) or (name in QWEN_CLASSES and not _splits_like_qwen(backend, config)):
        raise UserError(
            f"{path} has the tokenizer_class {name}, which would read texts otherwise than tokenizer.json says; if "
            "tokenizer.json is right, set it to PreTrainedTokenizerFast."
        )


def token_text(token: object) -> object:
    """Returns the text of a token, which is a string or an object with a `content`."""
    return token.get("content") if isinstance(token, dict) else token


def _named_tokens(config: dict, path: str) -> list[tuple[int | None, dict]]:
    """Returns (id or None, token) for each token named in a `tokenizer_config.json`."""
    decoder = config.get("added_tokens_decoder") or {}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    single = [token for key, token in config.items() if key.endswith("_token") and isinstance(token, str | dict)]
    named = [*single, *(extra.values() if isinstance(extra, dict) else extra)]
    tokens: list[tuple[int | None, object]] = [(None, token) for token in named]
    if not all(number.isdecimal() for number in decoder):
        raise UserError(f"added_tokens_decoder in {path} has keys that are not ids; restore it from its origin.")
    tokens += [(int(number), token) for number, token in decoder.items()]
    return [
        (number, files.check_object({"content": token} if isinstance(token, str) else token, path, {"content": str}))
        for number, token in tokens
    ]


def _splits_like_qwen(backend, config: dict) -> bool:
    """Returns whether a `tokenizers.Tokenizer` normalizes and splits texts like transformers' class for Qwen."""
    normalizer, splitter = (
        json.loads(step.__getstate__()) if step else {} for step in (backend.normalizer, backend.pre_tokenizer)
    )
    steps = splitter.get("pretokenizers", [])
    if normalizer.get("type") != "NFC" or [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return False
    split, byte_level = steps
    return (
        split["pattern"].get("Regex") == QWEN_SPLIT
        and (split["behavior"], split["invert"]) == ("Isolated", False)
        and (byte_level["add_prefix_space"], byte_level["use_regex"]) == (False, False)
        and not config.get("add_prefix_space")
    )
