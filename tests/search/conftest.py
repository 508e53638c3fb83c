"""A folder for the stores of the tests."""

import atexit
import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def open_folder():
    """A folder that others may enter, as a server that root starts needs it; those of pytest are closed."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder)  # after the servers in it, which register later and so stop before
    return folder
