"""The pool over memory streams: what it retries, whom it asks, and that nothing is left behind. Time is faked."""

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.support import HEAD, Act, Journal, Line, elapsed, end, stdout
from trio_fcgimail.config import TcpAddress, UnixAddress, UpstreamAddress
from trio_fcgimail.fastcgi import ProtocolStatus
from trio_fcgimail.mail import Answer, Parameter
from trio_fcgimail.server.pool import Failure, Kind, Pool, PoolRules
from trio_fcgimail.server.upstream import (
    Body,
    CleanEnd,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnexecuted,
)

pytestmark = pytest.mark.trio

SECONDS: Final = 3.0
BODY: Final = b"body=hello"
POST: Final[list[Parameter]] = [(b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"%d" % len(BODY))]
ONE: Final = UnixAddress("/one")
OTHER: Final = UnixAddress("/other")


async def _pieces() -> AsyncGenerator[bytes, None]:
    for octet in BODY:
        yield bytes([octet])


async def answering(line: Line) -> None:
    """Answer whatever comes, on a kept connection as well."""
    while True:
        assert (await line.request()).body == BODY
        await line.answer(b"SAVED")


async def refusing(_: Line) -> None:
    """Stands for an upstream that nobody listens at."""


async def silent(_: Line) -> None:
    """Stands for an upstream whose connections never come about."""


async def hanging(line: Line) -> None:
    await line.request()
    await line.stream.receive_some(1)  # until we close


