"""Splits the text files in a folder into passages, each with its file and line."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from f2jax.data.sources.paths import walk_folder
from f2jax.errors import UserError

SUFFIXES = (".txt", ".md", ".rst", ".org", ".tex")
MAX_TOKENS = 256  # longest passage, if the model's limit is not below it
OVERLAP = 8  # a passage that begins inside a paragraph repeats the last eighth of the previous one
PIECE = re.compile(r"[^\s。、，]{1,24}[。、，]*|[。、，]+")  # words, with long ones in parts

CountTokens = Callable[[list[str]], list[int]]


@dataclass(frozen=True)
class Passage:
    """Consecutive paragraphs of a file, or part of a long paragraph."""

    file: str  # relative to the folder
    line: int  # where it starts, from 1
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_folder(folder: str | Path, count_tokens: CountTokens, max_tokens: int = MAX_TOKENS) -> list[Passage]:
    """Returns the passages of all text files in a folder and its subfolders, in order of file names.

    Hidden files and folders are left out. Bytes that are not UTF-8 become U+FFFD.

    Args:
        count_tokens: returns the number of tokens of each text.
        max_tokens: maximum tokens of a passage.

    Raises:
        UserError: it is not a folder, cannot be read, or holds no text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder; give one that contains {', '.join(SUFFIXES)} files.")
    passages: list[Passage] = []
    try:
        for path in sorted(_text_files(root)):
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            parts = split_text(text, count_tokens, max_tokens)
            passages += (Passage(path.relative_to(root).as_posix(), line, part) for line, part in parts)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
    if not passages:
        raise UserError(f"{folder} holds no text in {', '.join(SUFFIXES)} files.")
    return passages


def _text_files(root: Path) -> Iterator[Path]:
    """Yields the text files in a folder and its subfolders but for hidden ones; raises OSError if one is unreadable."""
    for place, names in walk_folder(root):
        paths = [Path(place, name) for name in names]
        yield from (path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def split_text(text: str, count_tokens: CountTokens, max_tokens: int) -> list[tuple[int, str]]:
    """Splits a text into (line, passage) pairs that together contain every word; passages have up to `max_tokens`.

    A passage ends with a paragraph if one ends in its second half. Otherwise it ends between words, and the next one
    repeats its last words.
    """
    text = text.replace("\r\n", "\n")
    spans = _spans(text, count_tokens, max_tokens)
    limit = max_tokens
    while True:
        passages = list(_passages(text, spans, limit))
        longest = max(count_tokens([part for _, part in passages]), default=0)
        if longest <= max_tokens or limit == 1:
            return passages
        limit = max(1, limit - (longest - max_tokens))  # a passage can have more tokens than its words have one by one


@dataclass(frozen=True)
class _Span:
    """A word or a part of one."""

    start: int
    stop: int
    tokens: int
    begins: bool  # whether a paragraph starts here


def _spans(text: str, count_tokens: CountTokens, max_tokens: int) -> list[_Span]:
    matches = [match.span() for match in PIECE.finditer(text)]
    ends = [0, *(stop for _, stop in matches)]
    pieces = [text[end:stop] for end, (_, stop) in zip(ends, matches, strict=False)]  # with the preceding space
    distinct = list(dict.fromkeys(pieces))
    tokens = dict(zip(distinct, count_tokens(distinct), strict=True))
    spans = []
    for piece, (start, stop) in zip(pieces, matches, strict=True):
        begins = piece[: len(piece) - (stop - start)].count("\n") > 1
        parts = -(-tokens[piece] // max_tokens) if stop - start > 1 else 1  # a word beyond the limit is split
        size = -(-(stop - start) // parts)
        for at in range(start, stop, size):
            spans.append(_Span(at, min(at + size, stop), -(-tokens[piece] // parts), begins and at == start))
    return spans


def _passages(text: str, spans: list[_Span], limit: int) -> Iterator[tuple[int, str]]:
    first, line, counted = 0, 1, 0
    while first < len(spans):
        stop = _fit(spans, first, limit)
        if stop < len(spans):
            half = _fit(spans, first, limit // 2)
            stop = next((i for i in range(stop, half, -1) if spans[i].begins), stop)
        start = spans[first].start
        line, counted = line + text.count("\n", counted, start), start
        yield line, text[start : spans[stop - 1].stop]
        previous, first = first, stop
        if stop < len(spans) and not spans[stop].begins:
            room = limit // OVERLAP
            while first - 1 > previous and spans[first - 1].tokens <= room and not spans[first].begins:
                first, room = first - 1, room - spans[first - 1].tokens


def _fit(spans: list[_Span], first: int, limit: int) -> int:
    """Returns the end of a passage that starts at `first` and has at most `limit` tokens, but at least one word."""
    tokens, stop = spans[first].tokens, first + 1
    while stop < len(spans) and tokens + spans[stop].tokens <= limit:
        tokens, stop = tokens + spans[stop].tokens, stop + 1
    return stop
