"""Maps a function over items in order, in this process or in several.

Only one `prepare` may run on a corpus at a time, and its processes end with it, however it ends.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from f2jax import files
from f2jax.errors import UserError

HOLDER = "prepare.lock"  # in the folder: which process writes there


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes; the system releases the lock when this process ends.

    Raises:
        UserError: another process has locked the folder, or it cannot be written.
    """
    path = folder / HOLDER
    with files.clear_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    try:
        with files.clear_errors(folder, "locked"):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{folder} is being written by {_holder(path)}; wait for it, or end it.") from error
        files.write_atomically(path, json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(held)


def _holder(path: Path) -> str:
    try:
        holder = files.read_json_object(path, {"process": int, "host": str})
    except UserError:  # it has the lock, but has not written this yet
        return "another f2jax prepare"
    return f"f2jax prepare, process {holder['process']} on {holder['host']}"


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
