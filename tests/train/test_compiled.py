"""Programs are compiled before they are needed; a run that starts again compiles nothing: they lie in the workdir."""

import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from f2jax.train.compiled import Ahead, CompiledProgram, cpu_name, keep_compiled
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


def test_each_kind_of_cpu_has_one_in_a_folder_for_several_runs_too(no_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("F2JAX_COMPILED", f"{tmp_path}/sweep")
    keep_compiled(tmp_path / "run")
    assert jax.config.jax_compilation_cache_dir == f"{tmp_path}/sweep/{cpu_name()}"


# Ahead


class Slow:
    """Makes a key's value, which is the thread that makes it, when it is told to go on."""

    def __init__(self) -> None:
        self.begun: list = []
        self.changed = threading.Condition()
        self.allowed: set = set()

    def makers(self, keys) -> dict:
        return {key: partial(self.make, key) for key in keys}

    def make(self, key) -> threading.Thread:
        with self.changed:
            self.begun.append(key)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: key in self.allowed, timeout=60)
        return threading.current_thread()

    def allow(self, *keys) -> None:
        with self.changed:
            self.allowed.update(keys)
            self.changed.notify_all()

    def wait_until_begun(self, key) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.begun, timeout=60)


@contextmanager
def making(keys: str, *, allowed: str = "", until: str):
    """What a thread makes in the order of the keys, once it has begun with `until`, and how."""
    slow = Slow()
    slow.allow(*allowed)
    with Ahead() as made:
        made.begin(slow.makers(keys))
        slow.wait_until_begun(until)
        yield made, slow


def test_the_thread_makes_all_in_order_and_each_once():
    with making("ab", allowed="ab", until="b") as (made, slow):
        found = [made.get(key, partial(slow.make, key)) for key in "aba"]
    assert slow.begun == ["a", "b"] and set(found).isdisjoint({threading.current_thread()})


def test_who_asks_for_what_is_being_made_waits_for_it():
    found: list = []
    with making("a", until="a") as (made, slow):
        asking = threading.Thread(target=lambda: found.append(made.get("a", partial(slow.make, "a"))))
        asking.start()
        slow.allow("a")
        asking.join()
    assert slow.begun == ["a"] and len(found) == 1 and found != [asking]


def test_who_asks_before_its_turn_makes_it_at_once_and_the_thread_passes_it_over():
    with making("abc", allowed="bc", until="a") as (made, slow):
        assert made.get("b", partial(slow.make, "b")) is threading.current_thread()
        slow.allow("a")
        slow.wait_until_begun("c")
    assert slow.begun == ["a", "b", "c"]


def test_an_error_of_the_thread_is_raised_where_the_next_one_is_asked_for():
    slow = Slow()

    def fail():
        raise MemoryError("no room")

    with Ahead() as made, pytest.raises(MemoryError, match="no room"):
        made.begin({"a": fail, "b": partial(slow.make, "b")})
        made._ended.wait(60)
        made.get("c", partial(slow.make, "c"))
    assert slow.begun == [], "neither b nor c"


def test_an_error_of_what_one_waits_for_is_raised():
    def fail():
        raise MemoryError("no room")

    with Ahead() as made, pytest.raises(MemoryError, match="no room"):
        made.get("a", fail)


def test_the_end_waits_for_what_is_being_made_and_makes_nothing_more():
    slow = Slow()
    ended = threading.Event()

    def use():
        with Ahead() as made:
            made.begin(slow.makers("ab"))
            slow.wait_until_begun("a")
        ended.set()

    user = threading.Thread(target=use)
    user.start()
    slow.wait_until_begun("a")
    assert not ended.wait(0.1)
    slow.allow("a", "b")
    user.join()
    assert slow.begun == ["a"]


@pytest.mark.parametrize("when", ["inside", "at the end"])
def test_a_second_ctrl_c_ends_the_process_while_something_is_being_made(when):
    """The thread never ends, which a process waits for, or is aborted by if it is inside a library."""
    script = f"""
import signal, sys, threading
from f2jax.train.compiled import Ahead

def interrupt():
    threading.Event().wait(0.2)
    signal.raise_signal(signal.SIGINT)

try:
    with Ahead() as made:
        made.begin({{"a": threading.Event().wait}})
        {"raise KeyboardInterrupt" if when == "inside" else "threading.Thread(target=interrupt).start()"}
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(1)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (130, "interrupted\n"), run.stderr


# The programs of a run


def test_a_run_compiles_ahead_what_it_needs_and_trains_as_without(tmp_path, monkeypatch):
    planned, used = set(), set()
    begin, get = CompiledProgram.begin, CompiledProgram.get
    monkeypatch.setattr(CompiledProgram, "begin", lambda self, makers: planned.update(makers) or begin(self, makers))
    monkeypatch.setattr(CompiledProgram, "get", lambda self, key, make: used.add(key) or get(self, key, make))
    changes = {"steps": 4, "log.validate_every": 4, "data.programs": 2}

    def measure(ahead: bool) -> dict[str, float]:
        config = tiny.config(tmp_path, **changes, **{"model.compile_ahead": ahead})
        return {name: value for name, value in train(config, tmp_path / str(ahead)).items() if "loss" in name}

    found = measure(ahead=True)
    assert {name for name, *_ in used} == {name for name, *_ in planned} == {"step", "evaluate"}
    assert {kind for _, kind, _ in used} == {"retrieval", "clustering"}
    assert {key[1:] for key in used} <= {key[1:] for key in planned}, "a shape that no batch was expected to have"
    planned.clear()
    assert measure(ahead=False) == found and not planned and len(found) > 3