class World:
    """Upstreams by their addresses, each of which does what it is told, connection by connection.

    Attributes:
        acts: Of each upstream: what it does with its next connections, the last of them for ever.
        connections: How many each has had.
        open: And has now.
    """

    def __init__(self, nursery: trio.Nursery, acts: dict[UpstreamAddress, list[Act]]) -> None:
        self.acts = acts
        self.connections = dict.fromkeys(acts, 0)
        self.open = dict.fromkeys(acts, 0)
        self.most_open = dict.fromkeys(acts, 0)
        self._nursery = nursery

    async def connect(self, address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        """Stands in for `upstream.connect`."""
        await trio.lowlevel.checkpoint()
        acts = self.acts[address]
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        if act is refusing:
            raise UpstreamUnavailable(f"{address}: nobody listens there")
        if act is silent:
            await trio.sleep(seconds)
            raise UpstreamUnavailable(f"{address}: no connection within {seconds:g} s")
        ours, theirs = lockstep_stream_pair()
        self._nursery.start_soon(self._serve, address, act, theirs)
        return ours

    async def _serve(self, address: UpstreamAddress, act: Act, stream: trio.abc.Stream) -> None:
        self.connections[address] += 1
        self.open[address] += 1
        self.most_open[address] = max(self.most_open[address], self.open[address])
        try:
            with suppress(trio.BrokenResourceError, EOFError):
                await act(Line(stream))
        finally:
            self.open[address] -= 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def pool_of(
    world: World, rules: PoolRules, *, clean_end: CleanEnd = CleanEnd.UNKNOWN, journal: Journal | None = None
) -> AsyncIterator[Pool]:
    log = None if journal is None else journal.log
    pool = Pool(tuple(world.acts), rules, clean_end=clean_end, log=log, connect=world.connect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


async def ask(pool: Pool, kind: Kind = Kind.SAVE) -> Answer:
    return await pool.request(kind, POST, Body(len(BODY), _pieces), seconds=SECONDS)


async def ask_all(pool: Pool, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask, pool)


def nothing_left(pool: Pool) -> bool:
    shown = pool.snapshot()
    return not any(shown.waiting.values()) and all(upstream.open == 0 for upstream in shown.upstreams)


# Kept connections


async def test_a_connection_goes_from_one_who_waits_to_the_next(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(nursery, {ONE: [answering]})
    async with pool_of(world, PoolRules(max_connections=4, is_known_to_keep=True)) as pool:
        await ask_all(pool, 60)
        assert world.connections[ONE] <= 30
        assert world.most_open[ONE] <= 4
        shown = pool.snapshot().upstreams[0]
        assert (shown.requests, shown.connections) == (60, world.connections[ONE])
        await trio.sleep(0.02)
        assert nothing_left(pool)
    assert world.open[ONE] == 0


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(PoolRules(max_connections=4, keep_alive=False), id="switched-off"),
        pytest.param(PoolRules(max_connections=1, is_known_to_keep=True), id="a-single-one-would-shut-others-out"),
    ],
)
async def test_a_connection_for_each_request(
    rules: PoolRules, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(nursery, {ONE: [answering]})
    async with pool_of(world, rules) as pool:
        await ask_all(pool, 20)
        assert world.connections[ONE] == 20


async def test_scripts_that_take_their_time_get_a_connection_each(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def slow(line: Line) -> None:
        while True:
            await line.request()
            await trio.sleep(0.05)
            await line.answer(b"SAVED")

    world = World(nursery, {ONE: [slow]})
    async with pool_of(world, PoolRules(max_connections=4, is_known_to_keep=True, max_kept_seconds=10)) as pool:
        await ask_all(pool, 40)  # to get to know them
        known = world.connections[ONE]
        await ask_all(pool, 40)
        assert world.connections[ONE] == known + 40


async def test_at_the_end_idle_connections_are_closed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [answering]})
    async with pool_of(world, PoolRules(max_connections=4, is_known_to_keep=True, linger_seconds=0.02)) as pool:
        await ask_all(pool, 60)
        while not pool.snapshot().upstreams[0].idle:
            await ask(pool)
        assert world.open[ONE] == 1
    await trio.testing.wait_all_tasks_blocked()
    assert world.open[ONE] == 0


async def test_a_connection_is_not_kept_when_its_answer_comes_after_the_end(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A save outlives the server that was cancelled, and nobody would look after what it leaves."""
    world = World(nursery, {ONE: [answering]})
    async with pool_of(world, PoolRules(max_connections=60, is_known_to_keep=True, linger_seconds=0.02)) as pool:
        await ask_all(pool, 30)
        while not pool.snapshot().upstreams[0].idle:
            await ask(pool)
        nursery.start_soon(ask, pool)
        while not pool.snapshot().upstreams[0].busy:
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert nothing_left(pool)
    assert world.open[ONE] == 0


# Retries


def answers(octets: bytes) -> Act:
    async def act(line: Line) -> None:
        await line.request()
        await line.write(octets)

    return act


async def closes_unread(_: Line) -> None:
    pass


@dataclass(frozen=True)
class Retry:
    """What the first connections do, and what becomes of the request; None for an answer."""

    id: str
    acts: Sequence[Act]
    tries: int
    error: type[UpstreamError] | None = None
    kind: Kind = Kind.SAVE
    clean_end: CleanEnd = CleanEnd.UNKNOWN


_OVERLOADED: Final = answers(end(ProtocolStatus.OVERLOADED))
_CUT: Final = answers(stdout(HEAD))
_SILENT_END: Final = answers(b"")
RETRIES: Final = [
    Retry("refused", [refusing, refusing, answering], 1),
    Retry("closed-while-sending", [closes_unread, closes_unread, answering], 3),
    Retry("overloaded", [_OVERLOADED, _OVERLOADED, _OVERLOADED, answering], 4),
    Retry("save-clean-end-of-php-fpm", [_SILENT_END, answering], 2, clean_end=CleanEnd.UNEXECUTED),
    Retry("save-clean-end-of-others", [_SILENT_END, answering], 1, UpstreamBroken),
    Retry("save-half-an-answer", [_CUT, answering], 1, UpstreamBroken, clean_end=CleanEnd.UNEXECUTED),
    Retry("save-timeout", [hanging, answering], 1, UpstreamTimeout),
    Retry("save-unknown-after-unexecuted", [_OVERLOADED, _CUT, answering], 2, UpstreamBroken),
    Retry("validate-clean-end-of-others", [_SILENT_END, answering], 2, kind=Kind.VALIDATE),
    Retry("validate-half-an-answer", [_CUT, answering], 2, kind=Kind.VALIDATE),
    Retry("validate-half-an-answer-twice", [_CUT, _CUT, answering], 2, UpstreamBroken, Kind.VALIDATE),
    Retry("validate-timeout", [hanging, answering], 2, kind=Kind.VALIDATE),
    Retry("validate-timeout-twice", [hanging, hanging, answering], 2, UpstreamTimeout, Kind.VALIDATE),
    Retry("validate-all-kinds", [_OVERLOADED, _CUT, closes_unread, answering], 4, kind=Kind.VALIDATE),
    Retry("always-overloaded", [_OVERLOADED], 15, UpstreamUnexecuted),
    Retry("always-refused", [refusing], 0, UpstreamUnavailable),
]


@pytest.mark.parametrize("retry", RETRIES, ids=attrgetter("id"))
async def test_what_is_tried_again(
    retry: Retry, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    world = World(nursery, {ONE: list(retry.acts)})
    seconds = elapsed()
    async with pool_of(world, PoolRules(max_connections=2), clean_end=retry.clean_end, journal=journal) as pool:
        error: type[UpstreamError] | None = None
        try:
            assert (await ask(pool, retry.kind)).output == b"SAVED"
        except UpstreamError as exc:
            error = type(exc)
        assert error is retry.error
        assert world.connections[ONE] == retry.tries
        hung = sum(act is hanging for act in retry.acts[: retry.tries])
        assert seconds() <= SECONDS * hung + 2.001
        assert len(journal.entries("asking again")) == max(retry.tries - 1, 0)
        await trio.sleep(0.1)
        assert nothing_left(pool)


async def test_tries_end_with_the_time_to_wait(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    async def dies_late(line: Line) -> None:
        await line.begun()
        await trio.sleep(2)

    world = World(nursery, {ONE: [dies_late], OTHER: [answering]})
    async with pool_of(world, PoolRules(max_connections=1, wait_seconds=1)) as pool:
        world.acts[OTHER] = [dies_late]
        seconds = elapsed()
        with pytest.raises(UpstreamUnexecuted):
            await pool.request(Kind.SAVE, [*POST[:1], (b"CONTENT_LENGTH", b"400000")], _big(), seconds=SECONDS)
        assert seconds() == pytest.approx(2)


def _big() -> Body:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield 400_000 * b"x"

    return Body(400_000, pieces)


# The line


async def test_nobody_waits_longer_than_wait_seconds(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [hanging]})
    async with pool_of(world, PoolRules(max_connections=1, wait_seconds=1)) as pool:
        nursery.start_soon(_ask_in_vain, pool)
        await trio.testing.wait_all_tasks_blocked()
        seconds = elapsed()
        with pytest.raises(UpstreamUnavailable, match="no free connection within 1 s"):
            await ask(pool)
        assert seconds() == pytest.approx(1)
        await trio.sleep(SECONDS)
        assert nothing_left(pool)


async def _ask_in_vain(pool: Pool) -> None:
    with pytest.raises(UpstreamTimeout):
        await ask(pool)


async def test_the_line_has_an_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [hanging]})
    async with pool_of(world, PoolRules(max_connections=1, max_waiting=2, wait_seconds=1)) as pool:
        async with trio.open_nursery() as inner:
            for _ in range(3):
                inner.start_soon(ask, pool)
                await trio.testing.wait_all_tasks_blocked()
            assert pool.snapshot().waiting[Kind.SAVE] == 2
            with pytest.raises(UpstreamUnavailable, match="too many requests wait already"):
                await ask(pool)
            inner.cancel_scope.cancel()
        assert nothing_left(pool)


@pytest.mark.parametrize(
    "acts", [[hanging], [silent], [refusing], [_OVERLOADED]], ids=["busy", "opening", "dead", "no"]
)
async def test_who_leaves_leaves_no_trace(acts: list[Act], nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: acts})
    async with pool_of(world, PoolRules(max_connections=2)) as pool:
        for seconds in (0, 0.001, 0.01, 0.1, 1):
            with trio.move_on_after(seconds) as scope:
                await ask_all(pool, 5)
            assert scope.cancelled_caught
            assert nothing_left(pool)
        await trio.testing.wait_all_tasks_blocked()
        assert world.open[ONE] == 0
        world.acts[ONE] = [answering]
        await ask_all(pool, 5)


async def test_the_reserve_is_for_validations(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [hanging]})
    async with pool_of(world, PoolRules(max_connections=3, reserve=1)) as pool, trio.open_nursery() as inner:
        for _ in range(5):
            inner.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.snapshot().upstreams[0].busy == 2
        world.acts[ONE] = [answering]
        await ask(pool, Kind.VALIDATE)
        assert pool.snapshot().upstreams[0].busy == 2
        inner.cancel_scope.cancel()


# Several upstreams


async def test_the_load_is_shared(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [hanging], OTHER: [hanging]})
    async with pool_of(world, PoolRules(max_connections=3)) as pool, trio.open_nursery() as inner:
        for number in range(6):
            inner.start_soon(ask, pool)
            await trio.testing.wait_all_tasks_blocked()
            assert abs(world.open[ONE] - world.open[OTHER]) == (number + 1) % 2
        inner.cancel_scope.cancel()


async def test_a_dead_upstream_holds_up_nobody_and_is_back_at_its_first_success(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    world = World(nursery, {ONE: [refusing], OTHER: [answering]})
    async with pool_of(world, PoolRules(max_connections=2), journal=journal) as pool:
        for _ in range(20):
            seconds = elapsed()
            await ask(pool)
            assert seconds() == 0
            await trio.sleep(0.3)
        (entry,) = journal.entries("upstream ejected")
        assert (entry["upstream"], entry["problem"]) == ("unix:/one", "unix:/one: nobody listens there")
        shown = pool.snapshot().upstreams
        assert [one.is_ejected for one in shown] == [True, False]
        assert shown[0].failures[Failure.NOT_CONNECTED] == 5
        world.acts[ONE] = [answering]
        await trio.sleep(1)
        assert [one.is_ejected for one in pool.snapshot().upstreams] == [False, False]
        before = world.connections[ONE]
        for _ in range(4):
            await ask(pool)
        assert world.connections[ONE] == before + 2
        assert len(journal.entries("upstream is back")) == 1


async def test_a_silent_upstream_holds_up_a_request_for_a_moment_only(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = World(nursery, {ONE: [silent], OTHER: [answering]})
    async with pool_of(world, PoolRules(max_connections=2)) as pool:
        for _ in range(30):
            seconds = elapsed()
            await ask(pool)
            assert seconds() <= 0.26
            await trio.sleep(0.5)
        assert pool.snapshot().upstreams[0].is_ejected


async def test_an_upstream_whose_requests_fail_is_ejected_and_gets_one_at_a_time_on_trial(
    nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    world = World(nursery, {ONE: [hanging], OTHER: [answering]})
    async with pool_of(world, PoolRules(max_connections=3), journal=journal) as pool:
        failures = 0
        for _ in range(40):
            try:
                await ask(pool)
            except UpstreamTimeout:
                failures += 1
            await trio.sleep(0.01)
        assert pool.snapshot().upstreams[0].failures[Failure.TIMEOUT] == failures == 5
        assert "its requests fail" in str(journal.entries("upstream ejected")[0])
        await trio.sleep(1)
        world.most_open[ONE] = 0
        async with trio.open_nursery() as inner:
            for _ in range(4):
                inner.start_soon(_ask_perhaps, pool)
        assert world.most_open[ONE] == 1
        world.acts[ONE] = [answering]
        await trio.sleep(1.1)
        await ask_all(pool, 10)
        assert not pool.snapshot().upstreams[0].is_ejected


async def _ask_perhaps(pool: Pool) -> None:
    with suppress(UpstreamTimeout):
        await ask(pool)


async def test_the_last_upstream_is_never_ejected(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    world = World(nursery, {ONE: [refusing], OTHER: [refusing]})
    async with pool_of(world, PoolRules(max_connections=2)) as pool:
        for _ in range(3):
            seconds = elapsed()
            with pytest.raises(UpstreamUnavailable, match="nobody listens there"):
                await ask(pool)
            assert seconds() == pytest.approx(2)
        assert sum(one.is_ejected for one in pool.snapshot().upstreams) == 1
        world.acts = {ONE: [answering], OTHER: [answering]}
        await ask(pool)


class Resolver(trio.abc.HostnameResolver):
    """Gives the addresses of a name, one after the other."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name is Trio's
        proto: int = 0,
        flags: int = 0,
    ) -> list[
        tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
        | tuple[
            Literal[socket.AddressFamily.AF_INET6],
            socket.SocketKind,
            int,
            str,
            tuple[str, int, int, int] | tuple[int, bytes],
        ]
    ]:
        return socket.getaddrinfo(self._addresses.pop(0), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_a_name_is_resolved_anew_for_each_connection_to_IPv4_or_IPv6(nursery: trio.Nursery) -> None:  # noqa: N802
    (old,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = old.socket.getsockname()[1]
    (new,) = await trio.open_tcp_listeners(port, host="::1")
    families = [old.socket.family, new.socket.family]
    seen: list[int] = []

    async def noting(stream: trio.SocketStream) -> None:
        seen.append(stream.socket.family)
        async with stream:
            with suppress(EOFError):
                await answering(Line(stream))

    nursery.start_soon(trio.serve_listeners, noting, [old, new])
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "::1"))
    pool = Pool([TcpAddress("php.example", port)], PoolRules(max_connections=2, keep_alive=False))
    for _ in range(2):
        assert (await ask(pool)).output == b"SAVED"
    assert seen == families
    nursery.cancel_scope.cancel()
