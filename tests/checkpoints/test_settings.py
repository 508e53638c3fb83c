"""Model folders: what their files ask for is built, or refused by name; another kind of folder is told what it is."""

import json
import logging

import numpy as np
import pytest

from f2jax import Embedder, files
from f2jax.checkpoints import settings
from f2jax.checkpoints.package import read_settings
from f2jax.errors import UserError
from f2jax.model.sizes import size
from tests import tiny_model

TINY = size("tiny")
CONFIG = settings.config_to_hf(TINY, "float32", 1, 0)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> Embedder:
    return tiny_model.make_embedder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def folder(embedder, tmp_path):
    embedder.save_pretrained(tmp_path)
    return tmp_path


def change(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))


# config.json


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_bias": True},
        {"auto_map": {"AutoModel": "modeling.Both"}},
        {"hidden_act": "gelu"},
        {"is_causal": False},
        {"use_bidirectional_attention": True},
        {"use_sliding_window": True},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"per_layer_config": {"0": {"num_attention_heads": 2}}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5},
        {"architectures": ["BidirectionalModel"]},
        {"hidden_size": 0},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_architecture_that_is_not_built_is_refused_by_the_name_of_the_setting(fields):
    name = {"architectures": "Bidirectional", "rope_parameters": "rotary embedding", "rope_scaling": "type"}
    key = next(iter(fields))
    with pytest.raises(UserError, match=name.get(key, key)):
        settings.config_from_hf(CONFIG | fields)


@pytest.mark.parametrize(
    "fields", [{"hidden_size": "64"}, {"head_dim": None}, {"rms_norm_eps": None}, {"rope_scaling": 2}]
)
def test_a_field_of_another_type_is_refused(fields):
    with pytest.raises(UserError, match=f"config.json has a '{next(iter(fields))}' that is not"):
        settings.config_from_hf(CONFIG | fields)


def test_defaults_are_those_of_qwen3():
    """Heads have 128 dimensions whatever the width, and there are as many key heads as query heads."""
    config = {k: v for k, v in CONFIG.items() if k != "head_dim"} | {"num_key_value_heads": None}
    architecture = settings.config_from_hf(config)
    assert (architecture.head_dim, architecture.kv_heads) == (128, architecture.heads)


def test_older_scaling_of_angles_overrides_the_newer_field():
    both = {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_theta": 5e4, "factor": 8.0}}
    assert settings.config_from_hf(CONFIG | both).rope_theta == 5e4


def test_an_unknown_setting_is_said_once(caplog):
    with caplog.at_level(logging.WARNING):
        settings.config_from_hf(CONFIG | {"use_gate": True, "depth_scale": 2, "use_cache": True})
    assert [record.getMessage() for record in caplog.records] == [
        "config.json has settings that f2jax does not know and ignores: use_gate, depth_scale."
    ]


# sentence-transformers' files


@pytest.mark.parametrize(
    "name,fields",
    [
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}),
        ("config_sentence_transformers.json", {"truncate_dim": 16}),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"query_length": 8}),
        ("sentence_bert_config.json", {"config_args": {"is_causal": False}}),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 4}}}),
        ("sentence_bert_config.json", {"modality_config": {"message": {"method": "forward"}}}),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenizer.Own", None]}}),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": False}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True}),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "lasttoken"]}),
    ],
    ids=str,
)
def test_a_setting_that_is_not_built_is_refused_with_its_file(embedder, folder, name, fields):
    change(folder, name, **fields)
    with pytest.raises(UserError) as error:
        read_settings(str(folder), embedder.architecture)
    assert name.rpartition("/")[2] in str(error.value) or "max_seq_length" in str(error.value)
    value = next(iter(fields.values()))
    assert next(iter(fields)) in str(error.value) or str(value) in str(error.value) or "pools by" in str(error.value)


def test_a_pooling_without_a_mode_is_the_mean_and_refused(embedder, folder):
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": TINY.width}))
    with pytest.raises(UserError, match=r"pools by mean in 1_Pooling/config\.json"):
        read_settings(str(folder), embedder.architecture)
    (folder / "1_Pooling/config.json").unlink()
    with pytest.raises(UserError, match=r"pools by mean in 1_Pooling/config\.json"):
        read_settings(str(folder), embedder.architecture)


