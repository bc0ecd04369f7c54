"""One FastCGI request: connecting to real sockets, and what becomes of a request that cannot be made."""

import os
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.phpfpm import open_folder, script_user
from tests.support import HEAD, Line, ScriptedResponder, end, stderr, stdout
from trio_fcgimail.config import TcpAddress, UnixAddress
from trio_fcgimail.mail import MAX_STDERR_OCTETS, Answer, Parameter
from trio_fcgimail.server.spool import SpoolReadError
from trio_fcgimail.server.upstream import (
    Body,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
    connect,
    request,
)

pytestmark = pytest.mark.trio

SAVED: Final = stdout(HEAD + b"SAVED") + end()


async def pieces(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


def parameters(octets: int) -> list[Parameter]:
    return [(b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"%d" % octets)]


# Connecting


async def test_a_full_listen_queue_is_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(str(path))
        with pytest.raises(UpstreamUnavailable, match="its listen queue is full"):
            await connect(UnixAddress(str(path)), seconds=5)
        accepted, _ = listener.accept()
        stack.enter_context(accepted)
        await (await connect(UnixAddress(str(path)), seconds=5)).aclose()


async def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(UpstreamUnavailable, match=rf"unix:{tmp_path}/s: there is no such socket"):
        await connect(UnixAddress(f"{tmp_path}/s"), seconds=5)


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(f"{tmp_path}/s")
    with pytest.raises(UpstreamUnavailable, match="nobody listens there"):
        await connect(UnixAddress(f"{tmp_path}/s"), seconds=5)


async def test_another_kind_of_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"{tmp_path}/s")
        with pytest.raises(UpstreamUnavailable, match="wrong type"):
            await connect(UnixAddress(f"{tmp_path}/s"), seconds=5)


@pytest.fixture
def closed_socket() -> Iterator[Path]:
    """A socket that listens, but not for us: root has to become another user to see that."""
    with open_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = folder / "s"
        listener.bind(str(path))
        path.chmod(0)
        listener.listen()
        yield path


async def test_a_socket_that_we_may_not_write_to(closed_socket: Path) -> None:
    user = script_user()
    pid = os.getuid()
    if user is not None:
        os.seteuid(65534)
    try:
        with pytest.raises(UpstreamUnavailable, match="we may not write to that socket"):
            await connect(UnixAddress(str(closed_socket)), seconds=5)
    finally:
        os.seteuid(pid)


async def test_tcp_refused() -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    with pytest.raises(UpstreamUnavailable, match=rf"127.0.0.1:{port}: nobody listens there"):
        await connect(TcpAddress("127.0.0.1", port), seconds=5)


async def test_tcp_to_a_name_of_several_addresses_tells_of_each() -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    with pytest.raises(UpstreamUnavailable, match=r"localhost:[0-9]+: nobody listens there"):
        await connect(TcpAddress("localhost", port), seconds=5)


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "mx..example"], ids=["long-label", "empty-label"])
async def test_tcp_to_what_the_resolver_cannot_even_ask_for(host: str) -> None:
    with pytest.raises(UpstreamUnavailable, match="not the name of a host"):
        await connect(TcpAddress(host, 9000), seconds=5)


async def test_tcp_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await (await connect(TcpAddress("127.0.0.1", listener.getsockname()[1]), seconds=5)).aclose()


# A whole request over a real socket


async def _ask(nursery: trio.Nursery, path: Path, responder: ScriptedResponder, body: Body | None) -> Answer:
    await responder.listen(path)
    stream = await connect(UnixAddress(str(path)), seconds=5)
    head = [(b"QUERY_STRING", b""), (b"REQUEST_METHOD", b"GET")] if body is None else parameters(body.octets)
    return await request(stream, head, body, seconds=5)


async def test_a_request_over_a_real_socket(nursery: trio.Nursery, tmp_path: Path) -> None:
    responder = ScriptedResponder(nursery)
    parts = [b"body=", *(bytes([number]) * 200_000 for number in range(20)), b"&x=y"]
    answer = await _ask(nursery, tmp_path / "s", responder, Body(sum(map(len, parts)), partial(pieces, *parts)))
    assert (answer.status, answer.output, answer.stderr, answer.app_status) == (200, b"SAVED", b"", 0)
    assert responder.requests[0].body == b"".join(parts)


async def test_a_connection_that_is_reset_is_broken(nursery: trio.Nursery, tmp_path: Path) -> None:
    async def act(line: Line) -> None:
        await line.write(stdout(HEAD + b"SAV"))  # closed with our request unread: the kernel resets

    big = 4_000_000
    with pytest.raises(UpstreamBroken, match=r"the connection broke|closed without END_REQUEST"):
        await _ask(nursery, tmp_path / "s", ScriptedResponder(nursery, act), Body(big, partial(pieces, big * b"x")))


