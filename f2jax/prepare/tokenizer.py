"""A tokenizer of the corpus's own, trained on a sample of the texts that are prepared."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.texts import reservoir_sample, source_texts
from f2jax.data.tokenizer import SAMPLE, Tokenizer, load_tokenizer, train_sentencepiece
from f2jax.prepare.datasets import settings_digest

MADE_OF = "made_of.txt"  # beside the model: what a later run must have in common to take it as it is


def own_tokenizer(inputs: Mapping[str, str], vocab_size: int, seed: int, folder: Path) -> Tokenizer:
    """The SentencePiece model in `folder`, trained where it is not there or was made of other inputs.

    It sees a random sample of the texts, in memory for that sample. Same inputs and seed, same bytes.

    Args:
        inputs: what there is to read, with signatures of the content.

    Raises:
        UserError: an input cannot be read, or its texts do not give so many pieces.
    """
    made_of = settings_digest([dict(inputs), vocab_size, seed])
    mark = folder / MADE_OF
    if not (mark.exists() and mark.read_text() == made_of):
        texts = tqdm(source_texts(list(inputs)), "texts", unit="text", unit_scale=True, disable=None)
        train_sentencepiece(reservoir_sample(texts, SAMPLE, np.random.default_rng(seed)), vocab_size, folder, seed)
        files.write_atomically(mark, made_of)
    return load_tokenizer(folder)
