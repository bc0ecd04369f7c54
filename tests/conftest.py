"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A log of its own for each test."""
    journal = Journal(tmp_path / "log")
    yield journal
    journal.file.close()
