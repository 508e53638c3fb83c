"""Tokenizers, from Hugging Face's `tokenizer.json` or a SentencePiece model.

The end token is appended here and nowhere else, exactly once, and truncation keeps it (recipe 0.5, 2.3). As in
transformers, the name of a special token inside a text becomes that token.

Two tokenizers can be equal in two ways: they give the same ids for the same text (`gives_same_ids`), which is what
weights and data need, or they are the same file (`fingerprint`), which identifies them in caches and runs.
"""

import gzip
import hashlib
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.data import tokenizer_checks
from f2jax.errors import UserError

END, PAD = "<|im_end|>", "<|endoftext|>"  # Qwen3's names (ids 151645 and 151643); trained models use them too
UNKNOWN = "<unk>"
SPACE = "▁"  # SentencePiece's mark of a space
SURROGATES = re.compile("[\ud800-\udfff]")  # unpaired ones, which no backend accepts
PROBE = (  # tokenizers that agree on these texts are taken to give the same ids
    "Kenya's 47 counties: a naïve façade",
    "Привет, мир! مرحبا नमस्ते สวัสดี γειά",
    "北京の天気 한국어 ﬁne",
    "def square(x):\n    return x ** 2  # 1,234.5\t€",
)
NAMES = ("tokenizer.json", "tokenizer.json.gz", "tokenizer.model")  # the first one that exists in a folder is used


class Tokenizer(ABC):
    """A tokenizer. `eos_id` ends each sequence, `pad_id` fills rows, and all ids are below `vocab_size`."""

    vocab_size: int
    eos_id: int
    pad_id: int

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Returns the int32 ids of each text, truncated to `max_length`; the last one is always the end token.

        Raises:
            UserError: `max_length` leaves no room for the end token.
        """
        if max_length < 1:
            raise UserError(f"max_length={max_length} leaves no room for the end token; give at least 1.")
        clean = [SURROGATES.sub("\ufffd", text) for text in texts]
        return [np.array([*ids[: max_length - 1], self.eos_id], np.int32) for ids in self._encode(clean)]

    def check_vocab(self, rows: int) -> None:
        """Raises UserError if a token table with this number of rows is too small for this tokenizer."""
        if self.vocab_size > rows:
            raise UserError(
                f"The tokenizer has ids up to {self.vocab_size - 1:,}, but the model's token table has {rows:,} rows; "
                "use the tokenizer that the model was made with."
            )

    def fingerprint(self) -> str:
        """Returns a hash of the `tokenizer.json` in a package, which is the same before and after export."""
        try:
            content = self.to_hf_json().encode("utf-8")
        except UserError:  # a SentencePiece model without such a form
            content = self._content() + f"{self.eos_id} {self.pad_id}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def gives_same_ids(self, other: "Tokenizer") -> bool:
        """Returns whether both tokenizers give the same ids for texts in many scripts."""
        ids, other_ids = ([x.tolist() for x in tokenizer.encode(PROBE, max_length=512)] for tokenizer in (self, other))
        return ids == other_ids

    @abstractmethod
    def _content(self) -> bytes:
        """Returns the model as it is saved."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text without the end token, not truncated."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text for token ids, without special tokens."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes the files that `load_tokenizer(folder)` reads."""

    @abstractmethod
    def smallest_file(self) -> tuple[str, bytes]:
        """Returns the name and content of the smallest file from which `load_tokenizer` restores this tokenizer."""

    @abstractmethod
    def _hf(self):
        """Returns the same tokenizer as a `tokenizers.Tokenizer` without a post-processor."""

    def to_hf_json(self) -> str:
        """Returns a `tokenizer.json` with the same ids and a post-processor that appends the end token.

        transformers 5 takes the end token only from this file (recipe 5).
        """
        from tokenizers.processors import TemplateProcessing

        hf = self._hf()
        end = hf.id_to_token(self.eos_id)
        template = TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, self.eos_id)]
        )
        hf.post_processor = template
        return hf.to_str(pretty=False)

    def hf_config(self, max_length: int) -> dict:
        """Returns the content of `tokenizer_config.json`."""
        hf = self._hf()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": hf.id_to_token(self.eos_id),
            "pad_token": hf.id_to_token(self.pad_id),
            "model_max_length": max_length,
            "padding_side": "left",  # so that the last state of a padded row is that of the end token
            "clean_up_tokenization_spaces": False,
        }


