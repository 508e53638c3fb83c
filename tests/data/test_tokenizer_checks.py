"""A tokenizer folder whose files ask for other tokens than its `tokenizer.json` gives is refused."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from f2jax.data.tokenizer import load_tokenizer
from f2jax.data.tokenizer_checks import QWEN_SPLIT
from f2jax.errors import UserError

END, PAD = "<|im_end|>", "<|endoftext|>"


def backend(template=f"$A {END}", split=QWEN_SPLIT, normalizer=normalizers.NFC, **flags):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, [], **flags))
    made.normalizer = normalizer()
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END)])
    if template:
        numbers = [(token, made.token_to_id(token)) for token in (PAD, END)]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=numbers)
    return made


def write(folder, made, **config):
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


FLAGS = {"content": END, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tokenizer_class": "Qwen2Tokenizer"},
        {"tokenizer_class": "Qwen2TokenizerFast", "add_bos_token": True},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"eos_token": FLAGS, "bos_token": None},
        {"added_tokens_decoder": {"257": FLAGS}, "additional_special_tokens": [PAD]},
        {"extra_special_tokens": {"image": END}},
    ],
    ids=str,
)
def test_a_config_that_agrees_with_tokenizer_json_is_read(tmp_path, config):
    made = backend()
    tokenizer = load_tokenizer(write(tmp_path, made, **config))
    assert tokenizer.encode(["a red"], 9)[0].tolist() == made.encode("a red").ids


@pytest.mark.parametrize(
    "config,text",
    [
        ({"tokenizer_class": "LlamaTokenizerFast"}, "tokenizer_class LlamaTokenizerFast"),
        ({"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": True}, "tokenizer_class Qwen2Tokenizer"),
        ({"bos_token": "<s>"}, "names the token <s>, which is not among the added_tokens"),
        ({"mask_token": {"content": "<mask>"}}, "names the token <mask>"),
        ({"additional_special_tokens": [PAD, "<tool>"]}, "names the token <tool>"),
        ({"extra_special_tokens": {"image": "<image>"}}, "names the token <image>"),
        ({"added_tokens_decoder": {"256": FLAGS}}, "with the id 256, which is not among"),
        ({"added_tokens_decoder": {"257": FLAGS | {"lstrip": True}}}, "otherwise than tokenizer.json does"),
        ({"added_tokens_decoder": {"x": FLAGS}}, "keys that are not ids"),
        ({"added_tokens_decoder": []}, "'added_tokens_decoder' that is not an object"),
        ({"added_tokens_decoder": {"257": 3}}, "instead of an object"),
        ({"additional_special_tokens": [3]}, "instead of an object"),
        ({"additional_special_tokens": 3}, "that is not a list"),
        ({"eos_token": 3}, "eos_token"),
    ],
    ids=str,
)
def test_a_config_that_asks_for_other_tokens_is_refused(tmp_path, config, text):
    with pytest.raises(UserError, match=text):
        load_tokenizer(write(tmp_path, backend(), **config))


@pytest.mark.parametrize("change", [{"split": r"\s+"}, {"normalizer": normalizers.NFKC}], ids=str)
def test_a_class_that_would_split_otherwise_is_refused(tmp_path, change):
    with pytest.raises(UserError, match="tokenizer_class Qwen2Tokenizer, which would read texts otherwise"):
        load_tokenizer(write(tmp_path, backend(**change), tokenizer_class="Qwen2Tokenizer"))
    load_tokenizer(write(tmp_path, backend(**change), tokenizer_class="PreTrainedTokenizerFast"))


@pytest.mark.parametrize(
    "template,text",
    [
        (f"{PAD} $A", r"puts the token <\|endoftext\|> before a text"),
        (f"{PAD} $A {END}", "adds 2 special tokens"),
        (f"$A {END} {END}", "adds 2 special tokens"),
    ],
)
def test_only_one_token_behind_the_text_can_be_kept(tmp_path, template, text):
    with pytest.raises(UserError, match=text):
        load_tokenizer(write(tmp_path, backend(template)))


def test_a_tokenizer_that_appends_nothing_gets_the_end_token_but_not_in_a_package_of_sentence_transformers(tmp_path):
    made = backend(template=None)
    write(tmp_path, made, eos_token=PAD)
    assert load_tokenizer(tmp_path).encode(["a"], 9)[0].tolist() == [*made.encode("a").ids, made.token_to_id(PAD)]
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="appends no end token"):
        load_tokenizer(tmp_path)


def test_cutting_on_the_left_is_refused_unless_the_config_says_right(tmp_path):
    made = backend()
    made.enable_truncation(9, direction="left")
    load_tokenizer(write(tmp_path, made, truncation_side="right"))
    with pytest.raises(UserError, match="cuts long texts on the left"):
        load_tokenizer(write(tmp_path, made))


def test_random_tokens_are_refused(tmp_path):
    with pytest.raises(UserError, match="drops merges at random"):
        load_tokenizer(write(tmp_path, backend(dropout=0.1)))
