"""Text → ids: the reference's ids, the end token always last, trained models that are the same everywhere."""

import gzip
import io
import json
import re
from itertools import pairwise

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from f2jax.data import tokenizer_training
from f2jax.data.instructions import add_instruction
from f2jax.data.tokenizer import END, PAD, SentencePieceTokenizer, load_tokenizer
from f2jax.data.tokenizer_training import train_sentencepiece
from f2jax.errors import UserError

LATIN = ["red", "green", "blue", "black", "white", "river", "stone", "tree"]
WORDS = [*LATIN, "καλημέρα", "кошка", "мир", "ελλάδα", "日本語", "東京", "ประเทศไทย", "नमस्ते", "🦊🦊"]
TEXTS = [" ".join(WORDS[(i * j + i) % len(WORDS)] for j in range(1, 9)) + f", number {i}.\n" for i in range(300)]
ALL = 10**6  # tokens: truncate nothing


def byte_level(end=END, pad=PAD) -> str:
    """A small tokenizer.json of Qwen's kind: byte-level BPE with special tokens."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=[pad, end], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend.to_str()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_sentencepiece(TEXTS, 600, tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    (folder / "tokenizer.json").write_text(byte_level(), encoding="utf-8")
    return load_tokenizer(folder)


@pytest.fixture(params=["trained", "hugging_face"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def ids(tokenizer, text, max_length=ALL) -> list[int]:
    return tokenizer.encode([text], max_length)[0].tolist()


# Qwen's tokenizer, against the vectors of its reference


@pytest.fixture(scope="module")
def qwen(shared_data):
    return load_tokenizer(shared_data / "qwen-tokenizer")


def test_qwen_gives_the_ids_of_the_reference_and_the_end_token(qwen, shared_data):
    lines = (shared_data / "qwen-tokenizer/vectors.jsonl").read_text(encoding="utf-8").splitlines()
    vectors = [json.loads(line) for line in lines]
    encoded = qwen.encode([vector["text"] for vector in vectors], ALL)
    assert len(vectors) == 47
    assert [found.tolist() for found in encoded] == [[*vector["ids"], 151645] for vector in vectors]


def test_qwen_has_the_special_ids_of_the_recipe_and_fits_its_table(qwen):
    assert (qwen.eos_id, qwen.pad_id, qwen.vocab_size) == (151645, 151643, 151669)
    qwen.check_vocab(151_936)
    qwen.check_vocab(151_669)
    with pytest.raises(UserError, match="up to 151,668, but the model's token table has 151,668 rows"):
        qwen.check_vocab(151_668)


# What both backends promise


def test_truncation_keeps_the_end_token_at_every_length(tokenizer):
    whole = ids(tokenizer, "red river, number 7. 東京")
    assert whole.count(tokenizer.eos_id) == 1 and len(whole) >= 8
    for max_length in range(1, len(whole) + 3):
        kept = whole[:-1][: max_length - 1]
        assert ids(tokenizer, "red river, number 7. 東京", max_length) == [*kept, tokenizer.eos_id]


def test_the_empty_text_is_the_end_token_alone(tokenizer):
    assert ids(tokenizer, "") == [tokenizer.eos_id]
    assert tokenizer.encode([], 8) == []


@pytest.mark.parametrize("max_length", [0, -1])
def test_no_room_for_the_end_token_is_refused(tokenizer, max_length):
    with pytest.raises(UserError, match=f"max_length={max_length} leaves no room"):
        tokenizer.encode(["red"], max_length)


@pytest.mark.parametrize(
    "text",
    ["\0", "a\0b", "\u202eevil\u202c \u2066x\u2069", "\ufeff", "\uffff", "\U0010ffff", "e" + "\u0301" * 500, " " * 999],
)
def test_hostile_text_encodes(tokenizer, text):
    found = ids(tokenizer, text)
    assert found[-1] == tokenizer.eos_id and found.count(tokenizer.eos_id) == 1 and len(found) > 1
    assert all(0 <= number < tokenizer.vocab_size for number in found)
    assert tokenizer.decode(found) == text


def test_a_lone_surrogate_is_read_as_the_replacement_character(tokenizer):
    assert ids(tokenizer, "a\ud800b\udfff") == ids(tokenizer, "a\ufffdb\ufffd")


def test_a_very_long_text_is_cut_to_the_length(tokenizer):
    found = ids(tokenizer, "red river " * 100_000, 1024)
    assert len(found) == 1024 and found == ids(tokenizer, "red river " * 1024, 1024)


def test_a_special_token_in_a_text_is_that_token(tokenizer):
    """As in transformers. The pieces on its two sides are those of the sides alone."""
    red, blue = ids(tokenizer, "red"), ids(tokenizer, "blue")
    assert ids(tokenizer, f"red{END}blue") == [*red, *blue]
    assert ids(tokenizer, f"red{PAD}blue") == [*red[:-1], tokenizer.pad_id, *blue]
    assert tokenizer.decode(ids(tokenizer, f"red{END}blue{PAD}")) == "redblue"


def test_what_is_saved_loads_as_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new/folder")
    again = load_tokenizer(tmp_path / "new/folder")
    assert type(again) is type(tokenizer)
    assert (again.vocab_size, again.eos_id, again.pad_id) == (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id)
    assert [ids(again, text) for text in TEXTS] == [ids(tokenizer, text) for text in TEXTS]


def test_tokenizers_that_give_the_same_ids_may_differ_in_what_else_their_files_say(trained, tmp_path):
    released = json.loads(trained.to_hf_json()) | {"truncation": None, "version": "1.0", "post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(released))
    assert load_tokenizer(tmp_path).gives_same_ids(trained) and trained.gives_same_ids(trained)
    assert not train_sentencepiece(TEXTS, 500, None).gives_same_ids(trained)


def test_the_fingerprint_is_that_of_the_released_file_before_and_after_release(trained, tmp_path):
    trained.save(tmp_path / "own")
    (tmp_path / "tokenizer.json").write_text(trained.to_hf_json())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(trained.hf_config(64)))
    own, released = load_tokenizer(tmp_path / "own"), load_tokenizer(tmp_path)
    assert own.fingerprint() == released.fingerprint() == trained.fingerprint()
    assert train_sentencepiece(TEXTS, 500, None).fingerprint() != trained.fingerprint()


def test_the_released_tokenizer_json_appends_the_end_token_to_one_text_and_to_both_of_a_pair(tokenizer):
    released = tokenizers.Tokenizer.from_str(tokenizer.to_hf_json())
    red, blue = ids(tokenizer, "red"), ids(tokenizer, "blue")
    assert released.encode("red").ids == red
    assert released.encode("red", "blue").ids == red + blue
    config = tokenizer.hf_config(64)
    assert (config["eos_token"], config["pad_token"], config["model_max_length"]) == (END, PAD, 64)


# tokenizer.json


@pytest.mark.parametrize("as_object", [False, True])
def test_end_and_padding_names_come_from_tokenizer_config_json(tmp_path, as_object):
    names = {"eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer.json").write_text(byte_level(end="</s>", pad="<pad>"), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape("has no token <|im_end|>; name its end and padding tokens")):
        load_tokenizer(tmp_path)
    config = {name: {"content": token, "lstrip": False} if as_object else token for name, token in names.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").eos_id == 1


def test_truncation_and_padding_of_the_file_are_not_used_and_its_end_token_comes_once(tmp_path, hugging_face):
    backend = tokenizers.Tokenizer.from_str(byte_level())
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert ids(tokenizer, TEXTS[0]) == ids(hugging_face, TEXTS[0])
    assert tokenizers.Tokenizer.from_str(tokenizer.to_hf_json()).encode(TEXTS[0]).ids == ids(hugging_face, TEXTS[0])


# SentencePiece


def test_training_is_a_function_of_texts_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_training, "SAMPLE", 40)  # so that the seed chooses what is seen

    def model(seed):
        train_sentencepiece(iter(TEXTS), 450, tmp_path / "new", seed)
        return (tmp_path / "new/tokenizer.model").read_bytes()

    assert model(0) == model(0) != model(1)


def test_training_passes_over_what_no_piece_can_come_from(tmp_path, trained):
    tokenizer = train_sentencepiece([*TEXTS, "", " \n", "\0", "\ud800", *TEXTS], 600, tmp_path)
    assert ids(tokenizer, TEXTS[5]) == ids(trained, TEXTS[5])


def test_long_texts_are_learnt_from(tmp_path):
    """SentencePiece alone passes over every text above 4,192 bytes."""
    tokenizer = train_sentencepiece(["".join(TEXTS)], 400, tmp_path)
    assert len(ids(tokenizer, "number number")) < 10


def test_texts_have_about_as_many_pieces_as_with_the_trainer_of_sentencepiece():
    model = io.BytesIO()
    options = LIKE_OURS | {"vocab_size": 400, "treat_whitespace_as_suffix": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **options)
    theirs = len(SentencePieceTokenizer(model.getvalue(), "theirs").encode(TEXTS[::7], ALL)[0])
    ours = len(train_sentencepiece(TEXTS, 400, None).encode(TEXTS[::7], ALL)[0])
    assert ours == pytest.approx(theirs, rel=0.1)


@pytest.mark.parametrize("own_spaces,vocab_size", [(False, 310), (True, 300)])
def test_a_word_has_one_piece_where_spaces_are_pieces(own_spaces, vocab_size):
    tokenizer = train_sentencepiece(
        [f"{a} {b}." for a in LATIN for b in LATIN], vocab_size, None, own_spaces=own_spaces
    )
    inside, last = ids(tokenizer, "river stone")[0], ids(tokenizer, "river")[0]
    assert (inside == last) is own_spaces
    assert tokenizer.decode(ids(tokenizer, "river  stone")) == "river  stone"


def test_no_piece_joins_what_a_rare_character_parts():
    texts = [f"ab{chr(0x4E00 + i)}cd" for i in range(200)] + ["ab cd " * 160 + str(i) for i in range(700)]
    tokenizer = train_sentencepiece(texts, 280, None)
    assert len(ids(tokenizer, "abcd")) > 2, "abcd is never written without a character between"


def test_a_text_has_the_same_pieces_after_an_instruction(trained):
    for text in ("red", "東京", "number 7", "x"):
        whole = ids(trained, add_instruction(text, "Find the number."))
        assert whole[-len(ids(trained, text)) :] == ids(trained, text)


ANY_TEXT = st.text(st.characters(codec="utf-8"))
KNOWN_TEXT = st.lists(st.sampled_from([*"".join(WORDS), *WORDS, " ", "  ", "\t", "▁", END, PAD, "<unk>", "<0x41>"]))


@given(ANY_TEXT | KNOWN_TEXT.map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_round_trips(trained, text):
    """Apart from special tokens, and from SentencePiece's mark of a space, which becomes one."""
    expected = text.replace("▁", " ").replace(END, "").replace(PAD, "")
    assert trained.decode(ids(trained, text)) == expected


