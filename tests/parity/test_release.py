"""A released folder gives our vectors in transformers and in sentence-transformers, at every dimension."""

import json
import logging
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from f2jax import Embedder
from f2jax.checkpoints.package import ModelSettings
from f2jax.data.tokenizer import load_tokenizer
from f2jax.model.sizes import size
from f2jax.release import export
from tests import tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity

TEXTS = [
    *tiny_model.TEXTS,
    "\n",
    "  leading and trailing  ",
    "e\u0301 and \u00e9, ﬁ and fi, Å and A\u030a",
    "👩‍👩‍👧‍👦 🇰🇪 \u200b\ufeff",
    "line\r\nends\r\n\tand\ttabs",
    "Instruct: Find the colour.\nQuery: red",
    "<|endoftext|> and <|im_start|> stand here as text",
    "ሰላም ለዓለም, ជំរាបសួរ, မင်္ဂလာပါ, ᏣᎳᎩ, 𐎀𐎁",
    "x" * 400,
    "0123456789" * 30,
]
CLOSE = 0.99999


@pytest.fixture(scope="module", params=["sentencepiece", "byte_level_bpe"])
def ours(request, tmp_path_factory) -> Embedder:
    """A tiny model with a SentencePiece tokenizer, and one with the tokenizer and token table of Qwen3."""
    if request.param == "sentencepiece":
        return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))
    tokenizer = load_tokenizer(request.getfixturevalue("shared_data") / "qwen-tokenizer")
    architecture = size("tiny", vocab_size=151_936)
    card = ModelSettings(96, dict(tiny_model.PROMPTS), tiny_model.DIMS)
    return Embedder(architecture, tiny_model.random_params(architecture), tokenizer, card)


@contextmanager
def complaints():
    """Collects what transformers and sentence-transformers warn about, in the log or as a Python warning."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield found
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
            found += [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def folder(ours, tmp_path_factory):
    path = tmp_path_factory.mktemp("release")
    ours.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def theirs(folder):
    return sentence_transformers.SentenceTransformer(folder, device="cpu")


@pytest.fixture(scope="module")
def states(folder) -> np.ndarray:
    """transformers alone: the last hidden state at the last token of each text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert (batch["input_ids"][:, -1] == model.config.eos_token_id).all(), "padding is on the left"
    with torch.no_grad():
        return model(**batch).last_hidden_state[:, -1].numpy()


def cosines(a, b) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("dim", tiny_model.DIMS)
def test_transformers_gives_our_vectors(ours, states, dim):
    assert cosines(ours.encode(TEXTS, truncate_dim=dim), states[:, :dim]).min() >= CLOSE


@pytest.mark.parametrize("dim", tiny_model.DIMS)
def test_sentence_transformers_gives_our_vectors(ours, theirs, dim):
    found = theirs.encode(TEXTS, truncate_dim=dim, normalize_embeddings=True)
    expected = ours.encode(TEXTS, truncate_dim=dim)
    assert found.shape == expected.shape
    assert cosines(found, expected).min() >= CLOSE
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_dimension_set_when_loading_there_is_ours(ours, folder):
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu", truncate_dim=16)
    assert cosines(theirs.encode(TEXTS), ours.encode(TEXTS, truncate_dim=16)).min() >= CLOSE


def test_prompts_do_the_same_there(ours, theirs):
    assert theirs.prompts == ours.prompts
    for name in ("encode_query", "encode_document"):
        assert cosines(getattr(ours, name)(TEXTS), getattr(theirs, name)(TEXTS)).min() >= CLOSE
        assert cosines(getattr(ours, name)(TEXTS), ours.encode(TEXTS)).min() < 0.9, "the prompt matters"
    for options in ({"prompt_name": "cldr-names"}, {"prompt": "Any: "}):
        assert cosines(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options)).min() >= CLOSE


@pytest.mark.parametrize("name", ["query", "cldr-names"])
@pytest.mark.parametrize("prompts", [tiny_model.PROMPTS, {"cldr-names": "Name: ", "query": None}], ids=["all", "one"])
def test_a_default_prompt_does_the_same_there(ours, folder, tmp_path, name, prompts):
    """It is read from their folder and written into ours; methods with a prompt of their own leave it out."""
    shutil.copytree(folder, tmp_path / "theirs")
    declared = {"prompts": prompts, "default_prompt_name": name}
    (tmp_path / "theirs/config_sentence_transformers.json").write_text(json.dumps(declared))
    again = Embedder.from_pretrained(tmp_path / "theirs")
    again.save_pretrained(tmp_path / "ours")
    for path in ("theirs", "ours"):
        model = sentence_transformers.SentenceTransformer(str(tmp_path / path), device="cpu")
        for method in ("encode", "encode_query", "encode_document"):
            assert cosines(getattr(again, method)(TEXTS), getattr(model, method)(TEXTS)).min() >= CLOSE
        assert cosines(again.encode(TEXTS, prompt=""), model.encode(TEXTS, prompt="")).min() >= CLOSE
    assert again.settings.default_prompt_name == name


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_have_the_same_type_and_shape_there(ours, theirs, precision):
    found, expected = ours.encode(TEXTS, precision=precision), theirs.encode(TEXTS, precision=precision)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (found == expected).mean() > 0.99, "a value beside a step may fall on either side"


