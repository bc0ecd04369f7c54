"""What the tests of the server share: settings, a scripted FastCGI responder, an SMTP client, a log to look into."""

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

import structlog.typing
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from tests.config.support import read
from trio_fcgimail import fastcgi
from trio_fcgimail.config import (
    ListenAddress,
    ListenerSettings,
    LogFormat,
    LogLevel,
    LogSettings,
    Settings,
    TcpAddress,
    UnixAddress,
    UpstreamAddress,
)
from trio_fcgimail.fastcgi import ProtocolStatus, RecordType, encode_record, encode_stream
from trio_fcgimail.mail import Peer
from trio_fcgimail.server import LogFile, LogObserver, Observer, Server, make_log
from trio_fcgimail.server.entrance import open_entrance
from trio_fcgimail.server.gateway import Gateway
from trio_fcgimail.server.ledger import LocalLedger, Place
from trio_fcgimail.server.listeners import open_listeners
from trio_fcgimail.server.processors import Chain, ProcessorSource
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.session import Session
from trio_fcgimail.server.spool import SpoolRoom
from trio_fcgimail.server.upstream import Connect, UpstreamUnavailable, connect
from trio_fcgimail.server.visitor import Visitor
from trio_fcgimail.smtp import Reply

TEMPFAIL: Final = b"451 4.3.0 Local error; try again later\r\n"
MAIL: Final = b"Subject: hello\r\n\r\nWell?\r\n"
HEAD: Final = b"Content-type: text/html; charset=UTF-8\r\n\r\n"
CLIENT: Final = Peer("192.0.2.1", 4242)


def settings(toml: str = "") -> Settings:
    """Settings from TOML over those of `tests.config.support`: example.com, a save script, no validate script."""
    return read(toml)


@dataclass(frozen=True, slots=True)
class Request:
    """What a responder was asked.

    Attributes:
        fields: Of the query or of the form; an octet of the body is a character.
    """

    params: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """The fields, decoded as PHP decodes them."""
        text = self.body.decode("latin-1") if self.is_post else self.params["QUERY_STRING"]
        return dict(parse_qsl(text, keep_blank_values=True, encoding="latin-1" if self.is_post else "utf-8"))

    @property
    def is_post(self) -> bool:
        """Whether it is for the save script."""
        return self.params["REQUEST_METHOD"] == "POST"


def stdout(data: bytes, request_id: int = 1) -> bytes:
    """Output of the script, head included, in records of request 1."""
    return encode_stream(RecordType.STDOUT, request_id, data)


def stderr(data: bytes) -> bytes:
    """Error output, likewise."""
    return encode_stream(RecordType.STDERR, 1, data)


def end(
    status: ProtocolStatus | int = ProtocolStatus.REQUEST_COMPLETE, app_status: int = 0, request_id: int = 1
) -> bytes:
    """END_REQUEST."""
    return encode_record(RecordType.END_REQUEST, request_id, app_status.to_bytes(4) + bytes([status, 0, 0, 0]))


