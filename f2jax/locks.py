"""Locks a folder, so that only one process at a time writes there."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from f2jax import files
from f2jax.errors import UserError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what file systems without locks answer


@contextlib.contextmanager
def exclusive(folder: Path, command: str, required: bool = True) -> Iterator[None]:
    """Locks a local folder against other processes; the system releases the lock when this process ends.

    >>> with exclusive(Path("prepared"), "prepare"):
    ...     write_corpus("prepared")

    Args:
        folder: it is created if it does not exist.
        command: the name of the command that writes there.
        required: refuse file systems without locks; otherwise a line says that there is none.

    Raises:
        UserError: another process has locked the folder, it is a file, or it cannot be written or locked.
        Restart: a transient failure of the disk.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; name a folder.")
    path = folder / f".{command}.lock"  # hidden: it belongs to no output
    with files.clear_errors(folder, "locked"):
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(path, command, required)
    with file:
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path, command: str, required: bool) -> TextIO:
    """Returns the locked file, which releases the lock when it is closed."""
    while True:
        file = path.open("a", encoding="utf-8")  # not the folder, which NFS does not lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            raise UserError(f"{_holder(path, command)} is writing to {path.parent}; wait for it, or end it.") from error
        except OSError as error:
            if not required and error.errno in NO_LOCKS:
                print(f"The file system of {path.parent} has no locks; make sure that no other process writes there.")
                return file
            file.close()
            raise
        file.close()  # its last holder removed the file after it was opened here


def _holder(path: Path, command: str) -> str:
    try:
        holder = files.read_json_object(path, {"process": int, "host": str})
    except UserError:  # it has the lock, but has not written this yet
        return f"Another f2jax {command}"
    return f"Another f2jax {command}, process {holder['process']} on {holder['host']},"
