"""`f2jax prune`: cuts a model down, and writes a package from which training can start."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from f2jax.checkpoints import package, workdir
from f2jax.checkpoints.workdir import check_dtype, tokenizer_folder
from f2jax.data.texts import sample_texts, source_texts
from f2jax.data.tokenizer import Tokenizer, load_tokenizer
from f2jax.errors import UserError
from f2jax.model import nested
from f2jax.model.nested import matryoshka_dims
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config, size
from f2jax.prune.choose import check_measured, choose_channels, cut_weights, target_architecture
from f2jax.prune.importance import calibrate
from f2jax.prune.options import Calibration, PruneOptions
from f2jax.prune.vocabulary import table_rows, trim_tokenizer, used_tokens


def pruned_architecture(old: Qwen3Config, options: PruneOptions) -> Qwen3Config:
    """Returns the architecture that the options describe.

    Raises:
        UserError: it is larger, or differs in fields that pruning cannot change.
    """
    named = size(options.size) if options.size else None
    for name in ("heads", "kv_heads", "head_dim"):
        if named and getattr(named, name) != getattr(old, name):
            raise UserError(
                f"A {options.size} has {name}={getattr(named, name)} and this model {getattr(old, name)}, which "
                "pruning cannot change; give --width, --mlp and --layers instead of --size."
            )
    if named and (options.width or options.mlp or options.layers):
        raise UserError("Give either --size, or --width, --mlp and --layers.")
    wanted = (named.width, named.mlp, named.layers) if named else (options.width, options.mlp, options.layers)
    if options.choice.keep_layers:
        wanted = (*wanted[:2], wanted[2] or len(options.choice.keep_layers))
    return target_architecture(old, *wanted)


def calibration_sequences(texts: Calibration, tokenizer: Tokenizer, context: int) -> list[np.ndarray]:
    """Returns the token ids of the calibration texts, truncated to the model's context length."""
    return tokenizer.encode(sample_texts(texts.data, texts.samples, texts.seed), min(texts.max_length, context))


def prune_model(name: str, output: str | Path, options: PruneOptions, dtype: str = "float32") -> Qwen3Config:
    """Prunes the model `name` and writes it as a package to `output`; returns its architecture.

    Memory holds the model, the smaller one, and a few numbers per channel.

    Raises:
        UserError: the model, the data or an option cannot be used, or `output` is the model's own folder.
    """
    check_dtype(dtype)
    stored = workdir.find_model(name)
    path = stored.path
    package.check_output(output, [path])
    old = replace(workdir.read_architecture(path), table_rank=0)
    new = pruned_architecture(old, options)
    if not options.calibration.data:
        check_measured(old, new, options.choice, options.rescale)
    tokenizer, card = load_tokenizer(tokenizer_folder(path)), package.read_settings(path, old)
    weights = workdir.load_weights(stored, jnp.dtype(dtype))
    params = nested.cut_nested(*weights)[1]  # a factorized table is multiplied out
    importance = None
    if options.calibration.data:
        sequences = calibration_sequences(options.calibration, tokenizer, card.max_length)
        model = Qwen3(old, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        with tqdm(total=len(sequences), desc="calibration", unit="text", dynamic_ncols=True) as bar:
            importance = calibrate(model, params, sequences, options.scoring, bar.update)
    kept = choose_channels(old, new, options.choice, importance)
    if options.trim_vocab:
        bar = tqdm(source_texts(options.trim_vocab), "tokens", unit="text", unit_scale=True, dynamic_ncols=True)
        texts = (prompt + text for text in bar for prompt in ("", *card.prompts.values()))
        trimmed, old_ids = trim_tokenizer(tokenizer, used_tokens(tokenizer, texts))
        vocab = table_rows(old_ids, tokenizer.pad_id)
        kept, new, tokenizer = replace(kept, vocab=vocab), replace(new, vocab_size=len(vocab)), trimmed
    params = cut_weights(old, params, kept, importance if options.rescale else None)
    dims = matryoshka_dims(new.width, min(card.matryoshka_dims))
    dims = dims if len(card.matryoshka_dims) > 1 else (new.width,)
    package.write_package(output, new, params, tokenizer, replace(card, matryoshka_dims=dims))
    return new