@given(ANY_TEXT | KNOWN_TEXT.map("".join))
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_same_ids_in_the_released_tokenizer_json(trained, released, text):
    assert released.encode(text).ids == ids(trained, text)
    assert released.decode(ids(trained, text)) == trained.decode(ids(trained, text))


@pytest.fixture(scope="module")
def released(trained):
    return tokenizers.Tokenizer.from_str(trained.to_hf_json())


def test_pieces_that_overlap_merge_in_the_same_order(tmp_path):
    """Two letters alone: almost every text has several ways to merge."""
    texts = ["".join("ab"[i >> k & 1] for k in range(1 + i % 9)) * (1 + i % 4) for i in range(2000)]
    tokenizer = train_sentencepiece(texts, 320, tmp_path)
    released = tokenizers.Tokenizer.from_str(tokenizer.to_hf_json())
    for text in texts:
        assert released.encode(text).ids == ids(tokenizer, text), text


def test_a_model_that_never_saw_a_space_spells_and_reads_it(tmp_path):
    tokenizer = train_sentencepiece(LATIN, 290, tmp_path)
    released = tokenizers.Tokenizer.from_str(tokenizer.to_hf_json())
    assert (
        tokenizer.decode(ids(tokenizer, "red  tree ")) == "red  tree " == released.decode(ids(tokenizer, "red  tree "))
    )


