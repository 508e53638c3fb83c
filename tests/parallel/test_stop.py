"""What the processes of a run agree to do after a step, each of them one step later."""

import os
import signal

import jax
import pytest

from f2jax.parallel.hosts import NOTHING, SAVE, STOP, StopSignal
from f2jax.parallel.mesh import make_mesh


@pytest.fixture
def stop(monkeypatch):
    """As one of two processes; the devices are its own, so that it hears itself alone."""
    mesh = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with StopSignal(mesh) as stop:
        yield stop


def test_a_checkpoint_that_is_asked_for_once_is_agreed_on_one_step_later_until_it_is_saved(stop):
    assert [stop.exchange(save=save) for save in (True, False, False)] == [NOTHING, SAVE, SAVE]
    stop.saved()
    assert [stop.exchange() for _ in range(2)] == [NOTHING, NOTHING]


def test_a_stop_outranks_a_checkpoint(stop):
    stop.exchange(save=True)
    os.kill(os.getpid(), signal.SIGTERM)
    assert [stop.exchange() for _ in range(2)] == [SAVE, STOP]


def test_a_single_process_is_answered_at_once():
    with StopSignal(make_mesh(devices=jax.devices()[:1])) as stop:
        assert stop.exchange() == NOTHING and stop.exchange(save=True) == SAVE
        stop.ask()
        assert stop.exchange() == STOP
