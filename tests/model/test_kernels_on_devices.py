"""The kernels of a TPU, in interpret mode, on four devices that share rows and heads: what one device computes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from f2jax.model.attention import attention
from f2jax.parallel.mesh import make_mesh
from tests import tiny
from tests.model.test_attention import inputs
from tests.model.test_rotary_kernel import inputs as heads_and_angles
from tests.model.test_rotary_kernel import interpreted, plain


def results(rotation, kernel: str) -> dict:
    """Values and gradients of norm and rotation, and of attention, by name."""
    x, scale_h, cos, sin, dy = heads_and_angles((4, 128, 2, 128))
    q, k, v, segments = inputs(4, 256, 4, 2, 128)
    turned, turned_back = jax.vjp(lambda x, scale_h: rotation(x, scale_h, cos, sin, 1e-6), x, scale_h)
    out, out_back = jax.vjp(lambda *qkv: attention(*qkv, segments, kernel), q, k, v)
    seen = (segments > 0)[..., None, None]
    arrays = [turned, *turned_back(dy), out * seen, *out_back(jnp.cos(out) * seen)]
    return dict(zip(("turned", "dx", "dscale", "out", "dq", "dk", "dv"), arrays, strict=True))


def test_four_devices_by_rows_and_heads_compute_what_one_does(tmp_path):
    job = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-m", "tests.model.test_kernels_on_devices", str(tmp_path / "arrays.npz")]
    subprocess.run(command, env=os.environ | job, check=True)
    found = np.load(tmp_path / "arrays.npz")
    for name, expected in results(plain, "xla").items():
        assert np.abs(found[name] - expected).max() <= 5e-6 * np.abs(expected).max(), name


def main(path: str) -> None:
    """Writes the results of four devices: two halves of the rows, and of the heads."""
    with jax.set_mesh(make_mesh(fsdp=2, tensor=2)):
        np.savez(path, **jax.jit(lambda: results(interpreted, "segments_interpret"))())


if __name__ == "__main__":
    main(sys.argv[1])
