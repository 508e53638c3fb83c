"""A file of texts → a file of vectors: every format, interruptions, and what is refused."""

import json
import re
import shutil
import weakref
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from f2jax import cli
from f2jax.data.sources.tables import ENDINGS
from f2jax.data.texts import read_texts
from f2jax.errors import UserError
from f2jax.inference import encode_file as module
from f2jax.inference.embedder import Embedder
from f2jax.inference.encode import NotFiniteError
from f2jax.inference.encode_file import encode_file
from f2jax.inference.quantize import quantize
from f2jax.inference.truncation import Truncation
from f2jax.parallel.threads import one_ahead
from tests import tiny_model
from tests.data import tables

TEXTS = [f"text {i}" for i in range(20)]
PIECES = 3  # texts to a piece in the tests of interruptions


class FakeEmbedder:
    """Vectors that depend on the text alone; stops once, after so many texts, as a lost machine would."""

    vectors_key, spans_hosts = "fake", False

    def __init__(self, stops_after: int | None = None):
        self.stops_after, self.seen, self.truncation = stops_after, [], Truncation()

    def encode_each(self, pieces, **options):
        return (self.encode(piece, **options) for piece in pieces)

    def encode(self, texts, truncate_dim=None, batch_size=None):
        if self.stops_after is not None and len(self.seen) >= self.stops_after:
            raise KeyboardInterrupt
        self.seen += texts
        vectors = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
        return np.array(vectors, np.float32)[:, :truncate_dim]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def source(tmp_path) -> str:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return str(path)


