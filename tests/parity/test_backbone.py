"""The backbone against transformers' Qwen3Model in float32, over the settings that a port gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.checkpoints import hf
from f2jax.data.packing import Packed, pack
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config
from tests.parity.oracle import BASE, SETTINGS, oracle, save_for_transformers, sequences_of
from tests.tiny_model import random_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def one_sequence_per_row(sequences, row_length: int, pad_id: int) -> Packed:
    rows = [pack([ids], row_length, pad_id) for ids in sequences]
    tokens, segments, positions = (
        np.concatenate([getattr(row, name) for row in rows]) for name in ("tokens_bt", "segments_bt", "positions_bt")
    )
    ends = np.array([len(ids) - 1 for ids in sequences])
    return Packed(len(tokens), tokens, segments, positions, np.arange(len(sequences)), ends, int(ends.sum()))


def ours(config: Qwen3Config, params, *packings: Packed, **options) -> list[np.ndarray]:
    """The vectors of each packing, in arrays with as many rows as the last one has: one program is compiled."""
    forward, found = jax.jit(Qwen3(config, **options).apply), []
    for packed in packings:
        empty = len(packings[-1].tokens_bt) - len(packed.tokens_bt)
        arrays = (packed.tokens_bt, packed.segments_bt, packed.positions_bt)
        hidden_btd = forward({"params": params}, *(np.pad(x_bt, ((0, empty), (0, 0))) for x_bt in arrays))
        e_sd = np.asarray(hidden_btd)[packed.row_s, packed.col_s]
        found.append(e_sd / np.linalg.norm(e_sd, axis=1, keepdims=True))
    return found


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_packed_embeddings_equal_transformers(tmp_path, changes):
    config = Qwen3Config(**BASE | changes)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([1, 2, 3, 5, 17, 31, 64, 64, 40], config.vocab_size)

    expected = oracle(tmp_path, sequences)

    for found in ours(config, params, pack(sequences, 64, 0), one_sequence_per_row(sequences, 64, 0)):
        assert np.abs(found - expected).max() <= 1e-5


def test_long_texts_equal_transformers(tmp_path):
    config = Qwen3Config(**BASE | {"max_length": 2048, "rope_theta": 1e4})
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([1500, 700, 200], config.vocab_size)
    (found,) = ours(config, params, pack(sequences, 1536, 0))
    assert np.abs(found - oracle(tmp_path, sequences)).max() <= 1e-5


@pytest.mark.parametrize("options", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 3}, {"kernel": "xla"}], ids=str)
def test_execution_options_do_not_change_the_result(tmp_path, options):
    config = Qwen3Config(**BASE)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([3, 30, 12], config.vocab_size)
    (found,) = ours(config, params, pack(sequences, 32, 0), **options)
    assert np.abs(found - oracle(tmp_path, sequences)).max() <= 1e-5


def test_bfloat16_stays_close_to_float32(tmp_path):
    config = Qwen3Config(**BASE)
    params = random_params(config)
    save_for_transformers(tmp_path, config, params)
    sequences = sequences_of([3, 30, 12], config.vocab_size)
    (found,) = ours(config, params, pack(sequences, 32, 0), dtype=jnp.bfloat16)
    assert (found * oracle(tmp_path, sequences)).sum(axis=1).min() > 0.999


@pytest.mark.parametrize(
    "dtype,shard_size,prefix",
    [("float32", "5GB", ""), ("float32", "20KB", "model."), ("bfloat16", "5GB", "model."), ("bfloat16", "20KB", ""),
     ("float16", "5GB", ""), ("float16", "20KB", "model.")],
)  # fmt: skip
def test_checkpoints_written_by_transformers_are_read(tmp_path, dtype, shard_size, prefix):
    """Sharded or single, with prefix and head of a causal language model or without, in each type: all pairs."""
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

    found, params = hf.load_hf(tmp_path)

    assert found == config
    sequences = sequences_of([4, 9], config.vocab_size)
    (vectors,) = ours(config, params, pack(sequences, 16, 0))
    assert np.abs(vectors - oracle(tmp_path, sequences)).max() <= 1e-5
