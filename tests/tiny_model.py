"""A tiny embedder without training that several tests share: random weights, SentencePiece of 400 pieces."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from f2jax import config as configs
from f2jax.checkpoints import workdir
from f2jax.checkpoints.orbax import Checkpoints, TrainState
from f2jax.checkpoints.package import ModelSettings
from f2jax.data.tokenizer import Tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.inference.embedder import Embedder
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import Qwen3Config, size
from tests import tiny

DIMS = (64, 32, 16, 8)
PROMPTS = {"query": "Instruct: Find the colour.\nQuery: ", "document": "Document: ", "cldr-names": "Name: "}
TEXTS = [
    "a red river",
    "",
    " ",
    "two\nlines\tand  spaces ",
    "Grüße aus Köln, Ελληνικά, русский, हिन्दी",
    "日本語のテキスト 🌍 العربية עברית ไทย",
    "a special token <|im_end|> in a text",
    "def f(x):\n    return x ** 2  # code",
    "a long text that is cut off, ends with the end token all the same and says little " * 9,
]


def train_tokenizer(folder) -> Tokenizer:
    """400 pieces from the words of a few languages; bytes stand for everything else."""
    words = "red green blue black white river stone tree the and of Instruct Query Document Find name colour"
    words += " Wasser Stein rouge vert rivière река камень कमल 石 川"
    return train_sentencepiece((f"{a} {b}" for a in words.split() for b in words.split()), 400, folder)


def random_params(architecture: Qwen3Config) -> dict:
    """float32 weights far from their usual initial values, so that texts get vectors that differ much."""
    rng = np.random.default_rng(0)
    shapes = flatten_dict(nn.meta.unbox(abstract_params(architecture)))
    center = {path: float(path[-1].endswith("norm")) for path in shapes}
    values = {path: rng.normal(center[path], 0.2, x.shape).astype(np.float32) for path, x in shapes.items()}
    return jax.tree.map(jnp.asarray, unflatten_dict(values))


def make_embedder(folder, **options) -> Embedder:
    """Of size `tiny`, with prompts, four Matryoshka dimensions and a context of 96 tokens."""
    architecture = size("tiny")
    card = ModelSettings(max_length=96, prompts=dict(PROMPTS), matryoshka_dims=DIMS)
    return Embedder(architecture, random_params(architecture), train_tokenizer(folder), card, **options)


def write_workdir(folder: Path, embedder: Embedder) -> None:
    """The embedder as the workdir of a run that ended after step 1."""
    changes = {f"prompts.{name}": text for name, text in PROMPTS.items() if name in ("query", "document")}
    changes |= {"loss.matryoshka_min": min(DIMS), "data.max_length": embedder.max_length}
    folder.mkdir()
    config = tiny.config(folder, **changes)
    (folder / "config.json").write_text(configs.to_json(config))
    workdir.write_architecture(folder, embedder.architecture)
    embedder.tokenizer.save(folder / "tokenizer")
    with Checkpoints(folder, config.checkpoint, steps=1) as checkpoints:
        checkpoints.save(TrainState(jnp.int32(1), embedder.params, None))