class Line:
    """One connection, as the responder has it.

    Attributes:
        stream: For what no responder should do.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._conn = fastcgi.ResponderConnection()

    async def write(self, data: bytes) -> None:
        """Send octets as they are; returns when they were read."""
        await self.stream.send_all(data)

    async def begun(self) -> Mapping[str, str]:
        """Read the parameters and not more than came with them."""
        event = await self._event()
        assert isinstance(event, fastcgi.RequestBegun)
        return {name.decode(): value.decode() for name, value in event.params}

    async def body(self) -> bytes:
        """Read what follows the parameters, to its end."""
        parts = []
        while not isinstance(event := await self._event(), fastcgi.StdinEnded):
            assert isinstance(event, fastcgi.StdinChunk)
            parts.append(event.data)
        return b"".join(parts)

    async def request(self) -> Request:
        """Read the whole request."""
        return Request(await self.begun(), await self.body())

    async def answer(self, output: bytes) -> None:
        """Answer a request that was read, as a good responder does."""
        await self.write(self._conn.send_stdout(1, HEAD + output) + self._conn.end_request(1))

    async def _event(self) -> fastcgi.ResponderEvent:
        while isinstance(event := self._conn.next_event(), fastcgi.Signal | fastcgi.ValuesRequested):
            if isinstance(event, fastcgi.ValuesRequested):  # whether we are ready
                await self.write(event.to_send)
            else:
                self._conn.receive_data(await self.stream.receive_some(65_536))
        if isinstance(event, fastcgi.ConnectionClosed):
            raise EOFError
        return event


#: What a responder does with one connection, which is closed when it returns.
Act = Callable[[Line], Awaitable[object]]


async def refuse(_: Line) -> None:
    """Stands for a responder that takes no connection."""


class ScriptedResponder:
    """A FastCGI responder that does what it is told.

    Over memory, where nothing is buffered: what one side writes waits until the other reads it.

    Attributes:
        act: What to do with the next connections; None to do as good scripts do.
        requests: Those that good scripts have answered, in order.
        most_at_once: How many connections there ever were at a time.
    """

    def __init__(self, nursery: trio.Nursery, act: Act | None = None) -> None:
        self.act = act
        self.requests: list[Request] = []
        self.connections = 0
        self.most_at_once = 0
        self._at_once = 0
        self._nursery = nursery

    async def connect(self, address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        """Stands in for `upstream.connect`."""
        await trio.lowlevel.checkpoint()
        if self.act is refuse:
            raise UpstreamUnavailable(f"{address}: refused")
        ours, theirs = lockstep_stream_pair()
        self._nursery.start_soon(self.serve, theirs)
        return ours

    async def listen(self, path: Path) -> None:
        """Serve on a unix socket as well."""
        (listener,) = await open_listeners(ListenerSettings(address=UnixAddress(str(path))))
        self._nursery.start_soon(trio.serve_listeners, self.serve, [listener])

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Act on one connection."""
        self.connections += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            # Whatever is cut from the other side is no fault of the test.
            with suppress(trio.BrokenResourceError, fastcgi.RemoteProtocolError, EOFError):
                await (self.act or self._do_well)(Line(stream))
        finally:
            self._at_once -= 1
            await trio.aclose_forcefully(stream)

    async def _do_well(self, line: Line) -> None:
        request = await line.request()
        self.requests.append(request)
        await line.answer(b"SAVED" if request.is_post else b"PASSED")


class Journal:
    """A real log, in a file, of everything from level debug on."""

    def __init__(self, path: Path, log_format: LogFormat = LogFormat.JSON) -> None:
        self._path = path
        self.file = LogFile(path)
        self.log: structlog.typing.FilteringBoundLogger = make_log(
            LogSettings(format=log_format, level=LogLevel.DEBUG), self.file
        )

    def lines(self) -> list[str]:
        """What stands in the file, split at LF only."""
        assert self.file.flush()
        return self._path.read_text().split("\n")[:-1]

    def entries(self, event: str) -> list[dict[str, object]]:
        """The lines of one event."""
        return [entry for entry in map(json.loads, self.lines()) if entry["event"] == event]