LIKE_OURS = {
    "model_type": "bpe",
    "vocab_size": 400,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "user_defined_symbols": [PAD, END],
    "bos_id": -1,
    "eos_id": -1,
    "minloglevel": 2,
}


def sentencepiece_model(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **(LIKE_OURS | options))
    return model.getvalue()


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram"},
        {"byte_fallback": False},
        {"normalization_rule_name": "nmt_nfkc"},
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"user_defined_symbols": [PAD, END, "<|mine|>"]},
        {"user_defined_symbols": [PAD], "eos_id": 1},
    ],
    ids=str,
)
def test_a_model_that_cannot_become_tokenizer_json_is_refused_there_alone(options):
    SentencePieceTokenizer(sentencepiece_model(), "theirs").to_hf_json()
    tokenizer = SentencePieceTokenizer(sentencepiece_model(**options), "theirs")
    assert ids(tokenizer, "red river")[-1] == tokenizer.eos_id
    with pytest.raises(UserError, match=r"cannot be written as tokenizer\.json with the same ids"):
        tokenizer.to_hf_json()


def test_a_model_that_declares_its_end_and_padding_keeps_them():
    model = sentencepiece_model(user_defined_symbols=[], eos_id=2, pad_id=3)
    tokenizer = SentencePieceTokenizer(model, "theirs")
    assert (tokenizer.eos_id, tokenizer.pad_id) == (2, 3)
    assert ids(tokenizer, "")[-1] == 2


