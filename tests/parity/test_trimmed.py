"""A package with a trimmed vocabulary in transformers and sentence-transformers: same tokens, same vectors."""

import json

import numpy as np
import pytest

from f2jax import Embedder
from f2jax.checkpoints.package import ModelSettings
from f2jax.cli import main
from f2jax.data.tokenizer import load_tokenizer
from f2jax.model.sizes import size
from tests import tiny_model

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity

CORPUS = [text for text in tiny_model.TEXTS if text.strip()]  # many scripts, code, an emoji, a special token


@pytest.fixture(scope="module", params=["sentencepiece", "byte_level_bpe"])
def both(request, tmp_path_factory):
    """(folder before, folder after) trimming to the corpus."""
    folder = tmp_path_factory.mktemp("trimmed")
    if request.param == "sentencepiece":
        model = tiny_model.make_embedder(folder / "tokenizer")
    else:
        tokenizer = load_tokenizer(request.getfixturevalue("shared_data") / "qwen-tokenizer")
        architecture = size("tiny", vocab_size=151_936)
        model = Embedder(
            architecture, tiny_model.random_params(architecture), tokenizer, ModelSettings(96, dict(tiny_model.PROMPTS))
        )
    model.save_pretrained(folder / "before")
    rows = [{"query": a, "positive": b, "negative_1": "x"} for a, b in zip(CORPUS, CORPUS[::-1], strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = ["--model", str(folder / "before"), "--output", str(folder / "after")]
    assert main(["prune", *paths, "--trim-vocab", str(folder / "rows.jsonl")]) == 0
    return folder / "before", folder / "after"


def test_transformers_splits_the_corpus_into_the_same_tokens(both):
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in both)
    for text in CORPUS:
        assert before.convert_ids_to_tokens(before(text)["input_ids"]) == after.convert_ids_to_tokens(
            after(text)["input_ids"]
        )
        assert after.decode(after(text)["input_ids"]) == before.decode(before(text)["input_ids"])
    assert len(after) < len(before)


def test_token_ids_are_ours(both):
    theirs, ours = transformers.AutoTokenizer.from_pretrained(both[1]), Embedder.from_pretrained(both[1])
    for text in [*CORPUS, "never seen: ᏣᎳᎩ, qwzx"]:
        assert theirs(text, truncation=True)["input_ids"] == ours.tokenizer.encode([text], 96)[0].tolist()


def test_sentence_transformers_gives_the_vectors_of_the_untrimmed_model(both):
    model = sentence_transformers.SentenceTransformer(str(both[1]), device="cpu")
    for prompt in ("", *tiny_model.PROMPTS.values()):
        expected = Embedder.from_pretrained(both[0]).encode(CORPUS, prompt=prompt)
        np.testing.assert_allclose(model.encode(CORPUS, prompt=prompt), expected, atol=1e-5)