def test_tensors_are_given_where_they_are_there(ours, theirs):
    for options in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        for texts in (TEXTS[:3], TEXTS[0]):
            found, expected = (model.encode(texts, **options) for model in (ours, theirs))
            assert type(found) is type(expected)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_states_of_tokens_and_pairwise_similarities_are_the_same_there(ours, theirs):
    for text, found in zip(TEXTS, ours.encode(TEXTS, output_value="token_embeddings"), strict=True):
        expected = theirs.encode(text, output_value="token_embeddings").numpy()
        assert found.shape == expected.shape and cosines(found, expected).min() >= CLOSE
    a, b = ours.encode(TEXTS), ours.encode(TEXTS[::-1])
    np.testing.assert_allclose(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b), atol=1e-5)


@pytest.mark.parametrize("limit", [10, 1_500])
def test_a_limit_set_there_is_ours(ours, tmp_path, limit):
    """A row of more than 1,024 tokens is computed in blocks."""
    architecture = replace(ours.architecture, max_length=2_048)
    longer = Embedder(architecture, ours.params, ours.tokenizer, ours.settings)
    longer.save_pretrained(tmp_path)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    theirs.max_seq_length = limit
    texts = [TEXTS[-3] * 50, *TEXTS[-3:]]
    assert len(longer.encode(texts[0], output_value="token_embeddings", max_length=limit)) == limit
    expected = theirs.encode(texts)
    assert cosines(expected, longer.encode(texts, max_length=limit)).min() >= CLOSE
    assert cosines(expected, longer.encode(texts)).min() < 0.99


def test_token_ids_are_the_same_there(ours, theirs):
    found = theirs.tokenizer(TEXTS, truncation=True, max_length=theirs.max_seq_length)["input_ids"]
    expected = ours.tokenizer.encode(TEXTS, ours.max_length)
    assert found == [ids.tolist() for ids in expected]
    assert max(map(len, found)) == ours.max_length, "some text is long enough to be truncated"


def test_dimension_length_and_similarity_are_known_there(ours, theirs):
    assert theirs.get_embedding_dimension() == theirs[1].embedding_dimension == ours.dim
    assert theirs.max_seq_length == ours.max_length
    assert theirs.similarity_fn_name == "cosine"
    assert [type(module).__name__ for module in theirs] == ["Transformer", "Pooling", "Normalize"]
    assert theirs[0].auto_model.config.layer_types == ["full_attention"] * ours.architecture.layers


def test_nobody_complains_about_the_folder(folder):
    with complaints() as found:
        transformers.AutoTokenizer.from_pretrained(folder)
        transformers.AutoModel.from_pretrained(folder)
        model = sentence_transformers.SentenceTransformer(folder, device="cpu")
        model.encode_query(TEXTS)
        model.encode_document(TEXTS, truncate_dim=16)
    assert found == []


def test_the_check_for_complaints_hears_both_libraries(theirs, folder, tmp_path):
    """A layer without weights, and a name that is out of use."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with complaints() as found:
        transformers.AutoModel.from_pretrained(tmp_path)
        theirs.get_sentence_embedding_dimension()
    assert "layers.2.mlp" in found[0] and "renamed" in found[1]


def test_a_folder_saved_there_loads_here(ours, theirs, tmp_path):
    """The newer names of the same fields are understood, and what a user changed there is kept."""
    theirs.save_pretrained(str(tmp_path))
    again = Embedder.from_pretrained(tmp_path)
    assert again.settings == ours.settings
    np.testing.assert_array_equal(again.encode(TEXTS), ours.encode(TEXTS))


def test_a_bfloat16_folder_loads_there_in_its_type(ours, folder, tmp_path):
    Embedder.from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path)
    model = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert model.dtype == torch.bfloat16
    assert cosines(model.encode(TEXTS).astype(np.float32), ours.encode(TEXTS)).min() > 0.99


def test_a_folder_in_int8_is_refused_and_becomes_one_that_is_not(ours, tmp_path):
    """It would load whole numbers as weights, without a word, if config.json said qwen3."""
    export.export_package(ours, tmp_path / "small", as_int8=True)
    for load in (transformers.AutoModel.from_pretrained, sentence_transformers.SentenceTransformer):
        with pytest.raises(ValueError, match="model type `f2jax-qwen3-int8`"):
            load(str(tmp_path / "small"))
    small = Embedder.from_pretrained(tmp_path / "small")
    small.save_pretrained(tmp_path / "whole")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "whole"), device="cpu")
    found = theirs.encode(TEXTS, prompt="", show_progress_bar=False)
    np.testing.assert_allclose(found, small.encode(TEXTS, prompt=""), atol=1e-5)
