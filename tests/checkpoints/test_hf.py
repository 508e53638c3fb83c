"""Hugging Face checkpoints: bit-for-bit round trips, shardings, and one clear error for what does not fit."""

import json
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from f2jax import files
from f2jax.checkpoints import hf, settings
from f2jax.errors import UserError
from f2jax.model.qwen3 import Qwen3, abstract_params, init_params
from f2jax.model.sizes import Qwen3Config, size
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import param_shardings

CONFIG = Qwen3Config(32, 48, 3, 4, 2, head_dim=16, vocab_size=50)


def write(folder, config=CONFIG, dtype=jnp.float32, **options):
    params = jax.tree.map(lambda x: x.astype(dtype), init_params(Qwen3(config), 3))
    hf.save_hf(folder, params, **options)
    (folder / "config.json").write_text(json.dumps(settings.config_to_hf(config, "float32", 1, 0)))
    return params


def same_bits(a, b) -> bool:
    return jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shard_bytes", [2**30, 5_000])
def test_a_round_trip_keeps_every_bit(tmp_path, dtype, shard_bytes):
    params = write(tmp_path, dtype=dtype, shard_bytes=shard_bytes)
    shards = list(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 3) == (shard_bytes == 5_000)
    config, loaded = hf.load_hf(tmp_path, dtype)
    assert config == CONFIG
    assert same_bits(params, loaded)


@pytest.mark.parametrize("before,after", [(5_000, 2**30), (2**30, 5_000), (5_000, 10_000)])
def test_writing_again_leaves_no_stale_index_and_no_stale_weights(tmp_path, before, after):
    write(tmp_path, shard_bytes=before)
    params = write(tmp_path, shard_bytes=after)
    write(tmp_path / "fresh", shard_bytes=after)
    assert {p.name for p in tmp_path.glob("model*")} == {p.name for p in (tmp_path / "fresh").glob("model*")}
    assert same_bits(params, hf.load_hf(tmp_path)[1])


def test_weights_are_read_straight_into_a_sharding(tmp_path):
    params = write(tmp_path)
    shardings = param_shardings(abstract_params(CONFIG), make_mesh())
    _, loaded = hf.load_hf(tmp_path, shardings=shardings)
    assert same_bits(params, loaded)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, loaded, shardings))


def test_a_remote_weight_that_was_used_leaves_nothing_in_memory(tmp_path, monkeypatch):
    write(tmp_path)
    folder = f"memory://{tmp_path.name}"
    for name in ("config.json", "model.safetensors"):
        files.write_atomically(f"{folder}/{name}", (tmp_path / name).read_bytes())
    fetched, rows = [], hf._Tensor.rows

    def watched(*args):
        found = rows(*args)
        fetched.append(weakref.ref(found))
        return found

    monkeypatch.setattr(hf._Tensor, "rows", watched)
    weights = hf.open_hf_weights(folder)[1]
    for weight in weights.values():
        weight.make()
    assert len(fetched) == 11 * CONFIG.layers + 2 and not any(fetch() is not None for fetch in fetched)


def test_all_misfits_are_named_in_one_error(tmp_path):
    write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    tensors["norm.weight"] = np.ones(7, np.float32)
    tensors["extra.bias"] = np.ones(3, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        hf.load_hf(tmp_path)
    text = str(error.value)
    assert "missing: layers.1.mlp.up_proj.weight" in text
    assert "surplus: extra.bias" in text
    assert "norm.weight is [7], not [32]" in text


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path):
    write(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for kept in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"model\.safetensors is cut short"):
            hf.load_hf(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*config\.json"):
        hf.load_hf(tmp_path)
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor its index"):
        hf.load_hf(tmp_path)


@pytest.mark.parametrize(
    "change,word",
    [
        ({"model_type": "llama"}, "llama"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn"}}, "rope_type"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_is_not_built_is_refused_by_name(change, word):
    with pytest.raises(UserError, match=re.escape(word)):
        settings.config_from_hf(settings.config_to_hf(CONFIG, "float32", 1, 0) | change)


@pytest.mark.parametrize("theta", [1e4, 1e6, 5e6])
def test_rope_theta_is_read_from_either_place(theta):
    written = settings.config_to_hf(Qwen3Config(32, 48, 1, 4, 2, rope_theta=theta), "float32", 1, 0)
    old = {k: v for k, v in written.items() if k != "rope_parameters"}
    new = {k: v for k, v in written.items() if k != "rope_theta"}
    assert settings.config_from_hf(old).rope_theta == settings.config_from_hf(new).rope_theta == theta


def test_layer_types_have_the_true_length():
    assert len(settings.config_to_hf(size("80m"), "float32", 1, 0)["layer_types"]) == 8
