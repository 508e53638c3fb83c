"""A backbone whose layers average embeds a text as the weighted mean of its tokens' rows."""

import jax
import numpy as np
import pytest

from f2jax.checkpoints.package import ModelSettings
from f2jax.errors import UserError
from f2jax.inference.embedder import Embedder
from f2jax.model.sizes import Qwen3Config, size
from f2jax.start.backbone import average_params
from tests import tiny_model

TEXTS = [text for text in tiny_model.TEXTS if text.strip()]
SHAPES = {
    "one layer carries all": Qwen3Config(32, 64, 1, 4, 4, head_dim=8, vocab_size=400),
    "layers share the width": Qwen3Config(64, 64, 4, 4, 2, head_dim=8, vocab_size=400),
    "some coordinates twice": Qwen3Config(64, 64, 3, 2, 2, head_dim=16, vocab_size=400),
    "heads wider than the width": Qwen3Config(32, 64, 2, 6, 2, head_dim=32, vocab_size=400),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_model.train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def table(config: Qwen3Config):
    rng = np.random.default_rng(0)
    rows_ve = rng.normal(size=(config.vocab_size, config.width - 1)).astype(np.float32)
    return rows_ve / np.linalg.norm(rows_ve, axis=1, keepdims=True), rng.uniform(0.05, 1, config.vocab_size)


@pytest.mark.parametrize("name", SHAPES)
def test_the_embedding_is_the_weighted_mean_of_the_rows(tokenizer, name):
    config = SHAPES[name]
    rows_ve, weight_v = table(config)
    params = average_params(config, rows_ve, weight_v, tokenizer.eos_id)
    embedder = Embedder(config, params, tokenizer, ModelSettings(96))
    found_ie = embedder.encode(TEXTS)
    for vector_e, ids in zip(found_ie, tokenizer.encode(TEXTS, 96), strict=True):
        bag_e = np.append(weight_v[ids[:-1]] @ rows_ve[ids[:-1]], 0)
        assert vector_e @ bag_e / np.linalg.norm(bag_e) > 0.98
    np.testing.assert_allclose(found_ie[:, -1], 0, atol=0.005)  # a hundred-thousandth of a cosine


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_text_has_a_vector_of_its_own(tokenizer, name):
    config = SHAPES[name]
    params = average_params(config, *table(config), tokenizer.eos_id)
    empty_e, *others_ie = Embedder(config, params, tokenizer, ModelSettings(96)).encode(["", *TEXTS])
    np.testing.assert_allclose(empty_e[-1], 1, atol=1e-6)
    assert np.abs(np.stack(others_ie) @ empty_e).max() < 0.01


def test_every_weight_of_the_layers_can_learn(tokenizer):
    """No gradient is zero for a whole weight but those that a factor of zero stands before: the way into the MLP."""
    import jax.numpy as jnp

    from f2jax.model.qwen3 import Qwen3

    config = size("tiny", vocab_size=400)
    params = average_params(config, *table(config), tokenizer.eos_id)
    (ids,) = tokenizer.encode(["a red river and a stone"], 96)
    row_bt = jnp.asarray(ids)[None]
    inputs = row_bt, jnp.ones_like(row_bt), jnp.arange(len(ids))[None]
    target_d = jnp.asarray(np.random.default_rng(1).normal(size=config.width))
    grads = jax.grad(lambda p: (Qwen3(config).apply({"params": p}, *inputs)[0, -1] * target_d).sum())(params)
    dead = {name for name, x in grads["layers"].items() if not np.abs(x).max(axis=tuple(range(1, x.ndim))).all()}
    assert dead == {"gate", "up", "mlp_norm"}


def test_a_shape_that_cannot_carry_the_width_is_refused(tokenizer):
    config = Qwen3Config(64, 64, 1, 4, 2, head_dim=8, vocab_size=400)
    with pytest.raises(UserError, match="carry 16 coordinates and the width has 63; choose a size with more layers"):
        average_params(config, *table(config), tokenizer.eos_id)


def test_steps_at_a_rate_for_fresh_weights_keep_what_the_start_knows(tokenizer):
    """Ten steps of Adam in one direction: each moves a weight by the rate."""
    config = size("tiny", vocab_size=400)
    params = average_params(config, *table(config), tokenizer.eos_id)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 10 * 4e-4 * rng.choice([-1, 1], x.shape), params)
    before_ie, after_ie = (Embedder(config, p, tokenizer, ModelSettings(96)).encode(TEXTS) for p in (params, moved))
    assert (before_ie * after_ie).sum(axis=1).mean() > 0.9
