"""Rounds of one attack: the good load alone, beside the attack, and for floods beside the same on a bare server.

The three take turns, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Final, final

from tests.trust.hostile.attacks import GOOD, LIMITED, Attack
from tests.trust.hostile.field import Kind, Tally
from tests.trust.hostile.house import WORKERS, House
from tests.trust.hostile.running import Good, attacking, bare_server, good_load

#: Of its throughput, what a good load keeps beside a passive attack.
KEPT_BESIDE_PASSIVE: Final = 0.9
#: Of what it keeps beside the same flood on a server that accepts and closes.
KEPT_BESIDE_FLOOD: Final = 0.8
#: What attacks of a kind may leave behind: a worker is relieved when 8 MiB of a crowd stay with it.
MOST_LEFT_MIB: Final = 8.0 * WORKERS
#: What each further one may add to what is left.
MOST_GROWN_MIB: Final = 4.0


@final
@dataclass(frozen=True, slots=True)
class Round:
    """One turn of each.

    Args:
        bare: beside the flood on a bare server; the same as alone for a passive attack.
        peak_mib: of the server's memory during the attack.
        after_mib: and after it, once others serve in the place of workers that wanted to be relieved.
    """

    alone: Good
    bare: Good
    beside: Good
    peak_mib: float
    after_mib: float

    @property
    def kept(self) -> float:
        """Beside the attack, of what it is compared with."""
        return self.beside.mails / self.bare.mails


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack came to.

    Args:
        before_mib: the server's memory before it.
        tally: of all rounds against us.
        problems: whatever is promised and was not so.
    """

    attack: Attack
    before_mib: float
    rounds: tuple[Round, ...]
    tally: Tally
    problems: tuple[str, ...]

    @property
    def kept(self) -> float:
        """The median."""
        return statistics.median(one.kept for one in self.rounds)


def attack_in_rounds(attack: Attack, house: House, rounds: int, seconds: float, *, is_limited: bool) -> Outcome:
    """Attack so often, for so many seconds each."""
    before, problems, tally = house.state(), list[str](), Tally()
    found = [_round(attack, house, seconds, tally) for _ in range(rounds)]
    problems += [failure for one in found for good in (one.alone, one.bare, one.beside) for failure in good.failures]
    allowed = GOOD | attack.told | (LIMITED if is_limited else frozenset())
    problems += [f"was told {reply}" for reply in tally.replies if reply not in allowed]
    if house.smuggled:
        problems.append("a mail was smuggled")
    problems += house.faults()
    outcome = Outcome(attack, before.resident_mib, tuple(found), tally, tuple(dict.fromkeys(problems)))
    return outcome if problems else Outcome(attack, before.resident_mib, tuple(found), tally, _broken(outcome))


def _broken(outcome: Outcome) -> tuple[str, ...]:
    """Which of the bounds it is over."""
    bound = KEPT_BESIDE_PASSIVE if outcome.attack.kind is Kind.PASSIVE else KEPT_BESIDE_FLOOD
    first, last = outcome.rounds[0].after_mib, outcome.rounds[-1].after_mib
    left, grown = last - outcome.before_mib, (last - first) / max(1, len(outcome.rounds) - 1)
    return tuple(
        problem
        for problem, is_so in (
            (f"kept {outcome.kept:.0%}, less than {bound:.0%}", outcome.kept < bound),
            (f"{left:.0f} MiB are left", left > MOST_LEFT_MIB),
            (f"and {grown:.1f} MiB more with each attack", grown > MOST_GROWN_MIB),
        )
        if is_so
    )


def _round(attack: Attack, house: House, seconds: float, tally: Tally) -> Round:
    before = house.state()
    alone = bare = good_load(house.port, seconds)
    if attack.kind is Kind.FLOOD:
        with bare_server() as port, attacking(attack, port):
            bare = good_load(house.port, seconds)
    house.meter.reset_peak()
    with attacking(attack, house.port) as done:
        beside = good_load(house.port, seconds)
        peak = house.meter.peak_mib()
    _add(tally, done)
    after = house.relieved(before)
    return Round(alone, bare, beside, peak or 0.0, after.resident_mib)


def _add(tally: Tally, other: Tally) -> None:
    tally.connections += other.connections
    tally.octets += other.octets
    tally.replies += Counter(other.replies)
