"""The life of a request and of a connection: everything that moves a state stands in this file.

A FastCGI request is one conversation in two directions, and each direction has a state of its own.

The *input* goes from the client to the application. BEGIN_REQUEST opens it with the PARAMS stream. What follows
depends on the role (FastCGI 1.0, 6): a responder gets STDIN, a filter gets STDIN and DATA in any order, an authorizer
gets nothing more. Each stream ends with an empty record. ABORT_REQUEST may take the place of whatever is left, and may
also come when all is sent and the answer is awaited.

The *output* goes back: STDOUT and STDERR side by side, either of which may be ended by an empty record, then
END_REQUEST. No input is needed for any of it: an application may answer, and end, before it has read everything. The
empty records are optional on this side (php-fpm writes none, libfcgi does), so END is legal from every state.

The tables do not know which end of the connection we are. The client writes the input and reads the output, the
responder does the reverse; a move is the same move whether it is written or read. What differs is the price of a move
that has no row: for a writer it is the embedder's mistake, for a reader it is the peer's.

Readers alone also know *leftovers*: moves that change nothing and harm nobody, so that they are skipped and reported
rather than punished. A stream that is ended twice is one. So is anything that still arrives for a request that was
aborted, or whose END has been seen: both ends may have been writing at the time. Content after the end of its stream
is not: nobody could say what belongs to the request.

The two directions meet in one place, the request id (FastCGI 1.0, 3.3, "Managing request IDs"). For the application
it is free again once END is written, and what the client was still sending becomes leftovers of an id that is not in
use. The client keeps the id until END has been read *and* its own input is complete or aborted: a request cut short
under the eyes of an early answer must not mix with the next one of the same id.

A connection is OPEN until end of file has been reported, then CLOSED. ERROR is entered with every ProtocolError, from
anywhere, and never left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, final

from trio_fcgimail.fastcgi.records import Role
from trio_fcgimail.fastcgi.symbol import Symbol


@final
class ConnectionState(Enum):
    """Where a connection stands."""

    OPEN = auto()
    CLOSED = auto()
    """The peer's end of file has been reported. No request begins any more; those begun can still be answered."""
    ERROR = auto()
    """A ProtocolError was raised. Every call raises LocalProtocolError from now on."""


@final
class InputState(Symbol):
    """Which of the client's streams are open."""

    PARAMS = auto()
    STDIN_AND_DATA = auto()
    STDIN = auto()
    DATA = auto()
    COMPLETE = auto()
    ABORTED = auto()


@final
class InputMove(Symbol):
    """What the client can send within a request. The role tells which end of PARAMS it is."""

    PARAMS = auto()
    PARAMS_END_RESPONDER = auto()
    PARAMS_END_AUTHORIZER = auto()
    PARAMS_END_FILTER = auto()
    STDIN = auto()
    STDIN_END = auto()
    DATA = auto()
    DATA_END = auto()
    ABORT = auto()


@final
class OutputState(Symbol):
    """Which of the application's streams are open."""

    OPEN = auto()
    STDOUT_ENDED = auto()
    STDERR_ENDED = auto()
    STREAMS_ENDED = auto()
    ENDED = auto()


@final
class OutputMove(Symbol):
    """What the application can send within a request."""

    STDOUT = auto()
    STDOUT_END = auto()
    STDERR = auto()
    STDERR_END = auto()
    END = auto()


@final
class Ruling(Enum):
    """What a move is worth in a state."""

    MOVES = auto()
    LEFTOVER = auto()
    ILLEGAL = auto()


PARAMS_END: Final[Mapping[Role, InputMove]] = {
    Role.RESPONDER: InputMove.PARAMS_END_RESPONDER,
    Role.AUTHORIZER: InputMove.PARAMS_END_AUTHORIZER,
    Role.FILTER: InputMove.PARAMS_END_FILTER,
}

INPUT_TRANSITIONS: Final[Mapping[InputState, Mapping[InputMove, InputState]]] = {
    InputState.PARAMS: {
        InputMove.PARAMS: InputState.PARAMS,
        InputMove.PARAMS_END_RESPONDER: InputState.STDIN,
        InputMove.PARAMS_END_AUTHORIZER: InputState.COMPLETE,
        InputMove.PARAMS_END_FILTER: InputState.STDIN_AND_DATA,
        InputMove.ABORT: InputState.ABORTED,
    },
    InputState.STDIN_AND_DATA: {
        InputMove.STDIN: InputState.STDIN_AND_DATA,
        InputMove.STDIN_END: InputState.DATA,
        InputMove.DATA: InputState.STDIN_AND_DATA,
        InputMove.DATA_END: InputState.STDIN,
        InputMove.ABORT: InputState.ABORTED,
    },
    InputState.STDIN: {
        InputMove.STDIN: InputState.STDIN,
        InputMove.STDIN_END: InputState.COMPLETE,
        InputMove.ABORT: InputState.ABORTED,
    },
    InputState.DATA: {
        InputMove.DATA: InputState.DATA,
        InputMove.DATA_END: InputState.COMPLETE,
        InputMove.ABORT: InputState.ABORTED,
    },
    InputState.COMPLETE: {InputMove.ABORT: InputState.ABORTED},
    InputState.ABORTED: {},
}

