"""Transcripts played on the protocol core alone, by an embedder without any input or output."""

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import Final, assert_never, final

from tests.playing import Scripts, envelope_line
from tests.transcripts import Mail, Transcript
from trio_fcgimail import mail, smtp
from trio_fcgimail.mail import Answer, Envelope, Peer, Stage, Unexpected, Verdict
from trio_fcgimail.server.entrance import server_options
from trio_fcgimail.server.policy import recipient_refusal, sender_refusal
from trio_fcgimail.smtp import Outcome, Reply, catalogue

_STARTTLS: Final = b"STARTTLS\r\n"
_TLS: Final = mail.TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384")  # what OpenSSL's two ends agree on


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
                # What follows STARTTLS in one write comes with it; apart from it, it would be meant for TLS.
                singly = found + len(_STARTTLS) - 1 if (found := data.find(_STARTTLS)) >= 0 else len(data)
                yield from (data[at : at + 1] for at in range(singly))
                if rest := data[singly:]:
                    yield rest
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
        self._facts = self._new_facts()
        self._envelope = Envelope(queue_id="ID", session=self._facts, mail_from=None)
        self._content: list[bytes] = []
        self._run()

    async def start_tls(self) -> None:
        assert not self._out, f"before the handshake, the server said more: {self._out!r}"
        self._core.tls_started()
        self._facts = self._new_facts()
        self._run()

    async def send(self, data: bytes) -> None:
        for piece in self._cut.pieces(data):
            match self._core.state:
                case smtp.State.CLOSED:
                    return
                case smtp.State.TLS_PENDING:  # and this is no handshake
                    self._core.tls_failed()
                    return
                case _:
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

    def _new_facts(self) -> mail.Session:
        dialect, tls = self._core.options.dialect, self._core.tls
        return mail.Session(Peer("192.0.2.1", 4242), dialect=dialect, tls=_TLS if tls is smtp.Tls.ACTIVE else None)

    def _run(self) -> None:
        while True:
            try:
                event = self._core.next_event()
                match event:
                    case smtp.Signal.NEED_DATA | smtp.ConnectionClosed():
                        return
                    case smtp.Signal.PAUSED:
                        assert self._core.state is smtp.State.TLS_PENDING, "everything was answered"
                        return
                    case _:
                        self._out += self._handle(event)
            except smtp.RemoteProtocolError as exc:
                self._out += exc.to_send
                return

    def _handle(self, event: smtp.Event) -> bytes:
        core = self._core
        match event:
            case smtp.Connected():
                return self._answer(event, self._connection())
            case smtp.Hello(word=word, domain=domain):
                reply = self._ask(Stage.HELO, domain)
                if reply.outcome is Outcome.OK:
                    self._facts = replace(self._facts, greeting=word, helo=domain)
                    return core.accept(event)
                return core.reject(event, reply)
            case smtp.StartTls() | smtp.DataBegun():
                return core.accept(event)
            case smtp.Authenticate(credentials=credentials):
                return self._answer(event, self._login(credentials))
            case smtp.MailFrom():
                return self._answer(event, self._sender(event))
            case smtp.RcptTo():
                return self._recipient(event)
            case smtp.MessageChunk(data=data):
                self._content.append(data)
                return b""
            case smtp.MessageEnd():
                return self._end(event)
            case smtp.ConnectionClosed() | smtp.Xclient():
                raise AssertionError(f"{event} is not for here")
            case _:
                return event.to_send

    def _answer(self, event: smtp.Answerable, reply: Reply) -> bytes:
        if reply.outcome is not Outcome.OK:
            return self._core.reject(event, reply)
        return self._core.accept(event, None if isinstance(event, smtp.Connected) else reply)

    def _connection(self) -> Reply:
        return self._ask(Stage.CONNECT) if self._listener.accepts_mail else catalogue.HOST_TAKES_NO_MAIL

    def _login(self, credentials: smtp.Credentials) -> Reply:
        user = credentials.username
        if credentials.identity not in ("", user):
            return catalogue.BAD_CREDENTIALS
        reply = self._ask(Stage.AUTH, f"{user}:{credentials.password.reveal()}")
        if reply.outcome is Outcome.OK:
            self._facts = replace(self._facts, auth_user=user)
        return reply

    def _sender(self, event: smtp.MailFrom) -> Reply:
        if self._listener.require_auth and self._facts.auth_user is None:
            return catalogue.AUTH_REQUIRED
        self._envelope = Envelope(
            queue_id="ID",
            session=self._facts,
            mail_from=event.path,
            body_type=event.body,
            smtputf8=event.smtputf8,
            dsn_return=event.dsn_return,
            envelope_id=event.envelope_id,
            require_tls=event.require_tls,
        )
        self._content.clear()
        return sender_refusal(event.path) or self._ask(Stage.MAIL, self._envelope.sender or "<>")

    def _recipient(self, event: smtp.RcptTo) -> bytes:
        domain = event.path.domain
        path = event.path if domain is not None else smtp.Mailbox(event.path.local_part, self._settings.hostname)
        refusal = recipient_refusal(event.path, self._settings)
        if (
            refusal is catalogue.RELAY_DENIED
            and self._listener.auth_any_recipient
            and self._facts.auth_user is not None
        ):
            refusal = None
        reply = catalogue.RECIPIENT_OK if refusal is None else refusal
        if domain is not None and refusal is None:
            reply = self._ask(Stage.VALIDATE, str(path))
        if reply.outcome is not Outcome.OK:
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
        answer = self._scripts.save(Mail(envelope_line(values), content, values))
        lines = answer.split(b"\n")
        if self._core.options.dialect is smtp.LMTP and len(lines) == len(self._envelope.recipients):
            return self._core.reply_each(event, [self._judge(Stage.SAVE, line).reply for line in lines])
        reply = self._judge(Stage.SAVE, answer).reply
        if reply.outcome is Outcome.OK:
            return self._core.accept(event, reply)
        return self._core.reject(event, reply)

    def _ask(self, stage: Stage, about: str = "") -> Reply:
        return self._judge(stage, self._scripts.ask(stage, about)).reply

    def _judge(self, stage: Stage, output: bytes) -> Verdict:
        unexpected = Unexpected(self._settings.scripts.unexpected_output.value)
        return mail.judge(stage, Answer(200, output, b""), unexpected=unexpected, queue_id="ID")
