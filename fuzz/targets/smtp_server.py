"""The SMTP and LMTP server core under any octets, cut in any way, answered in any way.

``Session`` is an embedder that asserts the invariants at every step; the tests of the core talk through it as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import cycle
from typing import Final, assert_never, final

from trio_fcgimail.smtp import (
    LMTP,
    MAX_BUFFER_OCTETS,
    MAX_SASL_OCTETS,
    NEED_DATA,
    PAUSED,
    SMTP,
    Answerable,
    AuthChannel,
    Authenticate,
    BareNewline,
    BodyType,
    CloseReason,
    CommandAnswered,
    CommandRejected,
    Connected,
    ConnectionClosed,
    Credentials,
    DataBegun,
    DataCommand,
    Event,
    Extension,
    Hello,
    MailFrom,
    Mechanism,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    Outcome,
    Paths,
    RcptTo,
    RemoteProtocolError,
    RepliesAtEnd,
    Reply,
    Secret,
    ServerConnection,
    ServerOptions,
    StartTls,
    State,
    Tls,
    TransactionReset,
    Waiting,
    Xclient,
    XclientUse,
    catalogue,
)

MAX_PIECE_OCTETS: Final = MAX_BUFFER_OCTETS - MAX_SASL_OCTETS  # always taken at NEED_DATA

_REPLY_LINE: Final = re.compile(
    r"(?P<code>[2-5][0-9]{2})"
    r"(?:(?P<more>[ -])(?:(?P<enhanced>[245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$))?(?P<text>[^\x00-\x1f\x7f-\x9f]*))?"
)
_BARE_NEWLINE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")

_CATALOGUE: Final = frozenset(reply for reply in vars(catalogue).values() if isinstance(reply, Reply))


class Handshake(Enum):
    """How a TLS handshake ends: in a wire a mark, which is no octet of the client and counts only where one is due."""

    DONE = b"<TLS>"
    FAILED = b"<NO TLS>"


Piece = bytes | Handshake
Trace = tuple[bytes, tuple[Event, ...], tuple[bytes, ...], Reply | None]
Judge = Callable[[Answerable], Reply | None]  # None accepts with the default reply
_HANDSHAKES: Final = {one.value: one for one in Handshake}
_MARKS: Final = re.compile(b"(" + b"|".join(_HANDSHAKES) + b")")


@final
@dataclass(frozen=True, slots=True)
class WireReply:
    """One reply as a client reads it."""

    code: int
    enhanced: str | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.code) if self.enhanced is None else f"{self.code} {self.enhanced}"


def read_replies(data: bytes) -> list[WireReply]:
    """Read what the server wrote as a strict client would (RFC 5321 4.2.1); fails on anything that is no reply."""
    replies: list[WireReply] = []
    lines: list[str] = []
    *whole, rest = data.split(b"\r\n")
    assert not rest, f"a reply line without its end: {rest!r}"
    codes: tuple[str, str | None] | None = None
    for line in whole:
        assert len(line) <= 510, f"a reply line of {len(line) + 2} octets"
        found = _REPLY_LINE.fullmatch(line.decode())
        assert found is not None, f"not a reply line: {line!r}"
        here = (found["code"], found["enhanced"])
        assert codes is None or codes == here, f"the codes differ within a reply: {codes} and {here}"
        assert here[1] is None or here[1][0] == here[0][0], f"the classes of {here} differ"
        lines.append(found["text"] or "")
        codes = here
        if found["more"] != "-":
            replies.append(WireReply(int(here[0]), here[1], tuple(lines)))
            lines, codes = [], None
    assert codes is None, "the last line of a reply is missing"
    return replies


def take_all(_event: Answerable) -> Reply | None:
    """The judge who accepts everything."""
    return None


@final
class Session:
    """A connection with an embedder that does what ``judge`` says.

    Attributes:
        output: everything that was written to the client.
        events: all events in order, without the chunks.
        messages: the content of every message whose end was seen, in order, accepted or not.
        lost: the reply of the RemoteProtocolError that ended the session, if one did.
        overheard: what the trace was before a STARTTLS behind which the client sent more in the clear.
    """

    def __init__(self, options: ServerOptions, judge: Judge = take_all) -> None:
        self.connection = ServerConnection(options)
        self.output = bytearray()
        self.events: list[Event] = []
        self.messages: list[bytes] = []
        self.lost: Reply | None = None
        self.overheard: Trace | None = None
        self._before_tls: Trace = (b"", (), (), None)
        self._has_login = False
        self._judge = judge
        self._chunks: list[bytes] = []
        self._recipients = 0
        self._body: BodyType | None = None
        self._by = DataCommand.DATA
        self._refusal: Reply | None = None  # of the message under way, if it comes by BDAT
        self._octets = 0
        self._turns = 0
        self._pump()

    @property
    def closed(self) -> bool:
        return self.connection.state is State.CLOSED

    @property
    def trace(self) -> Trace:
        """All that must not depend on how the octets were cut, unless something was overheard."""
        return bytes(self.output), tuple(self.events), tuple(self.messages), self.lost

    def feed(self, data: bytes) -> bytes:
        """Receive one piece (``b""`` is the end of file) and go on until more is needed; returns what was written.

        What comes in place of a TLS handshake makes it fail.
        """
        if self.connection.state is State.TLS_PENDING:
            self.overheard = self._before_tls if data else None
            self.shake_hands(Handshake.FAILED)
            return b""
        before = len(self.output)
        self.connection.receive_data(data)
        self._octets += len(data)
        self._pump()
        return bytes(self.output[before:])

    def shake_hands(self, end: Handshake) -> None:
        """End the TLS handshake, if one is due."""
        connection = self.connection
        if connection.state is not State.TLS_PENDING:
            return
        match end:
            case Handshake.DONE:
                connection.tls_started()
                self._check_nothing_is_left()
            case Handshake.FAILED:
                connection.tls_failed()
                self._pump()
                assert self.closed
            case _:
                assert_never(end)

    def _check_nothing_is_left(self) -> None:
        """After TLS began."""
        connection = self.connection
        assert connection.tls is Tls.ACTIVE
        assert connection.state is State.START
        assert not connection.in_transaction
        assert connection.next_event() is NEED_DATA, "something from before TLS is left"
        self._has_login = False
        self._forget()

    def play(self, pieces: Iterable[Piece]) -> None:
        """Receive the pieces, as long as anybody listens."""
        for piece in pieces:
            if self.closed:
                return
            if isinstance(piece, Handshake):
                self.shake_hands(piece)
            else:
                self.feed(piece)

    def _pump(self) -> None:
        connection = self.connection
        while True:
            try:
                event = connection.next_event()
            except RemoteProtocolError as exc:
                self._lose(exc)
                continue
            if event is NEED_DATA:
                assert connection.waiting_for in (Waiting.COMMAND, Waiting.DATA)
                return
            if event is PAUSED:
                assert connection.state is State.TLS_PENDING, "paused, though everything was answered"
                assert connection.waiting_for is Waiting.HANDSHAKE
                return
            self._turns += 1
            assert self._turns <= self._octets + 2, "more events than octets: an endless loop"
            if isinstance(event, StartTls):
                self._before_tls = self.trace
            if not isinstance(event, MessageChunk):
                self.events.append(event)
            self._take(event)
            if isinstance(event, ConnectionClosed):
                return

    def _lose(self, error: RemoteProtocolError) -> None:
        assert self.lost is None
        assert self.closed
        assert error.reply.code >= 400
        if error.reply == catalogue.PLAINTEXT_BEHIND_STARTTLS:
            self.overheard = self.trace
        self.lost = error.reply
        (written,) = self._write(error.to_send, 1)
        assert written.code == error.reply.code
        assert self.connection.next_event() == ConnectionClosed(CloseReason.ERROR)

    def _take(self, event: Event) -> None:
        match event:
            case Authenticate(credentials=credentials):
                self._check_login(event, credentials)
                self._answer(event)
            case Connected() | Hello() | StartTls() | Xclient() | MailFrom() | RcptTo() | DataBegun() | MessageEnd():
                self._answer(event)
            case MessageChunk(data=data):
                assert data
                assert (b"".join(self._chunks[-1:])[-1:], data[:1]) != (b"\r", b"\n"), "a CRLF was split"
                assert self._body is BodyType.BINARY_MIME or not data.endswith(b"\r"), "a CRLF may have been split"
                self._chunks.append(data)
            case MessageRefused(reply=reply, to_send=to_send):
                self._refused(reply, to_send)
            case TransactionReset(to_send=to_send):
                self._write(to_send, 1)
                self._forget()
            case CommandAnswered(reply=reply, to_send=to_send) | CommandRejected(reply=reply, to_send=to_send):
                (written,) = self._write(to_send, 1)
                assert written.code == reply.code
                assert reply in _CATALOGUE, "a reply of the core's own that may hold something of the client"
            case ConnectionClosed():
                assert self.closed
                assert self.connection.waiting_for is Waiting.NOTHING
                assert self.connection.next_event() == event
            case _:
                assert_never(event)

    def _check_login(self, event: Authenticate, credentials: Credentials) -> None:
        """Nobody logs in twice, within a mail or in the clear unasked; and no password can be seen."""
        connection, options = self.connection, self.connection.options
        assert not self._has_login
        assert not connection.in_transaction
        assert connection.tls is Tls.ACTIVE or options.auth_channel is AuthChannel.ANY
        assert credentials.mechanism in options.auth_mechanisms
        assert credentials.username
        assert credentials.password.reveal()
        assert max(len(credentials.username.encode()), len(credentials.identity.encode())) <= 255
        for text in (credentials.identity, credentials.username, credentials.password.reveal()):
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
        other = Authenticate(replace(credentials, password=Secret("another")))
        assert repr(event) == repr(other), "the password shows"

    def _answer(self, event: Answerable) -> None:
        connection = self.connection
        assert connection.next_event() is PAUSED
        assert connection.waiting_for is Waiting.ANSWER
        if isinstance(event, MessageEnd):
            self._end(event)
            return
        verdict = self._judge(event)
        accepted = verdict is None or verdict.outcome in (Outcome.OK, Outcome.GO)
        to_send = (
            connection.accept(event, verdict) if verdict is None or accepted else connection.reject(event, verdict)
        )
        answered_later = isinstance(event, DataBegun) and event.by is DataCommand.BDAT and not self.closed
        self._write(to_send, 0 if answered_later else 1)
        if answered_later and not accepted:
            self._refusal = verdict
        if accepted and isinstance(event, Hello | MailFrom | Xclient):
            self._forget()
        if accepted and isinstance(event, Authenticate):
            self._has_login = True
        if accepted and isinstance(event, Xclient):
            self._has_login = isinstance(event.attributes.login, str)
        if accepted and isinstance(event, MailFrom):
            self._body = event.body
        if accepted and isinstance(event, RcptTo):
            self._recipients += 1
        if accepted and isinstance(event, DataBegun):
            self._by = event.by

    def _refused(self, reply: Reply, to_send: bytes) -> None:
        """The first refusal of a message is the one of all its chunks; only its end is for each recipient."""
        assert self._refusal is None or self._refusal == reply
        if self.connection.state is State.CHUNKS_REFUSED:
            self._write(to_send, 1)
            self._refusal = reply
            self._chunks.clear()
        else:
            self._write(to_send, self._owed_at_end())
            self._forget()

    def _end(self, event: MessageEnd) -> None:
        connection = self.connection
        content = b"".join(self._chunks)
        limit = connection.options.max_message_octets
        assert event.octets == len(content)
        assert limit is None or len(content) <= limit
        assert self._refusal is None
        assert self._body is BodyType.BINARY_MIME or _BARE_NEWLINE.search(content) is None
        assert self._by is DataCommand.BDAT or not content or content.endswith(b"\r\n")
        self.messages.append(content)
        if connection.options.dialect.replies_at_end is RepliesAtEnd.EACH:
            replies = [self._judge(event) or catalogue.OK for _ in range(self._recipients)]
            self._write(connection.reply_each(event, replies), self._recipients)
        elif (verdict := self._judge(event)) is None:
            self._write(connection.accept(event), 1)
        else:
            self._write(connection.reject(event, verdict), 1)
        self._forget()

    def _owed_at_end(self) -> int:
        each = self.connection.options.dialect.replies_at_end is RepliesAtEnd.EACH
        return self._recipients if each else 1

    def _forget(self) -> None:
        self._chunks.clear()
        self._recipients = 0
        self._body = self._refusal = None

    def _write(self, to_send: bytes, owed: int) -> list[WireReply]:
        replies = read_replies(to_send)
        assert len(replies) == owed, f"{owed} replies are owed: {to_send!r}"
        self.output += to_send
        return replies


# One octet each of the first eight; "0" is the quiet choice for all, so that the corpus can be read and written by hand
_HEADER_OCTETS: Final = 8
_VERDICTS: Final[tuple[Reply | None, ...]] = (
    *(None,) * 10,
    catalogue.LOCAL_ERROR,
    catalogue.INSUFFICIENT_STORAGE,
    catalogue.NO_SUCH_USER,
    catalogue.RELAY_DENIED,
    catalogue.MAIL_LOOP.with_lines("two lines,", "the second of which is gr\u00fcn"),
    catalogue.SHUTTING_DOWN,
)
_NEWLINES: Final = (BareNewline.REJECT, BareNewline.CLOSE, BareNewline.NORMALIZE, BareNewline.REJECT)


def options_from(profile: int, channel: int) -> ServerOptions:
    """What two octets choose.

    Args:
        profile: bit 0 LMTP, bits 1 and 2 the bare newlines, bit 3 small limits, bit 6 no extensions, bit 7 lenient
            paths.
        channel: bit 0 STARTTLS, bit 1 TLS from the beginning, bit 2 PLAIN and LOGIN, bit 3 both in the clear too,
            bit 6 XCLIENT, bit 7 PLAIN is not spoken.
    """
    small = bool(profile & 8)
    spoken = frozenset(Mechanism) - ({Mechanism.PLAIN} if channel & 128 else set())
    return ServerOptions(
        hostname="mx.example.com",
        dialect=LMTP if profile & 1 else SMTP,
        bare_newline=_NEWLINES[profile >> 1 & 3],
        extensions=frozenset() if profile & 64 else frozenset(Extension),
        paths=Paths.LENIENT if profile & 128 else Paths.STRICT,
        tls=Tls.ACTIVE if channel & 2 else Tls.AVAILABLE if channel & 1 else Tls.NONE,
        auth_mechanisms=spoken if channel & 4 else frozenset(),
        auth_channel=AuthChannel.ANY if channel & 8 else AuthChannel.TLS_ONLY,
        xclient=XclientUse.ALLOWED if channel & 64 else XclientUse.REFUSED,
        max_message_octets=64 if small else 4096,
        max_recipients=2 if small else 100,
        max_messages=2 if small else None,
        max_bad_commands=3 if small else None,
        max_refused_recipients=2 if small else None,
        max_failed_logins=2 if small else None,
    )


def judge_from(verdicts: bytes) -> Judge:
    """Half an octet for each answer, over and over: 0 to 9 accept, A and B are 4xx, C to E 5xx, F closes.

    A 5xx to AUTH is 535.
    """
    turn = cycle([half for octet in verdicts for half in (octet >> 4, octet & 15)])
    first = iter([True])  # the banner is for all: a session that greets nobody shows little

    def judge(event: Answerable) -> Reply | None:
        verdict = None if next(first, False) else _VERDICTS[next(turn)]
        if verdict is not None and verdict.code >= 500 and isinstance(event, Authenticate):
            return catalogue.BAD_CREDENTIALS
        return verdict

    return judge


def cut(wire: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The octets in pieces of these sizes, over and over."""
    at = 0
    for size in cycle(sizes):
        if at >= len(wire):
            return
        yield wire[at : at + size]
        at += size


