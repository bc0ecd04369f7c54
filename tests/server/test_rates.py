"""The bookkeeping of rates: what it promises to the well-behaved, to the abused, and to our memory."""

import tracemalloc
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_fcgimail.server.rates import MAX_NETWORKS, Meter, network_of

A: Final = b"\xc0\0\2\1"
STEPS: Final = st.lists(st.floats(0, 90) | st.sampled_from([0.0, 0.0, 1e-9, 30.0, 60.0]), max_size=80)
RATES: Final = st.integers(1, 20)
BEGINNINGS: Final = st.sampled_from([0.0, 1e3, 1e7])


def times(begin: float, steps: Sequence[float]) -> list[float]:
    """Moments, from the seconds between them."""
    moments = []
    for step in steps:
        begin += step
        moments.append(begin)
    return moments


def most_in_a_minute(moments: Sequence[float]) -> int:
    """The largest number of moments in any 60 seconds, both ends included."""
    return max((bisect_right(moments, one + 60) - at for at, one in enumerate(moments)), default=0)


@given(RATES, BEGINNINGS, STEPS)
def test_who_stays_below_the_rate_is_never_refused(rate: int, begin: float, steps: list[float]) -> None:
    meter = Meter(rate)
    moments: list[float] = []
    for now in times(begin, steps):
        if most_in_a_minute([*moments, now]) <= rate:
            moments.append(now)
            assert meter.takes(A, now)


@given(RATES, BEGINNINGS, STEPS)
def test_nobody_gets_more_than_the_rate_and_one_burst(rate: int, begin: float, steps: list[float]) -> None:
    meter = Meter(rate)
    taken = [now for now in times(begin, steps) if meter.takes(A, now)]
    for at, first in enumerate(taken):
        for count, last in enumerate(taken[at:], 1):
            assert count <= rate + rate * (last - first + 0.001) / 60 + 1e-3


@given(RATES, STEPS, st.lists(st.binary(min_size=4, max_size=4), max_size=80))
def test_others_make_no_difference(rate: int, steps: list[float], others: list[bytes]) -> None:
    alone, among = Meter(rate), Meter(rate)
    for number, now in enumerate(times(0, steps)):
        for other in others[number : number + 3]:
            if other != A:
                among.takes(other, now)
        assert alone.takes(A, now) == among.takes(A, now)


@given(st.integers(2, 5), st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.floats(0, 30)), max_size=120))
def test_never_more_than_may_be_remembered(most: int, visits: list[tuple[bytes, float]]) -> None:
    meter, now = Meter(2, most), 0.0
    for network, step in visits:
        now += step
        meter.takes(network, now)
        assert len(meter) <= most


@pytest.mark.parametrize("rate", [1, 3, 7, 59, 300, 3000])
def test_a_burst_of_a_minute_then_a_steady_flow(rate: int) -> None:
    meter, begin = Meter(rate), 123_456.789
    assert [meter.takes(A, begin) for _ in range(rate + 2)] == [True] * rate + [False] * 2
    for number in range(1, 200):
        now = begin + number * 60 / rate
        assert [meter.takes(A, now), meter.takes(A, now)] == [True, False]


def test_a_million_addresses_do_not_grow_the_memory() -> None:
    meter = Meter(10)
    tracemalloc.start()
    try:
        for number in range(3 * MAX_NETWORKS):
            meter.takes(number.to_bytes(8), 0.0)
        _, most_octets = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_octets < 8 << 20
    for number in range(1_000_000):
        meter.takes(number.to_bytes(8), number / 1e6)
    assert MAX_NETWORKS // 2 <= len(meter) <= MAX_NETWORKS


def test_who_comes_often_is_not_forgotten_for_a_crowd() -> None:
    meter = Meter(3, max_networks=100)
    answers = []
    for number in range(50):
        answers.append(meter.takes(A, 0.0))
        for other in range(49):
            meter.takes((number * 49 + other).to_bytes(8), 0.0)
    assert answers == [True] * 3 + [False] * 47


def test_in_quiet_times_the_crowd_is_forgotten() -> None:
    meter = Meter(3)
    for number in range(1000):
        meter.takes(number.to_bytes(8), 0.0)
    for now in (70.0, 140.0):
        meter.takes(A, now)
    assert len(meter) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", True, id="address"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="neighbours"),
        pytest.param("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True, id="one-64"),
        pytest.param("2001:db8:0:1::1", "2001:db8:0:2::1", False, id="two-64s"),
        pytest.param("192.0.2.1", "c000:201::", False, id="4-and-6"),
    ],
)
def test_whom_an_address_counts_for(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same
    assert network_of("") is None
