"""Processes that work for `prepare`: results in order, and an end that is clean whatever ends them."""

import os
import signal
import time
from multiprocessing import active_children

import pytest

from f2jax.data.prepare.runners import in_processes
from f2jax.errors import UserError


def interrupt_parent(number: int) -> None:
    if number == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)


def die(number: int) -> None:
    os._exit(1)


def test_results_come_in_the_order_of_the_items():
    assert list(in_processes(abs, [-3, -2, -1], 2)) == [3, 2, 1]


def test_an_interruption_does_not_wait_for_what_is_at_work():
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(interrupt_parent, [0, 1], 2))
    assert not active_children()


def test_a_process_that_is_killed_is_one_clear_error():
    with pytest.raises(UserError, match="A process was killed, perhaps for want of memory; run the same command again"):
        list(in_processes(die, [0, 1], 2))
