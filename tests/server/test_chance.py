"""What is drawn by lot: no octet twice, and no two mails by one name."""

from __future__ import annotations

import os
from itertools import count

import pytest

from trio_fcgimail.mail import BOUNDARY_RANDOM_OCTETS
from trio_fcgimail.server.chance import Chance, QueueIds


@pytest.mark.parametrize("number", [1, 5, BOUNDARY_RANDOM_OCTETS, 4095, 4096])
def test_each_octet_is_given_once(number: int) -> None:
    drawn: list[bytes] = []

    def source(octets: int) -> bytes:
        drawn.append(os.urandom(octets))
        return drawn[-1]

    chance = Chance(source)
    given = [chance.octets(number) for _ in range(3 * 4096 // number)]
    assert {len(octets) for octets in given} == {number}
    whole = 4096 // number * number  # what is left of a draw is too little, and is not used
    assert b"".join(given) == b"".join(octets[:whole] for octets in drawn)[: len(given) * number]


def test_it_draws_when_it_has_to_and_not_for_each() -> None:
    draws = count()

    def source(octets: int) -> bytes:
        next(draws)
        return bytes(octets)

    chance = Chance(source)
    assert next(draws) == 0
    for _ in range(1000):
        chance.octets(5)
    assert next(draws) == 3  # two of 4,096 for 5,000, and ours


def test_no_two_mails_have_one_name() -> None:
    mine, others = QueueIds(), QueueIds()  # of two processes
    names = [one() for _ in range(5000) for one in (mine, others)]
    assert len(set(names)) == len(names)
    assert all(len(name) == 23 and not set(name) - set("0123456789abcdef") for name in names)
