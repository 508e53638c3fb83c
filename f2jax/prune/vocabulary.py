"""Trims a tokenizer to the tokens of a corpus; it gives the same tokens for its texts, and still reads any text."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import numpy as np

from f2jax.data.tokenizer import HFTokenizer, Tokenizer
from f2jax.errors import UserError

CHUNK = 4_096  # texts to tokenize at once
NO_LIMIT = 1 << 30  # maximum tokens of a text


def used_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    """Returns the ids that occur in the texts, without truncating them."""
    texts, used = iter(texts), {tokenizer.eos_id, tokenizer.pad_id}
    while chunk := list(islice(texts, CHUNK)):
        used.update(np.unique(np.concatenate(tokenizer.encode(chunk, NO_LIMIT))).tolist())
    return used


def trim_tokenizer(tokenizer: Tokenizer, used: Iterable[int]) -> tuple[HFTokenizer, np.ndarray]:
    """Returns the tokenizer with the tokens in `used`, and the old id of each new one.

    It also keeps special tokens, tokens that are not merged from others (letters and bytes, so that any text can be
    spelled), and the intermediate tokens of kept ones. A text whose tokens are all in `used` keeps its tokens, because
    BPE applies the first possible merge, and every merge that it applied still exists.

    Raises:
        UserError: the tokenizer is not a BPE model.
    """
    spec = json.loads(tokenizer.to_hf_json())
    model = spec["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UserError(
            f"Only plain byte-pair tokenizers can be trimmed, and this is {model['type']}; keep its tokens."
        )
    vocab = model["vocab"]
    merges = [tuple(merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"]]
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    token_of = {number: token for token, number in vocab.items()}

    kept = vocab.keys() - {a + b for a, b in merges}
    for number in used:
        if number in token_of:
            kept.update(merged_tokens(token_of[number], ranks), [token_of[number]])
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    old_ids = np.array(sorted({vocab[token] for token in kept} | set(added.values())))
    new_id = {old: new for new, old in enumerate(old_ids.tolist())}

    model["vocab"] = {token: new_id[number] for token, number in vocab.items() if number in new_id}
    model["merges"] = [list(m) for m in merges if {*m, m[0] + m[1]} <= kept]
    spec["added_tokens"] = [token | {"id": new_id[token["id"]]} for token in spec["added_tokens"]]
    token_ids = {"eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    names = {key: next(t for t, i in (added | vocab).items() if i == number) for key, number in token_ids.items()}
    spec["post_processor"] = None  # it has the old ids; the package writes a new one
    return HFTokenizer(json.dumps(spec, ensure_ascii=False), "the trimmed tokenizer", names), old_ids


def merged_tokens(token: str, ranks: dict[tuple[str, str], int]) -> Iterator[str]:
    """Yields the intermediate tokens of BPE, from the letters of `token` to the token itself.

    >>> list(merged_tokens("aabc", {("a", "a"): 0, ("b", "c"): 1, ("aa", "bc"): 2}))
    ['aa', 'bc', 'aabc']
    """
    parts = list(token)
    while best := min(((ranks[p], i) for i, p in enumerate(pairwise(parts)) if p in ranks), default=None):
        _, i = best
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        yield parts[i]


def table_rows(old_ids: np.ndarray, pad_id: int, multiple: int = 128) -> np.ndarray:
    """Returns the old row for each row of the trimmed token table, padded to a `multiple` with the pad token's row, so
    that devices can share the table evenly.
    """
    return np.append(old_ids, np.full(-len(old_ids) % multiple, pad_id))
