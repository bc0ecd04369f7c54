"""When a crowd has left, its memory is asked for: garbage first, then another process."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from trio_fcgimail.server import crowd
from trio_fcgimail.server.crowd import CROWD, SPARE_OCTETS, Crowd, resident_octets

BEFORE = 40 << 20
FULL = BEFORE + SPARE_OCTETS + 1
UP_AND_DOWN = [*range(1, 4 * CROWD + 1), *range(4 * CROWD - 1, -1, -1)]


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
            lambda: self.notes.append(("relieve", self._now)), collect=self._collect, resident=self._resident
        )

    def _collect(self) -> None:
        self.notes.append(("collect", self._now))
        self.octets -= self._freed

    def _resident(self) -> int | None:
        return self.octets if self._knows else None

    def sees(self, numbers: Iterable[int], octets: int = FULL) -> None:
        """There are so many connections, one after another, and above those of a crowd so much memory."""
        for self._now in numbers:
            self.crowd.is_now(self._now)
            if self._now > CROWD:
                self.octets = octets


@pytest.mark.parametrize(
    ("numbers", "at"),
    [
        pytest.param([*range(1, CROWD), *range(CROWD - 2, -1, -1)], [], id="no-crowd"),
        pytest.param([*range(1, CROWD + 2), *range(CROWD, -1, -1)], [16], id="a-crowd"),
        pytest.param(UP_AND_DOWN, [64, 16], id="a-large-one-leaves-in-two-parts"),
        pytest.param([*range(1, 256), *[*range(254, 64, -1), *range(64, 256)] * 3], [], id="half-of-it-stays"),
        pytest.param([*range(1, 101), *[99, 100] * 100], [], id="who-stays-costs-nothing"),
        pytest.param([*range(1, 101), *range(99, 24, -1), *[25, 26] * 100], [25], id="once-only"),
    ],
)
def test_when_it_looks(numbers: list[int], at: list[int]) -> None:
    process = Process()
    process.sees(numbers)
    assert process.notes == [(note, number) for number in at for note in ("collect", "relieve")]


@pytest.mark.parametrize(
    ("octets", "freed", "notes"),
    [
        pytest.param(FULL - 1, 0, [], id="as-much-as-may-be"),
        pytest.param(FULL, 1, ["collect"], id="the-collector-helps"),
        pytest.param(FULL, 0, ["collect", "relieve"], id="it-does-not"),
        pytest.param(FULL + SPARE_OCTETS, SPARE_OCTETS, ["collect", "relieve"], id="it-does-not-help-enough"),
    ],
)
def test_what_it_does(octets: int, freed: int, notes: list[str]) -> None:
    process = Process(freed)
    process.sees([*range(1, 101), 25], octets)
    assert [note for note, _ in process.notes] == notes


def test_each_crowd_is_measured_by_the_least_before_any() -> None:
    process = Process(freed=SPARE_OCTETS // 2 + 1)
    process.sees([*range(1, 101), 25, 0])
    assert [note for note, _ in process.notes] == ["collect"]
    process.octets = BEFORE + SPARE_OCTETS // 2
    process.sees([*range(1, 101), 25, 0], FULL + SPARE_OCTETS // 2 + 1)
    assert [note for note, _ in process.notes] == ["collect", "collect", "relieve"]
    process.octets = BEFORE - SPARE_OCTETS
    process.sees([*range(1, 101), 25, 0], BEFORE + 1)
    assert [note for note, _ in process.notes] == ["collect", "collect", "relieve", "collect"]


def test_nothing_is_done_where_nobody_knows() -> None:
    process = Process(knows=False)
    process.sees(UP_AND_DOWN)
    assert process.notes == []


def test_our_own_memory() -> None:
    before = resident_octets()
    assert before is not None
    more = b"x" * (32 << 20)
    after = resident_octets()
    assert after is not None
    assert after - before > len(more) // 2


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crowd, "_STATM", tmp_path / "nothing")
    assert resident_octets() is None
