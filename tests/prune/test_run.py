"""The command: a pruned package can be used and trained on, and trimming its vocabulary changes no vector."""

import json

import numpy as np
import pytest

from f2jax import Embedder
from f2jax.cli import main
from f2jax.data.texts import sample_texts
from tests import tiny_model

TEXTS = ["a red river", "the blue stone and the green tree", "Wasser und Stein", "камень 石 川"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make_embedder(folder / "tokenizer").save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"query": a, "positive": b, "negative_1": "a white stone"} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def prune(capsys, model, output, *options) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["prune", "--model", model, "--output", str(output), *map(str, options)])
    found = capsys.readouterr()
    return code, found.out if code == 0 else found.err


def test_a_pruned_package_is_one_to_use(model, data, tmp_path, capsys):
    shape = ["--width", 40, "--mlp", 96, "--layers", 1]
    code, said = prune(capsys, model, tmp_path / "out", *shape, "--input", data)
    small = Embedder.from_pretrained(tmp_path / "out")
    assert code == 0 and f"{small.architecture.parameters:,} parameters, width 40, MLP 96, 1 layers, 512 tokens" in said
    assert (small.dim, small.matryoshka_dims, small.prompts) == (40, (40, 32, 16, 8), tiny_model.PROMPTS)
    assert np.isfinite(small.encode(TEXTS)).all()


def test_pruning_nothing_gives_the_same_vectors(model, tmp_path, capsys):
    assert prune(capsys, model, tmp_path / "out")[0] == 0
    before, after = (Embedder.from_pretrained(path).encode(TEXTS) for path in (model, tmp_path / "out"))
    np.testing.assert_array_equal(before, after)


def test_a_trimmed_vocabulary_changes_no_vector_of_the_corpus(model, data, tmp_path, capsys):
    """Alone, and after each of the model's prompts."""
    code, said = prune(capsys, model, tmp_path / "out", "--trim-vocab", data)
    before, after = Embedder.from_pretrained(model), Embedder.from_pretrained(tmp_path / "out")
    assert code == 0 and "384 tokens" in said and after.tokenizer.vocab_size < before.tokenizer.vocab_size
    for prompt in ("", *tiny_model.PROMPTS.values()):
        np.testing.assert_allclose(after.encode(TEXTS, prompt=prompt), before.encode(TEXTS, prompt=prompt), atol=1e-6)
    assert np.isfinite(after.encode(tiny_model.TEXTS)).all()


@pytest.mark.parametrize(
    "options,message",
    [
        (["--size", "330m"], "A 330m has heads=16 and this model 4, which pruning cannot change"),
        (["--size", "tiny", "--width", "32"], "either --size, or --width"),
        (["--width", "32"], "name some with --input, or do without: --channels first --no-rescale."),
        (["--width", "32", "--no-rescale"], "name some with --input, or do without: --channels first."),
        (["--mlp", "32", "--order", "importance"], "or do without: --neurons first --order original."),
        (["--layers", "1", "--layers-by", "norm_change"], "or do without: --layers-by first."),
        (["--keep-layers", "0,x"], "invalid int value: '0,x'"),
        (["--keep-layers", "1,0"], "2 rising numbers from 0 to 1"),
        (["--mlp", "32", "--neurons", "frist"], "did you mean 'first'"),
        (["--dtype", "int8"], "dtype='int8' is not a choice; choose from bfloat16, float32"),
        (["--dtype", "float16"], "dtype='float16' is not a choice; did you mean 'bfloat16'?"),
        (["--size", "330n"], "did you mean '330m'"),
        (["--width", "32", "--input", "nothing.jsonl"], "no data file nothing.jsonl"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(model, tmp_path, capsys, options, message):
    code, said = prune(capsys, model, tmp_path / "out", *options)
    assert code == 1 and message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "shape", [["--width", 32], ["--width", 32, "--mlp", 64, "--layers", 1], ["--mlp", 64]], ids=str
)
def test_the_advice_of_a_refusal_works(model, tmp_path, capsys, shape):
    code, said = prune(capsys, model, tmp_path / "out", *shape)
    assert code == 1
    advice = said.rpartition("do without: ")[2].rstrip(".\n").split()
    code, _ = prune(capsys, model, tmp_path / "out", *shape, *advice)
    assert code == 0 and np.isfinite(Embedder.from_pretrained(tmp_path / "out").encode(TEXTS)).all()


def test_calibration_texts_are_drawn_evenly_and_by_the_seed(tmp_path):
    """Of 3,000 texts and of 30: half from each, late in the file as well as early."""
    for name, count in (("large", 1000), ("small", 10)):
        rows = [
            {"query": f"{name} q{i}", "positive": f"{name} p{i}", "negative_1": f"{name} n{i}"} for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [str(tmp_path / f"{name}.jsonl") for name in ("large", "small")]
    found = sample_texts(sources, 40, seed=1)
    assert found == sample_texts(sources, 40, seed=1) != sample_texts(sources, 40, seed=2)
    numbers = [int(text.split()[1][1:]) for text in found if text.startswith("large")]
    assert len(numbers) == 20 == len(set(found)) - 20
    assert min(numbers) < 300 and max(numbers) > 700
    assert len(sample_texts(sources, 10_000)) == 3030
