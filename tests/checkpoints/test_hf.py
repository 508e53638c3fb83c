"""Hugging Face checkpoints: bit-for-bit round trips, shardings, and one clear error for what does not fit."""

import json
import struct
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError, deserialize
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
    folder.mkdir(exist_ok=True)
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
        with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
            hf.load_hf(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*config\.json"):
        hf.load_hf(tmp_path)
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor its index"):
        hf.load_hf(tmp_path)


@pytest.mark.parametrize("theta", [1e4, 1e6, 5e6])
def test_rope_theta_is_read_from_either_place(theta):
    written = settings.config_to_hf(Qwen3Config(32, 48, 1, 4, 2, rope_theta=theta), "float32", 1, 0)
    old = {k: v for k, v in written.items() if k != "rope_parameters"}
    new = {k: v for k, v in written.items() if k != "rope_theta"}
    assert settings.config_from_hf(old).rope_theta == settings.config_from_hf(new).rope_theta == theta


def test_layer_types_have_the_true_length():
    assert len(settings.config_to_hf(size("80m"), "float32", 1, 0)["layer_types"]) == 8


# What is damaged


def rebuild(path, change) -> bytes:
    """The file after `change(header, data)` has edited its header; returns the new content."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    header, data = change(header, data) or (header, data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path.read_bytes()


A, B = "layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight"


def edited(name, **fields):
    return lambda header, data: header[name].update(fields)


def without(field):
    return lambda header, data: header[A].pop(field) and None


DAMAGES = {
    "two weights on the same bytes": lambda header, data: header[A].update(data_offsets=header[B]["data_offsets"]),
    "fewer bytes than the shape": lambda header, data: header[A]["data_offsets"].reverse(),
    "bytes that end early": lambda header, data: header[A].update(data_offsets=[0, 4]),
    "another shape of other size": edited(A, shape=[1, 1]),
    "a negative shape": edited(A, shape=[-48, -32]),
    "a larger type": edited(A, dtype="F64"),
    "a type that is none": edited(A, dtype=32),
    "a shape of strings": edited(A, shape=["48", "32"]),
    "offsets that are none": edited(A, data_offsets="0"),
    "three offsets": edited(A, data_offsets=[0, 1, 2]),
    "bytes behind the last weight": lambda header, data: (header, data + b"0" * 8),
    "bytes before the first weight": lambda header, data: (
        {k: v | {"data_offsets": [x + 4 for x in v["data_offsets"]]} for k, v in header.items()}, b"0000" + data,
    ),
    "a list": lambda header, data: ([], data),
    "a weight that is a list": lambda header, data: header.update({A: []}),
    "no offsets": without("data_offsets"),
    "no type": without("dtype"),
    "no shape": without("shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_where_the_library_refuses_it(tmp_path, name):
    write(tmp_path)
    rebuild(tmp_path / "model.safetensors", lambda header, data: None)
    hf.load_hf(tmp_path)
    content = rebuild(tmp_path / "model.safetensors", DAMAGES[name])
    with pytest.raises(SafetensorError):
        deserialize(content)
    with pytest.raises(UserError, match=r"model\.safetensors") as error:
        hf.load_hf(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.1.mlp.down_proj.weight", "norm.weight"])
def test_a_weight_that_is_not_finite_is_refused_by_its_name(tmp_path, dtype, value, name):
    write(tmp_path, dtype=dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name].flat[3] = value
    save_file(tensors, tmp_path / "model.safetensors")
    for load in (hf.load_hf, lambda folder: [weight.make() for weight in hf.open_hf_weights(folder)[1].values()]):
        with pytest.raises(UserError, match=f"NaN or infinite in {name};"):
            load(tmp_path)


def test_parameters_that_are_not_finite_are_refused_by_their_hugging_face_names(tmp_path):
    params = write(tmp_path)
    hf.check_finite(params, "runs/a")
    params["layers"]["up"] = params["layers"]["up"].at[1, 0, 0].set(jnp.nan).at[2, 3, 3].set(jnp.inf)
    names = "layers.1.mlp.up_proj.weight, layers.2.mlp.up_proj.weight"
    with pytest.raises(UserError, match=f"runs/a has values that are NaN or infinite in {names};"):
        hf.check_finite(params, "runs/a")


@pytest.mark.parametrize("lazy", [False, True])
def test_writing_what_is_not_finite_leaves_the_older_weights(tmp_path, lazy):
    params = write(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    bad = params["final_norm"].at[3].set(jnp.nan)
    changed = params | {"final_norm": hf.LazyWeight(bad.shape, bad.dtype, lambda: np.asarray(bad)) if lazy else bad}
    with pytest.raises(UserError, match=r"NaN or infinite in norm\.weight"):
        hf.save_hf(tmp_path, changed, before_replacing=lambda: pytest.fail("nothing is to be replaced"))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


# Names


@pytest.mark.parametrize(
    "prefix", ["", "model.", "_orig_mod.", "module.", "model._orig_mod.", "module.model.", "0.auto_model."]
)
def test_known_prefixes_of_names_are_passed_over(tmp_path, prefix):
    params = write(tmp_path)
    tensors = {prefix + name: x for name, x in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors | {"lm_head.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    assert same_bits(params, hf.load_hf(tmp_path)[1])


def test_unknown_names_are_said_in_a_few_words(tmp_path):
    write(tmp_path)
    tensors = {f"student.{name}": x for name, x in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"surplus: student\.embed_tokens\.weight, .* and 30 more") as error:
        hf.load_hf(tmp_path)
    assert len(str(error.value)) < 800


def test_a_weight_under_two_names_is_refused(tmp_path):
    write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["norm.weight"] * 2}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"one weight twice, as .*norm\.weight"):
        hf.load_hf(tmp_path)


def test_a_single_file_next_to_an_index_of_others_is_refused(tmp_path):
    """transformers would take the single file, older tools the shards; which one is outdated cannot be told."""
    write(tmp_path, shard_bytes=5_000)
    write(tmp_path / "single")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "single/model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"model\.safetensors and in the shards .* lists; delete the outdated ones"):
        hf.load_hf(tmp_path)
    for shard in tmp_path.glob("model-*"):
        shard.unlink()
    names = dict.fromkeys(load_file(tmp_path / "model.safetensors"), "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    hf.load_hf(tmp_path)
