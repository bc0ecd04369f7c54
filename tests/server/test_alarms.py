"""Deadlines that move: none rings early, late or twice, and those of the gone cost nothing."""

from __future__ import annotations

import weakref
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_fcgimail.server.alarms import Alarm, Alarms


@pytest.fixture
def alarms(nursery: trio.Nursery) -> Alarms:
    """Those that run."""
    made = Alarms()
    nursery.start_soon(made.run)
    return made


def ringing(alarms: Alarms) -> tuple[Alarm, list[float]]:
    """An alarm, and when it rang."""
    times: list[float] = []
    return Alarm(alarms, lambda: times.append(trio.current_time())), times


@pytest.mark.trio
@pytest.mark.parametrize(
    ("moves", "rings"),
    [
        pytest.param([(0, 5)], [5], id="once"),
        pytest.param([(0, 5), (3, 8)], [8], id="later"),
        pytest.param([(0, 8), (3, 5)], [5], id="sooner"),
        pytest.param([(0, 8), (1, 5), (2, 8)], [8], id="sooner-and-back"),
        pytest.param([(0, 5), (3, None)], [], id="off"),
        pytest.param([(0, 5), (3, None), (4, 9)], [9], id="off-and-on"),
        pytest.param([(0, 5), (6, 9)], [5, 9], id="twice"),
        pytest.param([(0, 600), (1, 301), (2, 302), (3, 303)], [303], id="each-command"),
        pytest.param([(2, 1)], [2], id="too-late-already"),
    ],
)
async def test_an_alarm_rings_when_it_was_last_set_to(
    moves: list[tuple[float, float | None]], rings: list[float], alarms: Alarms, autojump_clock: MockClock
) -> None:
    alarm, times = ringing(alarms)
    began = trio.current_time()
    for when, due in moves:
        await trio.sleep_until(began + when)
        if due is None:
            alarm.off()
        else:
            alarm.set(began + due)
    await trio.sleep(1000)
    assert [time - began for time in times] == pytest.approx(rings)
    assert not len(alarms)


@pytest.mark.trio
async def test_alarms_ring_each_in_its_time(alarms: Alarms, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    several = [ringing(alarms) for _ in range(5)]
    for number, (alarm, _) in enumerate(several):
        alarm.set(began + 10 - number)
    await trio.sleep(20)
    assert [times[0] - began for _, times in several] == pytest.approx([10, 9, 8, 7, 6])


@pytest.mark.trio
async def test_what_was_set_before_they_run_rings(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    alarms = Alarms()
    alarm, times = ringing(alarms)
    alarm.set(trio.current_time() + 3)
    nursery.start_soon(alarms.run)
    await trio.sleep(4)
    assert len(times) == 1


@pytest.mark.trio
async def test_a_closed_alarm_is_silent_and_forgotten(alarms: Alarms, autojump_clock: MockClock) -> None:
    lasting, times = ringing(alarms)
    lasting.set(trio.current_time() + 300)
    for _ in range(10_000):
        alarm, _ = ringing(alarms)
        alarm.set(trio.current_time() + 300)
        alarm.close()
        alarm.close()
    assert len(alarms) < 200
    await trio.sleep(301)
    assert len(times) == 1


@pytest.mark.trio
async def test_one_that_moves_to_and_fro_does_not_pile_up(alarms: Alarms, autojump_clock: MockClock) -> None:
    alarm, times = ringing(alarms)
    began = trio.current_time()
    for number in range(10_000):
        alarm.set(began + 20_000 - number)
    assert len(alarms) < 200
    alarm.off()
    await trio.sleep(30_000)
    assert not times


@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(1, 50))), max_size=60))
def test_many_alarms_ring_as_a_cancel_scope_for_each_would(moves: list[tuple[int, int | None]]) -> None:
    async def both() -> None:
        alarms = Alarms()
        rung: list[tuple[int, float]] = []
        several = [
            Alarm(alarms, partial(lambda who: rung.append((who, round(trio.current_time(), 3))), who))
            for who in range(5)
        ]
        expected: list[tuple[int, float]] = []
        due: dict[int, float] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarms.run)
            now = trio.current_time()
            for who, seconds in moves:
                now += 1
                expected += sorted((one, time) for one, time in due.items() if time <= now - 0.5)
                due = {one: time for one, time in due.items() if time > now - 0.5}
                await trio.sleep_until(now)
                await wait_all_tasks_blocked()
                if seconds is None:
                    several[who].off()
                    due.pop(who, None)
                else:
                    several[who].set(now + seconds - 0.5)
                    due[who] = now + seconds - 0.5
            expected += sorted(due.items())
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        assert sorted(rung) == sorted(expected)

    trio.run(both, clock=MockClock(autojump_threshold=0))


def test_a_closed_alarm_holds_on_to_nobody() -> None:
    class Sleeper:
        def wake(self) -> None:
            raise AssertionError("it is closed")

    sleeper = Sleeper()
    gone = weakref.ref(sleeper)
    alarm = Alarm(Alarms(), sleeper.wake)
    alarm.close()
    del sleeper
    assert gone() is None
