"""Search on files: vectors or texts in, the found documents out."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from f2jax import files
from f2jax.data.texts import read_texts
from f2jax.data.tokenizer import SURROGATES
from f2jax.errors import UserError
from f2jax.inference.vectors import Vectors, digest, embed_into, open_vectors, progress_of
from f2jax.search.top_k import BLOCKS
from f2jax.search.two_pass import Search, SearchOptions, SearchResult, exact_search, joined, recall

SHOWN = 160  # characters of a text on the screen


@dataclass(frozen=True)
class SearchTexts:
    """Documents or queries, by number."""

    vectors: Vectors | None  # [n, e]; None: a store has them
    texts: Sequence[str] | Mapping[int, str] | None = None
    places: Sequence[str] | Mapping[int, str] | None = None  # where each text is from, as FILE:LINE


@dataclass(frozen=True)
class Results:
    """What a search found, and how."""

    documents: SearchTexts
    queries: SearchTexts
    options: SearchOptions
    found: SearchResult
    sample: int = 0  # queries that were also searched for exactly
    recall: float | None = None  # of the sample

    def rows(self) -> Iterator[dict]:
        """A JSON object for each query: its text or number, and the documents, nearest first."""
        for i, (scores, numbers) in enumerate(zip(self.found.scores_qk, self.found.numbers_qk, strict=True)):
            found = [
                {"document": int(number), "score": round(float(score), 6)} | self._known(number)
                for score, number in zip(scores, numbers, strict=True)
                if number >= 0
            ]
            yield {"query": clean(self.queries.texts[i]) if self.queries.texts else i, "found": found}

    def _known(self, number: int) -> dict:
        documents = self.documents
        fields = {"place": documents.places, "text": documents.texts}
        return {name: clean(some[number]) for name, some in fields.items() if some}

    def lines(self) -> str:
        """The same to be read on a screen."""
        lines = []
        for row in self.rows():
            lines.append(f"{row['query']}")
            for x in row["found"]:
                text = " ".join(x.get("text", "").split())
                shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
                lines.append(f"  {x['score']:6.3f}  {x.get('place', x['document'])}  {shown}".rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        options, (count, width) = self.options, self.documents.vectors.shape
        queries = self.queries.vectors.shape[0]
        text = (
            f"{options.k} nearest of {count:,} documents for {queries:,} queries\n"
            f"  {self.found.first_pass:8.3f} s  first pass: {options.dims} of {width:,} dimensions, "
            f"{options.precision}, {min(options.candidates, count):,} candidates\n"
            f"  {self.found.second_pass:8.3f} s  second pass: all dimensions"
        )
        if self.recall is not None:
            text += (
                f"\n  recall@{options.k} against exact search by all dimensions: {self.recall:.4f} "
                f"({'all' if self.sample == queries else self.sample} queries)"
            )
        return text


def clean(text: str) -> str:
    """The text without halves of UTF-16 pairs, which no output takes."""
    return SURROGATES.sub("\ufffd", text)


def search_corpus(documents: SearchTexts, queries: SearchTexts, options: SearchOptions, sample: int = 100) -> Results:
    """Search for all queries, under a progress bar; measure recall on `sample` of them, spread evenly; 0: on none.

    Raises:
        UserError: queries and documents do not fit each other, or an option does not fit them.
    """
    search, total = Search(documents.vectors, options), queries.vectors.shape[0]
    if not total:
        raise UserError("There are no queries; give at least one.")
    with tqdm(total=total, desc="searching", unit="query", unit_scale=True, dynamic_ncols=True) as bar:

        def watched() -> Iterator[SearchResult]:
            for block in search.blocks(queries.vectors):
                yield block
                bar.update(len(block.numbers_qk))

        found = joined(watched(), options.k)
    if sample < 1:
        return Results(documents, queries, options, found)
    chosen = np.unique(np.linspace(0, total - 1, min(sample, total)).astype(int))
    comparisons = documents.vectors.shape[0] * math.ceil(len(chosen) / BLOCKS.queries)
    with tqdm(total=comparisons, desc="exact search", unit="document", unit_scale=True, dynamic_ncols=True) as bar:
        wanted = exact_search(np.asarray(queries.vectors[chosen]), documents.vectors, options.k, bar.update)
    share = recall(SearchResult(found.scores_qk[chosen], found.numbers_qk[chosen]), wanted)
    return Results(documents, queries, options, found, len(chosen), share)


def write_results(results: Results, output: str) -> None:
    """Write `Results.rows` as JSON lines; the file is there whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with (
        files.atomic_path(output) as part,
        files.clear_errors(output, "written"),
        part.open("w", encoding="utf-8") as file,
    ):
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in results.rows())


def read_corpus(
    texts: str | None,
    vectors: str | None,
    encode: Callable[[list[str]], np.ndarray] | None,
    call: dict,
    column: str = "text",
) -> SearchTexts:
    """Documents or queries from a file of texts, a .npy file of vectors, or both.

    Texts without vectors are embedded into the file `vectors`, by default the texts' file name and `.vectors.npy`. The
    same call after an interruption goes on there, and finds all done the next time. In the file of the default name
    other texts, or another model, replace what was done.

    Args:
        encode: texts → float32 [n, e]; None: the vectors were made elsewhere.
        call: what the vectors depend on beside the texts.

    Raises:
        UserError: a file cannot be used, there are no texts, the vectors are those of another model or other texts, or
            they must be made and `encode` is None.
    """
    if texts is None:
        return SearchTexts(open_vectors(vectors))
    if not vectors and files.is_remote(texts):
        raise UserError(
            f"The vectors of {texts} are kept in a local file; name it by --vectors, or copy the texts here."
        )
    path = Path(vectors or f"{texts}.vectors.npy")
    if path.suffix != ".npy" or files.is_remote(vectors or ""):
        raise UserError(f"{vectors} should be a local path that ends in .npy.")
    found = read_texts(texts, column)
    if not found:
        raise UserError(f"{texts} holds no texts.")
    if path.exists() and not progress_of(path).exists():  # made elsewhere
        given = open_vectors(path)
        if len(given) != len(found):
            raise UserError(f"{path} has {len(given):,} vectors, but {texts} has {len(found):,} texts; embed it again.")
        return SearchTexts(given, found)
    if encode is None:
        raise UserError(f"{path} is made by a model from the texts of {texts}; give --model.")
    with files.clear_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        call = call | {"texts": digest(found)}
        return SearchTexts(embed_into(path, found, encode, call, "embedding", renew=not vectors), found)
