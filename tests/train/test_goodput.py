"""The clock of a run."""

import pytest

from f2jax.train import goodput


@pytest.fixture
def pass_time(monkeypatch):
    """A function that lets so many seconds pass."""
    now = [0.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_time_left_follows_the_steps_so_far_and_not_what_happens_once(pass_time):
    clock = goodput.Goodput()
    pass_time(30)
    clock.started()
    with clock.compiling("a program"):
        pass_time(60)
    for _ in range(10):
        with clock.compiling("a program"):
            pass_time(2)
    with clock.during("validation"):
        pass_time(5)
    assert clock.left(10, 100) == pytest.approx(250)
