"""Mail clients in a process of their own: so many at a time, each sending one mail after the other.

``python -m benchmarks.load PORT[,PORT] CLIENTS MAILS`` prints, as JSON, how long all of it took, and each mail
from its first octet to its reply, and the replies that were no 250. MAILS 0 is for ever, until standard input ends.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final, final

ENVELOPE: Final = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
CONTENT: Final = b"Subject: hello\r\n\r\n" + 10 * (70 * b"x" + b"\r\n") + b".\r\n"
_ENVELOPE_REPLIES: Final = 3
SECONDS: Final = 120.0  # without a reply: something hangs


@final
@dataclass(slots=True)
class _Client:
    sock: socket.socket
    unread: bytes = b""
    expected: int = 0  # replies to the envelope that are still to come
    began: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Load:
    """What came of it.

    Args:
        seconds: for all mails.
        latencies: of each mail, in seconds.
        failures: replies other than 250, each with its number.
    """

    seconds: float
    latencies: list[float]
    failures: dict[str, int]


def _connect(port: int) -> _Client:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock.makefile("rb") as replies:
        assert replies.readline().startswith(b"220")
        sock.sendall(b"EHLO client.example\r\n")
        while replies.readline()[3:4] == b"-":
            pass
    return _Client(sock)


def run(ports: list[int], clients: int, mails: int, *, until_eof: bool = False) -> Load:
    """Send so many mails in all. Blocks."""
    latencies: list[float] = []
    failures: dict[str, int] = {}
    left = mails
    with selectors.DefaultSelector() as selector:
        open_ones = [_connect(ports[number % len(ports)]) for number in range(clients)]
        if until_eof:
            selector.register(sys.stdin, selectors.EVENT_READ, None)
        began = time.monotonic()

        def begin(client: _Client) -> bool:
            nonlocal left
            if left <= 0:
                return False
            left -= 1
            client.expected = _ENVELOPE_REPLIES
            client.began = time.monotonic()
            client.sock.sendall(ENVELOPE)
            return True

        busy = 0
        for client in open_ones:
            selector.register(client.sock, selectors.EVENT_READ, client)
            busy += begin(client)
        while busy:
            events = selector.select(SECONDS)
            if not events:
                raise TimeoutError(f"{busy} mails without a reply for {SECONDS:g} s")
            for key, _ in events:
                client = key.data
                if client is None:
                    left = 0
                    selector.unregister(sys.stdin)
                    continue
                data = client.sock.recv(65_536)
                if not data:
                    raise EOFError("the server has closed")
                *lines, client.unread = (client.unread + data).split(b"\n")
                for line in lines:
                    if client.expected:
                        client.expected -= 1
                        if not client.expected:
                            client.sock.sendall(CONTENT)
                        continue
                    latencies.append(time.monotonic() - client.began)
                    if not line.startswith(b"250"):
                        failures[line.decode().strip()] = failures.get(line.decode().strip(), 0) + 1
                    busy -= not begin(client)
        seconds = time.monotonic() - began
        for client in open_ones:
            client.sock.close()
    return Load(seconds, latencies, failures)


def main() -> None:
    """Read the command line and print what came of it."""
    ports, clients, mails = sys.argv[1:4]
    endless = mails == "0"
    load = run(
        [int(port) for port in ports.split(",")],
        int(clients),
        sys.maxsize if endless else int(mails),
        until_eof=endless,
    )
    print(json.dumps({"seconds": load.seconds, "latencies": load.latencies, "failures": load.failures}))


if __name__ == "__main__":
    main()
