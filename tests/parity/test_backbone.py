"""The backbone against transformers' Qwen3Model in float32, over the settings that a port gets wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.data.packing import Packed, pack
from f2jax.model import hf
from f2jax.model.qwen3 import Qwen3, init_params
from f2jax.model.sizes import Qwen3Config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

BASE = dict(width=48, mlp=80, layers=3, heads=4, kv_heads=2, head_dim=16, vocab_size=97, max_length=256)
SETTINGS = {
    "base": {},
    "multi_head": {"kv_heads": 4},
    "multi_query": {"kv_heads": 1},
    "head_dim_times_heads_above_width": {"head_dim": 32},
    "head_dim_times_heads_below_width": {"head_dim": 8},
    "width_no_power_of_two": {"width": 56, "mlp": 72},
    "rope_theta_1e4": {"rope_theta": 1e4},
    "rope_theta_5e6": {"rope_theta": 5e6},
    "coarse_norm_eps": {"rms_norm_eps": 1e-3},
    "one_layer": {"layers": 1},
    "untied": {"tie_word_embeddings": False},
}


def random_params(config: Qwen3Config, seed: int = 0):
    """Weights far from their initial values, so that no norm is one and no term is small."""
    fresh = init_params(Qwen3(config), seed)
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def save_for_transformers(folder, config: Qwen3Config, params, **save_options):
    hf.save(folder, params, **save_options)
    dtype = str(jax.tree.leaves(params)[0].dtype)
    (folder / "config.json").write_text(json.dumps(hf.config_to_hf(config, dtype, eos_id=1, pad_id=0)))


def oracle(folder, sequences) -> np.ndarray:
    """Normalized last hidden state of each sequence, one at a time: no padding, no packing, no mask."""
    model = transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        states = [model(torch.tensor(ids[None].astype(np.int64))).last_hidden_state[0, -1] for ids in sequences]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


def one_sequence_per_row(sequences, row_length: int, pad_id: int) -> Packed:
    rows = [pack([ids], row_length, pad_id) for ids in sequences]
    tokens, segments, positions = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("tokens_bt", "segments_bt", "positions_bt")
    )
    ends = np.array([len(ids) - 1 for ids in sequences])
    return Packed(len(tokens), tokens, segments, positions, np.arange(len(sequences)), ends, int(ends.sum()))


def ours(config: Qwen3Config, params, sequences, row_length: int, pack=pack, **options) -> np.ndarray:
    packed = pack(sequences, row_length, pad_id=0)
    forward = jax.jit(Qwen3(config, **options).apply)
    hidden_btd = forward({"params": params}, packed.tokens_bt, packed.segments_bt, packed.positions_bt)
    e_sd = np.asarray(hidden_btd)[packed.row_s, packed.col_s]
    return e_sd / np.linalg.norm(e_sd, axis=1, keepdims=True)


def sequences_of(lengths, vocab_size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, vocab_size, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_packed_embeddings_equal_transformers(tmp_path, changes):
    config = Qwen3Config(**BASE | changes)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([1, 2, 3, 5, 17, 31, 64, 64, 40], config.vocab_size)

    expected = oracle(tmp_path, sequences)

    assert np.abs(ours(config, params, sequences, row_length=64) - expected).max() <= 1e-5
    one_per_row = ours(config, params, sequences, row_length=64, pack=one_sequence_per_row)
    assert np.abs(one_per_row - expected).max() <= 1e-5


def test_long_texts_equal_transformers(tmp_path):
    config = Qwen3Config(**BASE | {"max_length": 2048, "rope_theta": 1e4})
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([1500, 700, 200], config.vocab_size)
    assert np.abs(ours(config, params, sequences, row_length=1536) - oracle(tmp_path, sequences)).max() <= 1e-5


@pytest.mark.parametrize("options", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 3}, {"kernel": "xla"}], ids=str)
def test_execution_options_do_not_change_the_result(tmp_path, options):
    config = Qwen3Config(**BASE)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([3, 30, 12], config.vocab_size)
    assert np.abs(ours(config, params, sequences, 32, **options) - oracle(tmp_path, sequences)).max() <= 1e-5


def test_bfloat16_stays_close_to_float32(tmp_path):
    config = Qwen3Config(**BASE)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([3, 30, 12], config.vocab_size)
    cosine = (ours(config, params, sequences, 32, dtype=jnp.bfloat16) * oracle(tmp_path, sequences)).sum(axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("prefix", ["", "model."], ids=["bare", "model."])
def test_checkpoints_written_by_transformers_are_read(tmp_path, dtype, shard_size, prefix):
    """Sharded or single, with the prefix of a causal language model and its head or without, in each type."""
    config = Qwen3Config(**BASE)
    names = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
    hf_config = transformers.Qwen3Config(
        **names, num_key_value_heads=2, head_dim=16, vocab_size=97, max_position_embeddings=256,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    kind = transformers.Qwen3ForCausalLM if prefix else transformers.Qwen3Model
    model = kind(hf_config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size=shard_size)

    found, params = hf.load(tmp_path)

    assert found == config
    sequences = sequences_of([4, 9], config.vocab_size)
    assert np.abs(ours(config, params, sequences, 16) - oracle(tmp_path, sequences)).max() <= 1e-5
