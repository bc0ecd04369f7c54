"""Streams with deadlines: over a socket without a cancel scope, and over any other stream, they do the same."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_fcgimail.server.alarms import Alarms
from trio_fcgimail.server.wire import SocketWire, StreamWire, Wire, wire_over

pytestmark = pytest.mark.trio

Pair = tuple[Wire, trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]  # ours, below it, theirs
MUCH = b"x" * 4_000_000


def over_sockets(alarms: Alarms) -> Pair:
    """A wire over a socket."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    return wire_over(ours, alarms), ours, theirs


def over_streams(alarms: Alarms) -> Pair:
    """A wire over a stream in memory."""
    ours, theirs = memory_stream_pair()
    return wire_over(ours, alarms), ours, theirs


@pytest.fixture(params=[over_sockets, over_streams])
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Pair]:
    """A wire, the stream below it, and the other end."""
    alarms = Alarms()
    nursery.start_soon(alarms.run)
    make: Callable[[Alarms], Pair] = request.param
    wire, ours, theirs = make(alarms)
    yield wire, ours, theirs
    wire.release()
    assert not len(alarms) or isinstance(wire, SocketWire)
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)


async def _read_all(stream: trio.abc.ReceiveStream, whole: bytearray) -> None:
    while data := await stream.receive_some(65_536):
        whole += data


async def test_a_socket_has_a_wire_of_its_own() -> None:
    wire, ours, theirs = over_sockets(Alarms())
    assert isinstance(wire, SocketWire)
    assert isinstance(over_streams(Alarms())[0], StreamWire)
    await ours.aclose()
    await theirs.aclose()


async def test_octets_go_both_ways(pair: Pair, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    await theirs.send_all(b"hello")
    assert await wire.receive(trio.current_time() + 5) == b"hello"
    await wire.send(b"world", 5)
    assert await theirs.receive_some(100) == b"world"
    await theirs.send_eof()
    assert await wire.receive(trio.current_time() + 5) == b""


async def test_what_comes_during_the_wait_is_received(
    pair: Pair, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire, _, theirs = pair
    nursery.start_soon(theirs.send_all, b"hello")
    assert await wire.receive(trio.current_time() + 5) == b"hello"


async def test_silence_ends_in_time_and_the_wire_goes_on(pair: Pair, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    began = trio.current_time()
    for seconds in (5, 3):
        with pytest.raises(trio.TooSlowError):
            await wire.receive(trio.current_time() + seconds)
    assert trio.current_time() - began == pytest.approx(8)
    await theirs.send_all(b"late")
    assert await wire.receive(trio.current_time() + 5) == b"late"
    await wire.send(b"well", 5)
    assert await theirs.receive_some(100) == b"well"


@pytest.mark.parametrize(("hastened", "ends"), [pytest.param(2, 2, id="sooner"), pytest.param(9, 5, id="not-later")])
async def test_a_wait_can_be_shortened(
    hastened: float, ends: float, pair: Pair, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire, _, _ = pair
    began = trio.current_time()
    wire.hasten(began)  # nobody waits yet

    async def hasten() -> None:
        await wait_all_tasks_blocked()
        wire.hasten(began + hastened)

    nursery.start_soon(hasten)
    with pytest.raises(trio.TooSlowError):
        await wire.receive(began + 5)
    assert trio.current_time() - began == pytest.approx(ends)


async def test_a_time_that_is_over_ends_it_at_once(pair: Pair, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    now = trio.current_time()
    for _ in range(100):  # the scheduler draws lots: the alarm may ring before there is a wait
        with trio.fail_after(60), pytest.raises(trio.TooSlowError):
            await wire.receive(now - 1)
    assert trio.current_time() == now
    await theirs.send_all(b"late")
    assert await wire.receive(now + 5) == b"late"


async def test_a_wait_that_is_over_rings_no_more(pair: Pair, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    await theirs.send_all(b"one")
    assert await wire.receive(trio.current_time() + 1) == b"one"
    await trio.sleep(5)
    nursery.start_soon(theirs.send_all, b"two")
    assert await wire.receive(trio.current_time() + 60) == b"two"


async def test_a_wait_can_be_cancelled(pair: Pair, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    with trio.move_on_after(1) as scope:
        await wire.receive(trio.current_time() + 5)
    assert scope.cancelled_caught
    await trio.sleep(10)
    await theirs.send_all(b"hello")
    assert await wire.receive(trio.current_time() + 5) == b"hello"


async def test_much_is_sent_whole(pair: Pair, nursery: trio.Nursery) -> None:
    wire, ours, theirs = pair
    whole = bytearray()
    async with trio.open_nursery() as reading:
        reading.start_soon(_read_all, theirs, whole)
        await wire.send(MUCH, 60)
        await ours.send_eof()
    assert whole == MUCH


async def test_one_that_does_not_read_holds_us_up_no_longer_than_agreed(autojump_clock: MockClock) -> None:
    wire, ours, theirs = over_sockets(Alarms())
    with pytest.raises(trio.TooSlowError):
        await wire.send(MUCH, 5)
    await ours.aclose()
    await theirs.aclose()


async def test_nothing_goes_to_one_that_is_gone(pair: Pair, autojump_clock: MockClock) -> None:
    wire, _, theirs = pair
    await trio.aclose_forcefully(theirs)
    with pytest.raises(trio.BrokenResourceError):
        await wire.send(b"hello", 5)


async def test_a_reset_is_no_end() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        theirs = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        ours = await listener.accept()
        wire = SocketWire(ours, Alarms())
        await wire.send(b"unread", 5)
        await trio.lowlevel.wait_readable(theirs.socket)
        await theirs.aclose()  # with octets unread, which is a reset
        with pytest.raises(trio.BrokenResourceError):
            await wire.receive(trio.current_time() + 5)
        await ours.aclose()


async def test_a_stream_that_was_closed_is_a_fault_of_ours(nursery: trio.Nursery) -> None:
    wire, ours, theirs = over_sockets(Alarms())

    async def close() -> None:
        await wait_all_tasks_blocked()
        await ours.aclose()

    nursery.start_soon(close)
    with pytest.raises(trio.ClosedResourceError):
        await wire.receive(trio.current_time() + 5)
    await theirs.aclose()
