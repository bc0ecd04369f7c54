"""What the tests of the SMTP core share: rows, the ways to cut them, and an embedder with plain habits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, final

from fuzz.targets.smtp_server import MAX_PIECE_OCTETS, Judge, Piece, Session, read_replies, scenes, take_all
from trio_fcgimail.smtp import (
    LMTP,
    SMTP,
    Answerable,
    AuthChannel,
    Authenticate,
    Connected,
    Extension,
    MailFrom,
    Mechanism,
    MessageEnd,
    RcptTo,
    Reply,
    ServerOptions,
    State,
    Tls,
    XclientUse,
    catalogue,
)

OPTIONS: Final = ServerOptions(hostname="mx.example.com")
LMTP_OPTIONS: Final = ServerOptions(hostname="mx.example.com", dialect=LMTP)
PLAIN: Final = ServerOptions(hostname="mx.example.com", extensions=frozenset())
ALL: Final = frozenset(Extension)
NO_CHUNKING: Final = replace(OPTIONS, extensions=ALL - {Extension.CHUNKING, Extension.BINARYMIME})
STARTTLS_OPTIONS: Final = replace(OPTIONS, tls=Tls.AVAILABLE, auth_mechanisms=frozenset(Mechanism))
TLS_OPTIONS: Final = replace(STARTTLS_OPTIONS, tls=Tls.ACTIVE)
EVERYTHING: Final = replace(STARTTLS_OPTIONS, auth_channel=AuthChannel.ANY, xclient=XclientUse.ALLOWED)

EHLO: Final = b"EHLO client.example\r\n"
LHLO: Final = b"LHLO client.example\r\n"
MAIL: Final = b"MAIL FROM:<alice@example.net>\r\n"
RCPT: Final = b"RCPT TO:<bob@example.com>\r\n"
DATA: Final = b"DATA\r\n"

# How a client gets there; CONNECTED and CLOSED need none
WAY_TO: Final[Mapping[State, bytes]] = {
    State.REFUSED: b"",
    State.START: b"",
    State.READY: EHLO,
    State.MAIL: EHLO + MAIL,
    State.RCPT: EHLO + MAIL + RCPT,
    State.DATA: EHLO + MAIL + RCPT + DATA,
    State.CHUNKING: EHLO + MAIL + RCPT + b"BDAT 7\r\nhello\r\n",
    State.CHUNKS_REFUSED: EHLO + MAIL + RCPT + b"BDAT 6\r\nhello\n",  # the bare LF is 550
    State.SASL: EHLO + b"AUTH PLAIN\r\n",
    State.TLS_PENDING: EHLO + b"STARTTLS\r\n",
}
NEEDS: Final[Mapping[State, ServerOptions]] = {State.SASL: EVERYTHING, State.TLS_PENDING: EVERYTHING}


def habits(event: Answerable) -> Reply | None:
    """An embedder who refuses whom the local part calls bad (550, 535) or busy (451, 454), and takes all else."""
    match event:
        case MailFrom(path=path) | RcptTo(path=path) if path is not None:
            return {"bad": catalogue.NO_SUCH_USER, "busy": catalogue.LOCAL_ERROR}.get(path.local_part)
        case Authenticate(credentials=who):
            return {"bad": catalogue.BAD_CREDENTIALS, "busy": catalogue.AUTH_FAILED_FOR_NOW}.get(who.username)
        case _:
            return None


def turn_away(event: Answerable) -> Reply | None:
    """An embedder who greets nobody (RFC 5321 3.1)."""
    return Reply(554, None, ("No SMTP service here",)) if isinstance(event, Connected) else None


def refuse_message(event: Answerable) -> Reply | None:
    """An embedder who stores nothing."""
    return catalogue.LOCAL_ERROR if isinstance(event, MessageEnd) else None


def in_state(state: State, options: ServerOptions | None = None, judge: Judge = habits) -> Session:
    """A session that a client has led to ``state``; its output so far is forgotten."""
    options = options or NEEDS.get(state, OPTIONS)
    session = Session(options, turn_away if state is State.REFUSED else judge)
    way = WAY_TO[state].replace(EHLO, LHLO) if options.dialect is not SMTP else WAY_TO[state]
    if way:
        session.feed(way)
    assert session.connection.state is state
    session.output.clear()
    return session


def codes(data: bytes | bytearray) -> list[str]:
    """The replies in short, each as "250" or "250 2.1.0"."""
    return [str(reply) for reply in read_replies(bytes(data))]


class Cut(Enum):
    """How a row is received."""

    WHOLE = "whole"
    BYTEWISE = "byte by byte"
    BEHIND = "with more commands behind, in one piece"
    BEHIND_BYTEWISE = "with more commands behind, byte by byte"

    def pieces(self, wire: bytes, behind: bytes) -> Iterator[Piece]:
        match self:
            case Cut.WHOLE:
                yield from scenes(wire, [MAX_PIECE_OCTETS])
            case Cut.BYTEWISE:
                yield from scenes(wire, [1])
            case Cut.BEHIND:
                yield from scenes(wire + behind, [MAX_PIECE_OCTETS])
            case Cut.BEHIND_BYTEWISE:
                yield from scenes(wire + behind, [1])


# What is sent behind a row that ends in this state, what that must lead to, and in which state it ends if in another
BEHIND: Final[Mapping[State, tuple[bytes, list[str]]]] = {
    State.REFUSED: (b"NOOP\r\n", ["503 5.5.1"]),
    State.START: (b"NOOP\r\n", ["250 2.0.0"]),
    State.READY: (b"NOOP\r\nRSET\r\n", ["250 2.0.0", "250 2.0.0"]),
    State.MAIL: (b"NOOP\r\n", ["250 2.0.0"]),
    State.RCPT: (b"NOOP\r\n", ["250 2.0.0"]),
    State.DATA: (b"NOOP\r\n.\r\nNOOP\r\n", ["250 2.0.0", "250 2.0.0"]),
    State.CHUNKING: (b"NOOP\r\n", ["250 2.0.0"]),
    State.CHUNKS_REFUSED: (b"NOOP\r\n", ["250 2.0.0"]),
    State.SASL: (b"*\r\nNOOP\r\n", ["501 5.7.0", "250 2.0.0"]),
    State.TLS_PENDING: (b"<TLS>NOOP\r\n", ["250 2.0.0"]),
    State.CLOSED: (b"NOOP\r\n", []),
}
AFTER_BEHIND: Final = {State.DATA: State.READY, State.SASL: State.READY, State.TLS_PENDING: State.START}


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One line of a protocol table.

    ``replies`` are separated by bars; one without an enhanced code must carry none (RFC 2034 4). ``<TLS>`` and
    ``<NO TLS>`` in ``wire`` stand for the end of a handshake.
    """

    id: str
    start: State
    wire: bytes
    replies: str
    end: State
    why: str
    options: ServerOptions | None = None
    judge: Judge = habits

    def play(self, how: Cut) -> Session:
        """Play the row, and check its replies and where it leads."""
        behind, more = BEHIND[self.end]
        session = in_state(self.start, self.options, self.judge)
        session.play(how.pieces(self.wire, behind))
        expected = [reply.strip() for reply in self.replies.split("|") if reply.strip()]
        followed = how in (Cut.BEHIND, Cut.BEHIND_BYTEWISE)
        assert codes(session.output) == expected + (more if followed else []), self.why
        end = AFTER_BEHIND.get(self.end, self.end) if followed else self.end
        assert session.connection.state is end, self.why
        return session


__all__ = [
    "ALL",
    "DATA",
    "EHLO",
    "EVERYTHING",
    "LHLO",
    "LMTP_OPTIONS",
    "MAIL",
    "NO_CHUNKING",
    "OPTIONS",
    "PLAIN",
    "RCPT",
    "STARTTLS_OPTIONS",
    "TLS_OPTIONS",
    "WAY_TO",
    "Cut",
    "Row",
    "codes",
    "habits",
    "in_state",
    "refuse_message",
    "take_all",
    "turn_away",
]
