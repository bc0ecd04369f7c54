"""One request on a connection that stays: what a failure says of the script, and when the connection is good again."""

import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Final

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.support import HEAD, Act, Line, ScriptedResponder, end, stdout
from trio_fcgimail.config import UnixAddress
from trio_fcgimail.fastcgi import ProtocolStatus, RecordType, encode_record
from trio_fcgimail.mail import Parameter
from trio_fcgimail.server.upstream import (
    Body,
    CleanEnd,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnexecuted,
    exchange,
    has_input,
)

pytestmark = pytest.mark.trio

GET: Final[list[Parameter]] = [(b"REQUEST_METHOD", b"GET")]
SAVED: Final = stdout(HEAD + b"SAVED") + end()
BIG_OCTETS: Final = 4_000_000


async def pieces(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


async def nothing(line: Line) -> None:
    await line.request()


async def closes_unread(line: Line) -> None:
    pass


async def closes_within_the_params(line: Line) -> None:
    await line.stream.receive_some(8)


def writing(octets: bytes) -> Act:
    async def act(line: Line) -> None:
        await line.request()
        await line.write(octets)

    return act


@dataclass(frozen=True)
class Failure:
    """How it fails, and what that says where a clean end is known to mean nothing, and where it is not known."""

    id: str
    act: Act
    php_fpm: type[UpstreamError]
    others: type[UpstreamError]


FAILURES: Final = [
    Failure("closed-unread", closes_unread, UpstreamUnexecuted, UpstreamUnexecuted),
    Failure("closed-half-read", closes_within_the_params, UpstreamUnexecuted, UpstreamUnexecuted),
    Failure("clean-end-without-an-octet", nothing, UpstreamUnexecuted, UpstreamBroken),
    Failure("end-after-an-octet", writing(b"\1"), UpstreamBroken, UpstreamBroken),
    Failure("end-after-a-head", writing(stdout(HEAD)), UpstreamBroken, UpstreamBroken),
    Failure("end-after-a-yes", writing(stdout(HEAD + b"SAVED")), UpstreamBroken, UpstreamBroken),
    Failure("overloaded", writing(end(ProtocolStatus.OVERLOADED)), UpstreamUnexecuted, UpstreamUnexecuted),
    Failure("unknown-role", writing(end(ProtocolStatus.UNKNOWN_ROLE)), UpstreamUnexecuted, UpstreamUnexecuted),
    Failure(
        "overloaded-after-output",
        writing(stdout(HEAD + b"SAVED") + end(ProtocolStatus.OVERLOADED)),
        UpstreamBroken,
        UpstreamBroken,
    ),
    Failure("garbage", writing(b"HTTP/1.1 200 OK\r\n\r\n"), UpstreamBroken, UpstreamBroken),
]


@pytest.mark.parametrize("clean_end", list(CleanEnd))
@pytest.mark.parametrize("failure", FAILURES, ids=attrgetter("id"))
async def test_what_a_failure_says_of_the_script(
    failure: Failure, clean_end: CleanEnd, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stream = await ScriptedResponder(nursery, failure.act).connect(UnixAddress("/s"), seconds=5)
    expected = failure.php_fpm if clean_end is CleanEnd.UNEXECUTED else failure.others
    with pytest.raises(UpstreamError) as caught:
        await exchange(stream, GET, None, seconds=5, clean_end=clean_end)
    assert type(caught.value) is expected
    await trio.aclose_forcefully(stream)


async def _serve_once(listener: trio.SocketListener, reset_after: int) -> None:
    """Read so many octets and close with others unread, which the kernel makes a reset."""
    async with await listener.accept() as stream:
        left = reset_after
        while left and (data := await stream.receive_some(min(left, 65_536))):
            left -= len(data)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        pytest.param(0, UpstreamBroken, id="after-the-full-send"),
        pytest.param(BIG_OCTETS, UpstreamUnexecuted, id="while-sending"),
    ],
)
async def test_a_reset_means_nothing_only_while_sending(octets: int, expected: type[UpstreamError]) -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    parameters = [*GET, (b"CONTENT_LENGTH", b"%d" % octets)]
    body = Body(octets, partial(pieces, octets * b"x")) if octets else None
    async with trio.open_nursery() as nursery, listener:
        nursery.start_soon(_serve_once, listener, 8)
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        with pytest.raises(UpstreamError) as caught:
            await exchange(stream, parameters, body, seconds=20, clean_end=CleanEnd.UNEXECUTED)
        await stream.aclose()
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("octets", "keep_connection", "is_reusable"),
    [
        pytest.param(SAVED, True, True, id="good"),
        pytest.param(SAVED, False, False, id="not-asked-for"),
        pytest.param(SAVED[: -len(end())] + encode_record(RecordType.END_REQUEST, 1, bytes(8), padding=9), True, True),
        pytest.param(SAVED + b"\1", True, False, id="an-octet-behind-it"),
        pytest.param(SAVED + end(), True, False, id="another-end"),
        pytest.param(stdout(b"x", 2) + SAVED, True, False, id="somebody-elses-record"),
    ],
)
async def test_a_connection_is_reusable_only_when_nothing_is_odd(
    octets: bytes, keep_connection: bool, is_reusable: bool, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stream = await ScriptedResponder(nursery, writing(octets)).connect(UnixAddress("/s"), seconds=5)
    reply = await exchange(stream, GET, None, seconds=5, keep_connection=keep_connection)
    assert (reply.answer.output, reply.is_reusable) == (b"SAVED", is_reusable)
    await trio.aclose_forcefully(stream)


async def test_several_requests_on_one_connection(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """And who wants to hear of the first octets of a response does, unless the rest comes with them."""

    async def act(line: Line) -> None:
        for number in range(3):
            await line.request()
            if number < 2:
                await line.answer(b"%d" % number)
        octets = stdout(HEAD + b"2") + end()
        await line.write(octets[:1])
        await trio.sleep(1)
        await line.write(octets[1:])

    heard: list[int] = []
    times: list[float] = []
    stream = await ScriptedResponder(nursery, act).connect(UnixAddress("/s"), seconds=5)
    for number in range(3):
        reply = await exchange(stream, GET, None, seconds=5, keep_connection=True, heard=times.append)
        heard.append(len(times))
        assert (reply.answer.output, reply.is_reusable) == (b"%d" % number, True)
    assert heard == [0, 0, 1]
    assert reply.received_at - times[0] == 1
    await trio.aclose_forcefully(stream)


async def test_an_idle_connection_tells_when_it_was_closed() -> None:
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with theirs:
        assert not has_input(stream)
        theirs.shutdown(socket.SHUT_WR)  # as a php-fpm worker that retires
        assert has_input(stream)
    await stream.aclose()
    assert not has_input(lockstep_stream_pair()[0])
