"""A FastCGI application server on asyncio that answers every request with what it was asked.

    python examples/fastcgi_asyncio.py unix:/tmp/echo.sock
    python examples/fastcgi_asyncio.py tcp:127.0.0.1:9000

Prints `ready ADDRESS` once it listens, and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from trio_fcgimail.fastcgi import (
    ConnectionClosed,
    RecordIgnored,
    RemoteProtocolError,
    RequestAborted,
    RequestBegun,
    RequestRefused,
    ResponderConnection,
    ResponderEvent,
    ResponderOptions,
    Role,
    Signal,
    StdinChunk,
    StdinEnded,
    UnknownType,
    ValuesRequested,
    encode_response_head,
)

MAX_BODY_OCTETS = 1 << 20
OPTIONS = ResponderOptions(roles=frozenset({Role.RESPONDER}), max_connections=100)
PLAIN = (b"Content-Type", b"text/plain")


class Application:
    """The requests of one connection, one after the other. Turns events into octets to send."""

    def __init__(self) -> None:
        self.conn = ResponderConnection(OPTIONS)
        self.request: RequestBegun | None = None
        self.body = bytearray()
        self.octets = 0

    def take(self, event: ResponderEvent) -> bytes:
        """Act on an event and return what to send."""
        match event:
            case RequestBegun():
                self.request = event
                self.body.clear()
                self.octets = 0
                return b""
            case StdinChunk(data=data):
                self.octets += len(data)
                self.body += data[: MAX_BODY_OCTETS - len(self.body)]
                return b""
            case StdinEnded(request_id=request_id):
                return self.answer(request_id)
            case RequestAborted(request_id=request_id):
                return self.conn.end_request(request_id, 1)
            case RequestRefused(to_send=to_send) | ValuesRequested(to_send=to_send) | UnknownType(to_send=to_send):
                return to_send
            case RecordIgnored() | ConnectionClosed():
                return b""
            case _:
                raise AssertionError(f"only filters get {event}")

    def answer(self, request_id: int) -> bytes:
        """Echo the parameters, one a line, and the body, once the whole of it was read."""
        assert self.request is not None, "STDIN ends after the request has begun"
        if self.octets > MAX_BODY_OCTETS:
            head = encode_response_head(413, [PLAIN], b"Content Too Large")
            return self.conn.send_stdout(request_id, head) + self.conn.end_request(request_id)
        lines = [b"%b=%b\n" % pair for pair in sorted(self.request.params)]
        page = b"".join((encode_response_head(200, [PLAIN], b"OK"), *lines, b"\n", self.body))
        return (
            self.conn.send_stderr(request_id, b"echoed %d octets\n" % len(self.body))
            + self.conn.send_stdout(request_id, page)
            + self.conn.end_request(request_id)
        )


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until either side closes it."""
    app = Application()
    try:
        while not app.conn.must_close:
            event = app.conn.next_event()
            if isinstance(event, ConnectionClosed):
                break
            if isinstance(event, Signal):
                # Never PAUSED: every request is answered as soon as it is complete.
                app.conn.receive_data(await reader.read(65_536))
                continue
            writer.write(app.take(event))
            await writer.drain()
    except (RemoteProtocolError, ConnectionError) as error:
        print(f"connection lost: {error}", file=sys.stderr)
    finally:
        writer.close()


async def listen(address: str) -> tuple[asyncio.Server, str]:
    """Listen on `unix:PATH` or `tcp:HOST:PORT`; the address that results is returned, with port 0 resolved."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return await asyncio.start_unix_server(serve, rest), address
    host, _, port = rest.rpartition(":")
    server = await asyncio.start_server(serve, host.strip("[]"), int(port))
    return server, f"tcp:{host}:{server.sockets[0].getsockname()[1]}"


async def run(address: str) -> None:
    """Listen until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server, bound = await listen(address)
    async with server:
        print(f"ready {bound}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if len(arguments) != 1 or not arguments[0].startswith(("unix:", "tcp:")):
        print("usage: fastcgi_asyncio.py unix:PATH|tcp:HOST:PORT", file=sys.stderr)
        return 2
    asyncio.run(run(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
