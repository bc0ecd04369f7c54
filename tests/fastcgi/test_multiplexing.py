"""Requests side by side on one connection, between our client and our responder: each gets its own answer.

The responder is a small server on Trio with a task for each request. What it sends and gets is cut anywhere.
"""

import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest
import trio
from trio.testing import memory_stream_pair

from trio_fcgimail.fastcgi import (
    NEED_DATA,
    ClientConnection,
    ConnectionClosed,
    NameValue,
    ProtocolStatus,
    RecordIgnored,
    RequestBegun,
    RequestEnded,
    RequestRefused,
    ResponderConnection,
    ResponderOptions,
    StderrChunk,
    StdinChunk,
    StdinEnded,
    StdoutChunk,
    StreamEnded,
)

Write = Callable[[bytes], Awaitable[None]]
pytestmark = pytest.mark.trio

IDS: Final = (1, 2, 255, 256, 4_242, 65_535)


@dataclass(slots=True)
class Asked:
    """One request, as the client makes it and as its answer comes."""

    request_id: int
    name: bytes
    body: bytes
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    end: tuple[int, ProtocolStatus] | None = None

    @property
    def params(self) -> list[NameValue]:
        return [(b"NAME", self.name), (b"CONTENT_LENGTH", b"%d" % len(self.body)), (b"PADDING", self.name * 99)]

    def answered(self) -> None:
        """AssertionError unless the answer is the one to this request, and whole."""
        assert self.out == answer_to(self.name, self.body)
        assert self.err == b"about " + self.name
        assert self.end == (len(self.body), ProtocolStatus.REQUEST_COMPLETE)


def answer_to(name: bytes, body: bytes) -> bytes:
    """What the application says: long enough for several records."""
    return b"".join((b"\r\n", name, b" ", hashlib.sha256(body).digest() * 3_000))


def some_requests(dice: random.Random) -> list[Asked]:
    """Of all sizes, the ids in any order."""
    sizes = (0, 1, 8, 65_535, 65_536, 200_001)
    return [
        Asked(request_id, b"request %d" % request_id, dice.randbytes(size))
        for request_id, size in zip(dice.sample(IDS, len(IDS)), sizes, strict=True)
    ]


def pieces_of(data: bytes, dice: random.Random) -> Iterator[bytes]:
    """Cut anywhere, also within a record's header."""
    while data:
        octets = dice.choice((1, 2, 7, 8, 9, 300, 9_000, 70_000))
        yield data[:octets]
        data = data[octets:]


def cutting(stream: trio.abc.SendStream, dice: random.Random) -> Write:
    """How to write to a stream so that the other side gets it in pieces; one writer at a time."""
    lock = trio.Lock()

    async def write(data: bytes) -> None:
        async with lock:
            for piece in pieces_of(data, dice):
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()

    return write


class MultiplexingServer:
    """Serves one connection; a task for each request answers it."""

    def __init__(self, stream: trio.abc.Stream, dice: random.Random, requests: int) -> None:
        self._stream = stream
        self._write = cutting(stream, dice)
        self._dice = dice
        self._conn = ResponderConnection(ResponderOptions(multiplex=True, max_requests=requests))
        self._params: dict[int, dict[bytes, bytes]] = {}
        self._bodies: dict[int, bytearray] = {}
        self.most_open = 0

    async def run(self) -> None:
        """Until the client has closed, or asked for the close."""
        async with trio.open_nursery() as nursery:
            while not self._conn.must_close:
                match self._conn.next_event():
                    case RequestBegun(request_id=request_id, params=params):
                        self._params[request_id], self._bodies[request_id] = dict(params), bytearray()
                        self.most_open = max(self.most_open, len(self._conn.open_requests))
                    case StdinChunk(request_id=request_id, data=data):
                        self._bodies[request_id] += data
                    case StdinEnded(request_id=request_id):
                        nursery.start_soon(self._answer, request_id)
                    case RequestRefused(to_send=to_send):
                        await self._write(to_send)
                    case RecordIgnored():
                        pass
                    case ConnectionClosed():
                        return
                    case event:
                        assert event is NEED_DATA, event
                        self._conn.receive_data(await self._stream.receive_some(65_536))

    async def _answer(self, request_id: int) -> None:
        name, body = self._params.pop(request_id)[b"NAME"], bytes(self._bodies.pop(request_id))
        await self._write(self._conn.send_stderr(request_id, b"about " + name))
        for piece in pieces_of(answer_to(name, body), self._dice):
            await self._write(self._conn.send_stdout(request_id, piece))
        await self._write(self._conn.end_request(request_id, len(body)))