def write(path, texts, column="text") -> str:
    """The texts in the format that the path's ending names."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts))
    else:
        pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, row_group_size=3)
    return str(path)


def vectors_in(path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    return np.array(pq.read_table(path)["embedding"].to_pylist())


def left_over(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name or "whole" in path.name)


# Formats


@pytest.mark.parametrize("column", ["text", "body"])
@pytest.mark.parametrize("target", ["out.npy", "out.parquet"])
@pytest.mark.parametrize("origin", ["in.jsonl", "in.parquet"])
def test_files_give_the_vectors_of_embedder_encode(embedder, tmp_path, origin, target, column):
    source = write(tmp_path / origin, tiny_model.TEXTS, column)
    options = {"prompt_name": "document", "truncate_dim": 16}
    shape = encode_file(embedder, source, str(tmp_path / target), column, **options)
    expected = embedder.encode(tiny_model.TEXTS, **options)
    assert shape == expected.shape == (len(tiny_model.TEXTS), 16)
    np.testing.assert_array_equal(vectors_in(tmp_path / target).astype(np.float32), expected)
    if target == "out.parquet":
        assert pq.read_table(tmp_path / target)["text"].to_pylist() == tiny_model.TEXTS
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    "content,texts",
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        (b"one\n\n two \n\n", ["one", "", " two ", ""]),
        ("Köln\u2028am Rhein\x0b!\n".encode(), ["Köln\u2028am Rhein\x0b!"]),
        (b"\n", [""]),
    ],
    ids=["newline", "no_last_newline", "windows", "byte_order_mark", "blank_lines", "odd_separators", "one_empty"],
)
def test_a_text_file_has_a_text_on_each_line(tmp_path, content, texts):
    (tmp_path / "in.txt").write_bytes(content)
    assert read_texts(str(tmp_path / "in.txt")) == texts


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ".txt" not in ending])
def test_the_texts_of_a_table_in_any_format_are_those_of_its_column(tmp_path, ending):
    rows = [{"id": 1, "body": "one, two"}, {"id": 2, "body": ""}, {"id": 3, "body": "three"}]
    assert read_texts(tables.write(tmp_path / f"in{ending}", rows), "body") == ["one, two", "", "three"]


def test_blank_lines_between_and_after_objects_are_no_rows(tmp_path):
    """As in files of rows to train on."""
    (tmp_path / "in.jsonl").write_text('{"text": "one"}\n\n{"text": ""}\n \n\n')
    assert read_texts(str(tmp_path / "in.jsonl")) == ["one", ""]


def test_the_output_folder_is_made(tmp_path, source):
    encode_file(FakeEmbedder(), source, str(tmp_path / "new/folder/out.npy"))
    assert (tmp_path / "new/folder/out.npy").exists()


@pytest.mark.parametrize("target", ["out.npy", "out.parquet"])
@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantization_looks_at_the_whole_file(tmp_path, source, monkeypatch, precision, target):
    """The ranges of int8 come from all pieces, not from one."""
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    shape = encode_file(FakeEmbedder(), source, str(tmp_path / target), precision=precision)
    expected = quantize(FakeEmbedder().encode(TEXTS), precision)
    found = vectors_in(tmp_path / target)
    assert found.shape == shape == expected.shape
    np.testing.assert_array_equal(found.astype(expected.dtype), expected)
    if target == "out.npy":
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("target", ["out.npy", "out.parquet"])
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_the_result_is_that_of_the_whole_file_at_once_with_a_piece_in_memory(
    tmp_path, source, monkeypatch, precision, target
):
    """A .npy file has the bytes of `np.save`; a parquet file has a row group for each piece."""
    expected, sizes = quantize(FakeEmbedder().encode(TEXTS), precision), []
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    monkeypatch.setattr(module, "quantize", lambda x, *more: sizes.append(len(x)) or quantize(x, *more))
    encode_file(FakeEmbedder(), source, str(tmp_path / target), precision=precision)
    assert max(sizes, default=0) <= PIECES
    if target == "out.npy":
        np.save(tmp_path / "expected.npy", expected)
        assert (tmp_path / target).read_bytes() == (tmp_path / "expected.npy").read_bytes()
    else:
        found = pq.ParquetFile(tmp_path / target)
        type_ = pa.list_(pa.from_numpy_dtype(expected.dtype), expected.shape[1])
        assert found.read().equals(pa.table({"text": TEXTS, "embedding": pa.array(expected.tolist(), type_)}))
        assert found.num_row_groups == -(-len(TEXTS) // PIECES)


def test_no_more_than_three_pieces_of_texts_are_in_memory(tmp_path, source, monkeypatch):
    """The one that is encoded, the next one, and the one after it, which is read."""

    class Text(str):
        pass

    alive, most = weakref.WeakSet(), []

    def read(path, column):
        for text in [*TEXTS] * 3:
            made = Text(text)
            alive.add(made)
            most.append(len(alive))
            yield made

    monkeypatch.setattr(module.store, "PIECE", PIECES)
    monkeypatch.setattr(module, "iter_file_texts", read)
    fake = FakeEmbedder()
    fake.encode_each = lambda pieces: (fake.encode(list(map(str, piece))) for piece in one_ahead(pieces))
    encode_file(fake, source, str(tmp_path / "out.npy"))
    assert 0 < max(most) <= 3 * PIECES


def test_half_a_character_does_not_stop_the_output(tmp_path):
    source = write(tmp_path / "in.jsonl", ["a \ud83d", "b"])
    encode_file(FakeEmbedderOfHalves(), source, str(tmp_path / "out.parquet"))
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["a \ufffd", "b"]


class FakeEmbedderOfHalves(FakeEmbedder):
    def encode(self, texts, **options):
        return super().encode([text.replace("\ud83d", "?") for text in texts], **options)


# Interruptions


@pytest.mark.parametrize("stops_after", [0, 1, 4, 7, 18])
@pytest.mark.parametrize("target", ["out.npy", "out.parquet"])
def test_an_interrupted_call_goes_on_from_the_last_whole_piece(tmp_path, source, monkeypatch, stops_after, target):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    encode_file(FakeEmbedder(), source, str(tmp_path / f"reference-{target}"))
    with pytest.raises(KeyboardInterrupt):
        encode_file(FakeEmbedder(stops_after), source, str(tmp_path / target))
    assert not (tmp_path / target).exists()

    second = FakeEmbedder()
    encode_file(second, source, str(tmp_path / target))

    whole_pieces = -(-stops_after // PIECES)  # the fake stops before a piece
    assert second.seen == TEXTS[PIECES * whole_pieces :]
    assert (tmp_path / target).read_bytes() == (tmp_path / f"reference-{target}").read_bytes()
    assert left_over(tmp_path) == []


def test_what_is_complete_is_not_read_to_be_encoded(tmp_path, source, monkeypatch):
    """Where the result alone is missing, the texts are read once, to see that they are the same."""
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output, reads = str(tmp_path / "out.npy"), []
    with monkeypatch.context() as patch:
        patch.setattr(module, "create_array", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encode_file(FakeEmbedder(), source, output)
    read = module.iter_file_texts
    monkeypatch.setattr(module, "iter_file_texts", lambda *args: (reads.append(text) or text for text in read(*args)))
    encode_file(FakeEmbedder(stops_after=0), source, output)
    assert reads == TEXTS


def interrupt(source, output, **options):
    with pytest.raises(KeyboardInterrupt):
        encode_file(FakeEmbedder(stops_after=8), source, output, **options)


def test_a_rest_of_other_options_is_refused(tmp_path, source, monkeypatch):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output = str(tmp_path / "out.npy")
    interrupt(source, output)
    other_model = FakeEmbedder()
    other_model.vectors_key = "another"
    other_texts = write(tmp_path / "other.txt", TEXTS[:-1])
    calls = [
        (FakeEmbedder(), source, {"truncate_dim": 4}),
        (other_model, source, {}),
        (FakeEmbedder(), other_texts, {}),
    ]
    for model, texts, options in calls:
        with pytest.raises(
            UserError, match=r"out\.npy\.partial belongs to another model, other texts or other options"
        ):
            encode_file(model, texts, output, **options)
    encode_file(FakeEmbedder(), source, output)
    np.testing.assert_array_equal(np.load(output), FakeEmbedder().encode(TEXTS))


def test_the_rest_may_be_finished_in_another_precision(tmp_path, source, monkeypatch):
    """What lies in `.partial` is float32 always."""
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output = str(tmp_path / "out.npy")
    interrupt(source, output, precision="ubinary")
    encode_file(FakeEmbedder(), source, output, precision="int8")
    np.testing.assert_array_equal(np.load(output), quantize(FakeEmbedder().encode(TEXTS), "int8"))


@pytest.mark.parametrize("version", ["this", "older"])
def test_a_smaller_batch_goes_on_from_the_same_rest(tmp_path, source, monkeypatch, version):
    """As after a batch that did not fit into memory; older versions recorded the size of batches."""
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output, call = str(tmp_path / "out.npy"), tmp_path / "out.npy.partial/call.json"
    interrupt(source, output, batch_size=1_024)
    if version == "older":
        content = json.loads(call.read_text())
        call.write_text(json.dumps(content | {"options": content["options"] | {"batch_size": "1024"}}))
    second = FakeEmbedder()
    encode_file(second, source, output, batch_size=8)
    assert 0 < len(second.seen) < len(TEXTS)
    np.testing.assert_array_equal(np.load(output), FakeEmbedder().encode(TEXTS))


def test_after_the_rest_is_deleted_all_is_made_anew(tmp_path, source, monkeypatch):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output = str(tmp_path / "out.npy")
    interrupt(source, output)
    shutil.rmtree(tmp_path / "out.npy.partial")
    with pytest.raises(KeyboardInterrupt):
        encode_file(FakeEmbedder(stops_after=1), source, output)  # stops before its first piece is whole
    encode_file(FakeEmbedder(), source, output)
    np.testing.assert_array_equal(np.load(output), FakeEmbedder().encode(TEXTS))


def reopened(embedder) -> Embedder:
    return Embedder(embedder.architecture, embedder.params, embedder.tokenizer, embedder.settings)


def test_texts_that_were_cut_before_an_interruption_are_counted_too(tmp_path, embedder, monkeypatch):
    monkeypatch.setattr(module.store, "PIECE", 1)
    source = write(tmp_path / "in.txt", ["word " * 200, "short", "word " * 300])
    expected = reopened(embedder)
    encode_file(expected, source, str(tmp_path / "once.npy"))
    assert expected.truncation.cut_texts == 2

    def stopped(texts, **options):
        if "short" in texts:
            raise KeyboardInterrupt
        return type(first).encode(first, texts, **options)

    first, second = reopened(embedder), reopened(embedder)
    first.encode_each = lambda pieces, **options: (stopped(piece, **options) for piece in pieces)
    with pytest.raises(KeyboardInterrupt):
        encode_file(first, source, str(tmp_path / "out.npy"))
    encode_file(second, source, str(tmp_path / "out.npy"))
    assert second.truncation == expected.truncation


def test_a_vector_that_is_not_finite_leaves_what_is_done(tmp_path, source, monkeypatch):
    monkeypatch.setattr(module.store, "PIECE", PIECES)

    class Overflows(FakeEmbedder):
        def encode(self, texts, **options):
            if TEXTS[7] in texts:
                raise NotFiniteError(1, f"the text '{TEXTS[7]}'")
            return super().encode(texts, **options)

    with pytest.raises(UserError, match="The model gives no finite vector for the text 'text 7'"):
        encode_file(Overflows(), source, str(tmp_path / "out.npy"))
    assert not (tmp_path / "out.npy").exists()
    again = FakeEmbedder()
    encode_file(again, source, str(tmp_path / "out.npy"))
    assert again.seen == TEXTS[6:]


def test_an_older_result_stays_until_the_new_one_is_whole(tmp_path, source, monkeypatch):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    output = tmp_path / "out.npy"
    np.save(output, np.zeros((2, 2)))
    interrupt(source, str(output))
    assert np.load(output).shape == (2, 2)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"done": 3}', '{"call": {}, "done": "3"}', "null"])
def test_a_damaged_record_of_the_progress_is_named(tmp_path, source, monkeypatch, content):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    interrupt(source, str(tmp_path / "out.npy"))
    (tmp_path / "out.npy.partial/call.json").write_text(content)
    with pytest.raises(UserError, match=r"out\.npy\.partial"):
        encode_file(FakeEmbedder(), source, str(tmp_path / "out.npy"))


@pytest.mark.parametrize("size", [0, 60, 200])
def test_a_file_of_vectors_that_was_cut_short_is_named(tmp_path, source, monkeypatch, size):
    monkeypatch.setattr(module.store, "PIECE", PIECES)
    interrupt(source, str(tmp_path / "out.npy"))
    partial = tmp_path / "out.npy.partial/00000000.npy"
    partial.write_bytes(partial.read_bytes()[:size])
    with pytest.raises(UserError, match=r"00000000\.npy is damaged; delete it, and run the same command again\.$"):
        encode_file(FakeEmbedder(), source, str(tmp_path / "out.npy"))


# What is refused


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("in.jsonl", '{"text": "a"}\n{"text": \n', "in.jsonl:2: line is no JSON; fix or remove it."),
        (
            "in.jsonl",
            '{"text": "a"}\n{"body": "b"}\n',
            "row 2 has no text in 'text'; fix it or choose another --column.",
        ),
        ("in.jsonl", '{"text": "a"}\n["b"]\n', "in.jsonl:2: line is no JSON object; fix or remove it."),
        ("in.jsonl", '{"body": "c"}\n', "has no column 'text'; it has body. Choose one with --column."),
        (
            "in.jsonl",
            '{"text": "a"}\n{"text": 5}\n',
            "row 2 has no text in 'text'; fix it or choose another --column.",
        ),
        ("in.jsonl", "", "holds no texts."),
        ("in.txt", "", "holds no texts."),
        ("in.docx", "text\na\n", "is not a known kind of file; data files end in .parquet, .arrow,"),
        ("in.parquet", "no parquet", "is damaged, cut short or no parquet file"),
        ("in.txt", b"good\nb\xffd\n", "in.txt:2: line is not UTF-8; fix or remove it."),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=re.escape(message)) as error:
        encode_file(FakeEmbedder(), str(path), str(tmp_path / "out.npy"))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [name], "nothing is left behind"


@pytest.mark.parametrize(
    "table,message",
    [
        ({"body": ["a"], "id": [1]}, "has no column 'text'; it has body, id. Choose one with --column."),
        ({"text": ["a", None]}, "row 2 has no text in 'text'; fix it or choose another --column."),
        ({"text": [1, 2]}, "row 1 has no text in 'text'; fix it or choose another --column."),
        ({"text": pa.array([], pa.string())}, "holds no texts."),
    ],
)
def test_a_bad_table_is_named_in_one_line(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=re.escape(message)):
        encode_file(FakeEmbedder(), str(tmp_path / "in.parquet"), str(tmp_path / "out.npy"))


@pytest.mark.parametrize("keep", [0.5, 0.99], ids=["half", "almost_whole"])
def test_a_parquet_file_that_was_cut_short_is_refused(tmp_path, keep):
    path = tmp_path / "in.parquet"
    write(path, TEXTS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="is damaged, cut short or no parquet file"):
        read_texts(str(path))


def test_a_parquet_file_with_damaged_pages_is_refused(tmp_path):
    path = tmp_path / "in.parquet"
    write(path, TEXTS)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged, cut short or no parquet file"):
        read_texts(str(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"There is no file .*nothing\.txt; check the path"):
        read_texts(str(tmp_path / "nothing.txt"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder\.txt cannot be"):
        read_texts(str(tmp_path / "folder.txt"))


@pytest.mark.parametrize("output", ["out.csv", "out", "gs://bucket/out"])
def test_an_output_of_another_kind_is_refused(source, output):
    with pytest.raises(UserError, match=r"should end in \.npy or \.parquet"):
        encode_file(FakeEmbedder(), source, output)


def test_an_output_that_cannot_be_written_is_refused(tmp_path, source):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"out\.npy\.partial.* cannot be \w+ \(.*; check the path"):
        encode_file(FakeEmbedder(), source, str(tmp_path / "file/out.npy"))
    (tmp_path / "taken.npy").mkdir()
    with pytest.raises(UserError, match=r"taken\.npy cannot be written \(Is a directory\)"):
        encode_file(FakeEmbedder(), source, str(tmp_path / "taken.npy"))


def test_an_unknown_precision_is_refused_before_any_work(tmp_path, source):
    model = FakeEmbedder()
    with pytest.raises(UserError, match="did you mean 'ubinary'"):
        encode_file(model, source, str(tmp_path / "out.npy"), precision="ubinray")
    assert model.seen == []


def test_one_text_is_not_embedded_for_ranges_that_it_cannot_give(tmp_path):
    model = FakeEmbedder()
    with pytest.raises(UserError, match="A single text gives no range for uint8; pass several at once"):
        encode_file(model, write(tmp_path / "in.txt", ["one"]), str(tmp_path / "out.npy"), precision="uint8")
    assert model.seen == [] and left_over(tmp_path) == []


def test_two_prompts_are_refused(tmp_path, capsys):
    options = ["--input", "a.txt", "--output", str(tmp_path / "a.npy"), "--prompt", "", "--prompt-name", "query"]
    assert cli.main(["encode", "--model", "mini", *options]) == 1
    assert "Give either --prompt or --prompt-name." in capsys.readouterr().err


def test_a_column_of_lines_of_text_is_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("red\n")
    options = ["--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "a.npy"), "--column", "body"]
    assert cli.main(["encode", "--model", "mini", *options]) == 1
    assert "--column would change nothing with" in capsys.readouterr().err
