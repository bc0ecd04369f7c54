"""Fixtures that more than one folder of tests uses."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from coverage import Coverage

from tests.certificates import Authority
from tests.support import Journal

# Measured are the tests' own processes. What those start again and again, servers and commands, would take half as long
# again; what the measure is for, the cores, tests call without a process between.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A log of its own for each test."""
    journal = Journal(tmp_path / "log")
    yield journal
    journal.file.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all tests."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Save what was measured: a process of pytest-xdist that takes long to exit is killed, and its figures with it."""
    measuring = Coverage.current()
    if measuring is not None:
        measuring.save()
