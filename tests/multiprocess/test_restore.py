"""What a job reads of a checkpoint: each byte once, however many copies of the weights its devices hold."""

import json

import pytest

from tests.multiprocess.test_processes import run

# Saves a state in one layout, restores it in another, and says whether it is the same and what this process has read.
RESTORE = """
import json, sys
from f2jax.parallel import hosts
hosts.start()
import jax, ml_collections, numpy as np
import tensorstore as ts
from jax.sharding import NamedSharding, PartitionSpec as P
from f2jax.checkpoints.orbax import Checkpoints, TrainState
from f2jax.parallel.mesh import make_mesh
from tests.checkpoints.test_orbax import KEEP, STEPS

folder, first, second = sys.argv[1], *(json.loads(text) for text in sys.argv[2:])
VALUES = {"table": np.random.default_rng(0).normal(size=(512, 256)), "odd": np.ones(5), "scalar": np.ones(())}
VALUES = {name: x.astype(np.float32) for name, x in VALUES.items()}
def state(sizes, make):
    mesh = make_mesh(**sizes)
    def leaf(name, x):
        return make(x, NamedSharding(mesh, P(None, "fsdp") if x.ndim == 2 else P()))
    tree = lambda: {name: leaf(name, x) for name, x in VALUES.items()}
    return TrainState(make(np.asarray(7, np.int32), NamedSharding(mesh, P())), tree(), tree())
def array(x, sharding):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
def shape(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
def bytes_read():
    found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in found for value in metric["values"])

with Checkpoints(folder, ml_collections.ConfigDict(KEEP), STEPS) as checkpoints:
    checkpoints.save(state(first, array))
with Checkpoints(folder) as checkpoints:
    before, like = bytes_read(), state(second, shape)
    restored = checkpoints.restore(like)
    read = bytes_read() - before
same = all(
    x.sharding == shapes[name].sharding and np.array_equal(shard.data, VALUES[name][shard.index])
    for tree, shapes in ((restored.params, like.params), (restored.opt_state, like.opt_state))
    for name, x in tree.items() for shard in x.addressable_shards
)
print("found", json.dumps([same, int(restored.step), read]))
"""
TABLES = 2 * 512 * 256 * 4  # bytes of the two large arrays, which no compression makes smaller


@pytest.mark.parametrize(
    ("saved", "restored"),
    [({"data": 4}, {"data": 4}), ({"data": 2, "fsdp": 2}, {"data": 2, "fsdp": 2}), ({"fsdp": 4}, {"replica": 2})],
    ids=["copies", "half", "other"],
)
def test_each_byte_of_a_checkpoint_is_read_once(monkeypatch, tmp_path, saved, restored):
    ended = run(monkeypatch, ["-c", RESTORE, str(tmp_path), json.dumps(saved), json.dumps(restored)], 2, devices=2)
    found = [json.loads(line[6:]) for _, text in ended for line in text.splitlines() if line.startswith("found ")]
    assert len(found) == 2, ended
    assert all(same and step == 7 for same, step, _ in found)
    total = sum(read for *_, read in found)
    assert 0.8 * TABLES < total < 1.1 * TABLES, "what is not a table is small"
