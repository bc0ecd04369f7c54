"""What systemd hands over to a service, and what a service tells it.

Own code, as the protocols are a handful of environment variables and one datagram for each message, and have been
promised not to change: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import ExitStack, suppress
from typing import Final, final

import trio

from trio_fcgimail.server.listeners import ListenError

_FIRST_DESCRIPTOR: Final = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
_UNNAMED: Final = "unknown"  # sd_listen_fds_with_names(3): what has no name of its own
_NANOSECONDS_OF_A_MICROSECOND: Final = 1000
_MAX_STATUS_CHARACTERS: Final = 500  # ours: systemctl shows one line


def take_sockets(environment: MutableMapping[str, str]) -> dict[str, list[trio.SocketListener]]:
    """Take the sockets that systemd has opened for this process, by their names.

    Args:
        environment: of the process; the variables go, as they are for nobody that we start.

    Returns:
        Nothing when there are none, or they are for another process.

    Raises:
        ListenError: one of them is no socket that listens for streams.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    named = names.split(":") if names else []
    named += [_UNNAMED] * (int(count) - len(named))
    sockets: dict[str, list[trio.SocketListener]] = {}
    for descriptor, name in enumerate(named[: int(count)], _FIRST_DESCRIPTOR):
        sockets.setdefault(name, []).append(_take(descriptor, name))
    return sockets


def _take(descriptor: int, name: str) -> trio.SocketListener:
    try:
        os.set_inheritable(descriptor, False)
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(fileno=descriptor))
            sock.setblocking(False)
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            undo.pop_all()
            return listener
    except (OSError, ValueError) as exc:
        raise ListenError(f"systemd:{name} is no socket that listens for streams: {exc}") from exc


@final
class Notifier:
    """Tells systemd how we are. Without one it tells nobody; a message that cannot be sent is lost.

    Args:
        address: of the datagram socket, a path or "@" with an abstract name; empty for nobody.
        watchdog_seconds: how long systemd waits for the next ``alive``; None when it does not wait.
    """

    def __init__(self, address: str = "", watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """The one that the environment of the process names; its variables go."""
        address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = microseconds.isdecimal() and int(microseconds) > 0 and pid == str(os.getpid())
        return cls(address, int(microseconds) / 1_000_000 if watched else None)

    def ready(self, status: str) -> None:
        """Serving: after the start, and after each reload."""
        self._tell("READY=1", _status(status))

    def reloading(self) -> None:
        """Reading the settings anew; ends with ``ready``."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // _NANOSECONDS_OF_A_MICROSECOND
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}", _status("reloading"))

    def stopping(self) -> None:
        """Draining, and then gone."""
        self._tell("STOPPING=1", _status("stopping: waiting for mails under way"))

    def status(self, status: str) -> None:
        """A line for people, shown by systemctl status."""
        self._tell(_status(status))

    def alive(self) -> None:
        """Everything that is to work does; to be called more often than ``watchdog_seconds``."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:_MAX_STATUS_CHARACTERS]}"
