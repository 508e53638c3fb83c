"""A folder is written by one process at a time, and is free again however that process ends."""

import errno
import os
import subprocess
import sys

import pytest

from f2jax import locks
from f2jax.errors import UserError
from f2jax.locks import exclusive

HOLD = """
import sys
from pathlib import Path
from f2jax.locks import exclusive
with exclusive(Path(sys.argv[1]), "train"):
    print(flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_free_again_when_its_holder_ends(tmp_path):
    with exclusive(tmp_path, "prepare"):
        said = rf"^Another f2jax prepare, process {os.getpid()} on .*, is writing to {tmp_path};"
        with pytest.raises(UserError, match=said), exclusive(tmp_path, "prepare"):
            pass
        with exclusive(tmp_path / "other", "prepare"):
            pass
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path, "prepare"):
        raise KeyboardInterrupt
    with exclusive(tmp_path, "prepare"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_folder_is_free_again_when_its_holder_is_killed(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError, match=rf"process {holder.pid} on "), exclusive(tmp_path, "train"):
            pass
        holder.kill()
    assert (tmp_path / ".train.lock").exists()
    with exclusive(tmp_path, "train"):
        pass


def test_a_lock_file_that_its_last_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    """Two processes that lock two files of one name would both write."""
    path, lock, calls = tmp_path / ".train.lock", locks.fcntl.flock, []

    def flock(file, how):
        if not calls:
            path.unlink()
        calls.append(how)
        lock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with exclusive(tmp_path, "train"):
        assert path.exists() and len(calls) == 2


def test_a_file_system_without_locks_is_refused_or_named(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(UserError, match="cannot be locked"), exclusive(tmp_path, "prepare"):
        pass
    with exclusive(tmp_path, "train", required=False):
        assert capsys.readouterr().out.endswith("has no locks; make sure that no other process writes there.\n")
