"""Holds connections that do nothing: greets on each, says when all are there, and ends with its standard input.

python -m benchmarks.idle HOST PORT CONNECTIONS
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Final

_RECEIVE_OCTETS: Final = 4_096


def main(host: str, port: int, connections: int) -> None:
    """Open them one after the other; each has said EHLO and got its reply."""
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection((host, port)))
            sock.recv(_RECEIVE_OCTETS)
            sock.sendall(b"EHLO client.example.net\r\n")
            sock.recv(_RECEIVE_OCTETS)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
