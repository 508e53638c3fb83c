"""`f2jax prune`: a model → a smaller one, written as a released package that training, too, starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax.numpy as jnp
from tqdm import tqdm

from f2jax import files
from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.workdir import check_dtype, tokenizer_folder
from f2jax.data.texts import sample_texts, source_texts
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.model import nested
from f2jax.model.nested import matryoshka_dims
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config, size
from f2jax.prune.choose import ChannelChoice, choose_channels, cut_weights, target_architecture
from f2jax.prune.importance import Scoring, calibrate
from f2jax.prune.vocabulary import table_rows, trim_tokenizer, used_tokens


@dataclass(frozen=True)
class Calibration:
    """The texts that importance is measured on."""

    sources: Sequence[str] = ()  # as in data.sources; (): nothing is measured
    samples: int = 1024  # texts (Minitron's number)
    max_length: int = 1024  # tokens of a text, where the model's context is not shorter
    seed: int = 0  # of the draw

    def sequences(self, tokenizer: Tokenizer, context: int) -> list:
        return tokenizer.encode(sample_texts(self.sources, self.samples, self.seed), min(self.max_length, context))


@dataclass(frozen=True)
class PruneOptions:
    """What is cut, and how."""

    size: str = ""  # a name in model/sizes.py; else the three fields that follow
    width: int = 0  # 0: as it is
    mlp: int = 0
    layers: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    scoring: Scoring = field(default_factory=Scoring)
    choice: ChannelChoice = field(default_factory=ChannelChoice)
    rescale: bool = True  # make good for what goes from under the RMSNorms, see `model.prune.cut`
    trim_vocab: Sequence[str] = ()  # sources whose tokens stay in the token table; (): all stay

    def architecture(self, old: Qwen3Config) -> Qwen3Config:
        """The shape that is asked for.

        Raises:
            UserError: it is larger, or differs in what pruning leaves alone.
        """
        named = size(self.size) if self.size else None
        for name in ("heads", "kv_heads", "head_dim"):
            if named and getattr(named, name) != getattr(old, name):
                raise UserError(
                    f"A {self.size} has {name}={getattr(named, name)} and this model {getattr(old, name)}, which "
                    "pruning leaves as it is; give --width, --mlp and --layers instead of --size."
                )
        if named and (self.width or self.mlp or self.layers):
            raise UserError("Give either --size, or --width, --mlp and --layers.")
        wanted = (named.width, named.mlp, named.layers) if named else (self.width, self.mlp, self.layers)
        if not isinstance(self.choice.layers, str):
            wanted = (*wanted[:2], wanted[2] or len(self.choice.layers))
        return target_architecture(old, *wanted)


def prune_model(name: str, output: str | Path, options: PruneOptions, dtype: str = "float32") -> Qwen3Config:
    """Prune the model `name` and write it as a package to `output`; returns its architecture.

    Memory: the model, the smaller one, and a few numbers for each channel.

    Raises:
        UserError: the model, the data or an option cannot be used, or `output` is the model's own folder.
    """
    check_dtype(dtype)
    path = files.resolve_model(name)
    package.check_output(output, [path])
    old = replace(workdir.read_architecture(path), table_rank=0)
    new = options.architecture(old)
    narrower, measured = new.width < old.width, options.calibration.sources
    if narrower and options.rescale and not measured:
        raise UserError("Rescaling needs the energy of the channels that go; name texts with --data, or --no-rescale.")
    tokenizer, card = load_tokenizer(tokenizer_folder(path)), package.read_settings(path, old)
    params = nested.cut_nested(*workdir.load_weights(path, jnp.dtype(dtype)))[1]  # a factorized table is multiplied out
    importance = None
    if measured:
        sequences = options.calibration.sequences(tokenizer, card.max_length)
        model = Qwen3(old, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        with tqdm(total=len(sequences), desc="calibration", unit="text", dynamic_ncols=True) as bar:
            importance = calibrate(model, params, sequences, options.scoring, bar.update)
    kept = choose_channels(old, new, options.choice, importance)
    if options.trim_vocab:
        bar = tqdm(source_texts(options.trim_vocab), "tokens", unit="text", unit_scale=True, dynamic_ncols=True)
        texts = (prompt + text for text in bar for prompt in ("", *card.prompts.values()))
        trimmed, old_ids = trim_tokenizer(tokenizer, used_tokens(tokenizer, texts))
        kept = replace(kept, vocab=table_rows(old_ids, tokenizer.pad_id))
        tokenizer, new = trimmed, replace(new, vocab_size=len(kept.vocab))
    params = cut_weights(old, params, kept, importance if options.rescale else None)
    dims = matryoshka_dims(new.width, min(card.matryoshka_dims))
    dims = dims if len(card.matryoshka_dims) > 1 else (new.width,)
    package.write_package(output, new, params, tokenizer, replace(card, matryoshka_dims=dims))
    return new
