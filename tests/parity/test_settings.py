"""Each setting of a model folder gives sentence-transformers' vectors here, or the folder is refused."""

import json
import shutil

import numpy as np
import pytest
import tokenizers

from f2jax import Embedder
from f2jax.checkpoints import settings
from f2jax.errors import UserError
from tests import tiny_model

pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.parity

TEXTS = [*tiny_model.TEXTS, "RED River", "  two   spaces ", "x" * 300]
CONFIG, SBERT, DECLARED = "config.json", "sentence_bert_config.json", "config_sentence_transformers.json"
TOKENIZER, POOLING, NORMALIZE = "tokenizer_config.json", "1_Pooling/config.json", "2_Normalize/config.json"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer")).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(base, tmp_path):
    return shutil.copytree(base, tmp_path / "model")


@pytest.fixture(scope="module")
def plain(base) -> np.ndarray:
    return theirs(base)


def theirs(folder, **options) -> np.ndarray:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False, **options)


def change(folder, name, fields):
    """Sets fields of a JSON file; None removes one."""
    path = folder / name
    content = (json.loads(path.read_text()) if path.exists() else {}) | fields
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


OBEYED = [
    (CONFIG, {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    (CONFIG, {"rope_parameters": None, "rope_theta": 300.0}),
    (CONFIG, {"rope_parameters": {"rope_theta": 300.0}, "rope_theta": 1e6}),
    (CONFIG, {"rope_parameters": {"rope_theta": 300.0}, "rope_scaling": {"rope_theta": 1e5}}),
    (CONFIG, {"rope_scaling": {"factor": 8.0}}),
    (CONFIG, {"rms_norm_eps": 0.1}),
    (CONFIG, {"tie_word_embeddings": False}),
    (CONFIG, {"is_causal": True}),
    (DECLARED, {"prompts": {"query": "Q: "}, "default_prompt_name": "query"}),
    (DECLARED, {"prompts": {"a": "A: ", "query": ""}, "default_prompt_name": "a"}),
    (POOLING, {"pooling_mode": "lasttoken", "pooling_mode_lasttoken": None}),
    (POOLING, {"pooling_mode": ["lasttoken"], "pooling_mode_mean_tokens": True}),
    (NORMALIZE, {"module_input_name": "sentence_embedding"}),
]
LIMITS = [
    (CONFIG, {"max_position_embeddings": 20}),
    (SBERT, {"max_seq_length": 7}),
    (SBERT, {"max_seq_length": None}),
    (SBERT, {"max_seq_length": 200}),
    (TOKENIZER, {"model_max_length": 9}),
]


@pytest.mark.parametrize(
    "name,fields,without", [(*one, "") for one in OBEYED + LIMITS] + [(*one, SBERT) for one in LIMITS], ids=str
)
def test_a_setting_that_is_obeyed_gives_their_vectors(folder, name, fields, without):
    """Without the file of one limit the other two count."""
    if without:
        (folder / without).unlink()
    change(folder, name, fields)
    np.testing.assert_allclose(Embedder.from_pretrained(folder).encode(TEXTS), theirs(folder), atol=1e-5)


REFUSED = [
    (CONFIG, {"is_causal": False}),
    (CONFIG, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    (CONFIG, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
    (CONFIG, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0, "layer_types": None}),
    (CONFIG, {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "use_sliding_window": True}),
    (CONFIG, {"hidden_act": "gelu"}),
    (DECLARED, {"truncate_dim": 8}),
    (SBERT, {"do_lower_case": True}),
    (SBERT, {"config_args": {"rms_norm_eps": 0.5}}),
    (SBERT, {"tokenizer_args": {"model_max_length": 4}, "max_seq_length": None}),
    (SBERT, {"processing_kwargs": {"text": {"max_length": 5}}}),
    (TOKENIZER, {"truncation_side": "left"}),
    (TOKENIZER, {"split_special_tokens": True}),
    (TOKENIZER, {"tokenizer_class": "Qwen2Tokenizer"}),
    (TOKENIZER, {"additional_special_tokens": ["re"]}),
    (POOLING, {"pooling_mode_lasttoken": False}),
    (POOLING, {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}),
    (POOLING, {"pooling_mode": "weightedmean"}),
]


@pytest.mark.parametrize("name,fields", REFUSED, ids=str)
def test_a_setting_that_is_refused_would_have_changed_the_vectors(folder, plain, name, fields):
    change(folder, name, fields)
    with pytest.raises(UserError):
        Embedder.from_pretrained(folder)
    try:
        found = theirs(folder)
    except Exception:  # a token without a row, or texts that become another number of tokens: it fails there too
        return
    assert found.shape != plain.shape or np.abs(found - plain).max() > 1e-3


VALUES = {  # where neither an id nor a flag will do
    "attn_implementation": "eager", "_attn_implementation": "eager", "dtype": "float32", "torch_dtype": "float32",
    "id2label": {"0": "a"}, "label2id": {"a": 0}, "problem_type": "regression", "_name_or_path": "elsewhere",
    "name_or_path": "elsewhere", "tokenizer_class": "PreTrainedTokenizerFast", "transformers_version": "4.51.0",
    "task_specific_params": {}, "attention_dropout": 0.5, "initializer_range": 0.5, "prefix": "P: ",
    "finetuning_task": "mnli", "bad_words_ids": [[1]], "cross_attention_hidden_size": 8, "_commit_hash": "abc",
    "output_attentions": False, "return_dict": True, "sliding_window": 4, "max_window_layers": 0,
    "original_max_position_embeddings": 16, "_attn_implementation_autoset": True, "chunk_size_feed_forward": 4,
    "unsloth_version": "2026.1",
}  # fmt: skip


def test_the_harmless_settings_of_config_json_change_no_vector(folder, plain):
    ids = {key: 1 for key in settings.CONFIG.harmless if key.endswith("_id")}
    values = {key: VALUES.get(key, True) for key in settings.CONFIG.harmless - ids.keys()} | ids
    generation = {key for key in values if key in sentence_transformers_generation()}
    change(folder, CONFIG, {key: value for key, value in values.items() if key not in generation} | {"top_k": 3})
    np.testing.assert_allclose(theirs(folder), plain, atol=1e-6)
    np.testing.assert_allclose(Embedder.from_pretrained(folder).encode(TEXTS), plain, atol=1e-5)


def sentence_transformers_generation() -> set[str]:
    """The settings of text generation, which transformers takes out of a config by itself."""
    from transformers import GenerationConfig

    names = set(GenerationConfig._get_default_generation_params())
    assert names <= settings.CONFIG.harmless
    return names - {"use_cache"}


def test_every_field_of_their_config_is_known_here():
    from transformers import Qwen3Config

    known = settings.CONFIG.obeyed | settings.CONFIG.allowed.keys() | settings.CONFIG.harmless
    assert set(Qwen3Config().to_dict()) <= known


def test_every_field_that_their_modules_save_is_known_here(folder, tmp_path):
    sentence_transformers.SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "saved"))
    names = {
        SBERT: settings.TRANSFORMER,
        DECLARED: settings.SENTENCE_TRANSFORMERS,
        TOKENIZER: settings.TOKENIZER_CONFIG,
        POOLING: settings.POOLING,
        NORMALIZE: settings.NORMALIZE,
        CONFIG: settings.CONFIG,
    }
    for name, keys in names.items():
        saved = json.loads((tmp_path / "saved" / name).read_text())
        assert set(saved) <= keys.obeyed | keys.allowed.keys() | keys.harmless, name
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    for module, keys in (
        (Transformer, settings.TRANSFORMER),
        (Pooling, settings.POOLING),
        (Normalize, settings.NORMALIZE),
    ):
        assert set(module.config_keys) <= keys.obeyed | keys.allowed.keys() | keys.harmless


HARMLESS_TOKENIZER = {
    "add_bos_token": True, "add_eos_token": False, "add_prefix_space": True, "chat_template": "{{ messages }}",
    "clean_up_tokenization_spaces": True, "errors": "strict", "legacy": True, "max_length": 3, "pad_to_multiple_of": 8,
    "pad_token_type_id": 1, "padding_side": "left", "stride": 2, "truncation_strategy": "only_first",
    "spaces_between_special_tokens": True, "use_fast": False, "verbose": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "name,fields",
    [(TOKENIZER, HARMLESS_TOKENIZER), (DECLARED, {"requirements": {}, "__version__": {"pytorch": "1.0"}}),
     (SBERT, {"unpad_inputs": False, "model_args": {"attn_implementation": "eager"}}),
     (POOLING, {"word_embedding_dimension": 7, "include_prompt": False})],
    ids=["tokenizer", "declared", "transformer", "pooling"],
)  # fmt: skip
def test_the_harmless_settings_of_other_files_change_no_vector(folder, plain, name, fields):
    change(folder, name, fields)
    model = Embedder.from_pretrained(folder)
    np.testing.assert_allclose(theirs(folder), plain, atol=1e-6)
    np.testing.assert_allclose(model.encode(TEXTS), plain, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, prompt="P: "), theirs(folder, prompt="P: "), atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_declared_similarity_is_theirs(folder, kind):
    change(folder, DECLARED, {"similarity_fn_name": kind})
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    ours = Embedder.from_pretrained(folder)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = ours.encode(TEXTS, normalize_embeddings=False)
    np.testing.assert_allclose(vectors, model.encode(TEXTS), atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(ours.similarity(vectors, vectors[:3]), model.similarity(vectors, vectors[:3]), atol=1e-3)
    ours.save_pretrained(folder.parent / "again")
    again = sentence_transformers.SentenceTransformer(str(folder.parent / "again"), device="cpu")
    assert again.similarity_fn_name == kind and len(again) == 2


# tokenizer.json


def edit_tokenizer(folder, edit):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    edit(backend)
    backend.save(str(folder / "tokenizer.json"))


def special(backend, template):
    names = ("<|im_end|>", "<|endoftext|>")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda backend: setattr(backend, "normalizer", tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase(), backend.normalizer])),
        lambda backend: special(backend, "$A <|endoftext|>"),
        lambda backend: backend.enable_truncation(5),
        lambda backend: backend.enable_padding(direction="left", length=64),
        lambda backend: backend.add_tokens([tokenizers.AddedToken("red", lstrip=True, rstrip=True)]),
    ],
    ids=["normalizer", "another end token", "truncation", "padding", "flags of a token"],
)  # fmt: skip
def test_a_tokenizer_json_that_is_obeyed_gives_their_vectors(folder, edit):
    edit_tokenizer(folder, edit)
    np.testing.assert_allclose(Embedder.from_pretrained(folder).encode(TEXTS), theirs(folder), atol=1e-5)


@pytest.mark.parametrize(
    "edit,text",
    [
        (lambda backend: special(backend, "<|endoftext|> $A"), "puts the token .* before a text"),
        (lambda backend: special(backend, "<|endoftext|> $A <|im_end|>"), "adds 2 special tokens"),
        (lambda backend: special(backend, "$A"), "appends no end token"),
        (lambda backend: backend.enable_truncation(5, direction="left"), "cuts long texts on the left"),
        (lambda backend: setattr(backend.model, "dropout", 0.5), "drops merges at random"),
    ],
    ids=["begin token", "begin and end token", "no end token", "cut on the left", "dropout"],
)
def test_a_tokenizer_json_that_is_not_built_is_refused_and_differs_there(folder, plain, edit, text):
    edit_tokenizer(folder, edit)
    with pytest.raises(UserError, match=text):
        Embedder.from_pretrained(folder)
    assert np.abs(theirs(folder) - plain).max() > 1e-3
