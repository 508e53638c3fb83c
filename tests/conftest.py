"""Fixtures that several tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # how long an example takes says more about the machine
settings.load_profile("patient")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the checkout, or in F2JAX_DATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("F2JAX_DATA", Path(__file__).parents[2] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}; set F2JAX_DATA")
    return folder
