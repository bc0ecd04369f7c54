"""Transcripts played over a `Wire`: the core alone is one (`tests.playing_core`), a socket of a server is another.

Both have scripts that answer by the settings of the transcript.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol, assert_never, final

import trio

from tests.support import Request
from tests.transcripts import ClientCloses, Expect, Mail, Send, ServerCloses, StartTls, Transcript
from trio_fcgimail.mail import Stage

READ_SECONDS: Final = 10.0  # until a server that says nothing has failed

_TRACE: Final = re.compile(rb"Received: .*?\r\n(?![ \t])", re.DOTALL)
_ANY_LINES: Final = " ..."


@final
class Scripts:
    """The scripts as a transcript wants them.

    Attributes:
        mails: What the save script got.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.mails: list[Mail] = []
        self._answers = transcript.answers
        self._save = transcript.save

    def ask(self, stage: Stage, about: str = "") -> bytes:
        """Answer a question before save; nobody is let in whom the transcript does not name."""
        return self._answers.get((stage, about), b"who is that?" if stage is Stage.AUTH else b"PASSED")

    def save(self, got: Mail) -> bytes:
        """Take a mail."""
        self.mails.append(got)
        return self._save[min(len(self.mails), len(self._save)) - 1] if self._save else b"SAVED"

    def answer(self, request: Request) -> bytes:
        """Answer a request of a server."""
        fields = request.fields
        body = fields.pop("body", "").encode("latin-1")
        if request.is_post:
            fields = {name: value.encode("latin-1").decode() for name, value in fields.items()}
        match Stage(fields["stage"]):
            case Stage.CONNECT as stage:
                return self.ask(stage)
            case Stage.HELO as stage:
                return self.ask(stage, fields["helo"])
            case Stage.AUTH as stage:
                return self.ask(stage, f"{fields['username']}:{fields['password']}")
            case Stage.MAIL as stage:
                return self.ask(stage, fields["mail_from"] or "<>")
            case Stage.VALIDATE as stage:
                return self.ask(stage, fields["rcpt_to"])
            case Stage.SAVE:
                return self._take(body, fields)
            case stage:
                assert_never(stage)

    def _take(self, body: bytes, fields: Mapping[str, str]) -> bytes:
        trace = _TRACE.match(body)
        assert trace is not None, "no trace header"
        return self.save(Mail(envelope_line(fields), body[trace.end() :], fields))


def envelope_line(values: Mapping[str, str]) -> str:
    """What a `D:` line says of the fields of a mail."""
    recipients = [values[name] for name in sorted(values, key=lambda name: (len(name), name)) if _is_recipient(name)]
    return " ".join([f"<{values['mail_from']}> ->", *(f"<{recipient}>" for recipient in recipients)])


def _is_recipient(name: str) -> bool:
    return re.fullmatch(r"rcpt_to_[0-9]+", name) is not None


class Wire(Protocol):
    """What a transcript is played over."""

    async def send(self, data: bytes) -> None:
        """Write."""

    async def start_tls(self) -> None:
        """Do the client's part of a handshake."""

    async def send_eof(self) -> None:
        """Close the client's half."""

    async def receive(self) -> bytes:
        """What the server said, empty at its end; fails when it says nothing in time."""


async def play(transcript: Transcript, wire: Wire) -> None:
    """Say what the client says, and fail at the first line of the server that is not the one that is written down."""
    heard = _Heard(wire)
    for step in transcript.steps:
        try:
            match step:
                case Send(octets=octets):
                    assert not heard.unread, f"before the client wrote, the server said more: {heard.unread!r}"
                    await wire.send(octets)
                case Expect(text=text):
                    await heard.expect(text)
                case StartTls():
                    assert not heard.unread, f"before the handshake, the server said more: {heard.unread!r}"
                    await wire.start_tls()
                case ClientCloses():
                    await wire.send_eof()
                    await heard.expect_end()
                case ServerCloses():
                    await heard.expect_end()
                case _:
                    assert_never(step)
        except AssertionError as exc:
            raise AssertionError(f"{transcript.name}:{step.line}: {exc}") from exc


def check_mails(transcript: Transcript, scripts: Scripts) -> None:
    """Fails unless the save script got what is written down, and nothing else."""
    envelopes = [got.envelope for got in scripts.mails]
    assert envelopes == [expected.envelope for expected in transcript.mails], f"{transcript.name}: mails"
    for expected, got in zip(transcript.mails, scripts.mails, strict=True):
        expected.check(got)


@final
class _Heard:
    """The server's words, line by line."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.unread = b""

    async def expect(self, text: str) -> None:
        if text.endswith(_ANY_LINES):
            code = text.removesuffix(_ANY_LINES)
            while (line := await self._line(text))[3:4] == "-":
                assert line[:3] == code, f"{line!r} instead of {text!r}"
            assert line[:3] == code, f"{line!r} instead of {text!r}"
            return
        line = await self._line(text)
        same = line.startswith(text[:-1]) if text.endswith("*") else line == text
        assert same, f"{line!r} instead of {text!r}"

    async def expect_end(self) -> None:
        while data := await self._wire.receive():
            self.unread += data
        assert not self.unread, f"the server said more: {self.unread!r}"

    async def _line(self, text: str) -> str:
        while b"\r\n" not in self.unread:
            data = await self._wire.receive()
            assert data, f"the server closed instead of {text!r}; unread: {self.unread!r}"
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\r\n")
        return line.decode()


@final
class SocketWire:
    """A connection to a running server.

    Args:
        encrypt: Gives the client's end of TLS over a stream.
        heard: What the server has said already.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        encrypt: Callable[[trio.abc.Stream], trio.SSLStream[trio.abc.Stream]],
        seconds: float = READ_SECONDS,
        heard: bytes = b"",
    ) -> None:
        self._socket = stream
        self._stream: trio.abc.Stream = stream
        self._encrypt = encrypt
        self._seconds = seconds
        self._heard = heard

    async def start_tls(self) -> None:
        encrypted = self._encrypt(self._socket)
        with trio.fail_after(self._seconds):
            await encrypted.do_handshake()
        self._stream = encrypted

    async def send(self, data: bytes) -> None:
        with trio.fail_after(self._seconds):
            await self._stream.send_all(data)

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.SSLStream):
            with trio.fail_after(self._seconds):
                _, rest = await self._stream.unwrap()
            assert not rest, "octets behind the end of TLS"
            self._stream = self._socket
        await self._socket.send_eof()

    async def receive(self) -> bytes:
        if self._heard:
            heard, self._heard = self._heard, b""
            return heard
        with trio.move_on_after(self._seconds):
            return bytes(await self._stream.receive_some(65_536))
        raise AssertionError("the server says nothing")
