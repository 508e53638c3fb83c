"""The golden set of a package: a few texts and their vectors, against which any tool can be checked."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2jax import files
from f2jax.checkpoints import package
from f2jax.errors import UserError
from f2jax.inference.embedder import Embedder
from f2jax.inference.encode import encode_texts
from f2jax.inference.program import make_embed
from f2jax.model.qwen3 import Qwen3

TEXTS = (
    "A red fox runs along the river.",
    "",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Côte d’Ivoire, España, Österreich, Česko, Türkiye, Việt Nam",
    "Москва — столица России; Київ — столиця України; Αθήνα",
    "日本の首都は東京です。北京是中国的首都。서울은 대한민국의 수도이다.",
    "नई दिल्ली भारत की राजधानी है। ঢাকা বাংলাদেশের রাজধানী।",
    "القاهرة عاصمة مصر. ירושלים. กรุงเทพมหานคร",
    "def area(radius):\n    return 3.14159 * radius ** 2  # a circle\n",
    "Prices:\t$1,234.56 (+7.8 %)  🌍🚀  http://example.org/?q=a&b=c",
    "one text that is much longer than the others, and in a small model longer than its context; " * 12,
)


@dataclass(frozen=True)
class GoldenVectors:
    """Texts, some of them with a prompt, and their vectors."""

    texts: list[str]
    vectors: np.ndarray  # float32 [i, e], normalized


def embed_golden(embedder: Embedder) -> GoldenVectors:
    """Embeds the golden texts, with and without the model's prompts.

    Matrix products are in float32 whatever the dtype of the weights, so that differences are due to the other tool.

    Raises:
        UserError: a vector is not finite, or zero.
    """
    prompts = dict.fromkeys(embedder.prompts[name] for name in ("query", "document") if name in embedder.prompts)
    texts = [*TEXTS, *(prompt + text for prompt in prompts if prompt for text in TEXTS[:3])]
    weights = next(iter(embedder.params.values()))
    model = Qwen3(embedder.architecture, dtype=np.dtype(np.float32), param_dtype=weights.dtype)
    sequences = embedder.tokenizer.encode(texts, embedder.max_length)
    x_ie = encode_texts(make_embed(model), embedder.params, sequences, embedder.dim, embedder.tokenizer.pad_id)
    norm_i1 = np.linalg.norm(x_ie, axis=1, keepdims=True)
    if not norm_i1.all():
        text = texts[int(norm_i1.argmin())]
        raise UserError(f"The model gives a zero vector for the text {text[:40]!r}; use an earlier checkpoint.")
    return GoldenVectors(texts, x_ie / norm_i1)


def write_golden(folder: str | Path, golden: GoldenVectors) -> None:
    """Writes the golden set into a package.

    Raises:
        UserError: the folder cannot be written.
    """
    content = io.BytesIO()
    np.save(content, golden.vectors, allow_pickle=False)
    texts = json.dumps(golden.texts, indent=1, ensure_ascii=False)
    files.write_atomically(files.join(folder, package.GOLDEN[0]), texts)
    files.write_atomically(files.join(folder, package.GOLDEN[1]), content.getvalue())


def read_golden(folder: str | Path) -> GoldenVectors:
    """Reads the golden set of a package.

    Raises:
        UserError: it has none, or it is damaged.
    """
    names = [files.join(folder, name) for name in package.GOLDEN]
    for name in names:
        if not files.exists(name):
            raise UserError(f"{folder} has no golden set ({name} is missing); write it with f2jax export.")
    texts = files.read_json(names[0])
    with files.open_file(names[1]) as file:
        try:
            vectors = np.load(io.BytesIO(file.read()), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{names[1]} cannot be read ({error}); export the model again.") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{names[0]} is not a list of texts; export the model again.")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(texts) != len(vectors):
        raise UserError(f"The golden set of {folder} has {len(texts)} texts but not as many vectors; export it again.")
    return GoldenVectors(texts, vectors)
