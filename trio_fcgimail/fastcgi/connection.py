"""What the two roles share: the input buffer, the state of the connection, and dying of an error."""

from types import TracebackType
from typing import Final, final

from trio_fcgimail.fastcgi.errors import LocalProtocolError, ProtocolError
from trio_fcgimail.fastcgi.events import RecordIgnored
from trio_fcgimail.fastcgi.records import MAX_REQUEST_ID, NULL_REQUEST_ID, Record, RecordReader
from trio_fcgimail.fastcgi.state import ConnectionState

_OPEN: Final = ConnectionState.OPEN
_ERROR: Final = ConnectionState.ERROR


@final
class _Life:
    """The state of a connection, and the guard around each of its public steps.

    A step on a dead connection is refused. A ProtocolError that leaves a step kills the connection. The steps that
    every record takes do without ``with``, which costs as much as they do, and say so by ``check()`` and ``end()``.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = ConnectionState.OPEN

    def check(self) -> None:
        """Refuse a step on a dead connection."""
        if self.state is _ERROR:
            raise LocalProtocolError("the connection died of an earlier error")

    def end(self) -> None:
        """A ProtocolError leaves a step."""
        self.state = ConnectionState.ERROR

    def __enter__(self) -> None:
        self.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ProtocolError):
            self.end()


class Connection:
    """Base of `ClientConnection` and `ResponderConnection`; not for use on its own."""

    def __init__(self, max_buffer_octets: int) -> None:
        self._reader = RecordReader(max_buffer_octets)
        self._life = _Life()

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._life.state

    @property
    def buffered_octets(self) -> int:
        """How many received octets wait to be read by `next_event()`."""
        return self._reader.buffered_octets

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take in what was read from the peer; `b""` is end of file. Only buffers: call `next_event()` then.

        Raises:
            LocalProtocolError: more unread octets than `max_buffer_octets`, data after end of file, or dead.
        """
        if self._life.state is not _OPEN:
            self._life.check()
        try:
            self._reader.receive_data(data)
        except ProtocolError:
            self._life.end()
            raise

    def _require_open(self) -> None:
        if self._life.state is not _OPEN:
            raise LocalProtocolError("the peer has closed the connection")


def check_request_id(request_id: int) -> None:
    """Refuse what is not the id of an application record (FastCGI 1.0, 3.3).

    Raises:
        LocalProtocolError: outside 1 to 65535.
    """
    if not NULL_REQUEST_ID < request_id <= MAX_REQUEST_ID:
        raise LocalProtocolError(f"request id {request_id} is outside 1..{MAX_REQUEST_ID}")


def ignored(record: Record) -> RecordIgnored:
    """Report a record that was skipped."""
    return RecordIgnored(record_type=record.record_type, request_id=record.request_id)
