"""What the losses promise, on cases small enough to work out by hand. Values and gradients: tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from f2jax.errors import UserError
from f2jax.model.nested import matryoshka_dims
from f2jax.train.losses import (
    PAIRED,
    infonce,
    kind_temperature,
    l2_normalize,
    label_mask,
    matryoshka_weights,
    softmax_logits,
    trained_temperature,
)
from f2jax.train.terms import batch_loss
from tests.tiny import loss_config

# d: the weights and their sum that the recipe prints (2.4), largest dimension first
RECIPE = {
    320: ([1.0, 0.447, 0.211, 0.112, 0.063, 0.037, 0.023], 1.89),
    640: ([1.0, 0.447, 0.211, 0.112], 1.91),
    896: ([1.0, 0.378, 0.178, 0.094, 0.053, 0.031, 0.019, 0.012], 1.77),
    1024: ([1.0, 0.354, 0.167, 0.088, 0.050, 0.029, 0.018, 0.011], 1.72),
}


@pytest.mark.parametrize("width", RECIPE)
def test_matryoshka_weights_are_those_of_the_recipe(width):
    dims = matryoshka_dims(width)
    assert dims[0] == width and dims[-1] == 8 and all(d & (d - 1) == 0 for d in dims[1:])
    weights, total = RECIPE[width]
    found = matryoshka_weights(dims)
    assert np.round(found[: len(weights)], 3) == pytest.approx(weights)
    assert round(sum(found), 2) == total


def test_unknown_weights_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        matryoshka_weights((8,), "unifrom")


def test_a_zero_vector_stays_zero_and_its_gradient_is_finite():
    assert np.array_equal(l2_normalize(jnp.zeros(4)), np.zeros(4))
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(4))).all()


def test_the_softmax_of_two_orthogonal_pairs():
    """Similarities 1 and 0 at temperature 1: -log(e / (e + 1)) for both rows."""
    loss_b = infonce(*softmax_logits(jnp.ones(2), jnp.eye(2), ~jnp.eye(2, dtype=bool), 1.0))
    assert loss_b == pytest.approx(np.log(1 + np.exp(-1)) * np.ones(2))


def test_rows_without_a_label_are_negatives_of_all():
    assert label_mask(jnp.array([1, 1, -1, -1]), jnp.array([1, 2, -1])).tolist() == [
        [False, True, True],
        [False, True, True],
        [True, True, True],
        [True, True, True],
    ]


NEW = {"shared_negatives_weight": 0.5, "query_query_weight": 2.0, "document_document_weight": 0.3}


def batch(rows=4, slots=2, width=16, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(rows, width), (rows, width), (rows, slots, width)]
    embeddings = tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    extra = {
        "n_mask_bj": jnp.ones((rows, slots), bool),
        "row_mask_b": jnp.ones(rows, bool),
        "label_b": -jnp.ones(rows, jnp.int32),
        "positive_b": jnp.arange(rows),
        "negative_bj": 100 + jnp.arange(rows * slots).reshape(rows, slots),
        "text_s": jnp.arange(rows * (2 + slots)),
    }
    return embeddings, extra


def grads(embeddings, extra, kind, config):
    return jax.grad(lambda e: batch_loss(e, kind=kind, config=config, **extra)[0])(embeddings)


def test_without_passage_gradient_the_in_batch_term_trains_queries_alone():
    """Masking all hard negatives leaves the in-batch term, which in the reference is for queries alone (recipe 0.2)."""
    embeddings, extra = batch()
    extra["n_mask_bj"] = jnp.zeros_like(extra["n_mask_bj"])
    q, p, _ = grads(embeddings, extra, "retrieval", loss_config(passage_gradient=False))
    assert np.abs(q).max() > 1e-3 and np.abs(p).max() == 0
    _, p, _ = grads(embeddings, extra, "retrieval", loss_config(passage_gradient=True))
    assert np.abs(p).max() > 1e-3


@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
def test_the_contrastive_weight_is_that_of_infonce_alone_and_0_leaves_it_out(kind):
    embeddings, extra = batch()

    def loss(**changes):
        return batch_loss(embeddings, kind=kind, config=loss_config(**changes), **extra)

    once, twice = loss()[0], loss(contrastive_weight=2.0)[0]
    assert once > 0.1 and twice == 2 * once
    value, metrics = loss(contrastive_weight=0.0)
    assert value == 0 and set(metrics) == {"accuracy"}
    value, metrics = loss(contrastive_weight=0.0, spread_weight=3.0)
    assert value == 3 * metrics["loss_spread"] > 0


@pytest.mark.parametrize("kind", ["clustering", "classification"])
def test_only_retrieval_uses_other_rows(kind):
    """Changing the other rows' positives changes nothing for a row of these kinds."""
    (q, p, n), extra = batch()
    extra["row_mask_b"] = jnp.array([True, False, False, False])
    value = batch_loss((q, p, n), kind=kind, config=loss_config(), **extra)[0]
    changed = batch_loss((q, p.at[1:].multiply(-3), n), kind=kind, config=loss_config(), **extra)[0]
    assert value == changed


