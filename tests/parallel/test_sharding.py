"""Each weight has a sharding from one table; what no rule covers is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from f2jax.errors import UserError
from f2jax.model.qwen3 import abstract_params
from f2jax.model.sizes import SIZES, size
from f2jax.parallel import layout_report
from f2jax.parallel.mesh import make_mesh
from f2jax.parallel.sharding import WEIGHT_AXES, param_shardings


@pytest.mark.parametrize("name", SIZES)
def test_the_rules_cover_every_weight_of_every_size(name):
    shardings = param_shardings(abstract_params(size(name)), make_mesh())
    assert all(len(s.spec) >= 1 for s in jax.tree.leaves(shardings))
    assert shardings["layers"]["query"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert shardings["token_table"].spec == PartitionSpec("tensor", "fsdp")


def test_a_weight_that_no_rule_covers_is_an_error():
    rules = {axis: to for axis, to in WEIGHT_AXES.items() if axis != "mlp"}
    with pytest.raises(UserError, match="No sharding rule covers the axis 'mlp' of layers/down"):
        param_shardings(abstract_params(size("tiny")), make_mesh(), rules)


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(UserError, match="must multiply to"):
        make_mesh(data=3, fsdp=5)
    with pytest.raises(UserError, match="at most one -1"):
        make_mesh(data=-1, fsdp=-1)


def test_weights_on_one_device_are_named_and_not_said_to_be_split():
    params = {"layers": {"up": jnp.zeros((2, 500)), "norm": jnp.zeros(250)}, "token_table": jnp.zeros((10, 100))}
    here = Mesh(np.array(jax.devices()[:1]), ("fsdp",))
    told = layout_report.weight_table(jax.device_put(params, NamedSharding(here, PartitionSpec("fsdp"))))
    assert told == "Weights, 0.01 MB: layers/norm, layers/up, token_table."
