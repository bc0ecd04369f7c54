"""What parent and child say to each other, and how it is framed: four octets of length, then MessagePack."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Annotated, Final, TypeVar, final

import msgspec
import trio

from trio_fcgimail.mail import Meaning
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.metrics import Metric
from trio_fcgimail.server.pool import Kind

MAX_LINE_CHARACTERS: Final = 1000  # ours: of a mail as it is shown; 10 of them, at 4 octets each, are below 64 KiB
MAX_MESSAGE_OCTETS: Final = 64 << 20  # ours: settings may name very many hosts, and nothing else is large
_LENGTH: Final = struct.Struct("!I")
_RECEIVE_OCTETS: Final = 65_536


class Start(msgspec.Struct, tag=True, frozen=True):
    """The first message to a child: what it is to serve, once it is told to begin.

    Args:
        settings: pickled; only a parent of the same program is ever at the other end.
        rest_seconds: how long it serves before it may ask for relief.
        sockets: the file descriptors of each listener, in the order of the settings.
        files: the certificates and keys by their paths, as they were when the settings were read.
        uid: whom to become, with ``gid`` and ``user``; None to stay.
    """

    number: int
    settings: bytes
    sockets: list[list[int]]
    files: dict[str, bytes]
    rest_seconds: float
    uid: int | None = None
    gid: int | None = None
    user: str | None = None


class Begin(msgspec.Struct, tag=True, frozen=True):
    """All others of your generation are ready as well: accept."""


class Retire(msgspec.Struct, tag=True, frozen=True):
    """Others take over: accept no more, and let each client have its first transaction.

    Args:
        seconds: for those under way, in the place of ``drain_seconds``.
    """

    seconds: float | None = None


class Stop(msgspec.Struct, tag=True, frozen=True):
    """The end has come: accept no more, let mails under way come to theirs."""


class Cut(msgspec.Struct, tag=True, frozen=True):
    """End now."""


class Reopen(msgspec.Struct, tag=True, frozen=True):
    """The log file was moved away."""


class Ping(msgspec.Struct, tag=True, frozen=True):
    """Say that you live."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The child has all that it needs."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The child cannot serve; the text is one line for the user."""

    problem: str


class Pong(msgspec.Struct, tag=True, frozen=True):
    """The child lives: its loop runs."""


class AskRelief(msgspec.Struct, tag=True, frozen=True):
    """The memory of a crowd that has left stays with the child: another is to serve in its place.

    It is said again after a while, when nobody does.
    """


class Enter(msgspec.Struct, tag=True, frozen=True):
    """May there be one connection more? A ``Verdict`` with the same number is the answer.

    Args:
        listener: by which it comes, when that has a limit of its own; else "".
    """

    number: int
    listener: str = ""


class Admit(msgspec.Struct, tag=True, frozen=True):
    """May there be one connection more of this network? Likewise."""

    number: int
    network: bytes


class Count(msgspec.Struct, tag=True, frozen=True):
    """May this network do something more of what is counted by the minute? Likewise.

    Args:
        limit: by which.
    """

    number: int
    limit: Limit
    network: bytes


class Left(msgspec.Struct, tag=True, frozen=True):
    """There is one connection fewer, by that listener."""

    listener: str = ""


class Released(msgspec.Struct, tag=True, frozen=True):
    """There is one connection fewer of this network."""

    network: bytes


class Verdict(msgspec.Struct, tag=True, frozen=True):
    """The answer to a question.

    Args:
        limit: what is in the way, if anything is.
    """

    number: int
    limit: Limit | None = None


class AskLease(msgspec.Struct, tag=True, frozen=True):
    """One connection to a FastCGI server is wanted. ``LeaseGranted`` follows, when there is one."""

    upstream: str
    use: Kind


class LowerLease(msgspec.Struct, tag=True, frozen=True):
    """One connection that was leased for a save is for no save any more."""

    upstream: str


class ReleaseLease(msgspec.Struct, tag=True, frozen=True):
    """One connection that was leased is closed."""

    upstream: str
    use: Kind


class LeaseGranted(msgspec.Struct, tag=True, frozen=True):
    """One connection may be opened."""

    upstream: str
    use: Kind


class LeasesScarce(msgspec.Struct, tag=True, frozen=True):
    """Whether anybody waits for a connection to a FastCGI server."""

    upstream: str
    is_scarce: bool


_Label = Annotated[str, msgspec.Meta(max_length=300)]
_Number = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
_Line = Annotated[str, msgspec.Meta(max_length=MAX_LINE_CHARACTERS)]


class Counted(msgspec.Struct, tag=True, frozen=True):
    """Numbers that have changed, as they are now: counters from the child's start on.

    Args:
        samples: each a metric, the values of its labels, and its numbers.
    """

    samples: list[tuple[Metric, tuple[_Label, ...], tuple[_Number, ...]]]


class MailSeen(msgspec.Struct, tag=True, frozen=True):
    """A mail that got its verdict, for people to see. All texts are clean and cut.

    Args:
        time: seconds of the wall clock.
        milliseconds: from the end of its data to the verdict; of the script alone below.
    """

    time: _Number
    queue_id: _Line
    peer: _Line
    helo: _Line
    mail_from: _Line
    rcpts: _Line
    subject: _Line
    octets: _Number
    verdict: Meaning
    reply: _Line
    reason: _Line
    milliseconds: _Number
    script_milliseconds: _Number
    upstream: _Line
    stderr: _Line


ForDesk = Counted | MailSeen | Enter | Admit | Count | Left | Released | AskLease | LowerLease | ReleaseLease
FromDesk = Verdict | LeaseGranted | LeasesScarce
ToChild = Start | Begin | Retire | Stop | Cut | Reopen | Ping | FromDesk
ToParent = Ready | Failed | Pong | AskRelief | ForDesk

_Message = TypeVar("_Message")


@final
class Channel:
    """One end of the socket pair. An end whose other side is gone reads None, and writes into the void.

    Args:
        stream: owned from here on.
        max_octets: of a message that is received.
    """

    def __init__(self, stream: trio.SocketStream, max_octets: int = MAX_MESSAGE_OCTETS) -> None:
        self._stream = stream
        self._max_octets = max_octets
        self._encoder = msgspec.msgpack.Encoder()
        self._received = bytearray()
        self._unsent = bytearray()
        self._posted = trio.Event()
        self._sending = trio.Lock()

    @property
    def is_clear(self) -> bool:
        """Whether all that was posted has been taken to be sent."""
        return not self._unsent

    def post(self, message: msgspec.Struct) -> None:
        """Have one message sent by ``write_out``, without waiting for the other side to read."""
        data = self._encoder.encode(message)
        self._unsent += _LENGTH.pack(len(data)) + data
        self._posted.set()

    async def write_out(self) -> None:
        """Send what is posted, until cancelled."""
        while True:
            await self._posted.wait()
            self._posted = trio.Event()
            await self._flush()

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message, and those posted before it; to nobody, when the other side is gone."""
        self.post(message)
        await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            data = bytes(self._unsent)
            self._unsent.clear()
            # Whoever waits for an answer learns from receive() that nobody is there.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(data)

    async def receive(self, decoder: msgspec.msgpack.Decoder[_Message]) -> _Message | None:
        """The next message, or None when the other side is gone.

        Raises:
            msgspec.DecodeError: it is none of the expected ones.
        """
        head = await self._exactly(_LENGTH.size)
        if head is None:
            return None
        (octets,) = _LENGTH.unpack(head)
        if octets > self._max_octets:
            raise msgspec.DecodeError(f"a message of {octets} octets")
        data = await self._exactly(octets)
        return None if data is None else decoder.decode(data)

    async def _exactly(self, octets: int) -> bytes | None:
        while len(self._received) < octets:
            try:
                data = await self._stream.receive_some(_RECEIVE_OCTETS)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._received += data
        taken = bytes(self._received[:octets])
        del self._received[:octets]
        return taken

    async def aclose(self) -> None:
        """Close this end."""
        await trio.aclose_forcefully(self._stream)
