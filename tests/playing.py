"""Transcripts played over a `Wire`: the core alone is one, a socket of a running server is another.

Both have scripts that answer by the settings of the transcript.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import Enum
from typing import Final, Protocol, assert_never, final

import trio

from tests.support import Request
from tests.transcripts import ClientCloses, Expect, Mail, Send, ServerCloses, Transcript
from trio_fcgimail import mail, smtp
from trio_fcgimail.mail import Answer, Envelope, Peer, Stage, Unexpected, Verdict
from trio_fcgimail.server.entrance import server_options
from trio_fcgimail.server.policy import recipient_refusal, sender_refusal

READ_SECONDS: Final = 10.0  # until a server that says nothing has failed

_TRACE: Final = re.compile(rb"Received: .*?\r\n(?![ \t])", re.DOTALL)
_ANY_LINES: Final = " ..."


@final
class Scripts:
    """The two scripts as a transcript wants them.

    Attributes:
        mails: What the save script got.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.mails: list[Mail] = []
        self._validate = transcript.validate
        self._save = transcript.save

    def validate(self, recipient: str) -> bytes:
        """Answer the question for a recipient."""
        return self._validate.get(recipient, b"PASSED")

    def save(self, got: Mail) -> bytes:
        """Take a mail."""
        self.mails.append(got)
        return self._save[min(len(self.mails), len(self._save)) - 1] if self._save else b"SAVED"

    def answer(self, request: Request) -> bytes:
        """Answer a request of a server."""
        if not request.is_post:
            return self.validate(request.fields["rcpt_to"])
        values = {name: value.encode("latin-1").decode() for name, value in request.fields.items() if name != "body"}
        body = request.fields["body"].encode("latin-1")
        trace = _TRACE.match(body)
        assert trace is not None, "no trace header"
        return self.save(Mail(_envelope(values), body[trace.end() :], values))


def _envelope(values: Mapping[str, str]) -> str:
    recipients = [values[name] for name in sorted(values, key=lambda name: (len(name), name)) if _is_recipient(name)]
    return " ".join([f"<{values['mail_from']}> ->", *(f"<{recipient}>" for recipient in recipients)])


def _is_recipient(name: str) -> bool:
    return re.fullmatch(r"rcpt_to_[0-9]+", name) is not None


class Wire(Protocol):
    """What a transcript is played over."""

    async def send(self, data: bytes) -> None:
        """Write."""

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
    """A connection to a running server."""

    def __init__(self, stream: trio.SocketStream, seconds: float = READ_SECONDS) -> None:
        self._stream = stream
        self._seconds = seconds

    async def send(self, data: bytes) -> None:
        with trio.fail_after(self._seconds):
            await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive(self) -> bytes:
        with trio.move_on_after(self._seconds):
            return bytes(await self._stream.receive_some(65_536))
        raise AssertionError("the server says nothing")


