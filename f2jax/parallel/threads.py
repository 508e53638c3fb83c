"""Runs what blocks inside a library in a thread of its own, so that Ctrl-C and a time limit reach the caller."""

import threading
import time
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.2  # how long a signal may have to wait


def interruptible(function: Callable[[], Any], seconds: float = threading.TIMEOUT_MAX) -> Any:
    """Returns the result of `function()`, or raises its error; another thread runs it.

    Args:
        seconds: how long to wait for it. The thread keeps running when the time is over.

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
