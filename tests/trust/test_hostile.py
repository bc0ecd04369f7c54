"""Hostile clients, each for a moment: what they are told, that good mails go on, and that nothing is left behind.

How fast the good mails go on is measured by the long form, ``python -m tests.trust.hostile``.
"""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest

from tests.phpfpm import require_php
from tests.trust.hostile.attacks import ATTACKS, GOOD, Attack
from tests.trust.hostile.descriptors import run_out
from tests.trust.hostile.house import Guard, House, house
from tests.trust.hostile.running import attacking, bare_server, good_load

MOMENT: Final = 0.1  # seconds
MOMENTS: Final = tuple(MOMENT * 2**more for more in range(6))  # on a busy machine it takes longer to get so far
MOST: Final = 40  # connections of an attacker
CONNECTIONS_PER_IP: Final = 50  # by default
CPU_SHARE: Final = 0.25  # of a core, while no descriptor is left; a busy loop takes all of it


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    require_php()
    with house(tmp_path_factory.mktemp("open"), Guard.OPEN, limits="message_octets = 500000\nrecipients = 20") as one:
        good_load(one.port, MOMENT)
        yield one


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=attrgetter("name"))
def test_good_mails_go_on_beside(attack: Attack, open_house: House) -> None:
    before = open_house.state()
    seen: set[str] = set()
    for moment in MOMENTS:
        with attacking(attack, open_house.port, min(attack.connections, MOST)) as tally:
            beside = good_load(open_house.port, moment)
        assert beside.failures == ()
        assert beside.mails > 0
        seen |= tally.replies.keys()
        if attack.told <= seen:
            break
    assert seen <= GOOD | attack.told
    assert attack.told <= seen
    open_house.settled(before)
    assert open_house.smuggled == ""
    assert open_house.faults() == []


# Where the limits are those of an operator


def test_a_crowd_is_told_to_come_later(tmp_path: Path) -> None:
    require_php()
    with house(tmp_path, Guard.LIMITED) as one:
        before = one.state()
        with attacking(ATTACKS["idle"], one.port, 2 * CONNECTIONS_PER_IP) as tally:
            beside = good_load(one.port, MOMENT)
        assert beside.failures == ()
        assert tally.replies["421 4.7.0"] >= CONNECTIONS_PER_IP
        assert tally.replies["250"] <= CONNECTIONS_PER_IP
        one.settled(before)


# Without descriptors


def test_it_waits_for_descriptors_and_goes_on_when_they_are_back(tmp_path: Path) -> None:
    require_php()
    found = run_out(tmp_path, MOMENT)
    assert found.told > 0
    assert found.cpu_share < CPU_SHARE
    assert found.afterwards.failures == ()
    assert found.afterwards.mails > 0


# The attackers themselves


def test_attackers_live_through_a_server_that_accepts_and_closes() -> None:
    """As they are compared with one."""
    with bare_server() as port, attacking(ATTACKS["banners"], port) as tally:
        pass
    assert tally.connections > 0
    assert not tally.replies
