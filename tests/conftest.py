"""Fixtures that several tests share."""

import os
import signal
import tempfile
from pathlib import Path

# Tests compile the same small programs again and again, also in processes of their own: each is compiled once. Set
# before JAX is imported, for this process and for those that it starts.
_compiled = tempfile.TemporaryDirectory(prefix="f2jax-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A shell's background job ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None)  # how long an example takes says more about the machine
settings.load_profile("patient")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the checkout, or in F2JAX_DATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("F2JAX_DATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set F2JAX_DATA")
    return folder


@pytest.fixture(scope="session")
def one_device(tmp_path_factory):
    """Loss and gradient of a batch on one device: the oracle of many devices and processes."""
    from tests.parallel import steps

    return steps.run(tmp_path_factory.mktemp("one") / "found.npz", steps.ONE_DEVICE, devices=1)
