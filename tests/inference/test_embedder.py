"""`Embedder` as a user sees it: order, prompts, truncation, limits, and one clear sentence for each mistake."""

import copy
import hashlib
import shutil
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from f2jax import Embedder
from f2jax.checkpoints.package import ModelSettings
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError
from f2jax.inference.encode import encode_texts
from f2jax.inference.fingerprint import weights_hash
from f2jax.inference.quantize import quantize
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import size
from tests import tiny_model

TEXTS = tiny_model.TEXTS
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(embedder, tmp_path_factory):
    """The same embedder, exported."""
    path = tmp_path_factory.mktemp("model")
    embedder.save_pretrained(path)
    return path


def normalized(e_se):
    return e_se / np.linalg.norm(e_se, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def one_by_one(embedder):
    """Token ids → the final state of the last one, from the bare backbone: one text in a row, nothing before it."""
    forward = jax.jit(Qwen3(embedder.architecture).apply)
    positions_bt = jnp.arange(embedder.max_length)[None]

    def states(ids: np.ndarray) -> np.ndarray:
        tokens_bt = np.resize(ids, positions_bt.shape)  # what follows cannot matter to a causal model
        hidden_btd = forward({"params": embedder.params}, tokens_bt, jnp.ones_like(positions_bt), positions_bt)
        return np.asarray(hidden_btd[0, len(ids) - 1])

    return states


# What comes back


def test_vectors_are_float32_of_unit_length_and_differ(embedder):
    found = embedder.encode(TEXTS)
    assert found.shape == (len(TEXTS), embedder.dim) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found @ found.T - 2 * np.eye(len(TEXTS))).max() < 0.9


def test_each_vector_is_the_final_state_of_the_end_token(embedder, one_by_one):
    raw = embedder.encode(TEXTS, normalize_embeddings=False)
    for text, vector in zip(TEXTS, raw, strict=True):
        ids = embedder.tokenizer.encode([text], embedder.max_length)[0]
        np.testing.assert_allclose(vector, one_by_one(ids), atol=TOLERANCE * np.abs(vector).max())


def test_rows_come_in_the_order_of_the_texts(embedder):
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = embedder.encode([TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled, embedder.encode(TEXTS)[order], atol=TOLERANCE)


def test_one_string_gives_one_vector(embedder):
    found = embedder.encode("a red river")
    assert found.shape == (embedder.dim,)
    np.testing.assert_allclose(found, embedder.encode(["a red river"])[0], atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["float32", "int8", "ubinary"])
def test_no_texts_give_no_rows(embedder, precision):
    width = embedder.dim // 8 if precision == "ubinary" else embedder.dim
    assert embedder.encode([], precision=precision).shape == (0, width)
    assert embedder.encode([], truncate_dim=16).shape == (0, 16)


def test_an_empty_text_is_its_end_token_alone(embedder, one_by_one):
    end = np.array([embedder.tokenizer.eos_id])
    np.testing.assert_allclose(embedder.encode([""])[0], normalized(one_by_one(end)[None])[0], atol=TOLERANCE)


@pytest.mark.parametrize("texts", [tuple(TEXTS), np.array(TEXTS), iter(TEXTS)], ids=["tuple", "array", "iterator"])
def test_any_iterable_of_strings_will_do(embedder, texts):
    np.testing.assert_array_equal(embedder.encode(texts), embedder.encode(TEXTS))


# Independence


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1_024])
def test_batch_size_does_not_change_the_result(embedder, batch_size):
    np.testing.assert_allclose(embedder.encode(TEXTS, batch_size=batch_size), embedder.encode(TEXTS), atol=TOLERANCE)


