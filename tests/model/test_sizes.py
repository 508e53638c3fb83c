"""The sizes of the family have exactly the published numbers of parameters."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import SIZES, Qwen3Config, size

PUBLISHED = {
    "80m": 80_084_288,
    "160m": 159_185_024,
    "330m": 334_349_184,
    "0.6b": 596_049_920,
    "1.7b": 1_720_574_976,
    "4b": 4_022_468_096,
    "8b": 7_568_405_504,
    "14b": 13_990_394_880,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_abstract_parameters_add_up_to_the_published_count(name):
    shapes = nn.meta.unbox(abstract_params(size(name)))
    assert sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(shapes)) == PUBLISHED[name]
    assert size(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", SIZES)
def test_every_weight_names_each_of_its_axes(name):
    boxes = jax.tree.leaves(abstract_params(size(name)), is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert all(isinstance(box, nn.Partitioned) and len(box.names) == box.value.ndim for box in boxes)


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UserError, match="did you mean '160m'"):
        size("16m0")


@pytest.mark.parametrize(("changes", "word"), [({"kv_heads": 3}, "divide"), ({"head_dim": 15}, "even")])
def test_impossible_shapes_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        Qwen3Config(**{"width": 8, "mlp": 8, "layers": 1, "heads": 4, "kv_heads": 2} | changes)
