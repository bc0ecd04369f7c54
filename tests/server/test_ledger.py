"""Who may do how much: the accounts, and the place of one connection in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import settings
from trio_fcgimail.config import LimitSettings, ListenerSettings
from trio_fcgimail.server.ledger import LocalLedger, Place, Rate
from trio_fcgimail.server.limits import REPLIES, Limit, LimitHits
from trio_fcgimail.smtp import Outcome, Reply, catalogue

pytestmark = pytest.mark.trio

TOO_MANY = catalogue.TOO_MANY_CONNECTIONS
FROM_YOU = catalogue.TOO_MANY_CONNECTIONS_FROM_YOU
TOO_OFTEN = catalogue.CONNECTING_TOO_OFTEN


@dataclass
class Clock:
    """Stands still until told."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bank:
    """A ledger with its limits."""

    limits: LimitSettings
    clock: Clock = field(default_factory=Clock)
    caps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = LocalLedger(self.limits, self.clock, self.caps)

    def place(self) -> Place:
        """Of one more connection."""
        return Place(self.ledger, self.limits)

    async def connect(self, ip: str) -> tuple[Place, Reply | None]:
        """One more connection, and why it is refused."""
        place = self.place()
        refusal = await place.enter() or await place.stand_for(ip)
        if refusal is not None:
            place.leave()
        return place, refusal

    async def refusals(self, *ips: str) -> list[Reply | None]:
        """What one connection after the other is told; they all stay."""
        return [refusal for _, refusal in [await self.connect(ip) for ip in ips]]


def bank(limits: str) -> Bank:
    return Bank(settings(f"[limits]\n{limits}").limits)


async def test_connections_in_all() -> None:
    house = bank("connections = 2")
    (first, _), (_, second) = await house.connect("192.0.2.1"), await house.connect("")
    assert second is None
    assert await house.refusals("192.0.2.2", "") == [TOO_MANY, TOO_MANY]
    first.leave()
    first.leave()  # once is enough
    assert await house.refusals("192.0.2.2", "192.0.2.3") == [None, TOO_MANY]


@pytest.mark.parametrize(
    ("ips", "refusals"),
    [
        pytest.param(["192.0.2.1"] * 3, [None, None, FROM_YOU], id="ipv4"),
        pytest.param(["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"], [None] * 4, id="neighbours"),
        pytest.param(["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"], [None, None, FROM_YOU], id="one-64"),
        pytest.param(["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"], [None] * 3, id="two-64s"),
        pytest.param([""] * 3, [None] * 3, id="unix"),
        pytest.param(["127.0.0.1"] * 3, [None, None, FROM_YOU], id="exempt-from-other-limits-only"),
    ],
)
async def test_connections_by_address(ips: list[str], refusals: list[Reply | None]) -> None:
    assert await bank("connections_per_ip = 2").refusals(*ips) == refusals


async def test_who_is_refused_takes_nothing_up() -> None:
    house = bank("connections = 3\nconnections_per_ip = 1")
    assert await house.refusals("192.0.2.1", *["192.0.2.1"] * 9) == [None, *[FROM_YOU] * 9]
    assert await house.refusals("192.0.2.2", "192.0.2.3", "192.0.2.4") == [None, None, TOO_MANY]


async def test_connections_by_the_minute() -> None:
    house = bank("connections_per_minute_per_ip = 2\nconnections_per_ip = 1")
    for _ in range(2):
        place, refusal = await house.connect("192.0.2.1")
        assert refusal is None
        assert await house.refusals("192.0.2.1") == [FROM_YOU]  # which counts for nothing
        place.leave()
    for _ in range(2):
        assert await house.refusals("192.0.2.1") == [TOO_OFTEN]  # and holds no place
    assert await house.refusals("192.0.2.2") == [None]
    house.clock.now += 30
    assert await house.refusals("192.0.2.1") == [None]


@pytest.mark.parametrize("rate", [Rate.MESSAGES, Rate.RECIPIENTS])
async def test_what_is_counted_by_the_minute(rate: Rate) -> None:
    house = bank(f"{rate.value.value} = 3")
    abuser, _ = await house.connect("192.0.2.1")
    again, _ = await house.connect("192.0.2.1")
    other, _ = await house.connect("192.0.2.2")
    places = [abuser, again, abuser, again, other, abuser]
    over = REPLIES[rate.value]
    assert [await place.count(rate) for place in places] == [None, None, None, over, None, over]
    house.clock.now += 20
    assert [await abuser.count(rate), await again.count(rate)] == [None, over]


