"""Tracks peaks while a block runs: of the memory of this process, or of the bytes in a folder."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def highest(read: Callable[[], float], seconds: float = 0.1) -> Iterator[list[float]]:
    """Keeps the highest value of `read()`, called at the start, every `seconds`, and at the end.

    >>> with highest(lambda: memory_kib("RssAnon")) as most:
    ...     work()
    >>> most[0]
    """
    most, ended = [read()], threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            most[0] = max(most[0], read())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()
        most[0] = max(most[0], read())


def memory_kib(name: str) -> int:
    """Returns a figure in KiB from /proc/self/status of this process: VmRSS, RssAnon, or VmHWM, its peak.

    (`ru_maxrss` also counts the process that started this one.)
    """
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def bytes_below(folder: Path) -> int:
    """Returns the bytes of all files below a folder, while others write and delete them."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total
