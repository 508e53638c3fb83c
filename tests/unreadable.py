"""Folders that cannot be listed, for a superuser too, who may list all."""

import errno
import os
from pathlib import Path


def forbid(monkeypatch, folder: Path) -> None:
    """Makes each attempt to list this folder fail."""
    scandir = os.scandir

    def refuse(path="."):
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