@pytest.mark.parametrize("limits", ["", 'exempt_from = ["192.0.2.0/24"]'], ids=["default", "set"])
async def test_exempt_from_what_is_counted_by_the_minute(limits: str) -> None:
    house = bank(f"connections_per_minute_per_ip = 1\nmessages_per_minute_per_ip = 1\n{limits}")
    exempt, others = ("192.0.2.1", "127.0.0.1") if limits else ("127.0.0.1", "192.0.2.1")
    assert await house.refusals(exempt, exempt) == [None, None]
    assert await house.refusals(others, others) == [None, TOO_OFTEN]
    place, _ = await house.connect(exempt)
    assert [await place.count(Rate.MESSAGES) for _ in range(3)] == [None] * 3


async def test_to_stand_for_somebody_else() -> None:
    house = bank("connections_per_ip = 1\nconnections_per_minute_per_ip = 2\nmessages_per_minute_per_ip = 1")
    proxy, _ = await house.connect("192.0.2.1")
    assert await proxy.count(Rate.MESSAGES) is None
    assert await proxy.stand_for("192.0.2.1") is None  # itself again: the old place is free
    assert await proxy.stand_for("192.0.2.2") is None
    assert await house.refusals("192.0.2.2") == [FROM_YOU]
    assert await house.refusals("192.0.2.1") == [TOO_OFTEN]  # nobody stands for it, but it came twice
    assert await proxy.count(Rate.MESSAGES) is None
    assert await proxy.count(Rate.MESSAGES) is catalogue.TOO_MANY_MESSAGES_FOR_NOW
    assert await proxy.stand_for("") is None
    assert await proxy.count(Rate.MESSAGES) is None
    assert await house.refusals("192.0.2.2") == [None]


async def test_a_listener_has_room_of_its_own() -> None:
    house = Bank(settings("[limits]\nconnections = 3").limits, caps={"here": 1})
    here, there = house.place(), house.place()
    assert [await here.enter("here"), await there.enter()] == [None, None]
    assert await house.place().enter("here") is catalogue.TOO_MANY_CONNECTIONS_HERE
    here.leave()
    assert await house.place().enter("here") is None
    assert await house.place().enter() is None
    assert await house.place().enter("here") is TOO_MANY  # which is the wider one


async def test_no_limits() -> None:
    names = [limit.value for limit in Limit if limit in REPLIES and "connection" in limit.value]
    house = bank("\n".join(f"{name} = 0" for name in names if name != Limit.LISTENER_CONNECTIONS.value))
    assert await house.refusals(*["192.0.2.1"] * 2000) == [None] * 2000


@given(st.lists(st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", ""]), st.integers(0, 9))))
async def test_nothing_is_left_when_all_have_left(visits: list[tuple[str, int]]) -> None:
    house = bank("connections = 4\nconnections_per_ip = 2\nconnections_per_minute_per_ip = 5")
    places: list[Place] = []
    for ip, leaving in visits:
        place, refusal = await house.connect(ip)
        if refusal is None:
            places.append(place)
        if leaving < len(places):
            places.pop(leaving).leave()
        assert len(places) <= 4
    for place in places:
        place.leave()
    house.clock.now += 60
    assert await house.refusals("192.0.2.1", "192.0.2.1", "192.0.2.1") == [None, None, FROM_YOU]
    assert await house.refusals("", "", "") == [None, None, TOO_MANY]


# Replies and counters


async def test_a_reply_tells_of_one_limit() -> None:
    assert len(set(REPLIES.values())) == len(REPLIES)
    assert {reply.code for reply in REPLIES.values()} <= {421, 450, 452, 521, 552}
    assert all(reply.outcome in (Outcome.NO, Outcome.CLOSE) for reply in REPLIES.values())


async def test_every_limit_is_a_setting() -> None:
    names = {limit.value for limit in Limit} - {Limit.FAILED_LOGINS.value, Limit.LISTENER_CONNECTIONS.value}
    assert names <= set(LimitSettings.__dataclass_fields__)
    assert Limit.LISTENER_CONNECTIONS.value.removeprefix("listeners.") in ListenerSettings.__dataclass_fields__


async def test_a_snapshot_has_every_limit_and_stays() -> None:
    hits = LimitHits()
    before = hits.snapshot()
    hits.count(Limit.IDLE_SECONDS)
    assert hits.count_reply(catalogue.MESSAGE_TOO_BIG) is Limit.MESSAGE_OCTETS
    assert hits.count_reply(catalogue.RELAY_DENIED) is None
    assert set(before) == set(Limit)
    assert set(before.values()) == {0}
    assert [limit for limit, count in hits.snapshot().items() if count == 1] == [
        Limit.MESSAGE_OCTETS,
        Limit.IDLE_SECONDS,
    ]
