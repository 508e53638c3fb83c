"""Text → token ids that end with the end token: Hugging Face `tokenizer.json`, or a SentencePiece model.

The end token is appended here and nowhere else, exactly once, and truncation keeps it (recipe 0.5, 2.3). A special
token that stands literally in a text is read as that token, as in transformers.
"""

import gzip
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.errors import UserError

END, PAD = "<|im_end|>", "<|endoftext|>"  # Qwen3's names (ids 151645 and 151643); trained models use them too
UNKNOWN = "<unk>"
NAMES = ("tokenizer.json", "tokenizer.json.gz", "tokenizer.model")  # in a folder, the first one there counts
SURROGATES = re.compile("[\ud800-\udfff]")  # halves of UTF-16 pairs: no backend takes them
SAMPLE = 200_000  # texts that a new SentencePiece model sees at most


class Tokenizer(ABC):
    """What both backends share. `eos_id` ends each sequence, `pad_id` fills rows; all ids are below `vocab_size`."""

    vocab_size: int
    eos_id: int
    pad_id: int

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """int32 ids of each text, 1 to `max_length` of them; the last one is always the end token.

        Raises:
            UserError: `max_length` leaves no room for the end token.
        """
        if max_length < 1:
            raise UserError(f"max_length={max_length} leaves no room for the end token; give at least 1.")
        clean = [SURROGATES.sub("\ufffd", text) for text in texts]
        return [np.array([*ids[: max_length - 1], self.eos_id], np.int32) for ids in self._encode(clean)]

    def check_vocab(self, rows: int) -> None:
        """Raises UserError where a token table of `rows` rows lacks ids of this tokenizer."""
        if self.vocab_size > rows:
            raise UserError(
                f"The tokenizer has ids up to {self.vocab_size - 1:,}, but the model's token table has {rows:,} rows; "
                "use the tokenizer that the model was made with."
            )

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids without the end token, not truncated."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write what `load_tokenizer(folder)` reads."""

    @abstractmethod
    def _hf(self):
        """The same tokenizer as a `tokenizers.Tokenizer`, without a post-processor."""

    def to_hf_json(self) -> str:
        """A `tokenizer.json` with the same ids, whose post-processor appends the end token.

        transformers 5 trusts this file alone for the end token (recipe 5).
        """
        from tokenizers.processors import TemplateProcessing

        hf = self._hf()
        end = hf.id_to_token(self.eos_id)
        template = TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, self.eos_id)]
        )
        hf.post_processor = template
        hf.no_truncation()
        hf.no_padding()
        return hf.to_str(pretty=False)

    def hf_config(self, max_length: int) -> dict:
        """The content of `tokenizer_config.json`."""
        hf = self._hf()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": hf.id_to_token(self.eos_id),
            "pad_token": hf.id_to_token(self.pad_id),
            "model_max_length": max_length,
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
        }