async def test_an_answer_to_a_request_that_broke_on_its_way_is_none(nursery: trio.Nursery, tmp_path: Path) -> None:
    async def act(line: Line) -> None:
        await line.begun()
        assert isinstance(line.stream, trio.SocketStream)
        line.stream.socket.shutdown(trio.socket.SHUT_RD)
        await line.write(SAVED)
        await trio.sleep_forever()

    parts = 40 * [100_000 * b"x"]
    with pytest.raises(UpstreamBroken, match="answered too early"):
        await _ask(nursery, tmp_path / "s", ScriptedResponder(nursery, act), Body(4_000_000, partial(pieces, *parts)))


# Requests that cannot be made


async def _unreadable() -> AsyncGenerator[bytes, None]:
    yield 100_000 * b"x"
    yield 100_000 * b"x"
    raise SpoolReadError("the disk is gone")


@pytest.mark.parametrize(
    ("octets", "body", "problem"),
    [
        pytest.param(300_000, _unreadable, "the disk is gone", id="unreadable"),
        pytest.param(6, lambda: pieces(b"hello"), "1 octets short of CONTENT_LENGTH", id="too-short"),
        pytest.param(4, lambda: pieces(b"hello"), "1 octets beyond CONTENT_LENGTH", id="too-long"),
    ],
)
async def test_half_a_body_is_never_ended(
    octets: int, body: object, problem: str, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    responder = ScriptedResponder(nursery)
    stream = await responder.connect(UnixAddress("/s"), seconds=5)
    assert callable(body)
    with pytest.raises(UpstreamBroken, match=problem):
        await request(stream, parameters(octets), Body(octets, body), seconds=5)
    await trio.testing.wait_all_tasks_blocked()
    assert responder.requests == []


async def test_a_parameter_that_cannot_be_sent(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    stream = await ScriptedResponder(nursery).connect(UnixAddress("/s"), seconds=5)
    with pytest.raises(UpstreamBroken, match=r"the request could not be made: .*65535"):
        await request(stream, [(b"QUERY_STRING", 65_536 * b"x")], None, seconds=5)


async def test_a_body_that_was_not_read_to_its_end_is_closed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    closed = []

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield 100_000 * b"x"
        finally:
            closed.append(True)

    async def never_read(line: Line) -> None:
        await trio.sleep_forever()

    stream = await ScriptedResponder(nursery, never_read).connect(UnixAddress("/s"), seconds=5)
    with pytest.raises(UpstreamTimeout, match="no complete answer within 5 s; not all of the request was sent"):
        await request(stream, parameters(1 << 40), Body(1 << 40, body), seconds=5)
    assert closed == [True]


# What is kept of the answer


async def _answered(nursery: trio.Nursery, octets: bytes) -> Answer:
    async def act(line: Line) -> None:
        await line.request()
        await line.write(octets)

    stream = await ScriptedResponder(nursery, act).connect(UnixAddress("/s"), seconds=5)
    return await request(stream, [(b"REQUEST_METHOD", b"GET")], None, seconds=5)


@pytest.mark.parametrize("octets", [0, 1, MAX_STDERR_OCTETS, MAX_STDERR_OCTETS + 1, 2 * MAX_STDERR_OCTETS, 1_000_000])
async def test_of_a_long_STDERR_both_ends_are_kept(  # noqa: N802 - the name of the stream
    octets: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    text = b"first " + octets * b"." + b" last"
    answer = await _answered(nursery, stderr(text) + SAVED)
    assert answer.output == b"SAVED"
    assert answer.stderr.startswith(b"first ")
    assert answer.stderr.endswith(b" last")
    assert len(answer.stderr) == min(len(text), MAX_STDERR_OCTETS)


async def test_STDERR_in_single_octets(nursery: trio.Nursery, autojump_clock: MockClock) -> None:  # noqa: N802
    text = bytes(range(256)) * 10
    records = b"".join(stderr(text[at : at + 1]) for at in range(len(text)))
    assert (await _answered(nursery, records + SAVED)).stderr == text


async def test_appStatus_is_handed_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:  # noqa: N802
    assert (await _answered(nursery, stdout(HEAD + b"SAVED") + end(app_status=3))).app_status == 3


async def test_the_connection_is_closed_at_the_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    ours, theirs = lockstep_stream_pair()

    async def responder() -> bytes:
        line = Line(theirs)
        await line.request()
        await line.write(SAVED)
        return bytes(await theirs.receive_some(1))

    async with trio.open_nursery() as inner:
        inner.start_soon(responder)
        answer = await request(ours, [(b"REQUEST_METHOD", b"GET")], None, seconds=5)
    assert answer.output == b"SAVED"
    await theirs.aclose()
