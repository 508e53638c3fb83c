"""The mesh of a pod of two slices, as the TPU compiler describes it; no TPU needed."""

import importlib.util

import pytest
from jax.experimental import topologies

from f2jax.errors import UserError
from f2jax.parallel.mesh import make_mesh
from f2jax.plan.run import topology_devices

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of the `tpu` extra")


@pytest.fixture
def devices(monkeypatch):
    """The chips of two v5e slices of 2 × 2."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2).devices


def test_two_slices_are_two_replicas_and_no_other_axis_leaves_a_slice(devices):
    mesh = make_mesh(fsdp=2, tensor=2, devices=devices)
    assert dict(mesh.shape) == {"replica": 2, "data": 1, "fsdp": 2, "tensor": 2}
    assert [{device.slice_index for device in replica.flat} for replica in mesh.devices] == [{0}, {1}]


def test_replicas_that_do_not_fit_the_slices_are_refused(devices):
    with pytest.raises(UserError, match=r"mesh\.replica=1 does not fit 2 slices; give a multiple of 2, or -1"):
        make_mesh(replica=1, fsdp=4, tensor=2, devices=devices)


@pytest.mark.parametrize("fsdp", [2, 16, 128])
def test_an_axis_need_not_be_a_side_of_the_slice(fsdp):
    """4 x 8 x 8 chips: 128 and 2 are no products of whole sides."""
    mesh = make_mesh(fsdp=fsdp, devices=topology_devices("v5p:4x8x8"))
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == (256 // fsdp, fsdp)
    assert len({device.id for device in mesh.devices.flat}) == 256