class HFTokenizer(Tokenizer):
    """A `tokenizer.json`, through the `tokenizers` library."""

    def __init__(self, text: str, origin: str, end: str | None = None, pad: str | None = None):
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_str(text)
        except Exception as error:  # the library raises a bare Exception
            raise UserError(
                f"{origin} is no tokenizer.json ({str(error)[:100]}); restore it from its origin."
            ) from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self.eos_id = self._special(end or END, origin)
        self.pad_id = self._special(pad or PAD, origin)
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def _special(self, token: str, origin: str) -> int:
        number = self._backend.token_to_id(token)
        if number is None:
            raise UserError(
                f"{origin} has no token {token}; name its end and padding tokens as eos_token and pad_token in a "
                "tokenizer_config.json beside it."
            )
        return number

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        names = {
            "eos_token": self._backend.id_to_token(self.eos_id),
            "pad_token": self._backend.id_to_token(self.pad_id),
        }
        files.write_whole(files.join(folder, "tokenizer_config.json"), json.dumps(names))
        files.write_whole(files.join(folder, "tokenizer.json"), self._backend.to_str())

    def _hf(self):
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self._backend.to_str())


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, through the `sentencepiece` library."""

    def __init__(self, model: bytes, origin: str):
        import sentencepiece

        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{origin} is no SentencePiece model; restore it from its origin.") from error
        self._model = model
        self.vocab_size = self._backend.vocab_size()
        self.eos_id = self._special(END, self._backend.eos_id(), origin)
        self.pad_id = self._special(PAD, self._backend.pad_id(), origin)

    def _special(self, token: str, declared: int, origin: str) -> int:
        number = self._backend.piece_to_id(token)
        found = declared if declared >= 0 else number
        if found == self._backend.unk_id():
            raise UserError(f"{origin} has neither a piece {token} nor one declared for its use; train it with one.")
        return found

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._backend.encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        special = {self.eos_id, self.pad_id}
        return self._backend.decode([int(i) for i in ids if int(i) not in special])

    def save(self, folder: str | Path) -> None:
        files.write_whole(files.join(folder, "tokenizer.model"), self._model)

    @cached_property
    def _pieces(self) -> list[str]:
        return [self._backend.id_to_piece(i) for i in range(self.vocab_size)]

    def _hf(self):
        """Byte-pair merges rebuilt from the pieces: a pair merges where both halves and the whole are pieces."""
        from tokenizers import AddedToken, decoders, models, normalizers
        from tokenizers import Tokenizer as Backend

        self._check_convertible()
        numbers = {piece: i for i, piece in enumerate(self._pieces)}
        plain = [
            piece
            for i, piece in enumerate(self._pieces)
            if not (self._backend.is_byte(i) or self._backend.is_control(i) or self._backend.is_unknown(i))
            and piece not in (END, PAD)
        ]
        known = set(plain)
        merges = []
        for piece in sorted(plain, key=lambda p: -self._backend.get_score(numbers[p])):
            halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            halves = [(a, b) for a, b in halves if a in known and b in known]
            merges += sorted(halves, key=lambda pair: (numbers[pair[0]], numbers[pair[1]]))
        backend = Backend(models.BPE(numbers, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END)])
        return backend

    def _check_convertible(self) -> None:
        from sentencepiece import sentencepiece_model_pb2

        spec = sentencepiece_model_pb2.ModelProto.FromString(self._model)
        normal = spec.normalizer_spec
        bpe = spec.trainer_spec.model_type == sentencepiece_model_pb2.TrainerSpec.BPE
        if not bpe or normal.precompiled_charsmap or normal.add_dummy_prefix or normal.remove_extra_whitespaces:
            raise UserError(
                "This SentencePiece model cannot be written as tokenizer.json with the same ids; only byte-pair models "
                "without normalization and dummy prefix can, such as f2jax trains."
            )


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a folder or file: `tokenizer.json`, `tokenizer.json.gz`, or a SentencePiece `*.model`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = str(path)
    for name in NAMES:
        if files.exists(files.join(path, name)):
            path = files.join(path, name)
            break
    if not path.endswith((".json", ".json.gz", ".model")):
        raise UserError(f"There is no tokenizer.json or tokenizer.model in {path}; set tokenizer.path.")
    with files.open_file(path) as file:
        content = file.read()
    if path.endswith(".model"):
        return SentencePieceTokenizer(content, path)
    try:
        text = (gzip.decompress(content) if path.endswith(".gz") else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from its origin.") from error
    beside = files.join(path.rsplit("/", 1)[0] if "/" in path else ".", "tokenizer_config.json")
    names = files.read_json(beside) if files.exists(beside) else {}
    end, pad = (_token(names.get(key)) for key in ("eos_token", "pad_token"))
    return HFTokenizer(text, path, end, pad)


def _token(value) -> str | None:
    return value.get("content") if isinstance(value, dict) else value


def train_sentencepiece(texts: Iterable[str], vocab_size: int, folder: str | Path | None, seed: int = 0) -> Tokenizer:
    """Train a SentencePiece model on texts and keep it in `folder`, local or gs://, if one is given.

    Byte-pair pieces over raw text, bytes for what is rare: no text is unknown, nothing is normalized away, and the
    model can be written as `tokenizer.json` with the same ids. White space ends a piece rather than beginning one, so
    that a text has the same pieces with an instruction before it as without. Same texts and seed, same bytes.

    Raises:
        UserError: the texts are too few for `vocab_size` pieces.
    """
    import sentencepiece

    distinct = [text for text in dict.fromkeys(texts) if text.strip() and "\0" not in text]
    order = np.random.default_rng(seed).permutation(len(distinct))[:SAMPLE]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(SURROGATES.sub("\ufffd", distinct[i]) for i in order),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            treat_whitespace_as_suffix=True,
            unk_piece=UNKNOWN,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            user_defined_symbols=[PAD, END],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"{len(order):,} texts cannot give {vocab_size:,} pieces ({str(error).split(') ')[-1].strip()[:120]}); "
            "lower tokenizer.train_vocab."
        ) from error
    tokenizer = SentencePieceTokenizer(model.getvalue(), "the new model")
    if folder:
        tokenizer.save(folder)
    return tokenizer
