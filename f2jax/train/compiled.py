"""The compiled programs of a run: compiled in a thread before they are needed, and cached in the workdir, so that a
restarted run compiles nothing.
"""

import hashlib
import math
import os
import platform
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from f2jax import files
from f2jax.checkpoints.orbax import TrainState
from f2jax.data.loader import Loader
from f2jax.parallel.threads import POLL_SECONDS, leave_at_exit
from f2jax.train.program import Program, abstract_batch
from f2jax.train.step import DeviceBatch, Teacher

A = TypeVar("A", bound="Ahead")

FOLDER = "compiled"
SHARED = "F2JAX_COMPILED"  # environment variable: a folder for several runs in its place
_chosen = ""  # the cache of the last run in this process


def keep_compiled(workdir: str | Path) -> None:
    """Sets up JAX's compilation cache in `compiled/` of a workdir, for programs that take over a second to compile.

    JAX identifies a program by its operations, the compiler's version and options, and the devices; the first process
    writes for all. Programs for a CPU also depend on its instructions, so each kind of CPU has a folder. Runs of a
    sweep share the folder that the environment variable F2JAX_COMPILED names. A cache that the user has set up, for
    example by JAX_COMPILATION_CACHE_DIR, is kept.
    """
    global _chosen
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] not in (None, "", _chosen) or not settings["jax_enable_compilation_cache"]:
        return
    devices = cpu_name() if jax.default_backend() == "cpu" else jax.default_backend()
    _chosen = files.join(os.environ.get(SHARED) or files.join(workdir, FOLDER), devices)
    jax.config.update("jax_compilation_cache_dir", _chosen)
    if files.is_remote(_chosen):  # XLA writes what it measures on a GPU to local files alone, and fails with others
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none


def cpu_name() -> str:
    """Returns a name shared by all CPUs with the same instructions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


class Ahead:
    """Computes slow results once per key: in a thread and in a given order, or immediately if one is needed earlier.

    >>> with Ahead() as made:
    ...     made.begin({"a": make_a, "b": make_b})
    ...     made.get("b", make_b)  # waits if the thread has begun with b
    """

    def __init__(self) -> None:
        self._futures: dict[Hashable, Future] = {}
        self._lock = threading.Lock()
        self._asked_to_end, self._ended = threading.Event(), threading.Event()
        self._ended.set()  # there is no thread
        self._error: BaseException | None = None  # of the thread

    def begin(self, makers: Mapping[Hashable, Callable[[], Any]]) -> None:
        """Starts the thread, which computes what nobody has asked for yet."""
        self._ended.clear()
        threading.Thread(target=self._work, args=(makers,), name="compile", daemon=True).start()

    def _work(self, makers: Mapping[Hashable, Callable[[], Any]]) -> None:
        for key, make in makers.items():
            if self._asked_to_end.is_set() or self._error:
                break
            future, is_new = self._future(key)
            if is_new:
                _fill(future, make)
                self._error = future.exception()
        self._ended.set()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns the result for a key, computing it by `make()` if necessary.

        Raises any exception that was raised in the thread, for this key or another.
        """
        if self._error:
            raise self._error
        future, is_new = self._future(key)
        if is_new:
            _fill(future, make)
        return future.result()

    def _future(self, key: Hashable) -> tuple[Future, bool]:
        """Returns the future for a key, and whether the caller has to compute it."""
        with self._lock:
            is_new = key not in self._futures
            return self._futures.setdefault(key, Future()), is_new

    def __enter__(self: A) -> A:
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Waits until the thread has finished its current key; a second Ctrl-C ends the wait."""
        self._asked_to_end.set()
        try:
            while not self._ended.is_set() and not isinstance(error, KeyboardInterrupt):
                self._ended.wait(POLL_SECONDS)
        except KeyboardInterrupt as interrupt:
            error = interrupt
            raise
        finally:
            if not self._ended.is_set():
                leave_at_exit(error)


def _fill(future: Future, make: Callable[[], Any]) -> None:
    try:
        future.set_result(make())
    except BaseException as error:  # raised where the result is asked for
        future.set_exception(error)


class CompiledProgram(Ahead):
    """The two functions of a program with its teacher, compiled for each kind and shape of batch.

    >>> with CompiledProgram(program, teacher) as compiled:
    ...     compiled.begin_for(config, loader, steps=1000, held_out=None)
    ...     state, metrics = compiled.step(state, batch, kind="retrieval")
    """

    def __init__(self, program: Program, teacher: Teacher | None):
        super().__init__()
        self.program, self.teacher = program, teacher

    def step(self, state: TrainState, batch: DeviceBatch, kind: str) -> tuple[TrainState, dict[str, jax.Array]]:
        """Does what `Program.step` does."""
        return self.get(*self._item("step", batch, kind))(state, batch, self.teacher)

    def evaluate(self, params: dict, batch: DeviceBatch, kind: str) -> dict[str, jax.Array]:
        """Does what `Program.evaluate` does."""
        return self.get(*self._item("evaluate", batch, kind))(params, batch, self.teacher)

    def begin_for(self, config: ConfigDict, loader: Loader, steps: int, held_out: Loader | None) -> None:
        """Compiles in a thread what these steps and the validation, if there is one, are expected to need."""
        self.begin(
            dict(
                self._item(name, abstract_batch(config, self.program.mesh, kind, rows.slots[kind], shape), kind)
                for name, rows, times in (("step", loader, steps), ("evaluate", held_out, math.inf))
                if rows
                for (kind, shape), share in rows.program_shares().items()
                if share and share * times >= 1
            )
        )

    def _item(self, name: str, batch: DeviceBatch, kind: str) -> tuple[Hashable, Callable[[], Any]]:
        """Returns the key of a compiled function and a function that compiles it."""
        shapes = tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))
        return (name, kind, shapes), partial(self._compile, name, batch, kind)

    def _compile(self, name: str, batch: DeviceBatch, kind: str):
        state = self.program.state
        with jax.set_mesh(self.program.mesh):  # that of a thread is its own
            function, first = getattr(self.program, name), state if name == "step" else state.params
            return function.lower(first, batch, self.teacher, kind=kind).compile()
