"""Where an attack takes place, as the attacker has it: connections that count what was said on both sides.

Nothing of the product and nothing heavy is imported here, as each attack is a process that has to start at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, final

import trio

HOST: Final = "127.0.0.1"
#: Where attackers come from; who behaves well comes from 127.0.0.1.
ATTACKER: Final = "127.0.0.2"
_BIND_ADDRESS_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT of linux/in.h: the port is chosen when it is connected
_RECEIVE_OCTETS: Final = 65_536
_AT_THE_DOOR: Final = 64  # that come at a time
_PATIENCE_SECONDS: Final = 30.0  # for one reply; and until all have taken their positions
#: Whatever the server does to an attacker, and however it takes that, is no fault.
GONE: Final = (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
_PAUSE_SECONDS: Final = 30.0  # of a passive attacker that was thrown out, else it would be a flood


class Kind(Enum):
    """What it does to the others."""

    PASSIVE = "takes up places and waits"
    FLOOD = "does as much as it can"


@final
@dataclass(slots=True)
class Tally:
    """What an attack came to.

    Attributes:
        connections: that were opened.
        octets: that were sent.
        replies: by their code and enhanced code.
    """

    connections: int = 0
    octets: int = 0
    replies: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> str:
        """For another process."""
        return json.dumps([self.connections, self.octets, self.replies])

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """From another process."""
        connections, octets, replies = json.loads(text)
        return cls(connections, octets, Counter(replies))


@final
class Opponent:
    """One connection to the server under attack.

    Attributes:
        port: of the server.
        stream: for what no client should do.
    """

    def __init__(self, port: int, stream: trio.abc.Stream, tally: Tally, settle: Callable[[], None]) -> None:
        self.port = port
        self.stream: trio.abc.Stream = stream
        self.tally = tally
        self._settle = settle
        self._unread = b""

    def settle(self) -> None:
        """It is in its position: whatever the attack is, it goes on from here."""
        self._settle()

    def narrow(self) -> None:
        """Have the kernel take as little for us as it can."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    async def say(self, data: bytes) -> None:
        """Send octets as they are."""
        await self.stream.send_all(data)
        self.tally.octets += len(data)

    async def reply(self) -> str:
        """One reply, which is counted: its code and its enhanced code. Raises EOFError at the end."""
        with trio.fail_after(_PATIENCE_SECONDS):
            while True:
                line = await self._line()
                if line[3:4] != b"-":
                    break
        words = line.decode("ascii", "backslashreplace").split()
        enhanced = words[1] if words[1:] and words[1].count(".") == 2 and words[1][0].isdigit() else ""
        head = f"{words[0]} {enhanced}".strip() if words else ""
        self.tally.replies[head] += 1
        return head

    async def _line(self) -> bytes:
        while b"\n" not in self._unread:
            data = await self.stream.receive_some(_RECEIVE_OCTETS)
            if not data:
                raise EOFError
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    async def ask(self, command: bytes) -> str:
        """Send a line, and take the reply."""
        await self.say(command + b"\r\n")
        return await self.reply()

    async def rest(self) -> None:
        """Take all replies to the end of file."""
        with contextlib.suppress(EOFError):
            while True:
                await self.reply()

    async def hello(self) -> None:
        """Take the banner, and say EHLO."""
        await self.reply()
        await self.ask(b"EHLO attacker.example")

    async def begin(self, how: bytes = b"DATA") -> None:
        """Everything before the content of a mail."""
        for command in (b"MAIL FROM:<attacker@client.example>", b"RCPT TO:<bob@example.com>", how):
            await self.ask(command)

    async def start_tls(self) -> None:
        """Encrypt, and greet again."""
        await self.ask(b"STARTTLS")
        stream = trio.SSLStream(self.stream, careless())
        await stream.do_handshake()
        self.stream = stream
        await self.ask(b"EHLO attacker.example")

    async def drip(self, data: bytes) -> None:
        """Send one octet a second, over and over, until the server has had enough."""
        await self.pump(octet_by_octet(data), pause_seconds=1.0)

    async def pump(self, parts: Iterable[bytes], *, pause_seconds: float = 0.0) -> None:
        """Send these until the server has had enough, and take its replies meanwhile."""
        self.settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            with contextlib.suppress(*GONE):
                for part in parts:
                    await self.say(part)
                    await trio.sleep(pause_seconds)

    async def exchange(self, data: bytes, replies: int, settled_by: str) -> None:
        """Send, and take so many replies meanwhile, or as many as there are; it is in position at a certain one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, data)
            with contextlib.suppress(*GONE):
                for _ in range(replies):
                    if await self.reply() == settled_by:
                        self.settle()
            nursery.cancel_scope.cancel()

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(*GONE):
            await self.say(data)

    async def stay(self) -> None:
        """Say nothing more, and wait for the end."""
        self.settle()
        with contextlib.suppress(EOFError):
            while True:
                await self._line()

    async def _listen(self, scope: trio.CancelScope) -> None:
        with contextlib.suppress(*GONE):
            await self.rest()
        scope.cancel()


Act = Callable[[Opponent], Awaitable[None]]


def octet_by_octet(data: bytes) -> Iterator[bytes]:
    """Single octets, over and over."""
    return (data[at : at + 1] for at in itertools.cycle(range(len(data))))


def careless() -> ssl.SSLContext:
    """A client's context that takes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_hello() -> bytes:
    """A real one."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        careless().wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("there is nobody to shake hands with")


def attacking_socket() -> socket.socket:
    """One that comes from the attacker's address, from a port that the kernel may take again soon."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    sock.bind((ATTACKER, 0))
    return sock


@final
class Field:
    """Runs one attack: so many connections, each doing its act over and over.

    Args:
        port: of the server.
        tally: of all connections.
    """

    def __init__(self, port: int, tally: Tally) -> None:
        self.port = port
        self.tally = tally
        self._waiting = 0
        self._in_position = trio.Event()

    async def run(self, act: Act, connections: int, kind: Kind) -> None:
        """Attack until cancelled."""
        self._waiting = connections
        door = trio.CapacityLimiter(_AT_THE_DOOR)
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(self._attack, act, kind, door)

    async def in_position(self) -> None:
        """Wait until each connection has done its act once, or is as far as it wants to be."""
        with trio.move_on_after(_PATIENCE_SECONDS):
            await self._in_position.wait()

    async def _attack(self, act: Act, kind: Kind, door: trio.CapacityLimiter) -> None:
        has_settled = trio.Event()

        def settle() -> None:
            if not has_settled.is_set():
                has_settled.set()
                self._waiting -= 1
                if not self._waiting:
                    self._in_position.set()

        async with trio.open_nursery() as nursery, door:
            nursery.start_soon(self._again_and_again, act, kind, settle)
            await has_settled.wait()

    async def _again_and_again(self, act: Act, kind: Kind, settle: Callable[[], None]) -> None:
        while True:
            with contextlib.suppress(*GONE):
                async with self._connection(settle) as opponent:
                    await act(opponent)
            settle()
            if kind is Kind.PASSIVE:
                await trio.sleep(_PAUSE_SECONDS)
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def _connection(self, settle: Callable[[], None]) -> AsyncIterator[Opponent]:
        with contextlib.closing(trio.socket.from_stdlib_socket(attacking_socket())) as sock:
            await sock.connect((HOST, self.port))
            self.tally.connections += 1
            yield Opponent(self.port, trio.SocketStream(sock), self.tally, settle)
