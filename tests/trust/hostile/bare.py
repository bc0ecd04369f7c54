"""What floods are compared with: a server that accepts and closes, and does nothing else.

``python -m tests.trust.hostile.bare`` prints its port, and ends with its standard input.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from typing import Final

from tests.trust.hostile.field import HOST

_BACKLOG: Final = 1024  # as ours


def _accept(listener: socket.socket) -> None:
    while True:
        with contextlib.suppress(OSError):
            listener.accept()[0].close()


def main() -> None:
    """Accept and close."""
    with socket.create_server((HOST, 0), backlog=_BACKLOG) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()
        os._exit(0)  # the thread waits in accept


if __name__ == "__main__":
    main()
