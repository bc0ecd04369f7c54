"""The state table: total, closed, and what the connection really does in every state with every verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Final

import pytest

from fuzz.targets.smtp_server import Handshake, Session
from tests.smtp.support import (
    DATA,
    EHLO,
    EVERYTHING,
    LHLO,
    MAIL,
    NO_CHUNKING,
    OPTIONS,
    RCPT,
    codes,
    in_state,
    refuse_message,
)
from trio_fcgimail.smtp import (
    ANYWHERE,
    COMMAND_STATES,
    LMTP,
    TRANSITIONS,
    Answerable,
    Authenticate,
    CloseReason,
    CommandRejected,
    ConnectionClosed,
    DataBegun,
    Hello,
    LocalProtocolError,
    MailFrom,
    MessageEnd,
    Outcome,
    RcptTo,
    ServerOptions,
    StartTls,
    State,
    Verb,
    Xclient,
    catalogue,
    is_legal,
    next_state,
)

# What a client sends for a verb; the others are no commands
COMMANDS: Final[Mapping[Verb, bytes]] = {
    Verb.GREET: EHLO,
    Verb.MAIL: MAIL,
    Verb.RCPT: RCPT,
    Verb.DATA: DATA,
    Verb.BDAT: b"BDAT 3\r\nx\r\n",
    Verb.BDAT_LAST: b"BDAT 3 LAST\r\nx\r\n",
    Verb.RSET: b"RSET\r\n",
    Verb.NOOP: b"NOOP\r\n",
    Verb.HELP: b"HELP\r\n",
    Verb.VRFY: b"VRFY bob\r\n",
    Verb.QUIT: b"QUIT\r\n",
    Verb.STARTTLS: b"STARTTLS\r\n",
    Verb.AUTH: b"AUTH PLAIN AGEAYg==\r\n",
    Verb.XCLIENT: b"XCLIENT ADDR=192.0.2.1\r\n",
}
NOT_OFFERED: Final[Mapping[Verb, bytes]] = {
    Verb.BDAT: b"BDAT 2\r\nxy",
    Verb.BDAT_LAST: b"BDAT 2 LAST\r\nxy",
    Verb.EXPN: b"EXPN staff\r\n",
    Verb.STARTTLS: b"STARTTLS\r\n",
    Verb.AUTH: b"AUTH PLAIN\r\n",
    Verb.XCLIENT: b"XCLIENT ADDR=192.0.2.1\r\n",
}
# The same verbs with another outcome
OTHERWISE: Final = (
    (Verb.BDAT, b"BDAT 1\r\n\n"),
    (Verb.BDAT_LAST, b"BDAT 1 LAST\r\n\n"),
    (Verb.AUTH, b"AUTH PLAIN\r\n"),
)
SASL_LINES: Final = {b"*\r\n": Outcome.NO, b"AGEAYg==\r\n": Outcome.OK}
WITHOUT_CHUNKS: Final = (State.REFUSED, State.START, State.READY, State.MAIL, State.RCPT)
REACHED: Final = (*WITHOUT_CHUNKS, State.CHUNKING, State.CHUNKS_REFUSED)


def test_table_names_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


def test_no_row_says_what_a_closing_reply_does() -> None:
    assert all(outcome is not Outcome.CLOSE for rows in TRANSITIONS.values() for _, outcome in rows)


def test_every_state_but_the_first_is_led_to() -> None:
    led_to = {state for rows in TRANSITIONS.values() for state in rows.values()}
    assert led_to == set(State) - {State.CONNECTED}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", Verb)
def test_is_legal_and_next_state_are_total(state: State, verb: Verb) -> None:
    rows = TRANSITIONS[state]
    legal = is_legal(state, verb)
    assert legal == ((verb in ANYWHERE and state in COMMAND_STATES) or any(v is verb for v, _ in rows))
    assert next_state(state, verb, Outcome.CLOSE) is State.CLOSED
    assert next_state(state, verb, Outcome.NO) is rows.get((verb, Outcome.NO), state)
    for outcome in (Outcome.OK, Outcome.GO):
        if (verb, outcome) in rows:
            assert next_state(state, verb, outcome) is rows[verb, outcome]
        elif legal and verb in ANYWHERE and outcome is Outcome.OK:
            assert next_state(state, verb, outcome) is state
        else:
            with pytest.raises(LocalProtocolError, match=f"{verb.name} cannot be answered"):
                next_state(state, verb, outcome)


@pytest.mark.parametrize(("state", "verb"), [(s, v) for s, v in product(REACHED, COMMANDS) if not is_legal(s, v)])
def test_verb_without_a_row_is_503_and_changes_nothing(state: State, verb: Verb) -> None:
    session = in_state(state, EVERYTHING)
    assert codes(session.feed(COMMANDS[verb])) == ["503 5.5.1"]
    assert isinstance(session.events[-1], CommandRejected)
    assert session.connection.state is state
    assert_goes_on_from(session, state)


@pytest.mark.parametrize(("state", "verb"), [*product(WITHOUT_CHUNKS, NOT_OFFERED)])
def test_verb_not_offered_is_502_and_changes_nothing(state: State, verb: Verb) -> None:
    session = in_state(state, NO_CHUNKING)
    assert codes(session.feed(NOT_OFFERED[verb])) == ["503 5.5.1" if state is State.REFUSED else "502 5.5.1"]
    assert session.connection.state is state
    assert_goes_on_from(session, state)


@pytest.mark.parametrize("state", REACHED)
def test_unknown_word_is_500_and_changes_nothing(state: State) -> None:
    session = in_state(state)
    assert codes(session.feed(b"XYZZY\r\n")) == ["503 5.5.1" if state is State.REFUSED else "500 5.5.1"]
    assert session.connection.state is state
    assert_goes_on_from(session, state)


def assert_goes_on_from(session: Session, state: State) -> None:
    """The rest of a mail goes through exactly as if nothing had been said in between."""
    rest = {
        State.START: EHLO + MAIL + RCPT + DATA,
        State.READY: MAIL + RCPT + DATA,
        State.MAIL: RCPT + DATA,
        State.RCPT: DATA,
        State.CHUNKING: b"BDAT 0 LAST\r\n" + MAIL + RCPT + DATA,
        State.CHUNKS_REFUSED: b"BDAT 0 LAST\r\n" + MAIL + RCPT + DATA,
    }.get(state, b"QUIT\r\n")
    session.feed(rest)
    assert session.connection.state is (State.CLOSED if state is State.REFUSED else State.DATA)


@pytest.mark.parametrize(("state", "verb"), [(s, v) for s, v in product(REACHED, COMMANDS) if is_legal(s, v)])
@pytest.mark.parametrize(
    ("options", "hello"), [(EVERYTHING, EHLO), (replace(EVERYTHING, dialect=LMTP), LHLO)], ids=["smtp", "lmtp"]
)
def test_verb_with_a_row_goes_where_the_table_says(
    state: State, verb: Verb, options: ServerOptions, hello: bytes
) -> None:
    session = in_state(state, options)
    outcome = outcome_of(session.feed(hello if verb is Verb.GREET else COMMANDS[verb]))
    assert session.connection.state is next_state(state, verb, outcome)


def outcome_of(written: bytes) -> Outcome:
    (code,) = codes(written)
    return {"2": Outcome.OK, "3": Outcome.GO, "5": Outcome.NO}[code[0]]


def test_every_row_is_walked() -> None:
    """A row that is not is dead: either nothing can reach it, or these tests forgot it."""
    walked = {
        (State.CONNECTED, Verb.CONNECT, Outcome.OK),
        (State.CONNECTED, Verb.CONNECT, Outcome.NO),
        (State.DATA, Verb.END_OF_DATA, Outcome.OK),
        (State.DATA, Verb.END_OF_DATA, Outcome.NO),
        (State.SASL, Verb.SASL_RESPONSE, Outcome.OK),
        (State.SASL, Verb.SASL_RESPONSE, Outcome.GO),
        (State.SASL, Verb.SASL_RESPONSE, Outcome.NO),
        (State.TLS_PENDING, Verb.TLS_HANDSHAKE, Outcome.OK),
        (State.TLS_PENDING, Verb.TLS_HANDSHAKE, Outcome.NO),
    }
    for state, (verb, wire) in product(REACHED, [*COMMANDS.items(), *OTHERWISE]):
        if is_legal(state, verb) and verb not in ANYWHERE:
            session = in_state(state, EVERYTHING)
            outcome = outcome_of(session.feed(wire))
            assert session.connection.state is next_state(state, verb, outcome)
            walked.add((state, verb, outcome))
    table = {(state, *key) for state, rows in TRANSITIONS.items() for key in rows}
    assert table - walked == set(), "these rows are not walked"
    assert walked <= table, "the connection moves where the table has no row"


def test_sasl_rows() -> None:
    for line, outcome in SASL_LINES.items():
        session = in_state(State.SASL)
        assert outcome_of(session.feed(line)) is outcome
        assert session.connection.state is next_state(State.SASL, Verb.SASL_RESPONSE, outcome) is State.READY
    session = in_state(State.READY, EVERYTHING)
    session.feed(b"AUTH LOGIN\r\n")
    assert outcome_of(session.feed(b"YQ==\r\n")) is Outcome.GO
    assert session.connection.state is next_state(State.SASL, Verb.SASL_RESPONSE, Outcome.GO) is State.SASL


@pytest.mark.parametrize("verb", COMMANDS)
def test_no_command_within_an_exchange(verb: Verb) -> None:
    """Each line is a response, and none of these can be read as one."""
    session = in_state(State.SASL)
    line, _, _ = COMMANDS[verb].partition(b"\r\n")
    assert codes(session.feed(line + b"\r\n")) == ["501 5.5.2"]
    assert session.connection.state is State.READY


@pytest.mark.parametrize(("end", "outcome"), [(Handshake.DONE, Outcome.OK), (Handshake.FAILED, Outcome.NO)])
def test_handshake_rows(end: Handshake, outcome: Outcome) -> None:
    session = in_state(State.TLS_PENDING)
    session.shake_hands(end)
    assert codes(session.output) == []
    assert session.connection.state is next_state(State.TLS_PENDING, Verb.TLS_HANDSHAKE, outcome)


def test_connect_and_end_of_data_rows() -> None:
    assert in_state(State.START).connection.state is State.START
    assert in_state(State.REFUSED).connection.state is State.REFUSED
    for judge, reply in ((lambda _event: None, "250 2.0.0"), (refuse_message, "451 4.3.0")):
        session = in_state(State.DATA, judge=judge)
        assert codes(session.feed(b".\r\n")) == [reply]
        assert session.connection.state is State.READY


@pytest.mark.parametrize(
    ("state", "kind", "question"),
    [
        pytest.param(State.START, Hello, EHLO, id="hello"),
        pytest.param(State.READY, StartTls, b"STARTTLS\r\n", id="starttls"),
        pytest.param(State.READY, Authenticate, COMMANDS[Verb.AUTH], id="auth"),
        pytest.param(State.SASL, Authenticate, b"AGEAYg==\r\n", id="sasl-response"),
        pytest.param(State.READY, Xclient, COMMANDS[Verb.XCLIENT], id="xclient"),
        pytest.param(State.READY, MailFrom, MAIL, id="mail"),
        pytest.param(State.MAIL, RcptTo, RCPT, id="rcpt"),
        pytest.param(State.RCPT, DataBegun, DATA, id="data"),
        pytest.param(State.RCPT, DataBegun, b"BDAT 6\r\nQUIT\r\n", id="bdat"),
        pytest.param(State.CHUNKING, MessageEnd, b"BDAT 6 LAST\r\nQUIT\r\n", id="end-of-chunks"),
        pytest.param(State.DATA, MessageEnd, b".\r\n", id="end-of-data"),
    ],
)
def test_closing_reply_to_any_question_closes(state: State, kind: type[Answerable], question: bytes) -> None:
    """Rule 4 of the table."""
    session = in_state(
        state, EVERYTHING, judge=lambda event: catalogue.SHUTTING_DOWN if isinstance(event, kind) else None
    )
    behind = b"" if kind is StartTls else b"NOOP\r\n"  # nothing may be there
    assert codes(session.feed(question + behind)) == ["421 4.3.2"]
    assert session.events[-1] == ConnectionClosed(CloseReason.REPLY)


def test_closing_reply_to_the_connection_closes() -> None:
    session = Session(OPTIONS, lambda _event: catalogue.TOO_MANY_CONNECTIONS)
    assert codes(session.output) == ["421 4.7.0"]
    assert session.closed
