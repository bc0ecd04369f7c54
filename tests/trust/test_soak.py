"""Soak, the short form: that it runs, and that its judge finds what grows."""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import pytest
import trio

from tests.phpfpm import open_folder, require_php
from tests.trust.soak.course import JUDGED_MINUTES, Course, Soak, run
from tests.trust.soak.trend import KIB_A_MINUTE, Trend, growth
from tests.trust.soak.watch import Points, Watch

MINUTES: Final = 20
LOOKS: Final = 12  # a minute


def test_it_runs() -> None:
    require_php()
    course = Course(minutes=0.05, full_seconds=2, senders=4, look_seconds=1, largest=65_536)
    with open_folder() as folder:
        soak = trio.run(run, course, folder)
    assert soak.problems() == []
    assert soak.mails > 0
    assert len(soak.watch.kib) == 1 + 2
    assert all(value > 1024 for points in soak.watch.kib.values() for _, value in points)
    assert "RSS, KiB, parent" in soak.text()


def series(value: Callable[[float], float], noise: float, times: int = LOOKS) -> Points:
    """A value that depends on the minute, with some noise."""
    dice = random.Random(8)
    return [(look / times, value(look / times) + dice.gauss(0, noise)) for look in range(MINUTES * times)]


def soak(*, kib: Points | None = None, descriptors: Points | None = None, latency: Points | None = None) -> Soak:
    """One in which nothing grows but what is given."""
    flat = series(lambda _: 50_000.0, 100)
    watch = Watch(1, defaultdict(list, worker=kib or flat), defaultdict(list, worker=descriptors or flat))
    steady = series(lambda _: 20.0, 2, times=1)
    return Soak(watch, minutes=MINUTES, latency={50: steady, 99: latency or steady})


def test_what_is_flat_passes() -> None:
    assert soak().problems() == []


@pytest.mark.parametrize(
    ("grown", "problem"),
    [
        pytest.param(
            soak(kib=series(lambda minute: 50_000 + 30 * minute, 100)), "the memory of worker grows", id="memory"
        ),
        pytest.param(
            soak(descriptors=series(lambda minute: 20 + minute // 5, 2)), "the file descriptors of worker grow", id="fd"
        ),
        pytest.param(
            soak(latency=series(lambda minute: 20 + minute, 2, times=1)), "the latency of 99 % grows", id="latency"
        ),
    ],
)
def test_growth_is_found(grown: Soak, problem: str) -> None:
    (found,) = grown.problems()
    assert found.startswith(problem)


def test_warming_up_is_no_growth() -> None:
    assert soak(kib=series(lambda minute: 50_000 + 2_000 * min(minute, 4), 100)).problems() == []


def test_a_short_one_judges_no_growth() -> None:
    grown = soak(kib=series(lambda minute: 50_000 + 30 * minute, 100))
    grown.minutes = JUDGED_MINUTES - 1
    assert grown.problems() == []


def test_failures_are_a_problem_however_short() -> None:
    found = soak()
    found.minutes, found.failures = 0.1, ["451"]
    assert found.problems() == ["1 failures, the first: 451"]


def test_a_machine_that_grows_slower_is_not_our_fault() -> None:
    slower = series(lambda minute: 20 + minute, 2, times=1)
    found = soak(latency=slower)
    found.lateness = {50: slower}
    assert found.problems() == []
    assert "the machine grew slower by itself: 50 %" in found.disturbances()[0]


def test_a_line_through_points_on_a_line() -> None:
    trend = Trend.of([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0), (4.0, 9.0)])
    assert trend is not None
    assert (trend.mean, trend.slope, trend.margin) == pytest.approx((5.0, 2.0, 0.0), abs=1e-9)


def test_the_margin_is_that_of_student() -> None:
    trend = Trend.of([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0), (3.0, 2.0), (4.0, 1.0), (5.0, 2.0)])
    assert trend is not None
    assert trend.slope == pytest.approx(3 / 35)  # by hand: Sxy = 1.5, Sxx = 17.5
    assert trend.margin == pytest.approx(2.776 * (1.371428 / 4 / 17.5) ** 0.5, rel=0.01)  # 2.776: t at 4 degrees


def test_the_limit_is_in_the_confidence_interval_or_not() -> None:
    assert growth(series(lambda minute: KIB_A_MINUTE * minute, 100), KIB_A_MINUTE) is None
    assert growth(series(lambda minute: 1.5 * KIB_A_MINUTE * minute, 10), KIB_A_MINUTE) is not None


def wandering(seed: int, slope: float) -> Points:
    """Memory as an allocator has it: what it has got once it gives back after minutes, if at all."""
    dice = random.Random(seed)
    points, beside = [], 0.0
    for look in range(MINUTES * LOOKS):
        beside = 0.97 * beside + dice.gauss(0, 120)
        points.append((look / LOOKS, 58_000 + slope * look / LOOKS + beside))
    return points


def test_what_wanders_does_not_grow() -> None:
    flat = [growth(wandering(seed, 0), KIB_A_MINUTE) for seed in range(100)]
    grown = [growth(wandering(seed, 200), KIB_A_MINUTE) for seed in range(100)]
    assert sum(one is not None for one in flat) <= 10  # a line that takes all looks for independent: 30
    assert sum(one is not None for one in grown) >= 80
