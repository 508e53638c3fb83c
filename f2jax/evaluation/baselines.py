"""What every score should be held against: character n-grams without any learning, and the model without training."""

from collections.abc import Callable

import numpy as np
from mteb.models import ModelMeta

from f2jax.evaluation.encoder import empty_meta
from f2jax.inference.embedder import Embedder
from f2jax.model.qwen3 import init_params

NAMES = ("tfidf", "random")
FEATURES = 4_096  # hashed: a dense vector of this width for each text


def tfidf() -> tuple[Callable[[str, list[str]], np.ndarray], ModelMeta]:
    """`raw` of an `Encoder` and its metadata: TF-IDF of character 1- to 4-grams inside words, hashed to 4,096 places.

    Document frequencies are those of the texts of one call: of the queries, or of the documents. Prompts are not read.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    options = {"analyzer": "char_wb", "ngram_range": (1, 4), "alternate_sign": False, "norm": None}
    vectorizer = HashingVectorizer(n_features=FEATURES, dtype=np.float32, **options)

    def raw(prompt: str, texts: list[str]) -> np.ndarray:
        counts = vectorizer.transform(texts)
        return TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray().astype(np.float32)

    changes = {"revision": f"char_wb-1-4-{FEATURES}", "embed_dim": FEATURES, "n_parameters": 0}
    return raw, empty_meta("f2jax/tfidf").model_copy(update=changes)


def untrained(embedder: Embedder, seed: int = 0) -> Embedder:
    """A model of the same architecture, tokenizer and prompts with fresh weights."""
    model = embedder.model
    return Embedder(
        embedder.architecture, init_params(model, seed), embedder.tokenizer, embedder.card, str(model.dtype)
    )