class Cut(Enum):
    """How the core receives what a client wrote at once."""

    WHOLE = "in one piece"
    BYTEWISE = "octet by octet"

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The pieces."""
        match self:
            case Cut.WHOLE:
                yield data
            case Cut.BYTEWISE:
                yield from (data[at : at + 1] for at in range(len(data)))
            case _:
                assert_never(self)


@final
class CoreWire:
    """The core alone, with an embedder that keeps to the settings of the transcript and has its scripts."""

    def __init__(self, transcript: Transcript, scripts: Scripts, cut: Cut) -> None:
        self._settings = transcript.configuration("127.0.0.1:2525", "unix:/run/none")
        self._listener = self._settings.listeners[0]
        options = server_options(self._settings, self._listener)
        self._core = smtp.ServerConnection(options)
        self._scripts = scripts
        self._cut = cut
        self._out = b""
        self._facts = mail.Session(Peer("192.0.2.1", 4242), smtp.GreetingWord.HELO, "none")
        self._envelope = Envelope(queue_id="ID", session=self._facts, mail_from=None)
        self._content: list[bytes] = []
        self._run()

    async def send(self, data: bytes) -> None:
        for piece in self._cut.pieces(data):
            if self._core.state is smtp.State.CLOSED:
                return
            self._core.receive_data(piece)
            self._run()

    async def send_eof(self) -> None:
        assert self._core.state is not smtp.State.CLOSED, "the server has closed already"
        self._core.receive_data(b"")
        self._run()

    async def receive(self) -> bytes:
        said, self._out = self._out, b""
        assert said or self._core.state is smtp.State.CLOSED, "the server says nothing"
        return said

    def _run(self) -> None:
        while True:
            try:
                event = self._core.next_event()
            except smtp.RemoteProtocolError as exc:
                self._out += exc.to_send
                return
            match event:
                case smtp.Signal.NEED_DATA | smtp.ConnectionClosed():
                    return
                case smtp.Signal.PAUSED:
                    raise AssertionError("everything was answered")
                case _:
                    self._out += self._handle(event)

    def _handle(self, event: smtp.Event) -> bytes:
        core = self._core
        match event:
            case smtp.Connected() if not self._listener.accepts_mail:
                return core.reject(event, smtp.catalogue.HOST_TAKES_NO_MAIL)
            case smtp.Connected() | smtp.DataBegun():
                return core.accept(event)
            case smtp.Hello(word=word, domain=domain):
                self._facts = replace(self._facts, greeting=word, helo=domain)
                return core.accept(event)
            case smtp.MailFrom(path=path) if (refusal := sender_refusal(path)) is not None:
                return core.reject(event, refusal)
            case smtp.MailFrom():
                self._envelope = Envelope(
                    queue_id="ID",
                    session=self._facts,
                    mail_from=event.path,
                    body_type=event.body,
                    smtputf8=event.smtputf8,
                    dsn_return=event.dsn_return,
                    envelope_id=event.envelope_id,
                )
                self._content.clear()
                return core.accept(event)
            case smtp.RcptTo():
                return self._recipient(event)
            case smtp.MessageChunk(data=data):
                self._content.append(data)
                return b""
            case smtp.MessageEnd():
                return self._end(event)
            case smtp.ConnectionClosed():
                return b""
            case _:
                return event.to_send

    def _recipient(self, event: smtp.RcptTo) -> bytes:
        domain = event.path.domain
        path = event.path if domain is not None else smtp.Mailbox(event.path.local_part, self._settings.hostname)
        refusal = recipient_refusal(event.path, self._settings)
        reply = smtp.catalogue.RECIPIENT_OK if refusal is None else refusal
        if domain is not None and refusal is None:
            reply = self._judge(Stage.VALIDATE, self._scripts.validate(str(path))).reply
        if reply.outcome is not smtp.Outcome.OK:
            return self._core.reject(event, reply)
        envelope = self._envelope
        self._envelope = replace(
            envelope,
            recipients=(*envelope.recipients, path),
            dsn_wishes=(*envelope.dsn_wishes, mail.DsnWish(event.notify, event.original)),
        )
        return self._core.accept(event, reply)

    def _end(self, event: smtp.MessageEnd) -> bytes:
        content = b"".join(self._content)
        values = dict(mail.save_fields(self._envelope, mail.Received(subject="", digest="", size=len(content))))
        answer = self._scripts.save(Mail(_envelope(values), content, values))
        lines = answer.split(b"\n")
        if self._core.options.dialect is smtp.LMTP and len(lines) == len(self._envelope.recipients):
            return self._core.reply_each(event, [self._judge(Stage.SAVE, line).reply for line in lines])
        reply = self._judge(Stage.SAVE, answer).reply
        if reply.outcome is smtp.Outcome.OK:
            return self._core.accept(event, reply)
        return self._core.reject(event, reply)

    def _judge(self, stage: Stage, output: bytes) -> Verdict:
        unexpected = Unexpected(self._settings.scripts.unexpected_output.value)
        return mail.judge(stage, Answer(200, output, b""), unexpected=unexpected, queue_id="ID")
