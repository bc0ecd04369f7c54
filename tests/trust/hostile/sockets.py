"""The flood of connections: plain sockets in a loop, as nothing is faster; each is reset as soon as it stands."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final

import trio

from tests.trust.hostile.field import HOST, Opponent, Tally, attacking_socket

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, no seconds
_CONNECT_SECONDS: Final = 0.1  # when the queue of the server is full


async def connect_and_reset(opponent: Opponent) -> None:
    """Until cancelled, in a thread."""
    over = threading.Event()
    opponent.settle()
    try:
        await trio.to_thread.run_sync(_flood, opponent.port, opponent.tally, over, abandon_on_cancel=True)
    finally:
        over.set()


def _flood(port: int, tally: Tally, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError), attacking_socket() as sock:
            sock.settimeout(_CONNECT_SECONDS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.connect((HOST, port))
            tally.connections += 1
