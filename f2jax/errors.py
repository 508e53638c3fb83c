"""Errors and what they mean: to a user one clear sentence each, to whoever started the command an exit code."""

import difflib
import errno
import importlib.util
import os
from collections.abc import Iterable

# What `passing` knows errors by: system calls, HTTP, classes of libraries that got no answer, words of TensorStore;
# and those that look so but are as the user or the server has it.
ERRNOS = errno.EIO, errno.ESTALE, errno.ENOMEM
STATUSES = {"408", "429", "500", "502", "503", "504"}
NO_ANSWER = {
    "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "gcsfs.ChecksumError", "google.TransportError",
    "httpx.TransportError", "requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError",
}  # fmt: skip
PERMANENT = {"aiohttp.ClientSSLError", "ssl.SSLCertVerificationError", "huggingface_hub.OfflineModeIsEnabled"}
TRANSIENT_WORDS = "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "Too Many Requests", "Service Unavailable"
FULL = "No space left", "Disk quota exceeded"


class UserError(Exception):
    """Bad input. The message says what is wrong and what to change; `f2jax` prints it and exits 1."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, or a list of the known names.

    >>> nearest("szie", ["size", "teacher"])
    "; did you mean 'size'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known are {', '.join(known)}" if known else ""


class Interrupted(Exception):
    """The user or the system asked to stop; what was done so far is saved. The message says how to go on."""


class Restart(Exception):
    """What this process shared with others failed, by no fault of the user; the same command, run again, goes on."""


def is_transient_io_error(error: BaseException) -> bool:
    """Is it an error of a disk that fails for a moment?"""
    return isinstance(error, OSError) and is_transient(error)


def exit_code(error: BaseException) -> int:
    """What `f2jax` exits with after an error.

    1: the user must mend something. 130: interrupted, and what was to save is saved. 75: the network or another process
    failed. 70: a crash. Whoever starts commands again (launch/run.sh) does so after the last three.
    """
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return 130
    if isinstance(error, (Restart, ConnectionError, TimeoutError)) or is_transient_io_error(error):
        return 75
    return 1 if isinstance(error, (UserError, OSError)) else 70


def is_transient(error: BaseException) -> bool:
    """Is it likely to go by, with the files as they are?"""
    kinds = _kinds(error)
    if is_disk_full(error) or not kinds.isdisjoint(PERMANENT):  # TensorStore says RESOURCE_EXHAUSTED of a full disk
        return False
    if isinstance(error, (ConnectionError, TimeoutError, MemoryError)):
        return True
    answer = getattr(error, "response", None)
    status = getattr(error, "code", None) or getattr(error, "status", None) or getattr(answer, "status_code", None)
    if status:
        return str(status) in STATUSES
    return (
        getattr(error, "errno", None) in ERRNOS
        or not kinds.isdisjoint(NO_ANSWER)
        or any(word in str(error) for word in (*TRANSIENT_WORDS, *map(os.strerror, ERRNOS)))
        or (error.__cause__ is not None and is_transient(error.__cause__))
    )


def _kinds(error: BaseException | None) -> set[str]:
    """LIBRARY.CLASS of an error and of what caused it, with all that these are kinds of."""
    if error is None:
        return set()
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return names | _kinds(error.__cause__)


def is_disk_full(error: BaseException) -> bool:
    """Does it say that the disk is full? TensorStore does so inside a long message."""
    return any(text in str(error) for text in FULL)


def short_reason(error: BaseException) -> str:
    """What an error of a library says, in a few words."""
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()[-1:]), type(error).__name__)


def require_extra(extra: str, what: str, *libraries: str) -> None:
    """Raises UserError where `what` needs libraries of an extra of f2jax that are not installed.

    >>> require_extra("store", "--store", "qdrant_client")

    Args:
        libraries: the modules to look for; by default the one that has the name of the extra.
    """
    missing = [library for library in libraries or (extra,) if not importlib.util.find_spec(library)]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}; install with pip install 'f2jax[{extra}]'.")
