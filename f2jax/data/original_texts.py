"""The distinct original texts of a prepared corpus, for teachers with other tokenizers.

A text is identified by its `stable_id`, whatever its tokens, instruction, data set or role. This takes about 50 bytes
of memory for each text and each row of the corpus.

Letters: i texts of the corpus in the order of `teacher_vectors.pieces`, r rows.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from f2jax.data.corpus import (
    PreparedCorpus,
    Reader,
    has_texts,
    parse_document,
    parse_row,
    parse_text,
    row_details,
    shards_of,
    text_shards_of,
)
from f2jax.data.teacher_vectors import PARTS, pieces
from f2jax.errors import UserError, did_you_mean

ROLES = ("query", "positive", "negative")
CHUNK = 4_096  # texts in memory at a time
CODE = "code:"  # prefix of the names of programming languages


@dataclass(frozen=True)
class OriginalText:
    """A distinct text of a corpus as it was before tokenization, without its instruction."""

    id: str  # `stable_id` of the text in hexadecimal
    text: str
    role: str  # the first of ROLES that it has anywhere in the corpus
    source: str  # source, kind and language where it first occurs
    kind: str
    language: str


@dataclass(frozen=True)
class TextSurvey:
    """Facts about the texts of a corpus, by their numbers."""

    id_i: np.ndarray  # stable_id, int64
    role_i: np.ndarray  # index in ROLES of the first role that the text has anywhere
    language_i: np.ndarray  # index in `languages`
    query_r: np.ndarray  # number of the query's text, for rows with a positive
    positive_r: np.ndarray
    positive_language_r: np.ndarray
    dataset_r: np.ndarray  # index in `datasets` of corpus.json
    languages: tuple[str, ...]


def survey_texts(corpus: PreparedCorpus) -> TextSurvey:
    """Reads all records of a corpus without their texts.

    Raises:
        UserError: the corpus does not contain its original texts, or a file is damaged.
    """
    if not all(map(has_texts, corpus.card["datasets"])):
        raise UserError(
            f"{corpus.folder} does not hold its original texts: it was prepared with --no-keep-texts or by an earlier "
            "version; prepare it again."
        )
    reader, numbers = Reader(), dict[str, int]()
    ids, roles, languages, rows = [], [], [], array("q")  # four numbers per row
    first = 0
    for dataset, entry in enumerate(corpus.card["datasets"]):
        count = entry["documents"]
        role_c, language_c = np.full(count, len(ROLES), np.uint8), np.zeros(count, np.int32)
        query_ids, query_languages = array("q"), array("i")
        for part in PARTS[1:]:
            for raw in shards_of(corpus.folder, entry, part).read_all(reader):
                (_, documents, _), (query_id, *named) = parse_row(raw), row_details(raw)
                own, theirs = (numbers.setdefault(name, len(numbers)) for name in named)
                language_c[documents[role_c[documents] == len(ROLES)]] = theirs
                role_c[documents[1:]] = np.minimum(role_c[documents[1:]], 2)
                role_c[documents[:1]] = 1
                for positive in documents[:1]:  # a row of a single text has none
                    rows.extend((first + count + len(query_ids), first + positive, theirs, dataset))
                query_ids.append(query_id)
                query_languages.append(own)
        of_documents = (parse_document(raw)[0] for raw in shards_of(corpus.folder, entry, "documents").read_all(reader))
        ids += [np.fromiter(of_documents, np.int64, count), np.array(query_ids, np.int64)]
        roles += [role_c, np.zeros(len(query_ids), np.uint8)]
        languages += [language_c, np.array(query_languages, np.int32)]
        first += count + len(query_ids)
    id_i, role_i = np.concatenate(ids), np.concatenate(roles)
    distinct, inverse = np.unique(id_i, return_inverse=True)
    best = np.full(len(distinct), len(ROLES), np.uint8)
    np.minimum.at(best, inverse, role_i)
    query_r, positive_r, positive_language_r, dataset_r = np.frombuffer(rows, np.int64).reshape(-1, 4).T
    of_text = (id_i, best[inverse], np.concatenate(languages))
    return TextSurvey(*of_text, query_r, positive_r, positive_language_r, dataset_r, tuple(numbers))


def pivot_ids(survey: TextSurvey, corpus: PreparedCorpus, language: str, sources: Sequence[str] = ()) -> np.ndarray:
    """Returns the id of the text whose vector each text takes, int64 [i]: in bitext, its translation in `language`.

    Bitext means retrieval rows whose query and positive have different languages that are not programming languages. A
    text with several translations takes the first; a text that itself occurs in `language` keeps its own vector.

    Args:
        sources: names or patterns of the data sets to consider; default: all.

    Raises:
        UserError: no text has this language, or no data set has such a name.
    """
    if language not in survey.languages:
        raise UserError(
            f"No text of the corpus has the language '{language}'{did_you_mean(language, survey.languages)}"
        )
    datasets = corpus.card["datasets"]
    for pattern in sources:
        if not any(fnmatchcase(entry["name"], pattern) for entry in datasets):
            hint = did_you_mean(pattern, [entry["name"] for entry in datasets])
            raise UserError(f"The corpus has no data set '{pattern}'{hint}")
    counts = np.array(
        [
            entry["kind"] == "retrieval" and (not sources or any(fnmatchcase(entry["name"], p) for p in sources))
            for entry in datasets
        ]
    )
    pivot = survey.languages.index(language)
    is_code = np.array([name.startswith(CODE) for name in survey.languages])
    query_language_r, positive_language_r = survey.language_i[survey.query_r], survey.positive_language_r
    bitext_r = counts[survey.dataset_r] & ~is_code[query_language_r] & ~is_code[positive_language_r]
    to_positive_r = bitext_r & (query_language_r != pivot) & (positive_language_r == pivot)
    to_query_r = bitext_r & (query_language_r == pivot) & (positive_language_r != pivot)
    query_r, positive_r = survey.id_i[survey.query_r], survey.id_i[survey.positive_r]
    in_pivot = np.union1d(survey.id_i[survey.language_i == pivot], positive_r[positive_language_r == pivot])
    other_r, target_r = np.where(to_positive_r, (query_r, positive_r), (positive_r, query_r))
    chosen_r = (to_positive_r | to_query_r) & ~np.isin(other_r, in_pivot)
    others, first = np.unique(other_r[chosen_r], return_index=True)
    if not len(others):
        return survey.id_i
    targets = target_r[chosen_r][first]
    place_i = np.minimum(np.searchsorted(others, survey.id_i), len(others) - 1)
    return np.where(others[place_i] == survey.id_i, targets[place_i], survey.id_i)


def iter_original_texts(corpus: PreparedCorpus, survey: TextSurvey, wanted_i: np.ndarray) -> Iterator[OriginalText]:
    """Yields the distinct texts for which `wanted_i` is true, in the order of their first occurrence.

    Raises:
        UserError: a file is damaged.
    """
    _, first = np.unique(survey.id_i, return_index=True)
    chosen_i = np.zeros(len(survey.id_i), bool)
    chosen_i[first] = wanted_i[first]
    reader = Reader()
    for piece in pieces("", corpus):
        texts = text_shards_of(corpus.folder, piece.entry, piece.part)
        numbers = np.flatnonzero(chosen_i[piece.first : piece.first + piece.stop - piece.start])
        for start in range(0, len(numbers), CHUNK):
            some = numbers[start : start + CHUNK]
            for number, raw in zip(some + piece.first, texts.read(some + piece.start, reader), strict=True):
                yield OriginalText(
                    f"{survey.id_i[number]:016x}",
                    parse_text(raw),
                    ROLES[survey.role_i[number]],
                    piece.entry["source"],
                    piece.entry["kind"],
                    survey.languages[survey.language_i[number]],
                )
