"""transformers' Qwen3Model as the oracle of the backbone, and the settings that a port gets wrong.

No test module, so that others may import it where PyTorch, and with it `test_backbone`, is absent.
"""

import json

import jax
import numpy as np

from f2jax.checkpoints import hf, settings
from f2jax.model.sizes import Qwen3Config

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


def save_for_transformers(folder, config: Qwen3Config, params, **save_options):
    hf.save_hf(folder, params, **save_options)
    dtype = str(jax.tree.leaves(params)[0].dtype)
    (folder / "config.json").write_text(json.dumps(settings.config_to_hf(config, dtype, eos_id=1, pad_id=0)))


def oracle(folder, sequences) -> np.ndarray:
    """Normalized last hidden state of each sequence, one at a time: no padding, no packing, no mask."""
    import torch
    import transformers

    model = transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        states = [model(torch.tensor(ids[None].astype(np.int64))).last_hidden_state[0, -1] for ids in sequences]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()


def sequences_of(lengths, vocab_size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, vocab_size, length).astype(np.int32) for length in lengths]