def scenes(wire: bytes, sizes: Sequence[int]) -> Iterator[Piece]:
    """The octets in pieces of these sizes, none of them beyond a mark of a handshake, and the marks."""
    for part in _MARKS.split(wire):
        if part in _HANDSHAKES:
            yield _HANDSHAKES[part]
        else:
            yield from cut(part, sizes)


def assert_cutting_shows_nowhere(whole: Session, split: Session) -> None:
    """Both got the same octets, ``whole`` in as few pieces as can be.

    Only more in the clear behind STARTTLS makes a difference: it may have arrived before TLS was looked for, or after.
    What came before it is the same even then.
    """
    if whole.overheard is None:
        assert split.trace == whole.trace, "the way of cutting shows"
        return
    output, events, messages, _ = whole.overheard
    assert split.output.startswith(output), "the way of cutting shows before STARTTLS"
    assert tuple(split.events[: len(events)]) == events
    assert tuple(split.messages[: len(messages)]) == messages


def run(options: ServerOptions, judge: Judge, pieces: Iterable[Piece]) -> Session:
    """A session from its banner to its end of file."""
    session = Session(options, judge)
    session.play(pieces)
    session.play([b""])
    assert session.closed
    return session


def check(data: bytes) -> None:
    """Header: profile, channel, four octets of verdicts, two of piece sizes; the rest comes from the client.

    ``<TLS>`` and ``<NO TLS>`` in the rest stand for the end of a handshake.

    Invariants:
        - Nothing but RemoteProtocolError ever escapes, and after it the connection is closed.
        - Output, events and messages do not depend on how the octets were cut, up to a STARTTLS with more behind it.
        - After TLS began nothing is left of what came before; octets in place of a handshake are never commands.
        - A login comes once, never within a mail, in the clear only where that was chosen; no reply and no repr of an
          event holds a password.
        - No more events than octets: no endless loop; the core pauses until its event is answered.
        - At NEED_DATA the buffer has room for all but a command line.
        - Every output line is part of a valid reply; each event owes as many replies as its RFC says.
        - Content holds no bare newline (save BINARYMIME), ends with CRLF (save by BDAT), is within the limit, and no
          piece ends within a CRLF.
        - What was refused once stays refused, by the same reply, to its last chunk.
    """
    header, wire = data[:_HEADER_OCTETS].ljust(_HEADER_OCTETS, b"0"), data[_HEADER_OCTETS:]
    options, verdicts = options_from(header[0], header[1]), header[2:6]
    sizes = [octet % 32 + 1 for octet in header[6:8]]
    whole = run(options, judge_from(verdicts), scenes(wire, [MAX_PIECE_OCTETS]))
    for sizes_here in ([1], sizes):
        assert_cutting_shows_nowhere(whole, run(options, judge_from(verdicts), scenes(wire, sizes_here)))
