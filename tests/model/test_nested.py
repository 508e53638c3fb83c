"""Smaller models inside a model: exits behind earlier layers, and token tables of smaller rank."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from f2jax.checkpoints.orbax import TrainState
from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules
from f2jax.errors import UserError
from f2jax.model import nested
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config
from f2jax.train.step import DeviceBatch, Teacher, loss_fn, train_step
from tests.tiny import loss_config
from tests.tiny_model import random_params

SHAPE = Qwen3Config(32, 48, 3, 4, 2, head_dim=8, vocab_size=97, max_length=64)
FACTORIZED = replace(SHAPE, table_rank=24)
LOSS = loss_config(matryoshka_dims=(32, 8), passage_gradient=True)


def batch(chunk_rows: int = 0):
    rng = np.random.default_rng(0)

    def text(length):
        return rng.integers(2, 97, length).astype(np.int32)

    rows = [Row(text(5 + b), text(12 - b), [text(7), text(4 + b)], b, [50 + b, 60 + b]) for b in range(6)]
    made = assemble(texts_of(rows), 2, kind="retrieval", batch_size=6, rules=RowRules(16, chunk_rows), pad_id=0)
    return DeviceBatch.of(jax.tree.map(jnp.asarray, made.arrays()))


def loss_of(architecture, config=LOSS, **options):
    """(params, batch, teacher) → (loss, metrics)"""
    return partial(loss_fn, model=Qwen3(architecture, **options), kind="retrieval", config=config)


def close(found, wanted, tolerance):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1e-3, np.abs(y).max()))


@pytest.mark.parametrize(("layers", "exits"), [(1, (1,)), (5, (1, 2, 4, 5)), (8, (1, 2, 4, 8)), (9, (1, 2, 4, 8, 9))])
def test_exits_are_powers_of_two_and_the_last_layer(layers, exits):
    assert nested.exit_layers(layers) == exits


def test_exits_of_the_largest_model_are_those_of_the_recipe():
    assert nested.exit_layers(40) == (1, 2, 4, 8, 16, 24, 32, 40)


def states(architecture, params, **arguments):
    return jax.jit(Qwen3(architecture).apply)({"params": params}, *batch().packed, **arguments)


@pytest.fixture(scope="module")
def cut_states():
    """The states of the models cut behind each layer."""
    return [states(*nested.cut_nested(SHAPE, random_params(SHAPE), layers=layer)) for layer in range(1, 4)]


@pytest.mark.parametrize("options", [{}, {"remat": "full"}, {"unroll": 3}], ids=str)
def test_states_behind_a_layer_are_those_of_the_model_cut_there(cut_states, options):
    arrays = batch()
    ends = arrays.row_s, arrays.col_s
    model = jax.jit(Qwen3(SHAPE, **options).apply)
    found_lsd = model({"params": random_params(SHAPE)}, *arrays.packed, ends=ends)
    for found_sd, wanted_btd in zip(found_lsd, cut_states, strict=True):
        np.testing.assert_allclose(found_sd, wanted_btd[ends], atol=2e-5)


@pytest.fixture(scope="module")
def cut_models():
    """The mean loss of the models cut behind each exit, its gradient, and the metrics of the last of them."""
    arrays = batch()

    def mean_of_cut_models(params):
        models = [nested.cut_nested(SHAPE, params, layers=layer) for layer in nested.exit_layers(SHAPE.layers)]
        losses, metrics = zip(*(loss_of(shape)(cut, arrays, None) for shape, cut in models), strict=True)
        return sum(losses) / len(losses), metrics[-1]

    (loss, metrics), gradient = jax.jit(jax.value_and_grad(mean_of_cut_models, has_aux=True))(random_params(SHAPE))
    return loss, metrics, gradient


@pytest.mark.parametrize(("options", "chunk_rows"), [({}, 2), ({"remat": "full"}, 0)], ids=str)
def test_the_loss_with_exits_is_the_mean_over_the_models_cut_there(cut_models, options, chunk_rows):
    wanted, metrics_of_last, wanted_gradient = cut_models
    function = loss_of(SHAPE, replace(LOSS, exits=nested.exit_layers(SHAPE.layers)), **options)
    step = jax.jit(jax.value_and_grad(function, has_aux=True))
    (loss, metrics), gradient = step(random_params(SHAPE), batch(chunk_rows), None)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    close(gradient, wanted_gradient, 1e-4)
    np.testing.assert_allclose(metrics["loss_in_batch"], metrics_of_last["loss_in_batch"], rtol=1e-5)


def test_each_exit_learns_from_the_teachers_exit_of_the_same_layer_and_the_last_from_its_last():
    student, deeper = random_params(SHAPE), replace(SHAPE, layers=5)
    frozen = jax.tree.map(lambda x: x + 0.1, random_params(deeper))
    config = replace(LOSS, exits=(1, 2, 3))
    loss = jax.jit(loss_of(SHAPE, config))(student, batch(), Teacher(frozen, Qwen3(deeper)))[0]

    terms = []
    for own, other in ((1, 1), (2, 2), (3, 5)):
        shape, cut = nested.cut_nested(SHAPE, student, layers=own)
        teacher_shape, teacher_cut = nested.cut_nested(deeper, frozen, layers=other)
        terms.append(jax.jit(loss_of(shape))(cut, batch(), Teacher(teacher_cut, Qwen3(teacher_shape)))[0])
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 7, 24, 32])
def test_a_factorized_table_is_the_nearest_of_its_rank_and_so_are_its_first_columns(rank):
    params = random_params(SHAPE)
    factors = nested.factorize_table(params, rank)
    assert factors["token_table"].shape == (97, rank) and factors["table_basis"].shape == (rank, 32)
    u, s, v = np.linalg.svd(np.asarray(params["token_table"], np.float64), full_matrices=False)
    for smaller in {1, (rank + 1) // 2, rank}:
        nearest = (u[:, :smaller] * s[:smaller]) @ v[:smaller]
        _, cut = nested.cut_nested(replace(SHAPE, table_rank=rank), factors, rank=smaller)
        np.testing.assert_allclose(cut["token_table"], nearest, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 10, 24])
def test_a_model_run_at_a_rank_is_the_one_with_the_table_multiplied_out(rank):
    params = random_params(FACTORIZED)
    architecture, plain = nested.cut_nested(FACTORIZED, params, rank=rank)
    found = states(FACTORIZED, params, rank=jnp.int32(rank))
    np.testing.assert_allclose(found, states(architecture, plain), atol=2e-5)
    assert architecture == SHAPE and sum(x.size for x in jax.tree.leaves(plain)) == SHAPE.parameters
    assert sum(x.size for x in jax.tree.leaves(params)) == FACTORIZED.parameters


@pytest.mark.parametrize(("rank", "ranks"), [(24, (24,)), (64, (64,)), (100, (64, 100)), (512, (64, 128, 256, 512))])
def test_ranks_double_up_to_that_of_the_table(rank, ranks):
    assert nested.table_ranks(rank) == ranks


def test_a_rank_is_drawn_as_often_as_it_is_large():
    drawn = np.asarray(jax.vmap(partial(nested.draw_rank, 512, 0))(jnp.arange(4_000)))
    for rank in (64, 128, 256, 512):
        assert np.mean(drawn == rank) == pytest.approx(rank / 960, abs=0.03)
    assert not np.array_equal(drawn, jax.vmap(partial(nested.draw_rank, 512, 1))(jnp.arange(4_000)))


def test_a_step_with_nested_ranks_has_the_loss_of_the_rank_that_is_drawn():
    shape, arrays = replace(SHAPE, width=160, table_rank=160), batch()
    params, tx, config = random_params(shape), optax.sgd(0.0), loss_config(nested_ranks=True)
    step = jax.jit(partial(train_step, model=Qwen3(shape), kind="retrieval", config=config, tx=tx, seed=3))
    loss_of_rank = jax.jit(loss_of(replace(shape, table_rank=0), loss_config()))
    seen = set()
    for number in range(8):
        rank = int(nested.draw_rank(160, 3, number))
        _, cut = nested.cut_nested(shape, params, rank=rank)
        found = step(TrainState(jnp.int32(number), params, tx.init(params)), arrays)[1]["loss"]
        np.testing.assert_allclose(found, loss_of_rank(cut, arrays, None)[0], rtol=1e-5)
        seen.add(rank)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("shape", "options", "sentence"),
    [
        (SHAPE, {"layers": 0}, "truncate_layers=0 is out of range; this model has 1 to 3 layers."),
        (SHAPE, {"layers": 4}, "truncate_layers=4 is out of range"),
        (SHAPE, {"rank": 4}, "table_rank=4 is given and this model's token table is not factorized; leave it out."),
        (FACTORIZED, {"rank": 0}, "table_rank=0 is out of range; this token table has ranks 1 to 24."),
        (FACTORIZED, {"rank": 25}, "table_rank=25 is out of range"),
    ],
)
def test_a_cut_that_is_not_there_is_one_sentence(shape, options, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        nested.cut_nested(shape, random_params(shape), **options)


@pytest.mark.parametrize("rank", [-1, 33])
def test_a_rank_above_the_width_is_one_sentence(rank):
    with pytest.raises(UserError, match=f"table_rank={rank} is out of range; choose 0 to the width, 32"):
        replace(SHAPE, table_rank=rank)
