"""An embedder's mistakes are LocalProtocolError and change nothing; close() and the end of file at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from fuzz.targets.smtp_server import Session, take_all
from tests.smtp.support import (
    DATA,
    EHLO,
    EVERYTHING,
    LHLO,
    LMTP_OPTIONS,
    MAIL,
    OPTIONS,
    RCPT,
    WAY_TO,
    codes,
    habits,
    in_state,
)
from trio_fcgimail.smtp import (
    NEED_DATA,
    PAUSED,
    Answerable,
    Authenticate,
    CloseReason,
    Connected,
    ConnectionClosed,
    DataBegun,
    Hello,
    LocalProtocolError,
    MailFrom,
    MessageChunk,
    MessageEnd,
    RcptTo,
    RemoteProtocolError,
    Reply,
    ServerConnection,
    ServerOptions,
    StartTls,
    State,
    Tls,
    Waiting,
    Xclient,
    catalogue,
)

# What makes the core ask, from which state, and what it then asks
QUESTIONS = [
    pytest.param(State.START, EHLO, Hello, id="hello"),
    pytest.param(State.READY, b"STARTTLS\r\n", StartTls, id="starttls"),
    pytest.param(State.READY, b"AUTH PLAIN AGEAYg==\r\n", Authenticate, id="auth"),
    pytest.param(State.SASL, b"AGEAYg==\r\n", Authenticate, id="sasl-response"),
    pytest.param(State.READY, b"XCLIENT LOGIN=a\r\n", Xclient, id="xclient"),
    pytest.param(State.READY, MAIL, MailFrom, id="mail"),
    pytest.param(State.MAIL, RCPT, RcptTo, id="rcpt"),
    pytest.param(State.RCPT, DATA, DataBegun, id="data"),
    pytest.param(State.RCPT, b"BDAT 0\r\n", DataBegun, id="bdat"),
    pytest.param(State.CHUNKING, b"BDAT 0 LAST\r\n", MessageEnd, id="end-of-chunks"),
    pytest.param(State.DATA, b".\r\n", MessageEnd, id="end-of-data"),
]
START_DATA = catalogue.START_DATA
OK = catalogue.OK
NO = catalogue.NO_SUCH_USER


def asked(state: State, wire: bytes, options: ServerOptions = EVERYTHING) -> tuple[ServerConnection, Answerable]:
    """A connection that waits for the answer to the event."""
    connection = in_state(state, options).connection
    connection.receive_data(wire)
    event = connection.next_event()
    assert isinstance(event, Hello | StartTls | Authenticate | Xclient | MailFrom | RcptTo | DataBegun | MessageEnd)
    return connection, event


def accept(connection: ServerConnection, event: Answerable) -> bytes:
    return connection.accept(event)


def reject(connection: ServerConnection, event: Answerable) -> bytes:
    return connection.reject(event, NO)


@pytest.mark.parametrize(("state", "wire", "kind"), QUESTIONS)
def test_wrong_answer_changes_nothing(state: State, wire: bytes, kind: type[Answerable]) -> None:
    connection, event = asked(state, wire)
    assert type(event) is kind
    other = MessageEnd(99)
    wrong: list[Callable[[], bytes]] = [
        lambda: connection.accept(event, NO),
        lambda: connection.accept(event, catalogue.SHUTTING_DOWN),
        lambda: connection.accept(event, OK if kind is DataBegun else START_DATA),
        lambda: connection.reject(event, OK),
        lambda: connection.reject(event, START_DATA),
        lambda: connection.accept(other),
        lambda: connection.reject(other, NO),
        lambda: connection.accept(Connected()),
        lambda: connection.close(OK),
        lambda: connection.close(NO),
    ]
    for act in wrong:
        with pytest.raises(LocalProtocolError):
            act()
        assert connection.next_event() is PAUSED
        assert connection.waiting_for is Waiting.ANSWER
        assert connection.state is state
    assert codes(connection.accept(event)) or wire == b"BDAT 0\r\n"


@pytest.mark.parametrize(("state", "wire", "kind"), QUESTIONS)
def test_answer_twice_is_refused(state: State, wire: bytes, kind: type[Answerable]) -> None:
    for answer in (accept, reject):
        connection, event = asked(state, wire)
        assert isinstance(event, kind)
        answer(connection, event)
        after = connection.state
        for again in (accept, reject):
            with pytest.raises(LocalProtocolError, match="does not wait"):
                again(connection, event)
        assert connection.state is after


def test_equal_event_is_not_the_event() -> None:
    connection, event = asked(State.MAIL, RCPT)
    assert isinstance(event, RcptTo)
    with pytest.raises(LocalProtocolError):
        connection.accept(RcptTo(event.path))


def test_event_that_needs_no_answer_is_refused() -> None:
    """A type checker says so first; an embedder without one gets the same error as for any other mistake."""
    connection, _ = asked(State.MAIL, RCPT)
    for stray in (MessageChunk(b"x"), None):
        with pytest.raises(LocalProtocolError):
            connection.accept(cast("MessageEnd", stray))


def test_answer_before_any_question() -> None:
    with pytest.raises(LocalProtocolError):
        ServerConnection(OPTIONS).accept(Connected())


def test_data_after_the_end_of_file() -> None:
    connection = in_state(State.READY).connection
    connection.receive_data(b"")
    for data in (b"", b"NOOP\r\n"):
        with pytest.raises(LocalProtocolError, match="end of file"):
            connection.receive_data(data)


# reply_each


def ended(options: ServerOptions = LMTP_OPTIONS) -> tuple[ServerConnection, MessageEnd]:
    session = in_state(State.RCPT, options)
    session.feed(RCPT + DATA)
    session.connection.receive_data(b".\r\n")
    event = session.connection.next_event()
    assert isinstance(event, MessageEnd)
    return session.connection, event


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param([], id="none"),
        pytest.param([OK], id="too-few"),
        pytest.param([OK, OK, OK], id="too-many"),
        pytest.param([OK, START_DATA], id="3xx-behind"),
        pytest.param([START_DATA, OK], id="3xx-first"),
    ],
)
def test_reply_each_with_wrong_replies(replies: list[Reply]) -> None:
    connection, event = ended()
    with pytest.raises(LocalProtocolError):
        connection.reply_each(event, replies)
    assert connection.next_event() is PAUSED
    assert codes(connection.reply_each(event, [OK, NO])) == ["250 2.0.0", "550 5.1.1"]
    with pytest.raises(LocalProtocolError):
        connection.reply_each(event, [])


def test_reply_each_is_not_for_smtp() -> None:
    connection, event = ended(OPTIONS)
    with pytest.raises(LocalProtocolError, match="smtp"):
        connection.reply_each(event, [OK])
    assert codes(connection.accept(event)) == ["250 2.0.0"]


# Closing


def moments() -> list[Session]:
    """Every state that a client can lead to, with nothing, half a command and half a chunk received."""
    sessions = [in_state(state) for state in WAY_TO]
    for state, rest in (
        (State.READY, b"NOO"),
        (State.READY, b"BDAT 9\r\nxyz"),
        (State.RCPT, b"BDAT 9\r\nxyz"),
        (State.CHUNKING, b"BDAT 9 LAST\r\nxyz"),
        (State.CHUNKS_REFUSED, b"BDAT 9\r\nxyz"),
        (State.READY, b"x" * 5000),
    ):
        session = in_state(state)
        session.feed(rest)
        sessions.append(session)
    return sessions


def test_close_between_events() -> None:
    """During a handshake nothing may be said: the client takes what comes for TLS (RFC 3207 4.1)."""
    for session in moments():
        said = [] if session.connection.state is State.TLS_PENDING else ["421 4.4.2"]
        assert codes(session.connection.close(catalogue.TIMED_OUT)) == said
        assert session.connection.next_event() == ConnectionClosed(CloseReason.REPLY)
        assert session.connection.waiting_for is Waiting.NOTHING
        with pytest.raises(LocalProtocolError, match="once"):
            session.connection.close(catalogue.TIMED_OUT)


def test_close_before_anything() -> None:
    connection = ServerConnection(OPTIONS)
    assert connection.waiting_for is Waiting.ANSWER
    assert codes(connection.close(catalogue.TOO_MANY_CONNECTIONS)) == ["421 4.7.0"]
    assert connection.next_event() == ConnectionClosed(CloseReason.REPLY)


@pytest.mark.parametrize(("state", "wire", "kind"), QUESTIONS)
def test_close_instead_of_an_answer(state: State, wire: bytes, kind: type[Answerable]) -> None:
    connection, event = asked(state, wire)
    assert isinstance(event, kind)
    assert codes(connection.close(catalogue.SHUTTING_DOWN)) == ["421 4.3.2"]
    with pytest.raises(LocalProtocolError):
        connection.accept(event)
    assert connection.next_event() == ConnectionClosed(CloseReason.REPLY)


def test_close_after_the_client_is_gone() -> None:
    session = in_state(State.READY)
    session.feed(b"")
    with pytest.raises(LocalProtocolError):
        session.connection.close(catalogue.TIMED_OUT)


# The end of file


@pytest.mark.parametrize("rest", [b"", b"MAIL FRO", b"NOOP\r"], ids=repr)
@pytest.mark.parametrize("state", WAY_TO)
def test_end_of_file_in_every_state(state: State, rest: bytes) -> None:
    session = in_state(state)
    session.play([*([rest] if rest else []), b""])
    in_handshake = state is State.TLS_PENDING  # then it is the embedder who learns of it
    assert session.events[-1] == ConnectionClosed(CloseReason.ERROR if in_handshake else CloseReason.EOF)
    assert codes(session.output) == []
    assert session.messages == []
    assert not session.connection.in_transaction


def test_end_of_file_waits_behind_what_came_before_it() -> None:
    connection = in_state(State.DATA).connection
    connection.receive_data(b"x\r\n.\r\nQUIT\r\n")
    connection.receive_data(b"")
    assert connection.next_event() == MessageChunk(b"x\r\n")
    end = connection.next_event()
    assert isinstance(end, MessageEnd)
    assert connection.next_event() is PAUSED
    assert codes(connection.accept(end)) == ["250 2.0.0"]
    connection.next_event()
    assert connection.next_event() == ConnectionClosed(CloseReason.QUIT)


def test_end_of_file_before_the_greeting() -> None:
    connection = ServerConnection(OPTIONS)
    connection.receive_data(b"")
    banner = connection.next_event()
    assert isinstance(banner, Connected)
    connection.accept(banner)
    assert connection.next_event() == ConnectionClosed(CloseReason.EOF)


# TLS


def test_handshake_is_not_the_core_s() -> None:
    connection, event = asked(State.RCPT, b"STARTTLS\r\n")
    assert connection.accept(event) == b"220 2.0.0 Ready to start TLS\r\n"
    assert (connection.tls, connection.waiting_for) == (Tls.AVAILABLE, Waiting.HANDSHAKE)
    for data in (b"\x16\3\1", b"NOOP\r\n", b""):
        assert connection.next_event() is PAUSED
        with pytest.raises(LocalProtocolError, match="for TLS"):
            connection.receive_data(data)
    connection.tls_started()
    assert (connection.tls, connection.waiting_for) == (Tls.ACTIVE, Waiting.COMMAND)
    assert connection.state is State.START
    assert connection.next_event() is NEED_DATA


def test_handshake_that_fails_closes_without_a_word() -> None:
    connection, event = asked(State.READY, b"STARTTLS\r\n")
    connection.accept(event)
    connection.tls_failed()
    assert connection.next_event() == ConnectionClosed(CloseReason.ERROR)
    assert connection.tls is Tls.AVAILABLE
    with pytest.raises(LocalProtocolError):
        connection.close(catalogue.TIMED_OUT)


@pytest.mark.parametrize("state", [state for state in WAY_TO if state is not State.TLS_PENDING])
def test_no_handshake_where_none_is_due(state: State) -> None:
    connection = in_state(state, EVERYTHING).connection
    for end in (connection.tls_started, connection.tls_failed):
        with pytest.raises(LocalProtocolError, match="no TLS handshake"):
            end()
    assert connection.state is state
    assert connection.tls is Tls.AVAILABLE


def test_no_handshake_before_its_reply_or_twice() -> None:
    connection, event = asked(State.READY, b"STARTTLS\r\n")
    with pytest.raises(LocalProtocolError, match="no TLS handshake"):
        connection.tls_started()
    connection.accept(event)
    connection.tls_started()
    for end in (connection.tls_started, connection.tls_failed):
        with pytest.raises(LocalProtocolError, match="no TLS handshake"):
            end()


def test_plaintext_that_arrives_while_the_event_waits() -> None:
    """Row 133: TLS has not begun, so what the client sent is not from behind it."""
    connection, event = asked(State.RCPT, b"STARTTLS\r\n")
    connection.receive_data(b"E")
    with pytest.raises(RemoteProtocolError) as caught:
        connection.accept(event)
    assert codes(caught.value.to_send) == ["554 5.5.1"]
    assert connection.state is State.CLOSED
    with pytest.raises(LocalProtocolError, match="does not wait"):
        connection.accept(event)
    with pytest.raises(LocalProtocolError, match="does not wait"):
        connection.reject(event, catalogue.TLS_NOT_AVAILABLE)
    assert connection.next_event() == ConnectionClosed(CloseReason.ERROR)


def test_plaintext_behind_a_starttls_that_is_refused_is_commands() -> None:
    connection, event = asked(State.READY, b"STARTTLS\r\n")
    connection.receive_data(MAIL)
    assert codes(connection.reject(event, catalogue.TLS_NOT_AVAILABLE)) == ["454 4.7.0"]
    assert isinstance(connection.next_event(), MailFrom)


def test_end_of_file_behind_starttls_is_not_the_end_of_tls() -> None:
    """The end of the clear stream says nothing of the one within TLS."""
    connection, event = asked(State.READY, b"STARTTLS\r\n")
    connection.receive_data(b"")
    connection.accept(event)
    connection.tls_started()
    connection.receive_data(EHLO)
    assert isinstance(connection.next_event(), Hello)


# What the core says of itself


def test_waiting_for_and_in_transaction() -> None:
    expected = {
        State.REFUSED: (Waiting.COMMAND, False),
        State.START: (Waiting.COMMAND, False),
        State.READY: (Waiting.COMMAND, False),
        State.MAIL: (Waiting.COMMAND, True),
        State.RCPT: (Waiting.COMMAND, True),
        State.DATA: (Waiting.DATA, True),
        State.CHUNKING: (Waiting.COMMAND, True),
        State.CHUNKS_REFUSED: (Waiting.COMMAND, True),
        State.SASL: (Waiting.COMMAND, False),
    }
    for state, answer in expected.items():
        connection = in_state(state).connection
        assert (connection.waiting_for, connection.in_transaction) == answer
        assert connection.next_event() is NEED_DATA


@pytest.mark.parametrize("hostname", ["", "a b", "a\r\nb", "b\u00fccher.example", "-a", "\ud800", "[1.2.3]"], ids=ascii)
def test_hostname_that_no_banner_can_hold(hostname: str) -> None:
    with pytest.raises(LocalProtocolError, match="no host name"):
        replace(OPTIONS, hostname=hostname)


def test_nobody_greets_twice() -> None:
    session = Session(LMTP_OPTIONS, take_all)
    assert codes(session.feed(LHLO)) == ["250"]
    assert [type(event) for event in session.events] == [Connected, Hello]
    assert codes(Session(LMTP_OPTIONS, habits).output) == ["220"]
