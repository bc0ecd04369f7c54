"""What time it is, for people: right in each second, and in the zone that is ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from trio_fcgimail.server.wallclock import WholeSeconds, local_now

SUMMER_BEGINS = 1_743_296_400  # 2025-03-30 01:00 UTC, in Berlin


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        pytest.param(0.0, "1970-01-01T01:00:00+01:00", id="the-first"),
        pytest.param(SUMMER_BEGINS - 0.001, "2025-03-30T01:59:59+01:00", id="winter"),
        pytest.param(SUMMER_BEGINS, "2025-03-30T03:00:00+02:00", id="summer"),
        pytest.param(SUMMER_BEGINS + 0.999, "2025-03-30T03:00:00+02:00", id="no-fractions"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_the_second_in_its_zone(monkeypatch: pytest.MonkeyPatch, seconds: float, shown: str) -> None:
    clock = WholeSeconds()
    for before in (SUMMER_BEGINS - 1.5, SUMMER_BEGINS + 3600.0, seconds, seconds):
        monkeypatch.setattr(time, "time", lambda before=before: before)
        now = clock()
    assert now.isoformat() == shown


def test_both_agree() -> None:
    before, now, second = datetime.now(UTC), local_now(), WholeSeconds()()
    assert before <= now <= datetime.now(UTC)
    assert before - timedelta(seconds=1) < second <= datetime.now(UTC)
    assert now.tzinfo is not None
    assert second.microsecond == 0