def test_other_texts_of_the_call_do_not_change_the_result(embedder):
    together = embedder.encode(TEXTS + [f"river {i} " * (i % 7) for i in range(60)])[: len(TEXTS)]
    alone = np.stack([embedder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)


def test_a_long_text_is_cut_but_keeps_its_end_token(embedder, one_by_one):
    long = TEXTS[-1]
    whole = embedder.tokenizer.encode([long], 10_000)[0]
    assert len(whole) > embedder.max_length == 96
    cut = np.array([*whole[:95], embedder.tokenizer.eos_id])
    expected = one_by_one(cut)
    found = embedder.encode([long], normalize_embeddings=False)[0]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())
    np.testing.assert_allclose(embedder.encode(long), embedder.encode(long + " and so on"), atol=TOLERANCE)


def test_texts_that_are_cut_are_counted_and_by_how_many_tokens(embedder):
    other = Embedder(embedder.architecture, embedder.params, embedder.tokenizer, embedder.settings)
    long = len(embedder.tokenizer.encode([TEXTS[-1]], 10_000)[0])
    other.encode(TEXTS[:2])
    assert str(other.truncation) == ""
    other.encode([TEXTS[-1], "", TEXTS[-1] * 2])
    tokens = [len(ids) for ids in embedder.tokenizer.encode([*TEXTS[:2], TEXTS[-1], "", TEXTS[-1] * 2], 10_000)]
    lost = sum(count - 96 for count in tokens if count > 96)
    assert lost > long > 96
    counts = other.truncation
    assert (counts.texts, counts.tokens, counts.cut_texts, counts.lost_tokens) == (5, sum(tokens), 2, lost)
    share = f"{lost / sum(tokens):.1%}"
    assert str(counts) == f"2 of 5 texts were cut to the model's length: {share} of all tokens."


@pytest.mark.parametrize("limit", [1, 2, 50, 96, 200])
def test_max_length_is_set_in_a_call_and_when_loading(embedder, folder, one_by_one, limit):
    """Also above the limit of the card, up to the positions that the model has."""
    whole = embedder.tokenizer.encode([TEXTS[-1]], 10_000)[0]
    cut = np.array([*whole[:-1][: limit - 1], embedder.tokenizer.eos_id])
    other = Embedder.from_pretrained(folder, max_length=limit)
    assert other.max_length == limit and (other.fingerprint == embedder.fingerprint) == (limit == 96)
    found = other.encode(TEXTS[-1])
    np.testing.assert_allclose(found, embedder.encode(TEXTS[-1], max_length=limit), atol=TOLERANCE)
    assert other.truncation.cut_texts == (len(whole) > limit)
    if limit <= 96:
        np.testing.assert_allclose(found, normalized(one_by_one(cut)[None])[0], atol=TOLERANCE)


def test_max_seq_length_is_set_later_as_in_sentence_transformers(folder):
    model, other = Embedder.from_pretrained(folder), Embedder.from_pretrained(folder, max_length=5)
    before = model.fingerprint
    model.max_seq_length = 5
    assert model.max_length == model.max_seq_length == 5 and before != model.fingerprint == other.fingerprint
    np.testing.assert_array_equal(model.encode(TEXTS[-1]), other.encode(TEXTS[-1]))
    with pytest.raises(UserError, match="max_length=0 is out of range"):
        model.max_length = 0


def test_who_has_a_name_in_the_place_of_the_architecture_is_told_how_to_load_it():
    with pytest.raises(UserError, match=r"Load a model with Embedder\.from_pretrained\('mini'\)\."):
        Embedder("mini")


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_bytes_are_not_compared_as_if_they_were_dimensions(embedder, precision):
    """sentence-transformers refuses them as well."""
    whole = embedder.encode(TEXTS[:2])
    small = embedder.encode(TEXTS[:2], precision=precision)
    for a, b in ((small, small), (whole, small), (small, whole)):
        for compare in (embedder.similarity, embedder.similarity_pairwise):
            with pytest.raises(UserError, match=r"Embeddings in u?int8 have no similarity; compare them in float32\."):
                compare(a, b)


def test_a_model_that_is_saved_again_keeps_its_licence(embedder, tmp_path):
    embedder.save_pretrained(tmp_path / "first")
    card = tmp_path / "first/README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1) + "\n## Limits\n\n- Short.\n")
    Embedder.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    text = (tmp_path / "second/README.md").read_text()
    assert "| licence | cc-by-4.0 |" in text and text.endswith("## Limits\n\n- Short.\n")
    assert "f2jax verify" not in text, "this folder has no golden set"


