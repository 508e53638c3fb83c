"""A SentencePiece model trained on texts: the `tokenizers` library finds the merges, many times as fast as
SentencePiece's own trainer, and they are written as a SentencePiece model.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from f2jax.data.tokenizer import END, PAD, SPACE, SURROGATES, UNKNOWN, SentencePieceTokenizer
from f2jax.errors import UserError

SAMPLE = 200_000  # most texts that a new model sees
EXCERPT = 1_000  # characters of each
COVERAGE = 0.9995  # share of all characters that become pieces; bytes spell the rest
LONGEST = 16  # characters of a piece
SPECIAL = [UNKNOWN, PAD, END, *(f"<0x{byte:02X}>" for byte in range(256))]
# No piece crosses the end of a word. Scripts without spaces have words of one kind of character.
WORD = r"\p{Han}+|\p{Hiragana}+|\p{Katakana}+|[\p{L}\p{M}]+|\p{N}+|[^\p{L}\p{M}\p{N}" + SPACE + r"\x00]+"


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, folder: str | Path | None, seed: int = 0, own_spaces: bool = False
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model on texts, and saves it to `folder`, local or gs://, if one is given.

    The model has byte-pair pieces of raw text, and bytes for what is rare: no text is unknown, nothing is normalized
    away, and the model can be written as `tokenizer.json` with the same ids. White space ends a piece rather than
    beginning one, so that a text has the same pieces after an instruction as without one. Same texts and seed, same
    bytes.

    Args:
        own_spaces: spaces are pieces of their own. A word then has one piece, and not one more for its form before a
            space: more words fit into the vocabulary, and a text has more tokens.

    Raises:
        UserError: there are no texts, or `vocab_size` pieces are more than they give or fewer than their bytes and
            characters take.
    """
    distinct = [text for text in dict.fromkeys(texts) if text.strip() and "\0" not in text]
    if not distinct:
        raise UserError("There are no texts to train a tokenizer on; check the sources.")
    order = np.random.default_rng(seed).permutation(len(distinct))[:SAMPLE]
    sample = [SURROGATES.sub("\ufffd", distinct[i][:EXCERPT]).replace(" ", SPACE) for i in order]
    pieces = _pieces(sample, vocab_size, own_spaces)
    tokenizer = SentencePieceTokenizer(_model(pieces), "the new model")
    if folder:
        tokenizer.save(folder)
    return tokenizer


def _pieces(sample: list[str], vocab_size: int, own_spaces: bool) -> list[str]:
    """The pieces that merges make, in the order of the merges, then single characters, the most frequent first."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    alphabet = _alphabet(sample)
    if vocab_size < (least := len(SPECIAL) + len(alphabet)):
        raise UserError(
            f"{vocab_size:,} pieces are too few: the bytes and characters of the texts take {least:,}; raise "
            "train_vocab."
        )
    rare = dict.fromkeys(map(ord, set().union(*sample) - set(alphabet)), "\0")  # ends a word, and is not learnt
    word = f"{WORD}|{SPACE}+" if own_spaces else f"(?:{WORD}){SPACE}*|{SPACE}+"
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(word), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=LONGEST,
        show_progress=sys.stderr.isatty(),
    )
    backend.train_from_iterator((text.translate(rare) for text in sample), trainer, len(sample))
    numbers = backend.get_vocab()
    known = dict.fromkeys([*SPECIAL, *alphabet])
    merged = [piece for piece in sorted(numbers, key=numbers.__getitem__) if piece not in known]
    if len(merged) < vocab_size - least:
        raise UserError(
            f"{len(sample):,} texts give at most {least + len(merged):,} pieces, not {vocab_size:,}; lower train_vocab."
        )
    return merged + alphabet


def _alphabet(sample: list[str]) -> list[str]:
    """The most frequent characters, as many as make up COVERAGE of the texts."""
    counts: Counter = Counter()
    for text in sample:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    covered = np.cumsum([counts[character] for character in ordered])
    return ordered[: int(np.searchsorted(covered, COVERAGE * covered[-1])) + 1]


def _model(pieces: list[str]) -> bytes:
    """A serialized SentencePiece model that merges to the earliest of the pieces first."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    Piece = model.SentencePiece
    kinds = [Piece.UNKNOWN, Piece.USER_DEFINED, Piece.USER_DEFINED] + 256 * [Piece.BYTE]
    for text, kind in zip(SPECIAL, kinds, strict=True):
        model.pieces.add(piece=text, score=0, type=kind)
    for rank, text in enumerate(pieces):
        model.pieces.add(piece=text, score=-rank, type=Piece.NORMAL)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, len(model.pieces), True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, -1, -1, -1
    trainer.unk_piece, trainer.treat_whitespace_as_suffix = UNKNOWN, True
    trainer.user_defined_symbols.extend([PAD, END])
    normalizer.name, normalizer.escape_whitespaces = "identity", True
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = False, False
    return model.SerializeToString(deterministic=True)
