"""What all tests share: how they compile, what is made once per run, and fixtures that several of them use."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Set before JAX is imported, for this process, for pytest's workers and for the processes that tests start. Compiled
# programs are shared by all of them and kept for the next run (`make clean` deletes them). Tests compile much and
# compute little, so LLVM optimizes nothing, and operations are fused by the older of XLA's two emitters, which takes a
# quarter of the time, except where `optimized` is in force.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build/tests/compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
OLDER_EMITTER = version("jaxlib").startswith("0.10.")  # later ones do not know the flag, and end the process
if OLDER_EMITTER:
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # the TPU compiler, in several processes at once
# A container may forbid Python to keep what it compiles; each of the processes would then compile all of JAX again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's threads would spin on the cores of the other workers

import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402

# Where programs are compiled as for users: they are held to the oracles, or what they take is counted.
PARITY = ("backbone", "mteb", "onnx", "release", "training")
OPTIMIZED = ("tests/aot/", "tests/plan/", *(f"tests/parity/test_{name}.py" for name in PARITY))

# What `make test-fast` leaves out: jobs of several processes, servers, browsers, complete runs.
UNHURRIED = (
    "faults/",
    "gcs/",
    "launch/",
    "multiprocess/",
    "notebooks/",
    "parallel/test_layouts.py",
    "model/test_nested.py",
)
UNHURRIED += ("search/test_serve.py", "search/test_two_pass.py", "start/", "train/test_cache_teacher.py")
UNHURRIED += ("train/test_loop.py", "train/test_nested_run.py", "train/test_resume.py")
UNHURRIED = tuple(f"tests/{name}" for name in UNHURRIED)
# Begun first, so that no worker is left alone with one of them at the end.
LONGEST = ("multiprocess/", "parallel/", "notebooks/", "gcs/test_training.py", "aot/", "train/", "parity/", "plan/")
LONGEST = tuple(f"tests/{name}" for name in LONGEST)

# A shell's background job ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None)  # how long an example takes says more about the machine
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(UNHURRIED):
            item.add_marker("unhurried")
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="module", autouse=True)
def optimized(request):
    """Compiles as users do, in the tests of OPTIMIZED."""
    if not request.node.nodeid.startswith(OPTIMIZED):
        yield
        return
    import jax
    from jax._src import compiler

    def options(*given, backend=None, env_options_overrides=None, **others):
        own = {"xla_cpu_use_fusion_emitters": True} if backend.platform == "cpu" else {}
        own |= env_options_overrides or {}
        return options_of_flags(*given, backend=backend, env_options_overrides=own, **others)

    options_of_flags = getattr(compiler, "get_compile_options", None)  # private: without it, the older emitter stays
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        patch.delenv("XLA_FLAGS", raising=False)
        if OLDER_EMITTER and options_of_flags:  # XLA reads its flags only once, so by option
            patch.setattr(compiler, "get_compile_options", options)
        jax.clear_caches()
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """What is said once in a process is said again in each test."""
    monkeypatch.setattr("f2jax.data.skip_list._SAID", set())


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function of a name and `make(folder)`: the folder, made by whichever worker needs it first. Read only."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (shared / f"{name}.made").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def trained(make_once) -> Path:
    """A folder with the inputs of `tiny.config` and a finished `run` of its 12 steps, with metrics in `values.json`."""
    from f2jax.train.loop import train
    from tests import tiny

    def make(folder: Path) -> None:
        values = train(tiny.config(folder), folder / "run")
        (folder / "values.json").write_text(json.dumps(values))

    return make_once("trained", make)


@pytest.fixture(scope="session")
def one_device(make_once):
    """Loss and gradient of a batch on one device: the oracle of many devices and processes."""
    import numpy as np

    from tests.parallel import steps

    folder = make_once("one_device", lambda folder: steps.run(folder / "arrays.npz", steps.ONE_DEVICE, devices=1))
    return np.load(folder / "arrays.npz")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the checkout, or in F2JAX_DATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("F2JAX_DATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set F2JAX_DATA")
    return folder
