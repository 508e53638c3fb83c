"""Damaged model folders: a command names the file, or reads the model as it was."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ENCODE = ("encode", "--model", "model", "--input", "texts.txt", "--output", "out.npy")
WORKDIR = ("encode", "--model", "run", "--input", "texts.txt", "--output", "out.npy")
JSON = {
    "list": "[]",
    "null": "null",
    "number": "3",
    "string": '"x"',
    "object of objects": '{"0": {}}',
    "cut": '{"width": 6',
    "empty file": "",
    "bytes": "\x00\x01",
    "nested": "[" * 3000,
}
PACKAGE = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("name", PACKAGE)
def test_json_of_another_shape_in_a_package(inputs, run, name, content):
    (inputs / "model" / name).write_text(JSON[content])
    code, sentence = run(*ENCODE)
    if code:
        assert name.split("/")[-1].split(".")[0] in sentence or "model" in sentence
    else:
        assert np.isfinite(np.load("out.npy")).all()


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("name", ["config.json", "model.json", "tokenizer/tokenizer.model"])
def test_a_damaged_file_of_a_workdir(inputs, refused, name, content):
    (inputs / "run" / name).write_text(JSON[content])
    assert name.split("/")[0].split(".")[0] in refused(*WORKDIR)


VALUES = [None, [], {}, "x", -1, 0, 1.5, 10**12, True]
FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings", "model_type", "tie_word_embeddings",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_odd_values_of_a_field_of_a_models_config(inputs, run, field):
    config = json.loads((inputs / "model/config.json").read_text())
    for value in VALUES:
        (inputs / "model/config.json").write_text(json.dumps(config | {field: value}))
        code, sentence = run(*ENCODE)
        if code:
            assert "model" in sentence, value
        else:
            assert np.isfinite(np.load("out.npy")).all(), value
            (inputs / "out.npy").unlink()


def header(change):
    """A function that rewrites the header of a safetensors file."""

    def write(path):
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        text = json.dumps(change(json.loads(raw[8 : 8 + length]))).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return write


def every(**changes):
    """A function that changes each entry of a header; None removes a key."""

    def change(entries):
        merged = {name: entry | changes for name, entry in entries.items() if name != "__metadata__"}
        return {name: {k: v for k, v in entry.items() if v is not None} for name, entry in merged.items()}

    return header(change)


def values(change):
    """A function that rewrites the weights themselves."""

    def write(path):
        weights = load_file(path)
        save_file(change(weights) or weights, path)

    return write


def poison(value):
    def change(weights):
        weights[max(weights, key=lambda name: weights[name].size)].flat[7] = value

    return values(change)


WEIGHTS = {
    "no entries": header(lambda entries: {}),
    "a list": header(lambda entries: []),
    "no offsets": every(data_offsets=None),
    "no type": every(dtype=None),
    "no shape": every(shape=None),
    "unknown type": every(dtype="F31"),
    "a type that is a number": every(dtype=5),
    "another type": every(dtype="F64"),
    "offsets that are a string": every(data_offsets="0,4"),
    "three offsets": every(data_offsets=[0, 4, 8]),
    "the same offsets": every(data_offsets=[0, 4]),
    "offsets beyond the file": every(data_offsets=[10**9, 10**9 + 4]),
    "negative offsets": every(data_offsets=[-4, 0]),
    "shape of strings": every(shape=["1"]),
    "negative shape": every(shape=[-1]),
    "huge shape": every(shape=[10**9, 10**9]),
    "a string instead of an entry": header(lambda entries: entries | {"model.norm.weight": "x"}),
    "a length beyond the file": lambda path: path.write_bytes(struct.pack("<Q", 10**15) + path.read_bytes()[8:]),
    "an empty file": lambda path: path.write_bytes(b""),
    "five bytes": lambda path: path.write_bytes(b"hello"),
    "text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 577752\n"),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04K\x01." + bytes(64)),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
    "NaN": poison(np.nan),
    "infinity": poison(np.inf),
    "a weight missing": values(lambda weights: dict(list(weights.items())[1:])),
    "a weight more": values(lambda weights: weights | {"model.layers.7.mlp.up_proj.weight": np.zeros((2, 2), "f")}),
    "transposed": values(lambda weights: {name: np.ascontiguousarray(x.T) for name, x in weights.items()}),
    "integers": values(lambda weights: {name: x.astype(np.int32) for name, x in weights.items()}),
    "unknown names": values(lambda weights: {f"encoder.{name}": x for name, x in weights.items()}),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_damaged_weights(inputs, refused, damage):
    WEIGHTS[damage](inputs / "model/model.safetensors")
    assert "model" in refused(*ENCODE)
    assert not (inputs / "out.npy").exists()