class HFTokenizer(Tokenizer):
    """A `tokenizer.json`, through the `tokenizers` library."""

    def __init__(self, text: str, origin: str, config: dict | None = None):
        """Parses the content of a `tokenizer.json`.

        Args:
            config: the content of its `tokenizer_config.json`.
        """
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_str(text)
        except Exception as error:  # the library raises a bare Exception
            raise UserError(
                f"{origin} is no tokenizer.json ({str(error)[:100]}); restore it from its origin."
            ) from error
        config = config or {}
        tokenizer_checks.check_backend(self._backend, origin, config)
        self._backend.no_truncation()
        self._backend.no_padding()
        end, pad = (_token_text(config, key, origin) for key in ("eos_token", "pad_token"))
        appended = tokenizer_checks.appended_token(self._backend, origin)
        self.declares_end = appended is not None
        self.eos_id = self._special(end or END, origin) if appended is None else appended
        self.pad_id = self._special(pad or PAD, origin)
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def _special(self, token: str, origin: str) -> int:
        number = self._backend.token_to_id(token)
        if number is None:
            raise UserError(
                f"{origin} has no token {token}; name its end and padding tokens as eos_token and pad_token in a "
                "tokenizer_config.json next to it."
            )
        return number

    def _content(self) -> bytes:
        return self._backend.to_str().encode("utf-8")

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        names = {
            "eos_token": self._backend.id_to_token(self.eos_id),
            "pad_token": self._backend.id_to_token(self.pad_id),
        }
        files.write_atomically(files.join(folder, "tokenizer_config.json"), json.dumps(names))
        files.write_atomically(files.join(folder, "tokenizer.json"), self._backend.to_str())

    def smallest_file(self) -> tuple[str, bytes]:
        return "tokenizer.json.gz", gzip.compress(self.to_hf_json().encode("utf-8"), mtime=0)

    def _hf(self):
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self._backend.to_str())


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, through the `sentencepiece` library."""

    def __init__(self, model: bytes, origin: str):
        import sentencepiece

        try:
            self._backend = sentencepiece.SentencePieceProcessor()
            self._backend.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(f"{origin} is no SentencePiece model; restore it from its origin.") from error
        self._model = model
        self.vocab_size = self._backend.vocab_size()
        self.eos_id = self._special(END, self._backend.eos_id(), origin)
        self.pad_id = self._special(PAD, self._backend.pad_id(), origin)

    def _special(self, token: str, declared: int, origin: str) -> int:
        number = declared if declared >= 0 else self._backend.piece_to_id(token)
        if number == self._backend.unk_id():
            raise UserError(f"{origin} has neither a piece {token} nor one declared for its use; train it with one.")
        return number

    def _content(self) -> bytes:
        return self._model

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._backend.encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        special = {self.eos_id, self.pad_id}
        text = self._backend.decode([int(i) for i in ids if int(i) not in special])
        return text.replace(SPACE, " ")  # a model without a piece for the space spells it in bytes

    def save(self, folder: str | Path) -> None:
        files.write_atomically(files.join(folder, "tokenizer.model"), self._model)

    def smallest_file(self) -> tuple[str, bytes]:
        return "tokenizer.model", self._model

    def _hf(self):
        """Rebuilds BPE merges from the pieces: a pair is merged if both halves and the result are pieces."""
        from tokenizers import AddedToken, decoders, models, normalizers
        from tokenizers import Tokenizer as Backend

        pieces = self._convertible()
        normal = sorted((piece for piece in pieces if piece.type == piece.NORMAL), key=lambda piece: -piece.score)
        names = {piece.piece for piece in normal}
        merges = []
        for piece in (piece.piece for piece in normal):
            halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            merges += [(a, b) for a, b in halves if a in names and b in names]
        numbers = {piece.piece: i for i, piece in enumerate(pieces)}
        unknown = pieces[self._backend.unk_id()].piece
        backend = Backend(models.BPE(numbers, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
        backend.normalizer = normalizers.Replace(" ", SPACE)
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(SPACE, " ")])
        special = [pieces[number].piece for number in (self.pad_id, self.eos_id)]
        backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
        return backend

    def _convertible(self) -> list:
        """Returns the pieces of the model; raises UserError if BPE merges in a `tokenizer.json` cannot express it."""
        from sentencepiece import sentencepiece_model_pb2

        spec = sentencepiece_model_pb2.ModelProto.FromString(self._model)
        pieces, trainer, normalizer = spec.pieces, spec.trainer_spec, spec.normalizer_spec
        literal = {i for i, piece in enumerate(pieces) if piece.type == piece.USER_DEFINED}
        if (
            trainer.model_type != trainer.BPE
            or not trainer.byte_fallback
            or normalizer.precompiled_charsmap
            or normalizer.add_dummy_prefix
            or normalizer.remove_extra_whitespaces
            or not normalizer.escape_whitespaces
            or literal != {self.eos_id, self.pad_id}
            or any(piece.type == piece.UNUSED for piece in pieces)
        ):
            raise UserError(
                "This SentencePiece model cannot be written as tokenizer.json with the same ids; only a byte-pair "
                "model with byte fallback can, without normalization, dummy prefix or symbols of its own, as f2jax "
                "trains."
            )
        return list(pieces)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Loads the tokenizer in a folder or file: `tokenizer.json`, `tokenizer.json.gz`, or a SentencePiece `*.model`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = str(path)
    for name in NAMES:
        if files.exists(files.join(path, name)):
            path = files.join(path, name)
            break
    if not path.endswith((".json", ".json.gz", ".model")):
        raise UserError(f"There is no tokenizer.json or tokenizer.model in {path}; give a folder with one.")
    content = files.read_bytes(path)
    if path.endswith(".model"):
        return SentencePieceTokenizer(content, path)
    try:
        text = (gzip.decompress(content) if path.endswith(".gz") else content).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from its origin.") from error
    folder = path.rpartition("/")[0] if "/" in path else "."
    config_path = files.join(folder, "tokenizer_config.json")
    config = files.read_json_object(config_path, optional=tokenizer_checks.TYPES) if files.exists(config_path) else {}
    tokenizer = HFTokenizer(text, path, config)
    tokenizer_checks.check_tokenizer_config(tokenizer._backend, config, folder)
    if not tokenizer.declares_end and files.exists(files.join(folder, "modules.json")):
        end = tokenizer._backend.id_to_token(tokenizer.eos_id)
        raise UserError(
            f"{folder} is a sentence-transformers model whose tokenizer.json appends no end token, and f2jax embeds "
            f"the state of one; if the model was trained with {end}, add a post-processor that appends it."
        )
    return tokenizer


def _token_text(config: dict, key: str, origin: str) -> str | None:
    """Returns the token at `key` in a `tokenizer_config.json`, which is a string or an object with a `content`."""
    token = tokenizer_checks.token_text(config.get(key))
    if not isinstance(token, str | None):
        raise UserError(
            f"The tokenizer_config.json of {origin} does not name its {key} as a text; correct or remove it."
        )
    return token
