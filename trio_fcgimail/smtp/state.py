"""The state machine of a session: one table, and the two functions that read it.

Rules
-----
1. Everything that decides which command is legal when, and where it leads, stands in ``TRANSITIONS`` and
   ``ANYWHERE``. No other module compares states to decide what a client may do.
2. The *reply* moves the state, not the command: RFC 5321 4.1.4 has a refused command change nothing. A row is therefore
   (verb, outcome of the reply) -> next state. Rows with the outcome NO appear only where a refusal moves.
3. A verb that has no row in a state is a bad sequence there; the core answers 503 by itself, and nobody else sees it.
4. A reply of 421 or 521 closes, whatever the state and the verb (``Outcome.CLOSE``); so no row says it.

Who feeds it
------------
- The client's commands, one verb each. ``GREET`` stands for whichever of HELO, EHLO and LHLO the dialect has.
- The end of the data (``END_OF_DATA``), which is no command but is answered like one.
- The connection itself (``CONNECT``): the banner is a reply too, and one of 554 leads to ``REFUSED``, where RFC 5321
  3.1 leaves the client nothing but QUIT.

What couples what
-----------------
- Pipelining (RFC 2920) needs no state: the connection takes the next command only after the last one was answered.
- ``DATA`` hands the octets to the content reader; the table sees them again as ``END_OF_DATA``.
- ``CHUNKING`` is a transaction between two BDAT chunks (RFC 3030): DATA, MAIL and RCPT have no row there. The octets of
  a chunk are not the table's business: it sees ``BDAT`` or ``BDAT_LAST`` once they were read. After a refused chunk
  (``CHUNKS_REFUSED``) the rest is refused, too, by the same reply, up to LAST or RSET.
- ``SASL`` is an exchange of AUTH (RFC 4954): each line of the client is a ``SASL_RESPONSE``.
- ``TLS_PENDING`` lies between the 220 to STARTTLS and the end of the handshake (RFC 3207 4): no octet is a command
  there, and success leads back to ``START``, as everything learnt before is forgotten, a mail under way with it.
- XCLIENT leads back to ``START`` as well.
A verb whose extension is not offered is answered 502, or what says how to come by it, before the table is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trio_fcgimail.smtp.errors import LocalProtocolError
from trio_fcgimail.smtp.replies import Outcome
from trio_fcgimail.smtp.symbol import Symbol


class State(Symbol):
    """Where a session is."""

    CONNECTED = "connected, no banner yet"
    REFUSED = "greeted with 554"
    START = "greeted, no HELO or EHLO yet"
    READY = "no transaction"
    MAIL = "a sender, no recipient yet"
    RCPT = "a sender and a recipient"
    DATA = "the message is coming"
    CHUNKING = "between two chunks"
    CHUNKS_REFUSED = "a chunk was refused, and so are those behind it"
    SASL = "in an AUTH exchange"
    TLS_PENDING = "waiting for the TLS handshake"
    CLOSED = "closed"


class Verb(Symbol):
    """What can be answered: every command of a client, and what is answered without being one."""

    CONNECT = "(connection)"
    GREET = "HELO or EHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END_OF_DATA = "(end of data)"
    BDAT = "BDAT"
    BDAT_LAST = "BDAT LAST"
    RSET = "RSET"
    NOOP = "NOOP"
    HELP = "HELP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    QUIT = "QUIT"
    STARTTLS = "STARTTLS"
    TLS_HANDSHAKE = "(TLS handshake)"
    AUTH = "AUTH"
    SASL_RESPONSE = "(SASL response)"
    XCLIENT = "XCLIENT"
    UNKNOWN = "(unknown)"


Row = Mapping[tuple[Verb, Outcome], State]

_ALWAYS: Final[Row] = {(Verb.QUIT, Outcome.OK): State.CLOSED}
_IN_TRANSACTION: Final[Row] = {
    **_ALWAYS,
    (Verb.RSET, Outcome.OK): State.READY,
    (Verb.GREET, Outcome.OK): State.READY,  # RFC 5321 4.1.4: EHLO in a session resets it
    (Verb.STARTTLS, Outcome.OK): State.TLS_PENDING,
}
_CHUNKS: Final[Row] = {
    (Verb.BDAT, Outcome.OK): State.CHUNKING,
    (Verb.BDAT, Outcome.NO): State.CHUNKS_REFUSED,
    (Verb.BDAT_LAST, Outcome.OK): State.READY,
    (Verb.BDAT_LAST, Outcome.NO): State.READY,
}

TRANSITIONS: Final[Mapping[State, Row]] = {
    State.CONNECTED: {(Verb.CONNECT, Outcome.OK): State.START, (Verb.CONNECT, Outcome.NO): State.REFUSED},
    State.REFUSED: _ALWAYS,
    State.START: {
        **_ALWAYS,
        (Verb.GREET, Outcome.OK): State.READY,
        (Verb.RSET, Outcome.OK): State.START,
        (Verb.XCLIENT, Outcome.OK): State.START,
    },
    State.READY: {
        **_ALWAYS,
        (Verb.GREET, Outcome.OK): State.READY,
        (Verb.RSET, Outcome.OK): State.READY,
        (Verb.MAIL, Outcome.OK): State.MAIL,
        (Verb.STARTTLS, Outcome.OK): State.TLS_PENDING,
        (Verb.AUTH, Outcome.OK): State.READY,
        (Verb.AUTH, Outcome.GO): State.SASL,
        (Verb.XCLIENT, Outcome.OK): State.START,
    },
    State.MAIL: {**_IN_TRANSACTION, (Verb.RCPT, Outcome.OK): State.RCPT},
    State.RCPT: {
        **_IN_TRANSACTION,
        (Verb.RCPT, Outcome.OK): State.RCPT,
        (Verb.DATA, Outcome.GO): State.DATA,
        **_CHUNKS,
    },
    State.DATA: {(Verb.END_OF_DATA, Outcome.OK): State.READY, (Verb.END_OF_DATA, Outcome.NO): State.READY},
    State.CHUNKING: {
        **_IN_TRANSACTION,
        **_CHUNKS,
    },
    State.CHUNKS_REFUSED: {
        **_IN_TRANSACTION,
        (Verb.BDAT, Outcome.NO): State.CHUNKS_REFUSED,
        (Verb.BDAT_LAST, Outcome.NO): State.READY,
    },
    State.SASL: {
        (Verb.SASL_RESPONSE, Outcome.GO): State.SASL,
        (Verb.SASL_RESPONSE, Outcome.OK): State.READY,
        (Verb.SASL_RESPONSE, Outcome.NO): State.READY,
    },
    State.TLS_PENDING: {
        (Verb.TLS_HANDSHAKE, Outcome.OK): State.START,
        (Verb.TLS_HANDSHAKE, Outcome.NO): State.CLOSED,
    },
    State.CLOSED: {},
}

# Answered wherever commands are read, moving nothing (RFC 5321 4.1.4).
ANYWHERE: Final = frozenset({Verb.NOOP, Verb.HELP, Verb.VRFY, Verb.EXPN})
COMMAND_STATES: Final = frozenset(
    {State.START, State.READY, State.MAIL, State.RCPT, State.CHUNKING, State.CHUNKS_REFUSED}
)
_LEGAL: Final[Mapping[State, frozenset[Verb]]] = {
    state: frozenset(verb for verb, _ in row) | (ANYWHERE if state in COMMAND_STATES else frozenset())
    for state, row in TRANSITIONS.items()
}
TRANSACTION_STATES: Final = COMMAND_STATES - {State.START, State.READY} | {State.DATA}  # a mail is under way


def is_legal(state: State, verb: Verb) -> bool:
    """Whether some answer to ``verb`` has a meaning in ``state``; if not, it is a bad sequence (503)."""
    return verb in _LEGAL[state]


def next_state(state: State, verb: Verb, outcome: Outcome) -> State:
    """Where answering ``verb`` with ``outcome`` leads.

    Raises:
        LocalProtocolError: the verb is not legal here, or the outcome has no meaning for it (354 to RCPT).
    """
    if (found := TRANSITIONS[state].get((verb, outcome))) is not None:
        return found
    if outcome is Outcome.CLOSE:
        return State.CLOSED
    if outcome is Outcome.NO or (outcome is Outcome.OK and verb in ANYWHERE and is_legal(state, verb)):
        return state
    raise LocalProtocolError(f"{verb.name} cannot be answered {outcome.value} in state {state.name}")
