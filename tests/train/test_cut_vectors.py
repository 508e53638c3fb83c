"""Held-out rows are measured with vectors cut to some sizes too, and each number is what NumPy makes of them."""

from functools import partial

import jax
import numpy as np
import pytest

from f2jax import config as configs
from f2jax.data.loader import Loader, load_data
from f2jax.data.packing import Batch
from f2jax.data.skip_list import SkipList
from f2jax.errors import UserError
from f2jax.model.sizes import size
from f2jax.parallel.mesh import make_mesh
from f2jax.train.program import Program, measured_dims
from f2jax.train.step import embed
from tests import tiny


def infonce(right: list[float], candidates: list[list[float]]) -> float:
    exponents = [
        [np.exp((score - best) / 0.05) for score in some] for best, some in zip(right, candidates, strict=True)
    ]
    return float(np.mean([np.log1p(sum(some)) for some in exponents]))


def expected(batch: Batch, vectors, dim: int) -> tuple[float, float]:
    """(loss, accuracy) of the recipe with vectors of `dim` dimensions, row by row."""
    cut = (np.asarray(x[..., :dim], np.float64) for x in vectors)
    q, p, n = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in cut)
    rows = np.flatnonzero(batch.row_mask_b)
    right = [q[b] @ p[b] for b in rows]
    own = [[q[b] @ n[b, j] for j in np.flatnonzero(batch.negative_mask_bj[b])] for b in rows]
    others = [[q[b] @ p[c] for c in rows if c != b] for b in rows]
    terms = [own, others] if batch.kind == "retrieval" else [own]
    first = [best > max(some) for best, some in zip(right, terms[-1], strict=True)]
    return sum(infonce(right, term) for term in terms), float(np.mean(first))


def test_losses_and_accuracies_of_cut_vectors(trained, tmp_path):
    config = tiny.config(tmp_path, **{"log.validation_dims": (8, 16, 64, 128)})
    tokenizer, splits = load_data(config, trained / "run/tokenizer", "", 512, SkipList())
    loader, mesh = Loader([rows for rows, _ in splits], config, tokenizer.pad_id), make_mesh(**config.mesh)
    program = Program(config, size("tiny"), mesh, steps=12)
    vectors_of = jax.jit(partial(embed, program.model))
    with jax.set_mesh(mesh):
        params = program.fresh_params(3)
        for _, rows in splits:
            batch = Loader([rows], config, tokenizer.pad_id, like=loader).batch(0)[1]
            arrays = program.put(batch)
            found = program.evaluate(params, arrays, None, kind=batch.kind)
            assert {name for name in found if "/" in name} == {"loss/8", "loss/16", "accuracy/8", "accuracy/16"}
            (vectors,) = vectors_of(params, arrays)
            for dim in (8, 16):
                assert (found[f"loss/{dim}"], found[f"accuracy/{dim}"]) == pytest.approx(
                    expected(batch, vectors, dim), rel=1e-4
                )


def test_sizes_that_the_model_lacks_or_the_loss_does_not_train_are_left_out(tmp_path):
    assert measured_dims(tiny.config(tmp_path), 64) == () and measured_dims(tiny.config(tmp_path), 128) == (64,)
    assert measured_dims(tiny.config(tmp_path, **{"loss.matryoshka": False}), 512) == ()
    with pytest.raises(UserError, match=r"log\.validation_dims=\(0,\) should be numbers of dimensions"):
        configs.check(tiny.config(tmp_path, **{"log.validation_dims": (0,)}))
