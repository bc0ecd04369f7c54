"""One FastCGI request over a plain blocking socket.

    python examples/fastcgi_blocking.py unix:/run/php/php-fpm.sock /srv/hello.php QUERY_STRING=a=b < body.txt
    python examples/fastcgi_blocking.py tcp:127.0.0.1:9000 /srv/hello.php < /dev/null

Prints status, headers and body on standard output and the script's STDERR on standard error. Exit status 0 for an
answer of 2xx, 1 for another answer or none, 2 for wrong usage.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from trio_fcgimail.fastcgi import (
    NEED_DATA,
    BodyChunk,
    ClientConnection,
    ConnectionClosed,
    NameValue,
    ProtocolStatus,
    RemoteProtocolError,
    RequestEnded,
    ResponseHead,
    ResponseHeadReader,
    StderrChunk,
    StdoutChunk,
)

MAX_BODY_OCTETS = 1 << 20
MAX_STDERR_OCTETS = 16_384
TIMEOUT_SECONDS = 30.0


class RequestFailedError(Exception):
    """There is no complete answer."""


@dataclass(slots=True)
class Answer:
    """What is kept of a response; both bodies are cut at their limits."""

    head: ResponseHead | None = None
    body: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)


def connect(address: str) -> socket.socket:
    """Connect to `unix:PATH` or `tcp:HOST:PORT`."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(rest)
        return sock
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_SECONDS)


def exchange(sock: socket.socket, params: Sequence[NameValue], body: bytes) -> Answer:
    """Send one request and read its answer.

    Reading goes on while writing: a script may print more than the socket holds before it reads its input.
    """
    conn = ClientConnection()
    head_reader = ResponseHeadReader()
    answer = Answer()
    request = conn.begin_request(1, params=params) + conn.send_stdin(1, body) + conn.end_stdin(1)
    unsent = memoryview(request)
    while True:
        readable, writable, _ = select.select([sock], [sock] if unsent else [], [], TIMEOUT_SECONDS)
        if not (readable or writable):
            raise RequestFailedError(f"silence for {TIMEOUT_SECONDS:g} s")
        if writable:
            # One small piece at a time: a blocking send() waits until all of it is taken.
            unsent = unsent[sock.send(unsent[:4096]) :]
        if readable:
            conn.receive_data(sock.recv(65_536))
            if take_events(conn, head_reader, answer):
                return answer


def take_events(conn: ClientConnection, head_reader: ResponseHeadReader, answer: Answer) -> bool:
    """Act on what was received. True when the request has ended well."""
    while (event := conn.next_event()) is not NEED_DATA:
        match event:
            case StdoutChunk(data=data):
                head_reader.receive_data(data)
                take_output(head_reader, answer)
            case StderrChunk(data=data):
                answer.stderr += data[: MAX_STDERR_OCTETS - len(answer.stderr)]
            case RequestEnded(protocol_status=ProtocolStatus.REQUEST_COMPLETE):
                head_reader.receive_data(b"")
                take_output(head_reader, answer)
                return True
            case RequestEnded(protocol_status=status):
                raise RequestFailedError(f"not executed: {status.name}")
            case ConnectionClosed():
                raise RequestFailedError("closed before the end of the answer")
            case _:
                pass  # stream ends, and records that concern nobody
    return False


def take_output(head_reader: ResponseHeadReader, answer: Answer) -> None:
    """Read what STDOUT has brought."""
    while True:
        match head_reader.next_event():
            case ResponseHead() as head:
                answer.head = head
            case BodyChunk(data=data):
                answer.body += data[: MAX_BODY_OCTETS - len(answer.body)]
            case _:
                return


def script_params(script: str, settings: Sequence[str], body: bytes) -> list[NameValue]:
    """The least that php-fpm needs, and what the command line adds or replaces."""
    params = {
        b"SCRIPT_FILENAME": script.encode(),
        b"REQUEST_METHOD": b"POST" if body else b"GET",
        b"QUERY_STRING": b"",
    }
    for setting in settings:
        name, _, value = setting.partition("=")
        params[name.encode()] = value.encode()
    params[b"CONTENT_LENGTH"] = b"%d" % len(body)
    return list(params.items())


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if len(arguments) < 2 or not arguments[0].startswith(("unix:", "tcp:")):
        print("usage: fastcgi_blocking.py unix:PATH|tcp:HOST:PORT SCRIPT [NAME=VALUE ...] < BODY", file=sys.stderr)
        return 2
    address, script, *settings = arguments
    body = sys.stdin.buffer.read()
    try:
        with connect(address) as sock:
            answer = exchange(sock, script_params(script, settings, body), body)
    except (OSError, RemoteProtocolError, RequestFailedError) as error:
        print(f"{address}: {error}", file=sys.stderr)
        return 1
    assert answer.head is not None, "a reader that ended well has read a head"
    out = sys.stdout.buffer
    out.write(b"Status: %d %b\n" % (answer.head.status, answer.head.reason))
    out.writelines(b"%b: %b\n" % header for header in answer.head.headers)
    out.write(b"\n" + answer.body)
    sys.stderr.buffer.write(answer.stderr)
    return 0 if 200 <= answer.head.status < 300 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
