"""Teachers from other tools: lists the texts to embed, and matches the vectors with a prepared corpus by text."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.corpus import PreparedCorpus
from f2jax.data.original_texts import TextSurvey, iter_original_texts, pivot_ids, survey_texts
from f2jax.data.record import stable_id
from f2jax.data.teacher_vectors import Piece, TeacherVectorsInfo, read_components, read_info
from f2jax.data.texts import iter_file_texts
from f2jax.errors import UserError
from f2jax.inference.reduce import components, moments
from f2jax.inference.vectors import open_vectors
from f2jax.train.cache_teacher import TeacherSource

BLOCK = 8_192  # vectors in memory
UNIT = 1e-2  # lengths this close to 1 count as 1, because float16 and bfloat16 round


def list_texts(corpus: PreparedCorpus, path: str, pivot: str = "", pivot_sources: Sequence[str] = ()) -> int:
    """Writes each distinct original text as a line of JSON with the fields of `OriginalText`; returns their number.

    Args:
        pivot: leave out texts that take the vector of their translation in this language, as in `from_file`.

    Raises:
        UserError: the corpus does not contain its original texts, or the file cannot be written.
    """
    survey, count = survey_texts(corpus), 0
    target_i = pivot_ids(survey, corpus, pivot, pivot_sources) if pivot else survey.id_i
    texts = iter_original_texts(corpus, survey, target_i == survey.id_i)
    with files.atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        for text in tqdm(texts, unit="text", unit_scale=True, dynamic_ncols=True):
            file.write(json.dumps(asdict(text)) + "\n")  # ASCII: a text may hold lone surrogates
            count += 1
    return count


def from_file(
    vectors: str,
    texts: str,
    corpus: PreparedCorpus,
    width: int = 0,
    reduce: str = "",
    center: bool = False,
    whiten: float = 0.0,
    like: str = "",
    pivot: str = "",
    pivot_sources: Sequence[str] = (),
) -> TeacherSource:
    """Returns another tool's vectors as a teacher.

    Args:
        vectors: .npy file of floats with a row for each of the `texts`.
        texts: file of the embedded texts in the same order. It may contain other texts too; of equal texts, the first
            one counts.
        width: number of dimensions to keep; 0: all.
        reduce: how to reduce them: `first` keeps the leading ones, `pca` the principal components over all texts.
        center: subtract the mean over all texts, which `pca` always does.
        whiten: exponent by which `pca` evens out the standard deviations of the components, from 0 (not at all) to 1.
        like: folder of vectors by `pca`, whose mean and axes are used again, so that coordinates mean the same.
        pivot: in bitext, both sides take the vector of the side in this language (`pivot_ids`); "": each its own.
        pivot_sources: names or patterns of the data sets where they do; default: all.

    Raises:
        UserError: a file cannot be read, the numbers of rows and texts differ, a vector is zero or not finite, a text
            of the corpus is missing, `reduce` is missing although fewer dimensions are wanted, or `like` does not fit.
    """
    if like and (width or reduce or center or whiten):
        raise UserError(f"--like {like} says how vectors are reduced; leave out --width, --reduce, --center, --whiten.")
    rows = open_vectors(vectors)
    full = rows.shape[1]
    if not 0 <= width <= full:
        raise UserError(f"--width {width} is out of range; {vectors} has {full} dimensions.")
    if 0 < width < full and not reduce:
        raise UserError(
            f"{vectors} has {full} dimensions; say how they become {width}: --reduce pca, or --reduce first where the "
            "teacher was trained with Matryoshka."
        )
    if not 0 <= whiten <= 1:
        raise UserError(f"--whiten {whiten} is out of range; it is between 0 and 1.")
    if whiten and reduce != "pca":
        raise UserError("--whiten evens out principal components; add --reduce pca.")
    survey = survey_texts(corpus)
    target_i = pivot_ids(survey, corpus, pivot, pivot_sources) if pivot else survey.id_i
    row_i = _rows_of_texts(vectors, len(rows), texts, corpus, survey, target_i)
    used = np.unique(row_i)
    unit = _check_rows(vectors, rows, used)
    centered, mean_e, axes_ee, explained = center or reduce == "pca", np.zeros(full, np.float32), None, 1.0
    stats = [Path(path).stat() for path in (vectors, texts)]
    made_of = [f"{stat.st_size} bytes of {stat.st_mtime_ns}" for stat in stats]
    if like:
        (mean_e, axes_ee), before = read_components(like), read_info(like)
        if len(mean_e) != full:
            raise UserError(f"--like {like} is for vectors of {len(mean_e)} dimensions; {vectors} has {full}.")
        centered, reduce, whiten = True, "like", before.whitened
        made_of.append(f"components of {before.teacher}")
    elif centered:
        found = moments(rows[used[start : start + BLOCK]] for start in range(0, len(used), BLOCK))
        mean_e = found.mean_e.astype(np.float32)
        if reduce == "pca":
            axes_ee, explained = components(found.covariance_ee, width or full, whiten)

    def read(piece: Piece, _) -> np.ndarray:
        x_ie = rows[row_i[piece.first : piece.first + piece.stop - piece.start]].astype(np.float32) - mean_e
        return x_ie if axes_ee is None else x_ie @ axes_ee

    reduced = reduce if axes_ee is not None or 0 < width < full else ""
    info = TeacherVectorsInfo(
        teacher=", ".join([*made_of, *(pivot_sources if pivot else ())]),
        width=full if axes_ee is None else axes_ee.shape[1],
        dtype="float32",
        unit=unit,
        centered=centered,
        reduced=reduced,
        explained=round(explained, 4),
        whitened=whiten,
        pivot=pivot,
        pivoted=len(np.unique(survey.id_i[target_i != survey.id_i])),
    )
    return TeacherSource(info, read, None if axes_ee is None else (mean_e, axes_ee))


def _rows_of_texts(
    vectors: str, count: int, texts: str, corpus: PreparedCorpus, survey: TextSurvey, target_i: np.ndarray
) -> np.ndarray:
    """Returns the row of each corpus text's vector, given the ids of the texts whose vectors they take."""
    embedded = np.fromiter(map(stable_id, iter_file_texts(texts)), np.int64)
    if len(embedded) != count:
        raise UserError(
            f"{vectors} has {count:,} rows and {texts} {len(embedded):,} texts; give the texts that were embedded, in "
            "their order."
        )
    ids, row = np.unique(embedded, return_index=True)
    place_i = np.minimum(np.searchsorted(ids, target_i), len(ids) - 1)
    missing_i = ids[place_i] != target_i
    if missing_i.any():
        first = next(iter_original_texts(corpus, survey, missing_i & (target_i == survey.id_i)))
        raise UserError(
            f"{texts} lacks {len(np.unique(target_i[missing_i])):,} texts of {corpus.folder}, first "
            f"{_shown(first.text)}; embed what --list-texts writes."
        )
    return row[place_i]


def _check_rows(vectors: str, rows: np.ndarray, used: np.ndarray) -> bool:
    """Returns whether all used rows have length 1; raises UserError if one is zero or not finite."""
    unit = True
    for start in range(0, len(used), BLOCK):
        some = used[start : start + BLOCK]
        length_i = np.linalg.norm(rows[some].astype(np.float64), axis=1)
        for odd, what in ((~np.isfinite(length_i), "holds values that are not finite"), (length_i == 0, "is zero")):
            if odd.any():
                raise UserError(f"{vectors}: row {some[odd][0]:,} {what} (numbers from 0); embed its text again.")
        unit = unit and bool((np.abs(length_i - 1) < UNIT).all())
    return unit


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}…")
