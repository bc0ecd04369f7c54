"""Garbage is collected once most of a crowd have left, and not otherwise."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from trio_fcgimail.server.crowd import Crowd


def _collections(numbers: Iterable[int]) -> list[int]:
    """At which numbers of connections there was one."""
    collected: list[int] = []
    now = 0
    crowd = Crowd(lambda: collected.append(now))
    for now in numbers:
        crowd.is_now(now)
    return collected


UP_AND_DOWN_1000 = [*range(1, 1001), *range(999, -1, -1)]


@pytest.mark.parametrize(
    ("numbers", "collected"),
    [
        pytest.param([*range(1, 500), *range(498, -1, -1)], [], id="no-crowd"),
        pytest.param([*range(1, 501), *range(499, -1, -1)], [125], id="a-crowd"),
        pytest.param(UP_AND_DOWN_1000, [250], id="a-larger-one"),
        pytest.param([*range(1, 4001), *range(3999, -1, -1)], [1000, 250], id="a-large-one-leaves-in-two-parts"),
        pytest.param(UP_AND_DOWN_1000 * 2, [250, 250], id="each-crowd-counts"),
        pytest.param([*range(1, 1001), *[999, 1000] * 100], [], id="who-stays-costs-nothing"),
        pytest.param([*range(1, 1001), *range(999, 249, -1), *[250, 251] * 100], [250], id="once-only"),
    ],
)
def test_when_it_collects(numbers: list[int], collected: list[int]) -> None:
    assert _collections(numbers) == collected
