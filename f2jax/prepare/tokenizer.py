"""The tokenizer of a corpus: an existing one, or one trained on a sample of the corpus's own texts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.texts import reservoir_sample, source_texts
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.data.tokenizer_training import SAMPLE, train_sentencepiece
from f2jax.prepare.datasets import settings_digest
from f2jax.prepare.options import PrepareOptions

MADE_OF = "made_of.txt"  # next to the model: hash of what a later run must have in common to use it


def choose_tokenizer(
    chosen: str | Path | int, inputs: Mapping[str, str], options: PrepareOptions, folder: Path
) -> Tokenizer:
    """Returns the tokenizer at a path, or for a number of pieces, the SentencePiece model in `folder`.

    The model is trained if it is missing or was trained on other inputs, on a random sample of the texts that is held
    in memory. The result is deterministic.

    Args:
        inputs: {input: signature of its content}.

    Raises:
        UserError: there is no tokenizer, an input cannot be read, or its texts do not yield as many pieces.
    """
    if not isinstance(chosen, int):
        return load_tokenizer(chosen)
    seed, own_spaces = options.seed, options.own_spaces
    made_of = settings_digest([dict(inputs), chosen, seed, own_spaces, options.kinds])
    mark = folder / MADE_OF
    if not (mark.exists() and mark.read_text() == made_of):
        texts = tqdm(source_texts(list(inputs), options.kinds), "texts", unit="text", unit_scale=True, disable=None)
        sample = reservoir_sample(texts, SAMPLE, np.random.default_rng(seed))
        train_sentencepiece(sample, chosen, folder, seed, own_spaces)
        files.write_atomically(mark, made_of)
    return load_tokenizer(folder)
