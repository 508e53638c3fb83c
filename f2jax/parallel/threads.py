"""Threads for calls that block inside a library, so that Ctrl-C and time limits work, and for working ahead."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from f2jax.errors import exit_code

POLL_SECONDS = 0.2  # the longest that a signal may have to wait
Item = TypeVar("Item")


def interruptible(function: Callable[[], Any], seconds: float = threading.TIMEOUT_MAX) -> Any:
    """Runs `function()` in another thread and returns its result, or raises its error.

    Args:
        seconds: how long to wait; the thread keeps running afterwards.

    Raises:
        TimeoutError: `function` has not returned in time.
    """
    result: list = []
    error: list[Exception] = []

    def work():
        try:
            result.append(function())
        except Exception as raised:  # handed to the caller
            error.append(raised)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive():
        if time.monotonic() > end:
            raise TimeoutError(f"no result after {seconds:g} seconds")
        thread.join(POLL_SECONDS)
    if error:
        raise error[0]
    return result[0]


def leave_at_exit(error: BaseException) -> None:
    """Makes the process end with the exit code of an error, without waiting for threads or other processes.

    Otherwise, a thread inside a library would abort the process as it ends.
    """
    atexit.register(_leave, exit_code(error))  # runs before JAX's handler, which waits for all processes


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items in order; another thread prepares the next one while the caller uses this one."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, iterator, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