@pytest.mark.parametrize(
    "kinds",
    [
        ["sentence_transformers.models.Transformer"],
        ["sentence_transformers.models.Pooling", "sentence_transformers.models.Transformer"],
        ["custom_st.Transformer", "sentence_transformers.models.Pooling"],
        ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", "my.Pooling"],
        ["sentence_transformers.models.Transformer", "sentence_transformers.models.Normalize",
         "sentence_transformers.models.Pooling"],
        ["sentence_transformers.base.modules.router.Router"],
    ],
    ids=str,
)  # fmt: skip
def test_modules_in_another_order_or_of_another_origin_are_refused(embedder, folder, kinds):
    modules = [{"idx": i, "name": str(i), "path": f"{i}_x" if i else "", "type": kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"modules\.json"):
        read_settings(str(folder), embedder.architecture)


def test_the_pooling_is_read_from_the_folder_that_modules_json_names(embedder, folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pooling").mkdir()
    (folder / "pooling/config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    with pytest.raises(UserError, match=r"pools by mean in pooling/config\.json"):
        read_settings(str(folder), embedder.architecture)


def test_a_transformer_in_a_folder_of_its_own_is_named(embedder, folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="keeps its transformer in the folder '0_Transformer'"):
        read_settings(str(folder), embedder.architecture)


@pytest.mark.parametrize(
    "similarity,expected",
    [
        ("cosine", [[1.0, 0.6]]),
        ("dot", [[25.0, 15.0]]),
        ("euclidean", [[-0.0, -np.sqrt(20)]]),
        ("manhattan", [[-0.0, -6.0]]),
    ],
)
def test_the_declared_similarity_is_computed_and_kept(embedder, folder, tmp_path, similarity, expected):
    change(folder, "config_sentence_transformers.json", similarity_fn_name=similarity)
    model = Embedder.from_pretrained(folder)
    np.testing.assert_allclose(model.similarity([3.0, 4.0], [[3.0, 4.0], [5.0, 0.0]]), expected, rtol=1e-6)
    model.save_pretrained(tmp_path / "again")
    kept = files.read_json(tmp_path / "again/config_sentence_transformers.json")
    assert kept["similarity_fn_name"] == similarity


def test_a_model_without_normalization_is_saved_without_it(folder, tmp_path):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    Embedder.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert files.read_json(tmp_path / "again/modules.json") == modules[:2]
    assert not (tmp_path / "again/2_Normalize").exists()


def test_a_prompt_for_passages_that_sentence_transformers_does_not_put_before_documents_is_said(
    embedder, folder, caplog
):
    change(folder, "config_sentence_transformers.json", prompts={"query": "Q: ", "passage": "P: "})
    with caplog.at_level(logging.WARNING):
        read_settings(str(folder), embedder.architecture)
    assert "to use its prompt 'passage', pass prompt_name='passage'" in caplog.text


# Other kinds of folders


@pytest.mark.parametrize(
    "name,text",
    [
        ("pytorch_model.bin", "pickle"),
        ("pytorch_model-00001-of-00002.bin", "pickle"),
        ("model-q8_0.gguf", "GGUF"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "ONNX"),
        ("openvino_model.xml", "OpenVINO"),
        ("consolidated.safetensors.index.json", "Mistral"),
        ("checkpoint-500", "checkpoints of a trainer"),
        ("0_Transformer", "keeps its transformer in 0_Transformer"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_a_folder_of_another_kind_is_said_by_its_name(tmp_path, name, text, with_config):
    (tmp_path / name).touch()
    if with_config:
        change(tmp_path, "config.json", **CONFIG)
    with pytest.raises(UserError, match=text):
        settings.read_config(tmp_path)


def test_an_adapter_is_refused_even_next_to_weights(folder):
    change(folder, "adapter_config.json", base_model_name_or_path="Qwen/Qwen3-0.6B")
    with pytest.raises(UserError, match=r"PEFT adapter of Qwen/Qwen3-0\.6B; merge it"):
        Embedder.from_pretrained(folder)


def test_a_run_that_has_no_model_yet_is_said(tmp_path):
    change(tmp_path, "config.json", optim={}, data={})
    with pytest.raises(UserError, match="training workdir without a model yet"):
        settings.read_config(tmp_path)


@pytest.mark.parametrize("model_type", [None, "bert", "qwen3_moe", 3])
def test_another_architecture_is_refused_by_its_name(model_type):
    with pytest.raises(UserError, match=f"model_type {json.dumps(model_type)}; only dense 'qwen3'"):
        settings.config_from_hf(CONFIG | {"model_type": model_type})


# JSON of another shape


SHAPES = [[], "x", 3, None, {}, {"0": {}}, [[]], [{}], {"prompts": ["Q: "]}, {"weight_map": []}, {"pooling_mode": {}}]


@pytest.mark.parametrize(
    "name",
    ["config.json", "modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "sentence_bert_config.json",
     "config_sentence_transformers.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors.index.json",
     "model.json", "adapter_config.json"],
)  # fmt: skip
def test_json_of_another_shape_never_ends_in_a_traceback(embedder, tmp_path, name):
    """Each is loaded or refused in one line that names the file or the folder."""
    embedder.save_pretrained(tmp_path)
    if name == "model.safetensors.index.json":
        (tmp_path / "model.safetensors").unlink()
    for content in SHAPES:
        (tmp_path / name).write_text(json.dumps(content))
        try:
            Embedder.from_pretrained(tmp_path)
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
