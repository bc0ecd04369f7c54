"""The ceiling: both FastCGI requests of a mail straight to php-fpm, over kept connections, by next to nothing.

The octets are made once, answers are compared with what they were the first time, and one epoll loop serves as many
connections as PHP has workers. No mail server can be faster with these scripts. Writes a report as
benchmarks/clients.py does:  python -m benchmarks.ceiling SOCKET VALIDATE SAVE OCTETS SECONDS
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Final, final

from benchmarks import wire
from benchmarks.clients import Report, message

_CONNECTIONS: Final = 4
_RECEIVE_OCTETS: Final = 65_536
_ANSWERS: Final = (b"PASSED", b"SAVED")


@final
class _Connection:
    def __init__(self, path: str, requests: tuple[bytes, bytes]) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self._requests = requests
        self._turn = 0
        self._received = b""
        self._began = 0.0
        self.milliseconds: list[float] = []

    def send(self) -> None:
        if self._turn == 0:
            self._began = time.perf_counter()
        self.sock.sendall(self._requests[self._turn])

    def receive(self) -> bool:
        """Take what has come; whether it was the rest of an answer."""
        self._received += self.sock.recv(_RECEIVE_OCTETS)
        answer = wire.answer(self._received)
        if answer is None:
            return False
        if answer != _ANSWERS[self._turn]:
            raise SystemExit(f"PHP answered {answer!r}")
        self._received = b""
        self._turn = 1 - self._turn
        if self._turn == 0:
            self.milliseconds.append((time.perf_counter() - self._began) * 1000)
        return True

    @property
    def is_between_mails(self) -> bool:
        return self._turn == 0


def run(path: str, validate: str, save: str, octets: int, seconds: float) -> Report:
    """Make the two requests over and over."""
    body = wire.form_value(message(octets).replace(b"\r\n", b"\n"))
    form = b"body=%s&helo=client&mail_from=alice%%40example.net&rcpt_to_0=bob%%40example.com" % body
    query = b"mail_from=alice%40example.net&rcpt_to=bob%40example.com"
    requests = (wire.get(validate, query), wire.post(save, form))
    connections = {}
    epoll = select.epoll()
    cpu, began = time.process_time(), time.perf_counter()
    deadline = began + seconds
    for _ in range(_CONNECTIONS):
        connection = _Connection(path, requests)
        connections[connection.sock.fileno()] = connection
        epoll.register(connection.sock.fileno(), select.EPOLLIN)
        connection.send()
    working = len(connections)
    while working:
        for fileno, _ in epoll.poll():
            connection = connections[fileno]
            if connection.receive():
                if connection.is_between_mails and time.perf_counter() > deadline:
                    working -= 1
                else:
                    connection.send()
    milliseconds = [value for connection in connections.values() for value in connection.milliseconds]
    return Report(
        mails=len(milliseconds),
        failures=0,
        first_failure="",
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu,
        milliseconds=milliseconds,
    )


if __name__ == "__main__":
    gc.disable()
    report = run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
    json.dump(asdict(report), sys.stdout)
