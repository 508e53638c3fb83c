"""Trains SentencePiece models. The `tokenizers` library finds the merges, which is many times faster than
SentencePiece's own trainer, and they are written as a SentencePiece model.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from f2jax.data.tokenizer import END, PAD, SPACE, SURROGATES, UNKNOWN, SentencePieceTokenizer
from f2jax.errors import UserError

SAMPLE = 200_000  # maximum number of texts to train on
EXCERPT = 1_000  # characters of each text to train on
COVERAGE = 0.9995  # share of the characters in the texts that become pieces; the rest is spelled in bytes
LONGEST = 16  # maximum characters of a piece
SPECIAL = [UNKNOWN, PAD, END, *(f"<0x{byte:02X}>" for byte in range(256))]
# Pieces do not cross the ends of words. In scripts without spaces, a word is a run of one kind of character.
WORD = r"\p{Han}+|\p{Hiragana}+|\p{Katakana}+|[\p{L}\p{M}]+|\p{N}+|[^\p{L}\p{M}\p{N}" + SPACE + r"\x00]+"


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, folder: str | Path | None, seed: int = 0, own_spaces: bool = False
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model on texts, and saves it to `folder`, local or gs://, if one is given.

    The model has BPE pieces without normalization, and falls back to bytes for rare characters, so no text is unknown
    and the model can be written as `tokenizer.json` with the same ids. Spaces end a piece rather than begin one, so a
    text has the same pieces with and without an instruction before it. The result is deterministic.

    Args:
        own_spaces: make spaces pieces of their own. Words then need no second piece for their form before a space: more
            words fit into the vocabulary, but texts have more tokens.

    Raises:
        UserError: there are no texts, or `vocab_size` is more than they yield, or too small for their characters.
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
    """Returns the pieces in the order of their merges, and then single characters by descending frequency."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    alphabet = _alphabet(sample)
    if vocab_size < (least := len(SPECIAL) + len(alphabet)):
        raise UserError(
            f"{vocab_size:,} pieces are too few: the bytes and characters of the texts take {least:,}; raise "
            "train_vocab."
        )
    rare = dict.fromkeys(map(ord, set().union(*sample) - set(alphabet)), "\0")  # ends a word and is not learned
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
    """Returns the most frequent characters, which together cover the share COVERAGE of the texts."""
    counts: Counter = Counter()
    for text in sample:
        counts.update(text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    covered = np.cumsum([counts[character] for character in ordered])
    return ordered[: int(np.searchsorted(covered, COVERAGE * covered[-1])) + 1]


def _model(pieces: list[str]) -> bytes:
    """Returns a serialized SentencePiece model in which earlier pieces are merged first."""
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
