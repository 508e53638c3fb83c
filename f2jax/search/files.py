"""Search in files: reads texts or vectors, and reports the nearest documents."""

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
from f2jax.inference.top_k import BLOCKS
from f2jax.inference.truncation import Truncation
from f2jax.inference.vectors import Vectors, embed_into, open_vectors, progress_path, texts_digest
from f2jax.search.options import SearchOptions
from f2jax.search.two_pass import Search, SearchResult, exact_search, join_blocks, recall

SHOWN = 160  # characters of a text to print

TextsByNumber = Sequence[str] | Mapping[int, str] | None


@dataclass(frozen=True)
class SearchTexts:
    """Documents or queries with their vectors, in the same order."""

    vectors: Vectors  # [i, e]
    texts: Sequence[str] | None = None
    places: Sequence[str] | None = None  # where each text comes from, as FILE:LINE
    model: str = ""  # fingerprint of the model that made the vectors; empty: unknown
    prompt: str = ""  # prepended to each text


@dataclass(frozen=True)
class EmbedTexts:
    """How to embed texts."""

    encode: Callable[[list[str]], np.ndarray]  # texts → float32 [i, e]
    model: str  # fingerprint
    prompt: str  # prepended to each text
    truncation: Truncation | None = None  # counts that `encode` updates


@dataclass(frozen=True)
class SearchReport:
    """The results of a search, and how they were found."""

    result: SearchResult
    options: SearchOptions
    queries: Sequence[str] | None  # None: they are reported by number
    texts: TextsByNumber = None  # of the documents
    places: TextsByNumber = None
    shape: tuple[int, ...] = (0, 0)  # number and dimensions of the documents
    sample: int = 0  # number of queries that were also searched exactly
    recall: float | None = None  # on that sample

    def rows(self) -> Iterator[dict]:
        """Yields a JSON object for each query, with its text or number and its documents, nearest first."""
        for i, (scores, numbers) in enumerate(zip(self.result.scores_qk, self.result.numbers_qk, strict=True)):
            documents = [
                {"document": int(number), "score": round(float(score), 6)} | self._describe(int(number))
                for score, number in zip(scores, numbers, strict=True)
                if number >= 0
            ]
            yield {"query": replace_surrogates(self.queries[i]) if self.queries else i, "found": documents}

    def _describe(self, number: int) -> dict[str, str]:
        fields = {"place": self.places, "text": self.texts}
        return {name: replace_surrogates(values[number]) for name, values in fields.items() if values}

    def lines(self) -> str:
        """Returns the rows as text to print."""
        lines = []
        for row in self.rows():
            lines.append(f"{row['query']}")
            for found in row["found"]:
                text = " ".join(found.get("text", "").split())
                shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
                lines.append(f"  {found['score']:6.3f}  {found.get('place', found['document'])}  {shown}".rstrip())
        return "\n".join(lines)

    def __str__(self) -> str:
        options, (count, width) = self.options, self.shape
        queries = len(self.result.numbers_qk)
        asked = "1 query" if queries == 1 else f"{queries:,} queries"
        text = (
            f"{min(options.k, count)} nearest of {count:,} documents for {asked}\n"
            f"  {self.result.first_pass:8.3f} s  first pass: {options.dims} of {width:,} dimensions, "
            f"{options.precision}, {min(options.candidates, count):,} candidates\n"
            f"  {self.result.second_pass:8.3f} s  second pass: all dimensions"
        )
        if self.recall is not None:
            text += (
                f"\n  recall@{options.k} against exact search by all dimensions: {self.recall:.4f} "
                f"({'all queries' if self.sample == queries else f'{self.sample:,} of the queries'})"
            )
        return text


def replace_surrogates(text: str) -> str:
    """Returns the text with unpaired surrogates replaced, because no output format accepts them."""
    return SURROGATES.sub("\ufffd", text)


def search_corpus(
    documents: SearchTexts, queries: SearchTexts, options: SearchOptions, sample: int = 100
) -> SearchReport:
    """Searches for all queries, with a progress bar.

    Args:
        sample: number of queries, evenly spread, on which to measure recall; 0: do not measure it.

    Raises:
        UserError: queries and documents have different widths, or an option does not fit them.
    """
    search, total = Search(documents.vectors, options), queries.vectors.shape[0]
    if not total:
        raise UserError("There are no queries; give at least one.")
    with tqdm(total=total, desc="searching", unit="query", unit_scale=True, dynamic_ncols=True) as bar:

        def watched() -> Iterator[SearchResult]:
            for block in search.blocks(queries.vectors):
                yield block
                bar.update(len(block.numbers_qk))

        result = join_blocks(watched(), options.k)
    shape = documents.vectors.shape
    shown = queries.texts, documents.texts, documents.places, shape
    if sample < 1:
        return SearchReport(result, search.options, *shown)
    chosen = np.unique(np.linspace(0, total - 1, min(sample, total)).astype(int))
    comparisons = shape[0] * math.ceil(len(chosen) / BLOCKS.queries)
    with tqdm(total=comparisons, desc="exact search", unit="document", unit_scale=True, dynamic_ncols=True) as bar:
        exact = exact_search(np.asarray(queries.vectors[chosen]), documents.vectors, options.k, bar.update)
    share = recall(SearchResult(result.scores_qk[chosen], result.numbers_qk[chosen]), exact)
    return SearchReport(result, search.options, *shown, len(chosen), share)


def write_report(report: SearchReport, output: str) -> None:
    """Writes `SearchReport.rows` as JSON lines, atomically.

    Raises:
        UserError: it cannot be written.
    """
    with (
        files.atomic_path(output) as part,
        files.clear_errors(output, "written"),
        part.open("w", encoding="utf-8") as file,
    ):
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in report.rows())


def read_corpus(texts: str | None, vectors: str | None, embed: EmbedTexts | None, column: str = "text") -> SearchTexts:
    """Returns documents or queries from a file of texts, a .npy file of vectors, or both.

    Texts without vectors are embedded into the file `vectors`, by default the name of the texts' file plus
    `.vectors.npy`. The same call continues after an interruption, and reuses a finished file. If the texts or the model
    have changed, the file with the default name is overwritten.

    Args:
        embed: how to embed the texts; None: another tool made the vectors.

    Raises:
        UserError: a file cannot be used, there are no texts, the vectors belong to another model or other texts, or
            there are none and `embed` is None.
    """
    if texts is None:
        return SearchTexts(open_vectors(vectors or ""))
    if not vectors and files.is_remote(texts):
        raise UserError(
            f"The vectors of {texts} are kept in a local file; name it by --vectors, or copy the texts here."
        )
    path = Path(vectors or f"{texts}.vectors.npy")
    if path.suffix != ".npy" or files.is_remote(vectors or ""):
        raise UserError(f"{vectors} should be a local path that ends in .npy.")
    lines = read_texts(texts, column)
    if not lines:
        raise UserError(f"{texts} holds no texts.")
    if path.exists() and not progress_path(path).exists():  # another tool made it
        given = open_vectors(path)
        if len(given) != len(lines):
            raise UserError(f"{path} has {len(given):,} vectors, but {texts} has {len(lines):,} texts; embed it again.")
        return SearchTexts(given, lines)
    if embed is None:
        raise UserError(f"{path} is made by a model from the texts of {texts}; give --model.")
    call = {"model": embed.model, "prompt": embed.prompt, "texts": texts_digest(lines)}
    with files.clear_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = embed_into(path, lines, embed.encode, call, "embedding", not vectors, embed.truncation)
    return SearchTexts(made, lines, model=embed.model, prompt=embed.prompt)
