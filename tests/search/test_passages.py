"""A folder of texts becomes passages with their places, each short enough for the model."""

import pytest

from f2jax.errors import UserError
from f2jax.search.passages import Passage, read_folder, split_text
from tests.unreadable import forbid


def count_words(texts: list[str]) -> list[int]:
    """A tokenizer whose tokens are words."""
    return [len(text.split()) for text in texts]


def count_letters(texts: list[str]) -> list[int]:
    """A tokenizer whose tokens are characters."""
    return [len(text.strip()) for text in texts]


def test_short_paragraphs_go_together_and_each_passage_knows_its_first_line():
    text = "one\n\n\ntwo\nlines\n\n" + "x " * 5 + "\n\nfour"
    assert split_text(text, count_words, 4) == [(1, "one\n\n\ntwo\nlines"), (7, "x x x x"), (7, "x \n\nfour")]


def test_a_passage_ends_with_a_paragraph_in_its_second_half_else_with_a_word():
    assert split_text("a b c d\n\ne f g", count_words, 6) == [(1, "a b c d"), (3, "e f g")]
    assert split_text("a\n\nb c d e f g", count_words, 6) == [(1, "a\n\nb c d e f"), (3, "g")]


def test_only_newlines_end_lines():
    """Form feeds and other separators that `str.splitlines` knows do not."""
    text = "one\fa\u2028b\r\n\r\ntwo\x1c\n\n\f\nthree"
    assert split_text(text, count_words, 3) == [(1, "one\fa\u2028b"), (3, "two\x1c\n\n\f\nthree")]


@pytest.mark.parametrize("limit", [1, 7, 16, 100])
@pytest.mark.parametrize("space", [" ", "。", "\n", "\n\n"], ids=["spaces", "Chinese", "lines", "paragraphs"])
def test_no_word_is_lost_and_no_passage_is_longer_than_the_model_reads(space, limit):
    words = [f"word{i}" for i in range(500)]
    text = space.join(words)
    passages = split_text(text, lambda texts: [len(t.replace("。", " ").split()) for t in texts], limit)
    found = [part.replace("。", " ").split() for _, part in passages]
    assert max(map(len, found)) <= limit
    assert list(dict.fromkeys(word for part in found for word in part)) == words
    assert [line for line, _ in passages] == [text[: text.index(part)].count("\n") + 1 for _, part in passages]


def test_a_passage_inside_a_paragraph_repeats_an_eighth_of_the_one_before():
    text = " ".join(f"w{i}" for i in range(40)) + "\n\n" + " ".join(f"v{i}" for i in range(20))
    passages = [part.split() for _, part in split_text(text, count_words, 16)]
    assert passages[:3] == [[f"w{i}" for i in range(a, b)] for a, b in ((0, 16), (14, 30), (28, 40))]
    assert passages[3] == [f"v{i}" for i in range(16)], "a new paragraph repeats nothing"


def test_text_without_spaces_is_cut_all_the_same():
    parts = [part for _, part in split_text("ก" * 250, count_letters, 100)]
    assert max(map(len, parts)) <= 100 and sum(map(len, parts)) >= 250


def test_words_that_have_more_tokens_together_than_alone_fit_too():
    """Here every text has one token more for three words."""

    def count(texts: list[str]) -> list[int]:
        return [len(text.split()) + len(text.split()) // 3 for text in texts]

    passages = split_text(" ".join("abcdefghijklmnopqrstuvwxyz"), count, 8)
    assert max(count([part for _, part in passages])) <= 8
    assert list(dict.fromkeys(" ".join(part for _, part in passages).split())) == list("abcdefghijklmnopqrstuvwxyz")


def test_an_empty_text_has_no_passages():
    assert split_text("", count_words, 8) == split_text(" \n\n\t", count_words, 8) == []


def test_text_files_of_all_folders_are_read_and_hidden_or_other_files_are_not(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "b" / "שלום.md").write_text("שלום עולם", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfgood\r\n\r\n\xff")
    for name in ("c.png", ".d.txt", "b/.git/e.txt"):
        (tmp_path / name).write_text("hidden")
    passages = read_folder(tmp_path, count_words)
    assert passages == [Passage("a.txt", 1, "good\n\n�"), Passage("b/שלום.md", 1, "שלום עולם")]
    assert passages[1].place == "b/שלום.md:1"


def test_a_folder_inside_that_cannot_be_read_is_refused_unless_it_is_hidden(tmp_path, monkeypatch):
    for name in ("a.txt", "b/b.txt", ".c/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    forbid(monkeypatch, tmp_path / ".c")
    assert [passage.file for passage in read_folder(tmp_path, count_words)] == ["a.txt", "b/b.txt"]
    forbid(monkeypatch, tmp_path / "b")
    with pytest.raises(UserError, match=r"/b cannot be read: Permission denied\.$"):
        read_folder(tmp_path, count_words)


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_folder(tmp_path / "nothing", count_words)
    with pytest.raises(UserError, match=r"holds no text in \.txt"):
        read_folder(tmp_path, count_words)
