"""One program encodes batches of any number of chunks, and gives the loss and gradient of all rows at once."""

from functools import partial

import jax
import numpy as np
import pytest

from f2jax.data.dataset import Row, texts_of
from f2jax.data.packing import assemble
from f2jax.data.shapes import RowRules, RowShape
from f2jax.model.qwen3 import Qwen3
from f2jax.model.sizes import Qwen3Config
from f2jax.train.step import DeviceBatch, loss_fn
from tests.tiny import loss_config
from tests.tiny_model import random_params

SHAPE = Qwen3Config(32, 48, 2, 4, 2, head_dim=8, vocab_size=97, max_length=64)
LOSS = loss_config(matryoshka_dims=(32, 8), passage_gradient=True)
WHOLE = RowRules(16, programs={"retrieval": [RowShape(16, 24)]})
CHUNKED = RowRules(16, 1, {"retrieval": [RowShape(16, 1, slots=32)]})


def rows(longest: int) -> list[Row]:
    rng = np.random.default_rng(longest)

    def text():
        return rng.integers(2, 97, rng.integers(1, longest + 1)).astype(np.int32)

    return [Row(text(), text(), [text(), text()], b, [50 + b, 60 + b]) for b in range(6)]


@pytest.fixture(scope="module")
def gradient():
    function = partial(loss_fn, model=Qwen3(SHAPE), kind="retrieval", config=LOSS)
    return jax.jit(jax.value_and_grad(function, has_aux=True))


def test_a_program_serves_batches_of_any_number_of_chunks(gradient):
    params = random_params(SHAPE)
    counts, programs = [], set()
    for longest in (3, 8, 16):
        options = {"kind": "retrieval", "batch_size": 6, "pad_id": 0}
        texts = texts_of(rows(longest))
        whole, split = (assemble(texts, 2, rules=rules, **options) for rules in (WHOLE, CHUNKED))
        counts.append(int(split.chunk_mask_c.sum()))
        programs.add(split.program)
        (wanted, _), wanted_gradient = gradient(params, DeviceBatch.of(whole.arrays()), None)
        before = gradient._cache_size()
        (loss, _), found = gradient(params, DeviceBatch.of(split.arrays()), None)
        assert gradient._cache_size() == before + (longest == 3), "compiled once"
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted_gradient), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4 * max(1e-3, np.abs(y).max()))
    assert len(set(counts)) == 3 and len(programs) == 1
    assert split.rows == 32 and split.tokens == 16 * counts[-1], "chunks without rows are not encoded"


def test_rows_of_a_chunk_that_is_not_counted_are_not_encoded(gradient):
    """Else the test above could not tell whether the number of chunks is used."""
    params = random_params(SHAPE)
    batch = assemble(texts_of(rows(16)), 2, kind="retrieval", batch_size=6, rules=CHUNKED, pad_id=0)
    whole = DeviceBatch.of(batch.arrays())
    fewer = whole.replace(chunk_mask_c=np.arange(32) < batch.chunk_mask_c.sum() - 1)
    assert gradient(params, whole, None)[0][0] != gradient(params, fewer, None)[0][0]