def test_every_model_knows_the_names_query_and_document_as_in_sentence_transformers(embedder):
    plain = embedder.with_weights(embedder.params)
    plain.settings = replace(embedder.settings, prompts={"title": "Title: "}, default_prompt_name="title")
    for name in ("query", "document"):
        np.testing.assert_array_equal(plain.encode(["a"], prompt_name=name), plain.encode(["a"], prompt=""))
    with pytest.raises(UserError, match=r"no prompt named 'passage'; choose from document, query, title\.$"):
        plain.encode(["a"], prompt_name="passage")


def test_numbers_that_the_model_does_not_have_are_refused(embedder, folder):
    positions = embedder.architecture.max_length
    for wrong in (0, positions + 1):
        message = f"max_length={wrong} is out of range; this model has 1 to {positions} positions."
        for call in (partial(embedder.encode, "a"), partial(Embedder.from_pretrained, folder)):
            with pytest.raises(UserError) as error:
                call(max_length=wrong)
            assert str(error.value) == message
    with pytest.raises(UserError, match="truncate_dim=65 is out of range"):
        Embedder.from_pretrained(folder, truncate_dim=65)
    with pytest.raises(UserError, match="matryoshka_dims=65 is out of range"):
        Embedder.from_pretrained(folder, matryoshka_dims=(65, 8))


# Truncation, normalization, precision


def test_a_model_loaded_with_fewer_dimensions_gives_these_unless_told_otherwise(embedder, folder):
    other = Embedder.from_pretrained(folder, truncate_dim=16)
    assert (other.get_embedding_dimension(), other.dim, embedder.get_embedding_dimension()) == (16, 64, 64)
    np.testing.assert_array_equal(other.encode(TEXTS), embedder.encode(TEXTS, truncate_dim=16))
    np.testing.assert_array_equal(other.encode(TEXTS, truncate_dim=64), embedder.encode(TEXTS))


def test_a_model_is_told_the_dimensions_that_its_folder_lacks(embedder, folder, tmp_path):
    other = Embedder.from_pretrained(folder, matryoshka_dims=(8, 32))
    assert other.matryoshka_dims == (64, 32, 8)
    other.save_pretrained(tmp_path)
    assert Embedder.from_pretrained(tmp_path).matryoshka_dims == (64, 32, 8)


@pytest.mark.parametrize("dim", [1, 5, 8, 32, 64])
def test_vectors_are_truncated_first_and_normalized_then(embedder, dim):
    raw = embedder.encode(TEXTS, normalize_embeddings=False)
    expected = normalized(raw[:, :dim])
    np.testing.assert_allclose(embedder.encode(TEXTS, truncate_dim=dim), expected, atol=TOLERANCE)
    np.testing.assert_array_equal(embedder.encode(TEXTS, truncate_dim=dim, normalize_embeddings=False), raw[:, :dim])


@pytest.mark.parametrize("dim", [0, -1, 65])
def test_a_dimension_out_of_range_is_refused(embedder, dim):
    with pytest.raises(UserError, match=f"^truncate_dim={dim} is out of range; this model has 1 to 64 dimensions.$"):
        embedder.encode(TEXTS, truncate_dim=dim)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_has_encoded_is_saved_with_the_weights_that_it_was_given(embedder, tmp_path, dtype):
    model = Embedder(embedder.architecture, embedder.params, embedder.tokenizer, embedder.settings, dtype)
    model.encode(TEXTS)
    model.save_pretrained(tmp_path)
    again = Embedder.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, embedder.params)
    assert again.fingerprint == embedder.fingerprint


