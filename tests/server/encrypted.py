"""Sessions over memory streams with TLS, and a client that hears what goes over the wire."""

import ssl
from dataclasses import dataclass
from typing import Final

import trio
from trio.testing import memory_stream_pair

from tests.certificates import Authority
from tests.support import Dialogue, House, Journal, ScriptedResponder
from trio_fcgimail.config import TlsMode
from trio_fcgimail.server.session import Session

READY: Final = b"220 2.0.0 Ready to start TLS\r\n"


def tls_listener(authority: Authority, tls: TlsMode) -> str:
    """A listener with the certificate of the authority, as TOML."""
    return f'[[listeners]]\naddress = "127.0.0.1:0"\ntls = "{tls.value}"\ncertificate = "{authority.certificate}"\n'


def dialogue_over(stream: trio.abc.Stream) -> Dialogue:
    """A client that talks over any stream."""
    return Dialogue(trio.StapledStream(stream, stream))


class Wiretap(trio.abc.HalfCloseableStream):
    """A client's end that keeps what the server wrote."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self.heard = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.heard += data
        return data

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def forget(self) -> None:
        """What was heard in the clear."""
        self.heard = b""


def is_tls(octets: bytes) -> bool:
    """Whether there are only whole TLS records (RFC 8446 5.1)."""
    while octets:
        kind, major, length = octets[0], octets[1], int.from_bytes(octets[3:5])
        if kind not in range(20, 24) or major != 3 or len(octets) < 5 + length:
            return False
        octets = octets[5 + length :]
    return True


@dataclass(frozen=True, slots=True)
class Visit:
    """A client that is about to begin its handshake, over memory streams."""

    wire: Wiretap
    session: Session
    authority: Authority

    async def encrypt(self, context: ssl.SSLContext | None = None) -> Dialogue:
        """Do the handshake."""
        stream = self.authority.client(self.wire, context)
        await stream.do_handshake()
        return dialogue_over(stream)

    async def heard_at_the_end(self) -> bytes:
        """All that the server says in the place of a handshake."""
        return await Dialogue(self.wire).rest()


class Hall:
    """Visits to one house with TLS."""

    def __init__(self, nursery: trio.Nursery, journal: Journal, authority: Authority, tls: TlsMode, toml: str) -> None:
        self.scripts = ScriptedResponder(nursery)
        self.tls = tls
        self._authority = authority
        self._nursery = nursery
        self._house = House(nursery, journal, tls_listener(authority, tls) + toml, connect=self.scripts.connect)

    def session(self, stream: trio.abc.Stream) -> Session:
        """A session that does not run yet."""
        return self._house.session(stream)

    async def visit(self) -> Visit:
        """Come as far as the handshake."""
        theirs, ours = memory_stream_pair()
        session = self._house.session(ours)
        self._nursery.start_soon(session.run)
        wire = Wiretap(theirs)
        if self.tls is TlsMode.STARTTLS:
            client = Dialogue(wire)
            await client.hello()
            assert await client.ask(b"STARTTLS") == READY
            wire.forget()
        return Visit(wire, session, self._authority)

    async def guest(self, context: ssl.SSLContext | None = None) -> tuple[Dialogue, Visit]:
        """Come, encrypt, greet."""
        visit = await self.visit()
        client = await visit.encrypt(context)
        if self.tls is TlsMode.IMPLICIT:
            await client.hello()
        else:
            assert (await client.ask(b"EHLO client.example")).startswith(b"250-")
        return client, visit