class Dialogue:
    """An SMTP client that says what it is told, and reads whole replies."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._unread = bytearray()

    async def send(self, data: bytes) -> None:
        """Send octets as they are."""
        await self.stream.send_all(data)

    async def reply(self) -> bytes:
        """One reply, all of its lines. EOFError when the server has closed."""
        lines: list[bytes] = []
        while not lines or lines[-1][3:4] == b"-":
            while b"\n" not in self._unread:
                if not (data := await self.stream.receive_some(65_536)):
                    raise EOFError(bytes(self._unread))
                self._unread += data
            line, _, rest = self._unread.partition(b"\n")
            self._unread = bytearray(rest)
            lines.append(bytes(line) + b"\n")
        return b"".join(lines)

    async def ask(self, command: bytes) -> bytes:
        """Send a line, and return the reply."""
        await self.send(command + b"\r\n")
        return await self.reply()

    async def hello(self) -> None:
        """Take the banner, and say EHLO."""
        assert (await self.reply()).startswith(b"220 ")
        assert (await self.ask(b"EHLO client.example")).startswith(b"250-")

    async def begin(self, *recipients: bytes) -> None:
        """Everything before the content of a mail; all of it is accepted."""
        assert (await self.ask(b"MAIL FROM:<a@client.example>")).startswith(b"250 ")
        for recipient in recipients or (b"b@example.com",):
            assert (await self.ask(b"RCPT TO:<" + recipient + b">")).startswith(b"250 ")
        assert (await self.ask(b"DATA")).startswith(b"354 ")

    async def mail(self, content: bytes = MAIL) -> bytes:
        """A whole mail; the reply to it."""
        await self.begin()
        return await self.ask(content + b".")

    async def rest(self) -> bytes:
        """All replies up to the end of file."""
        while data := await self.stream.receive_some(65_536):
            self._unread += data
        rest, self._unread = bytes(self._unread), bytearray()
        return rest

    async def reset(self) -> None:
        """Forget a mail that was begun."""
        assert await self.ask(b"RSET") == b"250 2.0.0 Reset\r\n"

    async def close(self) -> None:
        """Vanish."""
        await trio.aclose_forcefully(self.stream)


def _numbered() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"q{next(numbers)}"


class House:
    """Sessions over memory streams, and what they share.

    Attributes:
        room: Of the spool.
        over: Set when the latest session has ended.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        journal: Journal,
        toml: str = "",
        *,
        connect: Connect = connect,
        observers: tuple[Observer, ...] = (),
        now: Callable[[], datetime] = lambda: datetime(2024, 2, 29, 12, 0, tzinfo=UTC),
        processors: Mapping[str, ProcessorSource] | None = None,
    ) -> None:
        self.settings = settings(toml)
        scripts = Scripts(self.settings, journal.log, connect)
        spool = self.settings.spool
        self.room = SpoolRoom(
            directory=spool.directory, memory_octets=spool.memory_octets, total_octets=spool.total_octets
        )
        self.gateway = Gateway(
            settings=self.settings,
            scripts=scripts,
            chain=Chain(self.settings, scripts, log=journal.log, now=now, registered=processors),
            room=self.room,
            ledger=LocalLedger(self.settings.limits),
            log=journal.log,
            now=now,
            queue_id=_numbered(),
            observers=(LogObserver(journal.log), *observers),
        )
        self._nursery = nursery
        nursery.start_soon(self.gateway.scripts.run)
        nursery.start_soon(self.gateway.alarms.run)

    def session(
        self,
        stream: trio.abc.Stream,
        visitor: Visitor | None = None,
        refusal: Reply | None = None,
        place: Place | None = None,
    ) -> Session:
        """A session that does not run yet; without a place nobody was asked whether there is room for it."""
        entrance = open_entrance(self.settings, self.settings.listeners[0])
        return Session(stream, visitor or Visitor(CLIENT), entrance, self.gateway, place or self.place(), refusal)

    def place(self) -> Place:
        """For one connection."""
        return Place(self.gateway.ledger, self.settings.limits)

    def visit(self, visitor: Visitor | None = None, place: Place | None = None) -> tuple[Dialogue, Session]:
        """Start a session; who talks to it, and itself."""
        theirs, ours = memory_stream_pair()
        session = self.session(ours, visitor, place=place)
        self._nursery.start_soon(session.run)
        return Dialogue(theirs), session

    async def guest(self) -> Dialogue:
        """Start a session and greet it."""
        client, _ = self.visit()
        await client.hello()
        return client


class Served:
    """A whole server on real sockets.

    Attributes:
        addresses: Where it listens.
    """

    def __init__(self, server: Server, addresses: tuple[ListenAddress, ...]) -> None:
        self.server = server
        self.addresses = addresses
        self._clients: list[Dialogue] = []

    async def dial(self, local: str = "127.0.0.1") -> Dialogue:
        """Connect to the first address, over TCP; the client is closed with the server at the latest."""
        address = self.addresses[0]
        assert isinstance(address, TcpAddress)
        client = Dialogue(await trio.open_tcp_stream(address.host, address.port, local_address=local))
        self._clients.append(client)
        return client

    async def guest(self) -> Dialogue:
        """Connect and greet."""
        client = await self.dial()
        await client.hello()
        return client

    async def close_clients(self) -> None:
        """Let them vanish."""
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def serving(config: Settings, journal: Journal, *observers: Observer) -> AsyncIterator[Served]:
    """Run a server; at the end its clients vanish, and it is cut."""
    server = Server(config, log=journal.log, observers=[LogObserver(journal.log), *observers])
    async with trio.open_nursery() as nursery:
        served = Served(server, await nursery.start(server.run))
        try:
            yield served
        finally:
            await served.close_clients()
            server.cut()


def elapsed() -> Callable[[], float]:
    """A stopwatch by Trio's clock."""
    began = trio.current_time()
    return lambda: trio.current_time() - began


def octet_by_octet(data: bytes) -> Iterator[bytes]:
    """Single octets."""
    return (data[at : at + 1] for at in range(len(data)))