@pytest.mark.parametrize("precision,dtype,width", [
    ("float32", np.float32, 32), ("int8", np.int8, 32), ("uint8", np.uint8, 32),
    ("binary", np.int8, 4), ("ubinary", np.uint8, 4),
])  # fmt: skip
def test_precision_is_applied_after_truncation(embedder, precision, dtype, width):
    found = embedder.encode(TEXTS, truncate_dim=32, precision=precision)
    assert found.dtype == dtype and found.shape == (len(TEXTS), width)
    np.testing.assert_array_equal(found, quantize(embedder.encode(TEXTS, truncate_dim=32), precision))


def test_similarity_is_the_cosine_of_every_pair(embedder):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    expected = [[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in b] for u in a]
    np.testing.assert_allclose(embedder.similarity(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.similarity(a[0], b), expected[:1], atol=1e-6)
    assert not embedder.similarity(np.zeros((1, 8)), b).any()


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_pairwise_similarity_is_the_diagonal_of_all_pairs(embedder, name):
    other = copy.copy(embedder)
    other.settings = replace(embedder.settings, similarity=name)
    a, b = np.random.default_rng(0).normal(size=(2, 5, 8))
    np.testing.assert_allclose(other.similarity_pairwise(a, b), np.diag(other.similarity(a, b)), atol=1e-5)
    with pytest.raises(UserError, match="Pairwise similarity needs two arrays of the same shape"):
        other.similarity_pairwise(a, b[:4])


# Tokens


def test_the_states_of_tokens_are_those_of_the_prefixes(embedder, one_by_one):
    """Texts share rows; none sees its neighbours."""
    found = embedder.encode(TEXTS, output_value="token_embeddings", prompt="Name: ")
    sequences = embedder.tokenizer.encode(["Name: " + text for text in TEXTS], embedder.max_length)
    assert [x.shape for x in found] == [(len(ids), 64) for ids in sequences]
    for ids, states in zip(sequences, found, strict=True):
        for stop in {1, (len(ids) + 1) // 2, len(ids)}:
            expected = one_by_one(ids[:stop])
            np.testing.assert_allclose(states[stop - 1], expected, atol=TOLERANCE * np.abs(expected).max())
    alone = embedder.encode(TEXTS[0], output_value="token_embeddings", prompt="Name: ")
    np.testing.assert_allclose(alone, found[0], atol=TOLERANCE * np.abs(alone).max())


def test_token_ids_come_padded_on_the_left_as_the_model_reads_them(embedder):
    found = embedder.tokenize(TEXTS)
    expected = embedder.tokenizer.encode(TEXTS, embedder.max_length)
    assert found["input_ids"].shape == found["attention_mask"].shape == (len(TEXTS), 96)
    for ids, mask, right in zip(found["input_ids"], found["attention_mask"], expected, strict=True):
        np.testing.assert_array_equal(ids[mask == 1], right)
        assert (ids[mask == 0] == embedder.tokenizer.pad_id).all() and (np.diff(mask) >= 0).all()


# Other programs


def test_langchain_gets_lists_of_queries_and_documents(embedder):
    assert embedder.embed_query(TEXTS[0]) == embedder.encode_query(TEXTS[0]).tolist()
    assert embedder.embed_documents(TEXTS[:2]) == embedder.encode_document(TEXTS[:2]).tolist()


def test_a_model_pushed_to_the_hub_is_complete_there(embedder, monkeypatch, tmp_path):
    """With the hub's own client, whose last step is replaced by a copy."""
    from huggingface_hub import HfApi

    calls = []

    def upload(api, *, folder_path, **options):
        shutil.copytree(folder_path, tmp_path / "there")
        calls.append((api.token, options))
        return type("Commit", (), {"commit_url": "https://hub/commit/1"})

    monkeypatch.setattr(HfApi, "create_repo", lambda api, name, **options: calls.append((name, options)))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert embedder.push_to_hub("me/tiny", token="t", private=True, revision="b") == "https://hub/commit/1"
    message = "Add the model, written by f2jax"
    uploaded = {"repo_id": "me/tiny", "commit_message": message, "revision": "b", "create_pr": False}
    assert calls == [("me/tiny", {"private": True, "exist_ok": False}), ("t", uploaded)]
    np.testing.assert_array_equal(Embedder.from_pretrained(tmp_path / "there").encode(TEXTS), embedder.encode(TEXTS))


def test_a_hub_that_refuses_is_one_sentence(embedder, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    def refuse(api, name, **options):
        raise HFValidationError("no")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError) as error:
        embedder.push_to_hub("me/tiny")
    assert str(error.value) == (
        "The model me/tiny could not be written to the Hugging Face hub (HFValidationError); check the name and the "
        "connection."
    )


# Prompts


def test_a_prompt_stands_before_each_text(embedder):
    expected = embedder.encode(["Name: " + text for text in TEXTS])
    for options in ({"prompt": "Name: "}, {"prompt_name": "cldr-names"}):
        np.testing.assert_array_equal(embedder.encode(TEXTS, **options), expected)
    assert np.abs(expected - embedder.encode(TEXTS)).max() > 0.1


def test_a_prompt_is_stronger_than_a_prompt_name(embedder):
    found = embedder.encode(TEXTS, prompt="", prompt_name="query")
    np.testing.assert_array_equal(found, embedder.encode(TEXTS))


def test_queries_and_documents_carry_their_prompts(embedder):
    for encode, name in ((embedder.encode_query, "query"), (embedder.encode_document, "document")):
        np.testing.assert_array_equal(encode(TEXTS), embedder.encode(TEXTS, prompt=embedder.prompts[name]))
        np.testing.assert_array_equal(encode(TEXTS, prompt=""), embedder.encode(TEXTS))
        np.testing.assert_array_equal(encode(TEXTS, prompt_name="cldr-names"), embedder.encode(TEXTS, prompt="Name: "))
        assert encode("one", truncate_dim=8).shape == (8,)


def test_a_default_prompt_stands_where_no_other_is_given(embedder):
    other = copy.copy(embedder)
    other.settings = replace(embedder.settings, prompts={"mine": "m: "}, default_prompt_name="mine")
    np.testing.assert_array_equal(other.encode(TEXTS[:2]), embedder.encode(TEXTS[:2], prompt="m: "))
    for encode in (partial(other.encode, prompt=""), other.encode_query, other.encode_document):
        np.testing.assert_array_equal(encode(TEXTS[:2]), embedder.encode(TEXTS[:2]))


@pytest.mark.parametrize("prompts,used", [
    ({}, ""), ({"passage": "p: "}, ""), ({"corpus": "c: "}, ""), ({"passage": "p: ", "document": "d: "}, "d: "),
])  # fmt: skip
def test_documents_take_the_prompt_named_document_alone_as_in_sentence_transformers(embedder, prompts, used):
    """sentence-transformers 5 and 6 give every model an empty prompt `document`, so that `passage` is never used."""
    other = copy.copy(embedder)
    other.settings = ModelSettings(embedder.max_length, prompts)
    np.testing.assert_array_equal(other.encode_document(TEXTS[:2]), other.encode(TEXTS[:2], prompt=used))
    np.testing.assert_array_equal(other.encode_query(TEXTS[:2]), other.encode(TEXTS[:2]))


# What a user gets wrong


@pytest.mark.parametrize(
    "texts,options,message",
    [
        (["a", None], {}, "Text number 1 is of type NoneType; give strings."),
        (["a", "b", 3], {}, "Text number 2 is of type int; give strings."),
        ([["a"]], {}, "Text number 0 is of type list; give strings."),
        ([b"a"], {}, "Text number 0 is of type bytes; give strings."),
        (None, {}, "Pass the texts to encode once, as a string or a list of strings."),
        (["a"], {"sentences": ["b"]}, "Pass the texts to encode once, as a string or a list of strings."),
        ({"a": 1}, {}, "The texts are of type dict; give a string or a list of strings."),
        ({"a", "b"}, {}, "The texts are of type set; give a string or a list of strings."),
        (b"ab", {}, "The texts are of type bytes; give a string or a list of strings."),
        (7, {}, "The texts are of type int; give a string or a list of strings."),
        (np.array("a"), {}, "The texts are of type ndarray; give a string or a list of strings."),
        (pa.table({"text": ["a", "b"]}), {}, "The texts are of type Table; give a string or a list of strings."),
        (["a"], {"prompt_name": "qurey"}, "The model has no prompt named 'qurey'; did you mean 'query'?"),
        (["a"], {"prompt": "", "prompt_name": "qurey"}, "The model has no prompt named 'qurey'; did you mean 'query'?"),
        (["a"], {"precision": "int4"}, "There is no precision 'int4'; did you mean 'int8'?"),
        (
            ["a"],
            {"precision": "int8"},
            "A single text gives no range for int8; pass several at once, or choose ubinary.",
        ),
        (["a"], {"batch_size": 0}, "batch_size=0 should be at least 1."),
        (
            ["a"],
            {"output_value": "token_embedding"},
            "There is no output_value 'token_embedding'; did you mean 'token_embeddings'?",
        ),
        (
            ["a"],
            {"output_value": "token_embeddings", "truncate_dim": 8},
            "Token embeddings cannot be truncated or quantized; leave out precision and truncate_dim.",
        ),
    ],
)
def test_a_mistake_gets_one_sentence(embedder, texts, options, message):
    with pytest.raises(UserError) as error:
        embedder.encode(texts, **options)
    assert str(error.value) == message


def test_all_but_the_texts_is_given_by_name(embedder):
    """In sentence-transformers the second place is `prompt_name`, here it once was `prompt`."""
    for encode in (embedder.encode, embedder.encode_query, embedder.encode_document):
        with pytest.raises(TypeError, match="positional argument"):
            encode(["a"], "query")


def test_the_texts_have_the_names_of_sentence_transformers_too(embedder):
    expected = embedder.encode(TEXTS[:2])
    for name in ("texts", "sentences", "inputs"):
        np.testing.assert_array_equal(embedder.encode(**{name: TEXTS[:2]}), expected)
        queries = embedder.encode_query(**{name: TEXTS[:2]})
        np.testing.assert_array_equal(queries, embedder.encode_query(TEXTS[:2]))


@pytest.mark.parametrize("precision", ["float32", "ubinary"])
def test_a_vector_that_is_not_finite_is_refused_and_its_text_named(embedder, precision):
    """One token's row is damaged: texts without it are as before."""
    token = embedder.tokenizer.encode(["zebra"], 96)[0][0]
    damaged = embedder.params | {"token_table": embedder.params["token_table"].at[token].set(jnp.nan)}
    other = Embedder(embedder.architecture, damaged, embedder.tokenizer, embedder.settings)
    with pytest.raises(UserError) as error:
        other.encode(["a", "b", "zebra and more", "zebra"], precision=precision)
    assert str(error.value) == (
        "The model gives no finite vector for the text 'zebra and more'; its weights may be damaged, or exceed the "
        "range of their dtype."
    )
    np.testing.assert_array_equal(other.encode(["a", "b"]), embedder.encode(["a", "b"]))


def test_a_text_beside_one_with_an_infinite_value_keeps_its_vector(embedder):
    """Texts share rows, over which a NaN spreads; a text that is finite by itself is not lost by it."""
    sequences = embedder.tokenizer.encode(["a", "zebra"], 96)

    def embed(params, tokens, segments, positions, row_s, col_s):
        states = embedder._embed(params, tokens, segments, positions, row_s, col_s)
        return states * jnp.nan if len(np.unique(segments)) > 2 else states  # only rows with several texts

    found = encode_texts(embed, embedder._weights.to_encode, sequences, 64, embedder.tokenizer.pad_id)
    np.testing.assert_allclose(found, embedder.encode_tokens(sequences), rtol=1e-5)


def test_a_data_frame_is_refused_and_its_column_taken(embedder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS[:2]})
    with pytest.raises(UserError, match="The texts are of type DataFrame; give a string or a list of strings"):
        embedder.encode(frame)
    np.testing.assert_array_equal(embedder.encode(frame["text"]), embedder.encode(TEXTS[:2]))


def test_half_a_character_is_read_as_the_sign_for_it(embedder):
    """A lone surrogate, as JSON may hold one, is no text for any tokenizer."""
    np.testing.assert_array_equal(embedder.encode(["a \ud83d"]), embedder.encode(["a \ufffd"]))


def test_unknown_types_are_refused(embedder, folder):
    with pytest.raises(UserError, match="no dtype 'float16'; choose float32 or bfloat16"):
        Embedder.from_pretrained(folder, dtype="float16")
    with pytest.raises(UserError, match="no dtype 'float16'; choose float32 or bfloat16"):
        Embedder(embedder.architecture, {}, embedder.tokenizer, embedder.settings, "float16")


def test_a_tokenizer_that_does_not_fit_is_refused(embedder, folder, tmp_path):
    message = r"has ids up to 399, but the model's token table has 300 rows; use the tokenizer"
    with pytest.raises(UserError, match=message):
        Embedder(size("tiny", vocab_size=300), {}, embedder.tokenizer, embedder.settings)
    words = (f"word{i} and number {i * i}" for i in range(400))
    larger = train_sentencepiece(words, 600, tmp_path / "tokenizer")
    embedder.save_pretrained(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_text(larger.to_hf_json())
    with pytest.raises(UserError, match=r"has ids up to 599, but the model's token table has 512 rows"):
        Embedder.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_needed_file_is_refused_and_the_file_named(embedder, tmp_path, missing):
    embedder.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(UserError, match=missing):
        Embedder.from_pretrained(tmp_path / "model")


def test_a_folder_has_no_revisions(folder):
    with pytest.raises(UserError, match="is a folder, which has no revision 'v1'; leave it out, or give a hub id"):
        Embedder.from_pretrained(folder, revision="v1")


def test_the_revision_of_a_hub_id_is_what_is_fetched(folder, embedder, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **o: asked.append((name, o)) or str(folder))
    found = Embedder.from_pretrained("org/name", revision="v1").encode(TEXTS[:2])
    assert asked[0][0] == "org/name" and asked[0][1]["revision"] == "v1"
    np.testing.assert_array_equal(found, embedder.encode(TEXTS[:2]))


def test_a_name_without_a_folder_is_refused():
    with pytest.raises(UserError, match="no model folder nowhere; give a folder"):
        Embedder.from_pretrained("nowhere")


# From a folder


def test_what_a_model_says_of_itself(embedder, folder):
    for model in (embedder, Embedder.from_pretrained(folder)):
        assert model.dim == 64
        assert model.max_length == 96
        assert model.matryoshka_dims == (64, 32, 16, 8)
        assert model.prompts == tiny_model.PROMPTS


def test_an_exported_folder_gives_the_same_vectors(embedder, folder):
    np.testing.assert_array_equal(Embedder.from_pretrained(folder).encode(TEXTS), embedder.encode(TEXTS))


def test_bfloat16_is_close_to_float32(embedder, folder):
    half = Embedder.from_pretrained(folder, dtype="bfloat16")
    assert {str(x.dtype) for x in half.params["layers"].values()} == {"bfloat16"}
    found = half.encode(TEXTS)
    assert found.dtype == np.float32
    cosine = (found * embedder.encode(TEXTS)).sum(axis=1)
    assert 0.99 < cosine.min() < 1 - 1e-6, "close, but not computed in float32"


def test_a_training_workdir_and_its_export_give_the_same_vectors(embedder, tmp_path):
    tiny_model.write_workdir(tmp_path / "run", embedder)
    trained = Embedder.from_pretrained(tmp_path / "run")
    trained.save_pretrained(tmp_path / "release")
    released = Embedder.from_pretrained(tmp_path / "release")
    assert (trained.max_length, trained.matryoshka_dims) == (96, (64, 32, 16, 8))
    assert trained.prompts["query"] == tiny_model.PROMPTS["query"]
    assert released.settings == trained.settings
    for model in (trained, released):
        np.testing.assert_array_equal(model.encode(TEXTS), embedder.encode(TEXTS))


def test_a_workdir_without_a_checkpoint_is_refused(embedder, tmp_path):
    tiny_model.write_workdir(tmp_path / "run", embedder)
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet; train a little longer"):
        Embedder.from_pretrained(tmp_path / "run")


def test_the_fingerprint_tells_models_apart(embedder, folder):
    assert Embedder.from_pretrained(folder).fingerprint == embedder.fingerprint
    moved = dict(embedder.params, final_norm=embedder.params["final_norm"] * 1.01)
    others = [
        Embedder(embedder.architecture, moved, embedder.tokenizer, embedder.settings),
        Embedder(embedder.architecture, embedder.params, embedder.tokenizer, embedder.settings, "bfloat16"),
        Embedder(embedder.architecture, embedder.params, embedder.tokenizer, ModelSettings(95, embedder.prompts)),
    ]
    assert len({model.fingerprint for model in [embedder, *others]}) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.at[1:].multiply(1.01),
        lambda x: x.at[-1, -1].set(jnp.nextafter(x[-1, -1], 9)),
        lambda x: x.at[0, 0].multiply(-1),
        lambda x: x.at[jnp.array([5, 6])].set(x[jnp.array([6, 5])]),
        lambda x: jnp.roll(x, 1, axis=1),
    ],
    ids=["all_but_the_first_row", "last_bit_of_the_last_number", "a_sign", "two_rows_swapped", "moved_by_one"],
)
def test_every_bit_and_place_of_a_weight_counts_in_the_fingerprint(embedder, change):
    params = embedder.params | {"token_table": change(embedder.params["token_table"])}
    other = Embedder(embedder.architecture, params, embedder.tokenizer, embedder.settings)
    assert other.fingerprint != embedder.fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_hash_of_weights_is_the_sum_of_the_hashes_of_all_places(dtype):
    """Against Python integers, one number after the other."""
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    sums = [0, 0]
    for place, bits in enumerate(x.reshape(-1).view("uint32" if dtype == "float32" else "uint16").tolist()):
        h = bits ^ (place * 0x9E3779B9 % 2**32)
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        h ^= h >> 16
        sums = [(sums[0] + h) % 2**32, (sums[1] + (h ^ h >> 15) * (h | 1)) % 2**32]
    expected = hashlib.sha256(f"a/b (3, 4, 5) {dtype}".encode() + np.array(sums, np.uint32).tobytes()).hexdigest()
    assert weights_hash({"a": {"b": jnp.asarray(x)}}) == expected


