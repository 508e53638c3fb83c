"""A folder of text files → passages to search in, each with its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from f2jax.errors import UserError

SUFFIXES = (".txt", ".md", ".rst", ".org", ".tex")
MOST = 1_200  # characters of a passage: a few hundred tokens in most languages


@dataclass(frozen=True)
class Passage:
    """Some paragraphs of a file that follow each other."""

    file: str  # relative to the folder
    line: int  # of its start, from 1
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_folder(folder: str | Path) -> list[Passage]:
    """The passages of all text files below a folder, by file name; hidden files and folders are left out.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        UserError: it is no folder, cannot be read, or holds no text.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder} is no folder; give one that holds {', '.join(SUFFIXES)} files.")
    found = []
    try:
        for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
            name = path.relative_to(root)
            if not any(part.startswith(".") for part in name.parts):
                text = path.read_text(encoding="utf-8-sig", errors="replace")
                found += (Passage(name.as_posix(), line, part) for line, part in split(text))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
    if not found:
        raise UserError(f"{folder} holds no text in {', '.join(SUFFIXES)} files.")
    return found


def split(text: str, most: int = MOST) -> Iterator[tuple[int, str]]:
    """(line, passage): whole paragraphs of together at most `most` characters; a longer one is cut between words."""
    start, held = 1, ""
    for line, paragraph in _paragraphs(text):
        if held and len(held) + 2 + len(paragraph) > most:
            yield start, held
            held = ""
        start, held = (start, f"{held}\n\n{paragraph}") if held else (line, paragraph)
        while len(held) > most:
            cut = max(held.rfind(mark, most // 2, most) for mark in " \n。、،") + 1 or most
            yield start, held[:cut].rstrip()
            start += held[:cut].count("\n")
            held = held[cut:].lstrip(" ")
    if held:
        yield start, held


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """(line, paragraph): lines without an empty one between them."""
    start, lines = 1, []
    for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], 1):
        if line.strip():
            start, lines = (start, [*lines, line]) if lines else (number, [line])
        elif lines:
            yield start, "\n".join(lines)
            lines = []
