"""`f2jax start`: a student's initial weights from the vectors of a teacher with any architecture and tokenizer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax.checkpoints import package
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.teacher_vectors import read_info, sample_texts_and_vectors
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError
from f2jax.inference.vectors import unit_vectors
from f2jax.model.nested import matryoshka_dims
from f2jax.model.sizes import Qwen3Config, size
from f2jax.start.backbone import average_params
from f2jax.start.bag import distil_bag
from f2jax.start.options import BagOptions, StartOptions


def start_from_vectors(
    corpus: PreparedCorpus, vectors: str | Path, output: str | Path, options: StartOptions
) -> tuple[Qwen3Config, float]:
    """Distils a token table from cached vectors, puts it below layers that compute a mean, and writes a package.

    Args:
        vectors: folder that `f2jax cache-teacher` wrote for the corpus, with the student's width or one less.

    Returns:
        The architecture, and the mean cosine to the teacher's vectors.

    Raises:
        UserError: the vectors do not match the corpus or the size, or the output cannot be written.
    """
    tokenizer = load_tokenizer(corpus.tokenizer_folder)
    named = size(options.size)
    architecture = replace(
        named,
        width=options.width or named.width,
        layers=options.layers or named.layers,
        vocab_size=tokenizer.vocab_size,
    )
    kept, stored = architecture.width - 1, read_info(vectors).width
    if stored not in (kept, architecture.width):
        raise UserError(
            f"{vectors} has {stored} dimensions and the student has {architecture.width}; write the cache with "
            f"f2jax cache-teacher --width {architecture.width}, of --vectors with --reduce pca, or choose another "
            "--size or --width."
        )
    package.check_output(output, [])
    sequences, raw_ie = sample_texts_and_vectors(vectors, corpus, options.max_texts, options.bag.seed)
    sequences = [sequence[:-1] for sequence in sequences]  # the end token carries no meaning
    vectors_ie = unit_vectors(raw_ie[:, :kept], slice(None), "teacher's vectors")
    if not np.linalg.norm(vectors_ie, axis=1).all():
        raise UserError(f"{vectors} has vectors of length 0; embed those texts again.")
    with tqdm(total=options.bag.steps, desc="token table", unit="step", dynamic_ncols=True) as bar:

        def progress(loss) -> None:
            bar.update()
            if bar.n % 50 == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}")

        rows_ve, weight_v = distil_bag(sequences, vectors_ie, architecture.vocab_size, options.bag, progress)
    params = average_params(architecture, rows_ve, weight_v, tokenizer.eos_id, options.bag.seed)
    max_length = corpus.card["options"]["max_length"]
    settings = package.ModelSettings(max_length, {}, matryoshka_dims(architecture.width, 8))
    package.write_package(output, architecture, params, tokenizer, settings)
    return architecture, _agreement(rows_ve, weight_v, sequences, vectors_ie, options.bag)


def _agreement(rows_ve, weight_v, sequences, vectors_ie, options: BagOptions) -> float:
    """Returns the mean cosine between the student's and the teacher's vectors for some of the texts."""
    chosen = np.random.default_rng(options.seed).permutation(len(sequences))[:10_000]
    cosines = []
    for i in chosen:
        ids = sequences[i][: options.max_length]
        bag_e = weight_v[ids] @ rows_ve[ids]
        cosines.append(bag_e @ vectors_ie[i] / max(np.linalg.norm(bag_e), 1e-12))
    return float(np.mean(cosines))