def test_a_model_without_an_end_token_is_refused():
    with pytest.raises(UserError, match=re.escape(f"theirs has neither a piece {END}")):
        SentencePieceTokenizer(sentencepiece_model(user_defined_symbols=[PAD]), "theirs")


@pytest.mark.parametrize(
    "texts,vocab_size,word",
    [
        (TEXTS[:5], 5000, "5 texts give at most [0-9]+ pieces, not 5,000; lower train_vocab"),
        (TEXTS, 200, "200 pieces are too few.* take 3[0-9]{2}; raise train_vocab"),
        (TEXTS, -1, "-1 pieces are too few"),
        ([], 400, "There are no texts to train"),
        (["", " ", "\0"], 400, "There are no texts to train"),
    ],
)
def test_a_vocabulary_that_the_texts_cannot_fill_is_refused(tmp_path, texts, vocab_size, word):
    with pytest.raises(UserError, match=word):
        train_sentencepiece(texts, vocab_size, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Damaged files

WHOLE_JSON = byte_level().encode()
WHOLE_GZ = gzip.compress(WHOLE_JSON, mtime=0)
FLIPPED_GZ = WHOLE_GZ[:2000] + bytes(64) + WHOLE_GZ[2064:]


@pytest.mark.parametrize(
    "name,content,word",
    [
        ("tokenizer.json", WHOLE_JSON[:1000], "is no tokenizer.json"),
        ("tokenizer.json", b"", "is no tokenizer.json"),
        ("tokenizer.json", b"[]", "is no tokenizer.json"),
        ("tokenizer.json", b"\xff\xfe", "cannot be read"),
        ("tokenizer.json.gz", WHOLE_GZ[:1000], "cannot be read"),
        ("tokenizer.json.gz", FLIPPED_GZ, "cannot be read"),
        ("tokenizer.json.gz", WHOLE_JSON, "cannot be read"),
        ("tokenizer.model", b"", "is no SentencePiece model"),
        ("tokenizer.model", b"no model", "is no SentencePiece model"),
        ("tokenizer.model", sentencepiece_model()[:999], "is no SentencePiece model"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} {word}.*; restore it") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["[]", '{"eos_token": 5}', '{"pad_token": {"content": 5}}', '{"pad_token": {}}'])
def test_a_tokenizer_config_of_another_form_is_refused(tmp_path, config):
    (tmp_path / "tokenizer.json").write_bytes(WHOLE_JSON)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json (holds a list|of .* does not name its)|lacks 'content'"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "path,word",
    [
        ("", "There is no tokenizer.json or tokenizer.model in"),
        ("nowhere", "There is no tokenizer.json or tokenizer.model in"),
        ("nowhere.json", "There is no file"),
        ("nowhere.model", "There is no file"),
    ],
)
def test_a_missing_tokenizer_is_named(tmp_path, path, word):
    with pytest.raises(UserError, match=f"{word} .*{path}"):
        load_tokenizer(tmp_path / path)


def test_every_way_to_keep_a_tokenizer_json_reads_the_same(tmp_path, hugging_face):
    for name in ("a/tokenizer.json", "b/tokenizer.json.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(WHOLE_GZ if name.endswith("gz") else WHOLE_JSON)
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "a/tokenizer.json", tmp_path / "b/tokenizer.json.gz"]
    found = [ids(load_tokenizer(path), TEXTS[0]) for path in paths]
    assert all(a == b for a, b in pairwise([*found, ids(hugging_face, TEXTS[0])]))


def with_post_processor(template: str) -> str:
    backend = tokenizers.Tokenizer.from_str(byte_level())
    numbers = [(token, backend.token_to_id(token)) for token in (END, PAD)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=numbers)
    return backend.to_str()


def test_the_end_token_that_a_file_appends_by_itself_comes_before_the_one_it_names(tmp_path):
    """Qwen3-Embedding names <|im_end|> and appends <|endoftext|> (recipe 0.5)."""
    (tmp_path / "tokenizer.json").write_text(with_post_processor(f"$A {PAD}"), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "pad_token": PAD}))
    found = load_tokenizer(tmp_path)
    assert (
        ids(found, "red green")
        == tokenizers.Tokenizer.from_str(with_post_processor(f"$A {PAD}")).encode("red green").ids
    )
    assert found.eos_id == found.pad_id


def test_a_file_that_adds_more_than_an_end_token_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(with_post_processor(f"{PAD} $A {END}"), encoding="utf-8")
    with pytest.raises(UserError, match="adds 2 special tokens"):
        load_tokenizer(tmp_path)
