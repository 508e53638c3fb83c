"""Processes that work for `prepare`: results in order, and an end that is clean whatever ends them."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import pytest

from f2jax.errors import UserError
from f2jax.prepare.workers import run_in_processes


def interrupt_parent(number: int) -> None:
    if number == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)


def die(number: int) -> None:
    os._exit(1)


def test_results_come_in_the_order_of_the_items():
    assert list(run_in_processes(abs, [-3, -2, -1], 2)) == [3, 2, 1]


def test_an_interruption_does_not_wait_for_what_is_at_work():
    """In a process of its own: libraries that other tests import keep a waiting main thread from seeing Ctrl-C."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=500)
    assert done.stdout == "interrupted, 0 at work\n", done.stderr


def test_a_process_that_is_killed_is_one_clear_error():
    with pytest.raises(
        UserError, match="A process was killed, perhaps because memory ran out; run the same command again"
    ):
        list(run_in_processes(die, [0, 1], 2))


if __name__ == "__main__":
    try:
        list(run_in_processes(interrupt_parent, [0, 1], 2))
    except KeyboardInterrupt:
        print(f"interrupted, {len(active_children())} at work")
