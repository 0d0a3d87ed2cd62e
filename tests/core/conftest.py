"""Hypothesis without deadlines, as no test asserts a time, and a folder in memory for tests of many files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")

MEMORY = Path("/dev/shm")


@pytest.fixture
def fast_path(tmp_path) -> Iterator[Path]:
    """A folder of the test's own, in memory where the system has such a place: a disk waits at every sync."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    yield folder
    shutil.rmtree(folder)
