"""Compiled programs are kept in the workdir, so that a run that starts again compiles nothing."""

import hashlib
import platform
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from f2jax import files

FOLDER = "compiled"
_chosen = ""  # the cache of the last run in this process


def keep_compiled(workdir: str | Path) -> None:
    """Lets JAX keep what takes more than a second to compile in `compiled/` of a workdir, and find it there again.

    JAX knows a program by its operations, the compiler's version and options, and the devices; the first process writes
    for all. A program for a CPU also depends on its instructions, so each kind of CPU has a folder. A cache that the
    user has set up, such as by JAX_COMPILATION_CACHE_DIR, stays.
    """
    global _chosen
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] not in (None, "", _chosen) or not settings["jax_enable_compilation_cache"]:
        return
    devices = cpu_name() if jax.default_backend() == "cpu" else jax.default_backend()
    _chosen = files.join(files.join(workdir, FOLDER), devices)
    jax.config.update("jax_compilation_cache_dir", _chosen)
    if files.is_remote(workdir):  # XLA writes what it measures on a GPU to local files alone, and fails with others
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none


def cpu_name() -> str:
    """Returns a name for all CPUs with the instructions of this one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