@pytest.mark.parametrize("kind", ["retrieval", "clustering"])
def test_absent_rows_change_neither_loss_nor_gradient(kind):
    """A last batch of 3 rows, padded to 4, equals a batch of 3; the padding may hold anything."""
    (q, p, n), extra = batch()
    small = {name: value[:3] for name, value in extra.items()} | {"text_s": jnp.array([0, 1, 2, *range(4, 13)])}
    config = loss_config(passage_gradient=True, matryoshka_dims=(16, 8), **NEW)
    padded = extra | {"row_mask_b": jnp.array([True, True, True, False])}
    a = batch_loss((q, p, n), kind=kind, config=config, **padded)[0]
    b = batch_loss((q[:3], p[:3], n[:3]), kind=kind, config=config, **small)[0]
    assert a == pytest.approx(float(b), rel=1e-6)
    assert all(np.abs(g[3]).max() == 0 for g in grads((q, p, n), padded, kind, config))


def test_a_row_without_negatives_costs_nothing_and_breaks_nothing():
    embeddings, extra = batch()
    extra["n_mask_bj"] = jnp.zeros_like(extra["n_mask_bj"])
    loss, _ = batch_loss(embeddings, kind="clustering", config=loss_config(), **extra)
    assert loss == 0
    assert all(np.isfinite(g).all() for g in grads(embeddings, extra, "clustering", loss_config()))


def test_bfloat16_embeddings_are_compared_in_float32():
    embeddings, extra = batch()
    rounded = tuple(x.astype(jnp.bfloat16) for x in embeddings)
    exact = tuple(x.astype(jnp.float32) for x in rounded)
    a, b = (batch_loss(e, kind="retrieval", config=loss_config(), **extra)[0] for e in (rounded, exact))
    assert a.dtype == jnp.float32 and a == b


def test_a_query_that_comes_twice_is_not_told_apart_from_itself():
    """Two of four rows have one query and one positive: a row has the two other rows left, or three in-batch."""
    (q, p, n), extra = batch()
    alike = extra | {"positive_b": jnp.array([0, 0, 2, 3]), "text_s": jnp.arange(16).at[1].set(0)}
    same = (q.at[1].set(q[0]), p.at[1].set(p[0]), n)
    config = loss_config(contrastive_weight=0.0, **NEW)
    told, apart = (batch_loss(same, kind="retrieval", config=config, **x)[1] for x in (extra, alike))
    assert told["loss_queries"] > apart["loss_queries"] + 0.1
    assert told["loss_documents"] > apart["loss_documents"] + 0.1
    assert told["loss_shared"] == apart["loss_shared"]


def test_a_kind_has_its_own_temperature_and_a_trained_one_begins_there():
    config = loss_config(temperature=0.05, kind_temperatures=("clustering=0.1", "classification=0.02"))
    assert [kind_temperature(kind, config) for kind in PAIRED] == [0.05, 0.1, 0.02]
    embeddings, extra = batch()

    def loss(kind, **options):
        return batch_loss(embeddings, kind=kind, **options, **extra)

    hot = loss("clustering", config=loss_config(temperature=0.1))[0]
    assert loss("clustering", config=config)[0] == hot != loss("clustering", config=loss_config())[0]
    value, metrics = loss("clustering", config=config, exponents=jnp.zeros(3))
    assert value == pytest.approx(float(hot), rel=1e-6) and metrics["temperature/clustering"] == pytest.approx(0.1)
    exponents = jnp.log(jnp.array([9.0, 0.5, 9.0]))
    cooler = loss("clustering", config=loss_config())[0]
    assert loss("clustering", config=config, exponents=exponents)[0] == pytest.approx(float(cooler), rel=1e-5)
    assert trained_temperature("retrieval", config, jnp.full(3, -9.0)) == pytest.approx(0.01)


@pytest.mark.parametrize("item", ["clustering", "clustering=0", "clustering=warm", "texts=0.1", "retrieva=0.1"])
def test_another_temperature_is_refused(item):
    with pytest.raises(UserError, match=f"'{item}' in loss.kind_temperatures should be KIND=TEMPERATURE"):
        kind_temperature("retrieval", loss_config(kind_temperatures=(item,)))
