"""A run that starts again compiles nothing: its programs lie in the workdir."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from f2jax.train.compiled import cpu_name, keep_compiled
from f2jax.train.loop import train
from tests import tiny


@pytest.fixture
def no_cache(monkeypatch):
    """As in a process whose environment names no cache of compiled programs; each program is worth keeping."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])
    compilation_cache.reset_cache()


@pytest.fixture
def events():
    """The names of JAX's events, as they come."""
    found: list[str] = []
    jax.monitoring.register_event_listener(lambda name, **_: found.append(name.rsplit("/", 1)[-1]))
    yield found
    jax.monitoring.clear_event_listeners()


def test_a_second_start_compiles_nothing(no_cache, events, tmp_path):
    """Another process would find no program in memory either."""

    def start(steps: int) -> tuple[int, int]:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.clear_caches()
        events.clear()
        train(tiny.config(tmp_path, **{"steps": 4, "checkpoint.every": steps, "data.programs": 2}), tmp_path / "run")
        return events.count("cache_misses"), events.count("cache_hits")

    assert start(2)[0] > 2
    (tmp_path / "run" / "checkpoints" / "4").rename(tmp_path / "4")  # the run was killed after its second step
    again, loaded = start(2)
    assert again == 0 and loaded > 2


def test_a_cache_that_is_set_up_stays(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    keep_compiled(tmp_path / "run")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_each_kind_of_cpu_has_a_folder(no_cache, tmp_path):
    keep_compiled(tmp_path)
    assert jax.config.jax_compilation_cache_dir == f"{tmp_path}/compiled/{cpu_name()}"
