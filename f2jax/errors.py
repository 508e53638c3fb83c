"""Errors: one clear sentence for the user, and an exit code for the script that ran the command."""

import difflib
import errno
import importlib.util
import os
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

# How `is_transient` recognises errors that are likely to pass: by errno, HTTP status, exception class, or words in
# TensorStore's messages. Those in PERMANENT look similar, but last until the user or a server changes something.
TRANSIENT_ERRNOS = (
    errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.ENETDOWN, errno.ENETUNREACH,
    errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
)  # fmt: skip
TRANSIENT_STATUSES = {"408", "429", "500", "502", "503", "504"}
NO_ANSWER = {
    "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError", "gcsfs.ChecksumError", "google.TransportError",
    "http.IncompleteRead", "httpx.TransportError", "requests.ConnectionError", "requests.Timeout",
    "requests.ChunkedEncodingError", "ssl.SSLEOFError", "ssl.SSLZeroReturnError", "urllib3.ProtocolError",
    "urllib3.TimeoutError",
}  # fmt: skip
PERMANENT = {"aiohttp.ClientSSLError", "ssl.SSLCertVerificationError", "huggingface_hub.OfflineModeIsEnabled"}
TRANSIENT_WORDS = (
    "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "Too Many Requests", "Service Unavailable",
    *map(os.strerror, TRANSIENT_ERRNOS),
)  # fmt: skip
DISK_FULL = re.compile("No space left|Disk quota exceeded|[0-9]+ requested and [0-9]+ written")  # the last by numpy


class UserError(Exception):
    """Bad input. The message says what is wrong and what to change; `f2jax` prints it and exits with 1."""


def did_you_mean(name: str, known: Iterable[str], choices: Iterable[str] = ()) -> str:
    """Returns `"; did you mean 'x'?"` with the known name closest to `name`, or else a list of choices.

    >>> did_you_mean("szie", ["size", "teacher"])
    "; did you mean 'size'?"

    Args:
        choices: what to list; by default all known names.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    choices = sorted(choices) or known
    return f"; choose from {', '.join(choices)}." if choices else "."


def check_choices(options: Any) -> None:
    """Raises UserError if a field of a dataclass with a Literal type has none of its values."""
    for name, hint in get_type_hints(type(options)).items():
        value, choices = getattr(options, name), [choice for choice in get_args(hint) if choice]
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise UserError(f"{name}='{value}' is not a choice{did_you_mean(str(value), choices)}")


class Interrupted(Exception):
    """The user or the system asked to stop. The work so far is saved, and the message says how to continue."""


class Restart(Exception):
    """The network, a disk or another process failed. The same command, run again, continues."""


def exit_code(error: BaseException) -> int:
    """Returns the exit code of `f2jax` after an error.

    1: the user has to change something. 130: interrupted, with all work saved. 75: the network, a disk or another
    process failed. 70: a crash. Scripts that restart commands (launch/run.sh) do so after the last three codes.
    """
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return 130
    if isinstance(error, (Restart, ConnectionError, TimeoutError)) or is_transient_io_error(error):
        return 75
    return 1 if isinstance(error, (UserError, OSError)) or is_device_full(error) else 70


def is_transient_io_error(error: BaseException) -> bool:
    """Returns whether this is a transient I/O error."""
    return isinstance(error, OSError) and is_transient(error)


def is_transient(error: BaseException) -> bool:
    """Returns whether an error is likely to pass without any change of files or settings.

    >>> is_transient(OSError(errno.EIO, "Input/output error"))
    True
    """
    if is_disk_full(error) or _is_a(PERMANENT, _chain(error)):  # TensorStore reports a full disk as RESOURCE_EXHAUSTED
        return False
    if isinstance(error, (ConnectionError, TimeoutError, MemoryError)):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if status := _http_status(error):
        return status in TRANSIENT_STATUSES
    return (
        getattr(error, "errno", None) in TRANSIENT_ERRNOS
        or _is_a(NO_ANSWER, [error])
        or any(word in str(error) for word in TRANSIENT_WORDS)
        or (error.__cause__ is not None and is_transient(error.__cause__))
    )


def _http_status(error: BaseException) -> str:
    """Returns the HTTP status in an error of a library, or ""."""
    answer = getattr(error, "response", None)
    statuses = getattr(error, "code", None), getattr(error, "status", None), getattr(answer, "status_code", None)
    return next((str(status) for status in statuses if status and not callable(status)), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, its cause, the cause's cause and so on; some libraries set no cause, only the context."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_a(names: set[str], errors: Iterable[BaseException]) -> bool:
    """Returns whether one of the errors is an instance of a class LIBRARY.CLASS in `names`."""
    classes = (kind for error in errors for kind in type(error).__mro__)
    return any(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" in names for kind in classes)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error reports a full disk, which TensorStore does inside a long message."""
    return bool(DISK_FULL.search(str(error)))


def is_device_full(error: BaseException) -> bool:
    """Returns whether XLA reports that a computation does not fit into the memory of its device."""
    found = isinstance(error, (RuntimeError, ValueError)) and str(error).startswith("RESOURCE_EXHAUSTED")
    return found and not is_disk_full(error)


def short_reason(error: BaseException) -> str:
    """Returns a short reason for an error of a library."""
    return getattr(error, "strerror", None) or next(iter(str(error).splitlines()[-1:]), type(error).__name__)


def require_extra(extra: str, what: str, *libraries: str) -> None:
    """Raises UserError if libraries of an extra of f2jax, which `what` needs, are not installed.

    >>> require_extra("store", "--store", "psycopg")

    Args:
        libraries: modules to look for; by default, the module named like the extra.
    """
    missing = [library for library in libraries or (extra,) if not importlib.util.find_spec(library)]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}; install with pip install 'f2jax[{extra}]'.")
