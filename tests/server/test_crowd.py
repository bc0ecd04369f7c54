"""When a crowd has left, its memory is asked for: garbage first, then another process."""

import mmap
from collections.abc import Iterable
from pathlib import Path

import pytest

from trio_fcgimail.server import crowd
from trio_fcgimail.server.crowd import CONNECTION_OCTETS, CROWD, SPARE_OCTETS, Crowd, resident_octets

BEFORE = 40 << 20
UP_AND_DOWN = [*range(1, 4 * CROWD + 1), *range(4 * CROWD - 1, -1, -1)]
COMES_AND_LEAVES = [*range(1, 101), *range(99, -1, -1)]
LOOKED_AT = 25  # of those
FULL = BEFORE + SPARE_OCTETS + LOOKED_AT * CONNECTION_OCTETS + 1


class Process:
    """Has memory, and takes notes of what its crowd does.

    Args:
        freed: how much of it the collector gives back.
    """

    def __init__(self, freed: int = 0, *, knows: bool = True) -> None:
        self.octets = BEFORE
        self.notes: list[tuple[str, int]] = []
        self._freed = freed
        self._knows = knows
        self._now = 0
        self.crowd = Crowd(
            lambda: self.notes.append(("tired", self._now)), give_back=self._give_back, resident=self._resident
        )

    @property
    def said(self) -> list[str]:
        """Its notes, and nothing of the numbers."""
        return [note for note, _ in self.notes]

    def _give_back(self) -> None:
        self.notes.append(("give back", self._now))
        self.octets -= self._freed

    def _resident(self) -> int | None:
        return self.octets if self._knows else None

    def sees(self, numbers: Iterable[int], octets: int = 2 * BEFORE) -> None:
        """There are so many connections, one after another, and once there is a crowd so much memory."""
        for self._now in numbers:
            self.crowd.is_now(self._now)
            if self._now == CROWD:
                self.octets = octets


@pytest.mark.parametrize(
    ("numbers", "at"),
    [
        pytest.param([*range(1, CROWD), *range(CROWD - 2, -1, -1)], [], id="no-crowd"),
        pytest.param([*range(1, CROWD + 2), *range(CROWD, -1, -1)], [16], id="a-crowd"),
        pytest.param(COMES_AND_LEAVES, [25], id="a-larger-one"),
        pytest.param(UP_AND_DOWN, [64, 16], id="a-large-one-leaves-in-two-parts"),
        pytest.param([*range(1, 256), *[*range(254, 64, -1), *range(64, 256)] * 3], [], id="a-quarter-of-it-stays"),
        pytest.param([*range(1, 101), *[99, 100] * 100], [], id="who-stays-costs-nothing"),
        pytest.param([*range(1, 101), *range(99, 24, -1), *[25, 26] * 100], [25], id="once-only"),
    ],
)
def test_when_it_looks(numbers: list[int], at: list[int]) -> None:
    process = Process(knows=False)
    process.sees(numbers)
    assert process.notes == [("give back", number) for number in at]  # as nobody knows whether there is a need


@pytest.mark.parametrize(
    ("octets", "freed", "notes"),
    [
        pytest.param(FULL - 1, 0, [], id="as-much-as-may-be"),
        pytest.param(FULL, 1, ["give back"], id="the-collector-helps"),
        pytest.param(FULL, 0, ["give back", "tired"], id="it-does-not"),
        pytest.param(FULL + SPARE_OCTETS, SPARE_OCTETS, ["give back", "tired"], id="it-does-not-help-enough"),
    ],
)
def test_what_it_does(octets: int, freed: int, notes: list[str]) -> None:
    process = Process(freed)
    process.sees(COMES_AND_LEAVES, octets)
    assert process.said == notes


def test_a_crowd_that_takes_no_more_than_the_last_one_costs_nothing() -> None:
    process = Process()
    for _ in range(3):
        process.sees(COMES_AND_LEAVES, FULL)
    assert process.said == ["give back", "tired"]
    process.sees(COMES_AND_LEAVES, FULL + (FULL - BEFORE) - 1)
    assert process.said == ["give back", "tired"]
    process.sees(COMES_AND_LEAVES, FULL + (FULL - BEFORE))
    assert process.said == ["give back", "tired", "give back", "tired"]


def test_memory_stays_as_long_as_there_is_more_than_before_any_crowd() -> None:
    process = Process()
    found = [process.crowd.memory_stays]
    process.sees(COMES_AND_LEAVES, FULL)
    found.append(process.crowd.memory_stays)
    process.crowd.is_now(LOOKED_AT + 1)  # who is here may have it
    found.append(process.crowd.memory_stays)
    process.crowd.is_now(0)
    process.octets = BEFORE + SPARE_OCTETS
    found.append(process.crowd.memory_stays)
    process.octets += 1
    found.append(process.crowd.memory_stays)
    process.octets = BEFORE - 1  # the least that there was, from now on
    process.sees(COMES_AND_LEAVES, BEFORE + SPARE_OCTETS)
    found.append(process.crowd.memory_stays)
    assert found == [False, True, False, False, True, True]


def test_our_own_memory() -> None:
    before = resident_octets()
    with mmap.mmap(-1, 32 << 20) as pages:  # of the system itself: an allocator might have had them already
        pages.write(b"x" * len(pages))
        after = resident_octets()
    assert before is not None
    assert after is not None
    assert after - before > 16 << 20


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crowd, "_STATM", tmp_path / "nothing")
    assert resident_octets() is None
