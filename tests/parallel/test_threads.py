"""A function in a thread of its own: its result or error, a time limit, and Ctrl-C at any time. Threads of devices."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from f2jax.parallel.threads import interruptible, one_ahead


def test_the_result_is_returned():
    assert interruptible(lambda: 7) == 7


def test_an_error_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_a_call_that_takes_too_long_is_a_timeout():
    done = threading.Event()
    with pytest.raises(TimeoutError, match=r"no result after 0\.01 seconds"):
        interruptible(done.wait, seconds=0.01)
    done.set()


def test_ctrl_c_does_not_wait_for_the_function():
    started, done = threading.Event(), threading.Event()

    def block():
        started.set()
        done.wait()

    def ctrl_c():
        started.wait()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=ctrl_c, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(block)
    done.set()


def test_the_next_item_is_made_while_the_caller_has_one_and_no_further():
    made, third = [], threading.Event()

    def items():
        for number in range(4):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    ahead = one_ahead(items())
    assert (next(ahead), next(ahead)) == (0, 1)
    assert third.wait(10), "2 is made while the caller has 1"
    assert 3 not in made
    assert list(ahead) == [2, 3]


def test_an_error_comes_in_its_place():
    def items():
        yield 0
        raise ValueError("one")

    ahead = one_ahead(items())
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="one"):
        next(ahead)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(
    "several", [{"JAX_NUM_CPU_DEVICES": "4"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}]
)
def test_several_cpu_devices_have_threads_left_while_some_wait_for_each_other(several):
    code = "import os, jax; from f2jax.parallel import hosts; hosts.start()\n"
    code += "print(jax.device_count(), len(os.listdir('/proc/self/task')))"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | several
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    devices, threads = map(int, done.stdout.split())
    assert devices == 4
    assert threads >= 8 * devices