OUTPUT_TRANSITIONS: Final[Mapping[OutputState, Mapping[OutputMove, OutputState]]] = {
    OutputState.OPEN: {
        OutputMove.STDOUT: OutputState.OPEN,
        OutputMove.STDOUT_END: OutputState.STDOUT_ENDED,
        OutputMove.STDERR: OutputState.OPEN,
        OutputMove.STDERR_END: OutputState.STDERR_ENDED,
        OutputMove.END: OutputState.ENDED,
    },
    OutputState.STDOUT_ENDED: {
        OutputMove.STDERR: OutputState.STDOUT_ENDED,
        OutputMove.STDERR_END: OutputState.STREAMS_ENDED,
        OutputMove.END: OutputState.ENDED,
    },
    OutputState.STDERR_ENDED: {
        OutputMove.STDOUT: OutputState.STDERR_ENDED,
        OutputMove.STDOUT_END: OutputState.STREAMS_ENDED,
        OutputMove.END: OutputState.ENDED,
    },
    OutputState.STREAMS_ENDED: {OutputMove.END: OutputState.ENDED},
    OutputState.ENDED: {},
}

_PARAMS_ENDS: Final = frozenset(PARAMS_END.values())


def _input_after(*moves: InputMove) -> InputState:
    state = InputState.PARAMS
    for move in moves:
        state = INPUT_TRANSITIONS[state][move]
    return state


ALL_SENT: Final = _input_after(InputMove.PARAMS_END_RESPONDER, InputMove.STDIN, InputMove.STDIN_END)
"""Where the input of a responder stands when its whole request was written at once."""

INPUT_LEFTOVERS: Final[Mapping[InputState, frozenset[InputMove]]] = {
    InputState.PARAMS: frozenset(),
    InputState.STDIN_AND_DATA: _PARAMS_ENDS,
    InputState.STDIN: _PARAMS_ENDS | {InputMove.DATA_END},
    InputState.DATA: _PARAMS_ENDS | {InputMove.STDIN_END},
    # Some clients end STDIN for an authorizer too, although it has none.
    InputState.COMPLETE: _PARAMS_ENDS | {InputMove.STDIN_END, InputMove.DATA_END},
    InputState.ABORTED: frozenset(InputMove),
}

OUTPUT_LEFTOVERS: Final[Mapping[OutputState, frozenset[OutputMove]]] = {
    OutputState.OPEN: frozenset(),
    OutputState.STDOUT_ENDED: frozenset({OutputMove.STDOUT_END}),
    OutputState.STDERR_ENDED: frozenset({OutputMove.STDERR_END}),
    OutputState.STREAMS_ENDED: frozenset({OutputMove.STDOUT_END, OutputMove.STDERR_END}),
    OutputState.ENDED: frozenset(OutputMove),
}

_MOVES: Final = Ruling.MOVES
_ENDED: Final = OutputState.ENDED
_INPUT_OVER: Final = frozenset({InputState.COMPLETE, InputState.ABORTED})


@final
@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer: the two states, and what BEGIN_REQUEST said."""

    role: Role
    keep_connection: bool
    input: InputState = InputState.PARAMS
    output: OutputState = OutputState.OPEN

    def take_input(self, move: InputMove) -> Ruling:
        """Apply a move of the client, if it has a row, and say what it was worth."""
        after = INPUT_TRANSITIONS[self.input].get(move)
        if after is not None:
            self.input = after
            return _MOVES
        return Ruling.LEFTOVER if move in INPUT_LEFTOVERS[self.input] else Ruling.ILLEGAL

    def take_output(self, move: OutputMove) -> Ruling:
        """Apply a move of the application, if it has a row, and say what it was worth."""
        after = OUTPUT_TRANSITIONS[self.output].get(move)
        if after is not None:
            self.output = after
            return _MOVES
        return Ruling.LEFTOVER if move in OUTPUT_LEFTOVERS[self.output] else Ruling.ILLEGAL

    @property
    def input_over(self) -> bool:
        """Whether the client will send nothing more for this request."""
        return self.input in _INPUT_OVER

    @property
    def over(self) -> bool:
        """Whether both directions are done, so that the client may use the id again."""
        return self.output is _ENDED and self.input in _INPUT_OVER