async def send_interleaved(conn: ClientConnection, write: Write, requests: list[Asked], dice: random.Random) -> None:
    """All begin, and then a piece of this one and a piece of that one, until each has come to its end."""
    for one in requests:
        await write(conn.begin_request(one.request_id, params=one.params, keep_connection=True))
    unsent = {one.request_id: [*pieces_of(one.body, dice)] for one in requests}
    while unsent:
        request_id = dice.choice([*unsent])
        if unsent[request_id]:
            await write(conn.send_stdin(request_id, unsent[request_id].pop(0)))
        else:
            del unsent[request_id]
            await write(conn.end_stdin(request_id))


async def hear(conn: ClientConnection, stream: trio.abc.ReceiveStream, requests: list[Asked]) -> None:
    """Read until each request has ended."""
    by_id = {one.request_id: one for one in requests}
    while not all(one.end for one in requests):
        match conn.next_event():
            case StdoutChunk(request_id=request_id, data=data):
                by_id[request_id].out += data
            case StderrChunk(request_id=request_id, data=data):
                by_id[request_id].err += data
            case RequestEnded(request_id=request_id, app_status=app_status, protocol_status=status):
                by_id[request_id].end = (app_status, status)
            case StreamEnded():
                pass
            case event:
                assert event is NEED_DATA, event
                conn.receive_data(await stream.receive_some(65_536))


@pytest.mark.parametrize("seed", range(8))
async def test_each_request_gets_its_own_answer(seed: int, nursery: trio.Nursery) -> None:
    dice = random.Random(seed)
    ours, theirs = memory_stream_pair()
    requests, conn = some_requests(dice), ClientConnection()
    server = MultiplexingServer(theirs, dice, len(requests))
    nursery.start_soon(server.run)
    async with trio.open_nursery() as both:
        both.start_soon(send_interleaved, conn, cutting(ours, dice), requests, dice)
        both.start_soon(hear, conn, ours, requests)
    for one in requests:
        one.answered()
    assert server.most_open == len(requests)
    assert conn.is_reusable
    await ours.aclose()


async def test_ids_are_used_again_on_the_same_connection(nursery: trio.Nursery) -> None:
    dice = random.Random(0)
    ours, theirs = memory_stream_pair()
    conn = ClientConnection()
    nursery.start_soon(MultiplexingServer(theirs, dice, len(IDS)).run)
    for _ in range(3):
        requests = some_requests(dice)
        async with trio.open_nursery() as both:
            both.start_soon(send_interleaved, conn, cutting(ours, dice), requests, dice)
            both.start_soon(hear, conn, ours, requests)
        for one in requests:
            one.answered()
    await ours.aclose()


async def test_the_one_too_many_is_refused_and_the_others_are_answered(nursery: trio.Nursery) -> None:
    dice = random.Random(1)
    ours, theirs = memory_stream_pair()
    requests, conn = some_requests(dice), ClientConnection()
    nursery.start_soon(MultiplexingServer(theirs, dice, len(requests) - 1).run)
    async with trio.open_nursery() as both:
        both.start_soon(send_interleaved, conn, cutting(ours, dice), requests, dice)
        both.start_soon(hear, conn, ours, requests)
    *served, refused = requests
    for one in served:
        one.answered()
    assert (bytes(refused.out), bytes(refused.err)) == (b"", b"")
    assert refused.end == (0, ProtocolStatus.OVERLOADED)
    await ours.aclose()