def test_the_fingerprint_tells_a_model_from_its_first_layers_and_from_another_last_layer(embedder, folder):
    """The rows of layer 0 are the same in all of them."""
    fewer = Embedder.from_pretrained(folder, truncate_layers=1)
    layers = {name: x.at[-1].multiply(1.01) for name, x in embedder.params["layers"].items()}
    moved = Embedder(embedder.architecture, embedder.params | {"layers": layers}, embedder.tokenizer, embedder.settings)
    assert len({model.fingerprint for model in (embedder, fewer, moved)}) == 3


def test_the_fingerprint_tells_architectures_and_tokenizers_of_one_set_of_weights_apart(embedder):
    slower = replace(embedder.architecture, rope_theta=1e3)
    tokenizer = train_sentencepiece([f"{a} {a}{a}" for a in "abcdefghijklm"], 290, None)
    others = [
        Embedder(slower, embedder.params, embedder.tokenizer, embedder.settings),
        Embedder(embedder.architecture, embedder.params, tokenizer, embedder.settings),
    ]
    assert len({model.fingerprint for model in [embedder, *others]}) == 3


def test_a_workdir_and_its_package_have_one_fingerprint(embedder, tmp_path):
    tiny_model.write_workdir(tmp_path / "run", embedder)
    trained = Embedder.from_pretrained(tmp_path / "run")
    trained.save_pretrained(tmp_path / "release")
    assert Embedder.from_pretrained(tmp_path / "release").fingerprint == trained.fingerprint
