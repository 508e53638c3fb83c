"""Trimmed tokenizers: same tokens on the corpus, every other text can still be spelled, ids without gaps."""

import json

import numpy as np
import pytest
import tokenizers

from f2jax.data.tokenizer import HFTokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.prune.vocabulary import merged_tokens, table_rows, trim_tokenizer, used_tokens
from tests import tiny_model

CORPUS = ["a red river", "the blue stone and the green tree", "Wasser  und\nStein", "<|im_end|> as text"]
OTHER = ["white", "日本語 🌍", "zzzqq", "ein Stein im Wasser, ", ""]


@pytest.fixture(scope="module", params=["sentencepiece", "byte_level_bpe"])
def tokenizer(request):
    if request.param == "sentencepiece":
        return tiny_model.train_tokenizer(None)
    return load_tokenizer(request.getfixturevalue("shared_data") / "qwen-tokenizer")


@pytest.fixture(scope="module")
def trimmed(tokenizer):
    return trim_tokenizer(tokenizer, used_tokens(tokenizer, CORPUS))


def test_texts_of_the_corpus_have_the_same_tokens(tokenizer, trimmed):
    small, old_ids = trimmed
    for text in CORPUS:
        (before,), (after,) = tokenizer.encode([text], 99), small.encode([text], 99)
        assert old_ids[after].tolist() == before.tolist()


def test_other_texts_are_spelled_in_what_is_left(tokenizer, trimmed):
    small, _ = trimmed
    for text in OTHER:
        ids = small.encode([text], 999)[0]
        assert ids[-1] == small.eos_id and small.decode(ids[:-1]) == tokenizer.decode(
            tokenizer.encode([text], 999)[0][:-1]
        )


def test_what_is_not_needed_is_gone(tokenizer, trimmed):
    small, old_ids = trimmed
    assert small.vocab_size == len(old_ids) < tokenizer.vocab_size
    assert (np.diff(old_ids) > 0).all() and old_ids[small.eos_id] == tokenizer.eos_id
    assert old_ids[small.pad_id] == tokenizer.pad_id
    gone = set(range(tokenizer.vocab_size)) - set(old_ids.tolist())
    assert gone.isdisjoint(used_tokens(tokenizer, CORPUS)) and len(gone) > 50


def test_trimming_again_takes_nothing_away(trimmed):
    small, _ = trimmed
    again, ids = trim_tokenizer(small, used_tokens(small, CORPUS))
    assert ids.tolist() == list(range(small.vocab_size))
    assert again.fingerprint() == small.fingerprint()


def test_a_package_has_the_tokenizer_that_it_was_made_with(tokenizer, trimmed, tmp_path):
    """So a student that was exported or pruned trains on the corpus of its origin."""
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_hf_json())
    released = load_tokenizer(tmp_path)
    assert released.gives_same_ids(tokenizer) and tokenizer.gives_same_ids(released)
    assert not released.gives_same_ids(trimmed[0])


def test_the_order_of_merges_decides_what_a_token_passes_through():
    """Rank 0 takes `bc` first, so that `ab` never comes: it may go, though `ab` + `c` would give the token too."""
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("ab", "c"): 2, ("a", "bc"): 3}
    assert list(merged_tokens("abc", ranks)) == ["bc", "abc"]


def test_the_table_has_a_round_number_of_rows():
    rows = table_rows(np.arange(5, 205), pad_id=7)
    assert len(rows) == 256 and rows[:200].tolist() == list(range(5, 205)) and set(rows[200:]) == {7}
    assert len(table_rows(np.arange(128), 0)) == 128


def test_only_byte_pair_models_can_be_trimmed():
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<|im_end|>": 0, "<|endoftext|>": 1, "a": 2}, "a"))
    with pytest.raises(UserError, match="this is WordLevel"):
        trim_tokenizer(HFTokenizer(model.to_str(), "words"), {2})
    assert json.loads(model.to_str())["model"]["type"] == "WordLevel"
