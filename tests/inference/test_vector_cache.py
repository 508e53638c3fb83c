"""The cache of vectors: what comes back, what is encoded again, and what a kill leaves behind."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.inference import vector_cache as vectors
from f2jax.inference.vector_cache import VectorCache


class Counting:
    """Encodes a text as its length and its last letter, and remembers what it was asked."""

    def __init__(self):
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(text), ord(text[-1])] for text in texts], np.float32)


def test_vectors_come_back_in_the_order_of_the_texts_repeated_ones_too(tmp_path):
    encode = Counting()
    found = VectorCache(tmp_path / "v.sqlite").vectors("", ["bb", "a", "bb", "ccc"], encode)
    assert found.tolist() == [[2, 98], [1, 97], [2, 98], [3, 99]]
    assert sorted(encode.asked) == ["a", "bb", "ccc"]


def test_a_text_is_encoded_once_for_each_prompt_also_by_a_cache_opened_later(tmp_path):
    encode = Counting()
    VectorCache(tmp_path / "v.sqlite").vectors("", ["a", "b"], encode)
    again = VectorCache(tmp_path / "v.sqlite")
    assert again.vectors("", ["b", "c"], encode).tolist() == [[1, 98], [1, 99]]
    assert again.vectors("p: ", ["a"], encode).tolist() == [[4, 97]]
    assert encode.asked == ["a", "b", "c", "p: a"]


def test_where_a_prompt_ends_matters(tmp_path):
    encode = Counting()
    cache = VectorCache(tmp_path / "v.sqlite")
    cache.vectors("ab", ["c"], encode)
    cache.vectors("a", ["bc"], encode)
    assert encode.asked == ["abc", "abc"], "the same string, but not the same prompt and text"


def test_many_texts_are_encoded_in_pieces_that_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "PIECE", 400)
    monkeypatch.setattr(vectors, "SELECTED", 90)
    texts, done = [f"{i:x}" for i in range(1_000)], []
    found = VectorCache(tmp_path / "v.sqlite").vectors("", texts, Counting(), done.append)
    assert found.tolist() == [[len(text), ord(text[-1])] for text in texts]
    assert done == [400, 400, 200]


def test_no_texts_give_no_vectors(tmp_path):
    assert len(VectorCache(tmp_path / "v.sqlite").vectors("", [], Counting())) == 0


KILLED = """
import os, signal, sys
import numpy as np
from f2jax.inference import vector_cache as vectors

vectors.PIECE = 10
def encode(texts):
    if "5" * 30 in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.array([[len(text), ord(text[-1])] for text in texts], np.float32)
vectors.VectorCache(sys.argv[1]).vectors("", ["5" * n for n in range(1, 41)], encode)
"""


def test_a_kill_loses_the_piece_at_work_and_nothing_else(tmp_path):
    path = tmp_path / "v.sqlite"
    died = subprocess.run([sys.executable, "-c", KILLED, path], env=os.environ, timeout=600)
    assert died.returncode == -signal.SIGKILL
    encode, texts = Counting(), ["5" * n for n in range(1, 41)]
    assert VectorCache(path).vectors("", texts, encode).tolist() == [[n, 53] for n in range(1, 41)]
    assert encode.asked == texts[20:], "two pieces of ten were kept"


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "v.sqlite").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(UserError, match=r"v\.sqlite cannot keep vectors \(.*\); .* or delete the file"):
        VectorCache(tmp_path / "v.sqlite")


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"v\.sqlite cannot be written \(.*\); check the path"):
        VectorCache(tmp_path / "file/v.sqlite")


@pytest.mark.parametrize(
    "setting, reason", [("max_page_count=3", "database or disk is full"), ("query_only=1", "readonly database")]
)
def test_a_disk_that_is_full_or_read_only_is_told_in_a_sentence(tmp_path, setting, reason):
    cache, texts = VectorCache(tmp_path / "v.sqlite"), [f"{i}" for i in range(1_000)]
    cache.database.execute(f"PRAGMA {setting}")
    with pytest.raises(UserError, match=rf"v\.sqlite cannot keep vectors \(.*{reason}\); free space"):
        cache.vectors("", texts, Counting())
