"""A folder of texts becomes passages with their places."""

import pytest

from f2jax.errors import UserError
from f2jax.search.passages import Passage, read_folder, split


def test_short_paragraphs_go_together_and_each_passage_knows_its_first_line():
    text = "one\n\n\ntwo\nlines\n\n" + "x" * 30 + "\n\nfour"
    assert list(split(text, 25)) == [(1, "one\n\ntwo\nlines"), (7, "x" * 25), (7, "xxxxx\n\nfour")]


def test_lines_end_where_an_editor_says_so():
    """At newlines, and not at form feeds and other separators that `str.splitlines` knows."""
    assert list(split("one\fa\u2028b\r\n\r\ntwo\x1c\n\n\f\nthree", 8)) == [
        (1, "one\fa\u2028b"),
        (3, "two\x1c"),
        (6, "three"),
    ]


@pytest.mark.parametrize("space", [" ", "。", "\n"], ids=["spaces", "Chinese", "lines"])
def test_a_long_paragraph_is_cut_between_words_and_nothing_is_lost(space):
    text = space.join(f"word{i}" for i in range(500))
    passages = list(split(text, 100))
    assert max(len(part) for _, part in passages) <= 100
    assert [word for _, part in passages for word in part.replace(space, " ").split()] == text.split(space)
    assert [line for line, _ in passages] == [text[: text.index(part)].count("\n") + 1 for _, part in passages]


def test_text_without_spaces_is_cut_all_the_same():
    assert [part for _, part in split("ก" * 250, 100)] == ["ก" * 100, "ก" * 100, "ก" * 50]


def test_text_files_of_all_folders_are_read_and_hidden_or_other_files_are_not(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "b" / "שלום.md").write_text("שלום עולם", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgood\r\n\r\n\xff")
    for name in ("c.png", ".d.txt", "b/.git/e.txt"):
        (tmp_path / name).write_text("hidden")
    assert read_folder(tmp_path) == [Passage("a.txt", 1, "good\n\n�"), Passage("b/שלום.md", 1, "שלום עולם")]
    assert read_folder(tmp_path)[1].place == "b/שלום.md:1"


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        read_folder(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no text in \.txt"):
        read_folder(tmp_path)
