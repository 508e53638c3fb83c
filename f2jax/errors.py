"""Errors and what they mean: to a user one clear sentence each, to whoever started the command an exit code."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message says what is wrong and what to change; `f2jax` prints it and exits 1."""


def nearest(name: str, known: Iterable[str]) -> str:
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


def goes_by(error: BaseException) -> bool:
    """Is it an error of a disk that fails for a moment?"""
    from f2jax.files import passing  # which knows this module

    return isinstance(error, OSError) and passing(error)


def exit_code(error: BaseException) -> int:
    """What `f2jax` exits with after an error.

    1: the user must mend something. 130: interrupted, and what was to save is saved. 75: the network or another process
    failed. 70: a crash. Whoever starts commands again (launch/run.sh) does so after the last three.
    """
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return 130
    if isinstance(error, (Restart, ConnectionError, TimeoutError)) or goes_by(error):
        return 75
    return 1 if isinstance(error, (UserError, OSError)) else 70
