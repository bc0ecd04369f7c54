"""Short walks through a server in this process; `python -m tests.trust.walks` takes long ones."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.certificates import Authority
from tests.support import Journal
from tests.trust.walks.machine import Walk
from tests.trust.walks.memory import MemoryDriver
from tests.trust.walks.model import House


def test_server_and_model_never_disagree(authority: Authority, journal: Journal) -> None:
    class MemoryWalk(Walk):
        def open_server(self, house: House) -> MemoryDriver:
            return MemoryDriver(house, authority, journal)

    run_state_machine_as_test(
        MemoryWalk,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
