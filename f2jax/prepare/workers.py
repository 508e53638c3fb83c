"""Maps a function over items in order, in this process or in several, which end with it, however it ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process

from f2jax.errors import UserError


def run_in_processes(function: Callable, items: Sequence, jobs: int) -> Iterator:
    """Maps a function in up to `jobs` processes, which an interruption ends at once.

    Raises:
        UserError: a process was killed.
    """
    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    others = set(active_children())
    with ProcessPoolExecutor(min(jobs, len(items)), get_context("spawn"), _begin_worker) as pool:
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool as error:
            raise UserError(
                "A process was killed, perhaps because memory ran out; run the same command again, with fewer --jobs."
            ) from error
        except (KeyboardInterrupt, GeneratorExit):
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _begin_worker() -> None:
    """Makes this process end without a traceback on Ctrl-C, and when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()  # waits on a pipe that the system closes, even at kill -9
        os._exit(1)
