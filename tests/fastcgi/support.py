"""Helpers of the FastCGI tests: records written by hand, ways to cut a stream, and driving a connection."""

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final, Protocol, TypeVar

from hypothesis import HealthCheck, settings

from trio_fcgimail.fastcgi import NEED_DATA, PAUSED, ConnectionState, LocalProtocolError, RemoteProtocolError

# A busy machine is no reason to fail: what is slow here is slow because of others.
PATIENT: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR, DATA, GET_VALUES, VALUES_RESULT, UNKNOWN = range(1, 12)


def rec(record_type: int, request_id: int, content: bytes = b"", padding: int = 0, version: int = 1) -> bytes:
    """Write a record without the code under test."""
    return (
        bytes((version, record_type))
        + request_id.to_bytes(2, "big")
        + len(content).to_bytes(2, "big")
        + bytes((padding, 0))
        + content
        + b"p" * padding
    )


def begin(request_id: int = 1, role: int = 1, flags: int = 1) -> bytes:
    return rec(BEGIN, request_id, bytes((role >> 8, role & 255, flags, 0, 0, 0, 0, 0)))


def end(
    request_id: int = 1, app_status: int = 0, protocol_status: int = 0, extra: bytes = b"", padding: int = 0
) -> bytes:
    content = app_status.to_bytes(4, "big") + bytes((protocol_status, 0, 0, 0)) + extra
    return rec(END, request_id, content, padding)


class Split(Enum):
    """How a row's bytes arrive."""

    WHOLE = auto()
    BYTEWISE = auto()
    TRAILING = auto()
    """Whole, with something more behind it."""

    def cut(self, wire: bytes) -> Iterator[bytes]:
        step = 1 if self is Split.BYTEWISE else 100_000
        for start in range(0, len(wire), step):
            yield wire[start : start + step]


E_co = TypeVar("E_co", covariant=True)


class Core(Protocol[E_co]):
    """What both connections have in common."""

    @property
    def state(self) -> ConnectionState: ...

    def receive_data(self, data: bytes) -> None: ...

    def next_event(self) -> E_co: ...


def drain(conn: Core[object], outcome: list[object], answer: Callable[[object], None]) -> bool:
    """Collect what a connection has to say. False when it died."""
    while True:
        try:
            event = conn.next_event()
        except RemoteProtocolError:
            outcome.append(RemoteProtocolError)
            assert conn.state is ConnectionState.ERROR
            return False
        if (
            event is NEED_DATA
            or event is PAUSED
            or (outcome and event == outcome[-1] and conn.state is ConnectionState.CLOSED)
        ):
            return True
        outcome.append(event)
        answer(event)


def drive(
    conn: Core[object],
    wire: bytes,
    split: Split,
    *,
    eof: bool = False,
    answer: Callable[[object], None] = lambda event: None,
) -> list[object]:
    """Feed a connection and return its events, with RemoteProtocolError in the place of the error that ended it."""
    outcome: list[object] = []
    pieces = [*split.cut(wire), *([b""] if eof else [])]
    for piece in pieces:
        conn.receive_data(piece)
        if not drain(conn, outcome, answer):
            assert_dead(conn)
            break
    return outcome


def assert_dead(conn: Core[object]) -> None:
    for call in (conn.next_event, lambda: conn.receive_data(b"x")):
        try:
            call()
        except LocalProtocolError:
            continue
        raise AssertionError("a dead connection still answers")
