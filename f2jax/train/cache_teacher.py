"""`f2jax cache-teacher`: a teacher's vectors for a prepared corpus, so that training need not run the teacher."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.corpus import PreparedCorpus, Reader
from f2jax.data.teacher_vectors import DTYPES, Piece, TeacherVectorsInfo, begin, pieces, write_components
from f2jax.data.tokenizer import load_tokenizer
from f2jax.errors import UserError, did_you_mean
from f2jax.inference.embedder import Embedder
from f2jax.inference.encode import check_batch_size


@dataclass(frozen=True)
class TeacherSource:
    """A source of teacher vectors."""

    info: TeacherVectorsInfo  # of its vectors; those that are stored may have fewer dimensions and another type
    vectors: Callable[[Piece, Callable], np.ndarray]  # (piece, reader of its tokens) → float [n, width]
    components: tuple[np.ndarray, np.ndarray] | None = None  # mean and axes of a PCA, which --like can use again


def by_model(name: str, dtype: str, corpus: PreparedCorpus, batch_size: int = 1_024) -> TeacherSource:
    """Returns a model as a teacher: its embeddings of the corpus's tokens, not normalized, as with `teacher.path`.

    Raises:
        UserError: the model cannot be loaded, has another tokenizer, or `batch_size` is not positive.
    """
    check_batch_size(batch_size)
    embedder = Embedder.from_pretrained(name, dtype)
    if not embedder.tokenizer.gives_same_ids(load_tokenizer(corpus.tokenizer_folder)):
        raise UserError(
            f"The teacher {name} has another tokenizer than the corpus {corpus.folder}; embed the texts of "
            "--list-texts, and give --vectors and --texts."
        )
    return TeacherSource(
        TeacherVectorsInfo(embedder.fingerprint, embedder.dim, "float32"),
        lambda piece, read: embedder.encode_tokens(read(piece), batch_size),
    )


def cache_teacher(
    corpus: PreparedCorpus, output: str | Path, source: TeacherSource, width: int = 0, dtype: str = "bfloat16"
) -> TeacherVectorsInfo:
    """Writes the vectors of all texts of the corpus; after an interruption, the same call continues.

    >>> cache_teacher(corpus, "vectors", by_model("runs/0.6b", "bfloat16", corpus), width=320)

    Args:
        width: number of leading dimensions to keep, as many as the student has; 0: all.
        dtype: dtype of the stored vectors, a name in DTYPES.

    Raises:
        UserError: an option cannot be used, the output cannot be written, or it contains other vectors.
    """
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}'{did_you_mean(dtype, DTYPES)}")
    if not 0 <= width <= source.info.width:
        raise UserError(f"--width {width} is out of range; this teacher has {source.info.width} dimensions.")
    if files.is_remote(output):
        raise UserError(f"--output {output}: vectors are written to a local or mounted folder; copy them from there.")
    card = replace(source.info, width=width or source.info.width, dtype=dtype)
    begin(output, card)
    if source.components:
        write_components(output, *source.components)
    todo = pieces(output, corpus)
    total = sum(piece.stop - piece.start for piece in todo)
    done = sum(piece.stop - piece.start for piece in todo if piece.exists())
    reader = Reader()
    with tqdm(total=total, initial=done, unit="text", unit_scale=True, dynamic_ncols=True) as bar:
        for piece in todo:
            if not piece.exists():
                vectors = source.vectors(piece, lambda piece: piece.tokens(reader))
                piece.write(vectors[:, : card.width], dtype)
                bar.update(piece.stop - piece.start)
    return card
