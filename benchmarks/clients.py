"""The load generator: many SMTP clients in one process, which check every reply.

It is a process of its own on plain sockets and epoll, with no more Python per reply than comparing it, so that it
stays far cheaper than what it drives. Reads a plan as JSON from its standard input and writes a report as JSON to its
standard output:  python -m benchmarks.clients < plan.json
"""

from __future__ import annotations

import gc
import json
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, Self, final

_RECEIVE_OCTETS: Final = 65_536
_SEND_OCTETS: Final = 1_048_576  # at a time, of a large mail
_POLL_SECONDS: Final = 30.0  # without a single event: whoever is measured is stuck
_MAX_FAILURES: Final = 100
_MOST_VISITS: Final = 100  # at a time: who cannot serve more is not asked for more
_NEVER: Final = -1
_LINE: Final = b"The quick brown fox jumps over the lazy dog; 100% of 3 + 4 = 7 & more.\r\n"
_HEAD: Final = (
    b"From: Alice <alice@example.net>\r\nTo: bob@example.com\r\nSubject: A mail of the benchmark\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n\r\n"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send.

    Args:
        octets: of a mail.
        seconds: for which new mails are begun; those under way are finished.
        per_mail: whether each mail has a connection of its own.
        pipelined: whether MAIL, RCPT and DATA are one write.
        visits_per_second: connections beside the mails, each of which says EHLO and QUIT.
    """

    host: str
    port: int
    senders: int
    octets: int
    seconds: float
    per_mail: bool
    pipelined: bool
    tls: bool
    visits_per_second: float = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it.

    Args:
        seconds: from the first connection to the last reply.
        first_failure: what was wrong with the first mail that failed.
        milliseconds: of each mail that did not fail.
        visits: that were served to their end, within ``visiting_seconds``.
    """

    mails: int
    failures: int
    first_failure: str
    seconds: float
    cpu_seconds: float
    milliseconds: list[float]
    visits: int = 0
    visiting_seconds: float = 0


@final
@dataclass(frozen=True, slots=True)
class _Step:
    """Something to say, and the codes of the replies to it, all of which are awaited."""

    data: bytes
    codes: tuple[bytes, ...]


def message(octets: int) -> bytes:
    """Make a mail of so many octets (never less than its head), CRLF line ends."""
    lines = max(1, (octets - len(_HEAD)) // len(_LINE))
    filler = max(0, octets - len(_HEAD) - lines * len(_LINE) - 2)
    return _HEAD + _LINE * lines + (b"x" * filler + b"\r\n" if filler else b"")


_GREETING: Final = (_Step(b"", (b"220",)), _Step(b"EHLO client.example.net\r\n", (b"250",)))
_FAREWELL: Final = _Step(b"QUIT\r\n", (b"221",))


@final
@dataclass(frozen=True, slots=True)
class _Script:
    """The steps of a session, by number: a greeting, mails over and over, a farewell.

    Args:
        mail_begins: the number of its first step.
        mail_ends: the number of the step behind the dot.
    """

    steps: tuple[_Step, ...]
    mail_begins: int
    mail_ends: int

    @classmethod
    def of_mails(cls, plan: Plan) -> Self:
        """Mails as planned."""
        envelope = [
            _Step(b"MAIL FROM:<alice@example.net>\r\n", (b"250",)),
            _Step(b"RCPT TO:<bob@example.com>\r\n", (b"250",)),
            _Step(b"DATA\r\n", (b"354",)),
        ]
        if plan.pipelined:
            codes = tuple(code for step in envelope for code in step.codes)
            envelope = [_Step(b"".join(step.data for step in envelope), codes)]
        dot = _Step(message(plan.octets) + b".\r\n", (b"250",))
        steps = (*_GREETING, *envelope, dot, _FAREWELL)
        return cls(steps, len(_GREETING), len(steps) - 1)

    @classmethod
    def of_a_visit(cls) -> Self:
        """No mail at all."""
        return cls((*_GREETING, _FAREWELL), _NEVER, _NEVER)


class _ReplyError(Exception):
    """Not what was expected."""


@final
class _Client:
    """One connection at a time."""

    def __init__(self, load: _Load, script: _Script, ended: Callable[[_Client, bool], None]) -> None:
        self._load = load
        self._script = script
        self._ended = ended
        self._sock: socket.socket = socket.socket()
        self._handshake_done = False
        self._unsent = memoryview(b"")
        self._received = b""
        self._number = 0  # of the step under way
        self._replies = 0  # to it, so far
        self._began = 0.0
        self._events = 0

    def connect(self) -> None:
        self._sock.close()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect_ex((self._load.plan.host, self._load.plan.port))
        context = self._load.context
        self._handshake_done = context is None
        if context is not None:
            sock = context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname="localhost")
        self._sock = sock
        self._received, self._number, self._replies = b"", 0, 0
        self._unsent = memoryview(b"")
        self._began = time.perf_counter()
        self._events = select.EPOLLIN if context is None else select.EPOLLIN | select.EPOLLOUT
        self._load.clients[sock.fileno()] = self
        self._load.epoll.register(sock.fileno(), self._events)

    def close(self) -> None:
        del self._load.clients[self._sock.fileno()]
        self._load.epoll.unregister(self._sock.fileno())
        self._sock.close()

    def ready(self, events: int) -> None:
        """Do what can be done; a mistake of the server ends this connection and begins another one."""
        try:
            if not self._handshake_done and not self._shake_hands():
                return
            if self._unsent:
                self._send()
            if events & ~select.EPOLLOUT:
                self._receive()
        except (OSError, _ReplyError) as exc:
            self._load.fail(f"step {self._number}: {exc}")
            self.close()
            self._ended(self, False)

    def _shake_hands(self) -> bool:
        assert isinstance(self._sock, ssl.SSLSocket)
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._await(select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._await(select.EPOLLOUT)
        else:
            self._handshake_done = True
            self._await(select.EPOLLIN)
        return self._handshake_done

    def _await(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._load.epoll.modify(self._sock.fileno(), events)

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent[:_SEND_OCTETS]) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._await(select.EPOLLIN | select.EPOLLOUT)
        else:
            self._await(select.EPOLLIN)

    def _receive(self) -> None:
        while True:
            try:
                data = self._sock.recv(_RECEIVE_OCTETS)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                raise _ReplyError("the connection ended")
            self._received += data
            if self._received.endswith(b"\n") and not self._take_replies():
                return
            if self._load.context is None:  # else more may be decrypted already, which epoll knows nothing of
                return

    def _take_replies(self) -> bool:
        """Compare what was received with what was expected; whether this connection goes on."""
        lines = self._received.split(b"\r\n")
        self._received = lines.pop()
        step = self._script.steps[self._number]
        for line in lines:
            if line[3:4] == b"-":
                continue
            if self._replies == len(step.codes):
                raise _ReplyError(f"unexpected: {line!r}")
            if line[:3] != step.codes[self._replies]:
                raise _ReplyError(repr(line))
            self._replies += 1
        return self._replies < len(step.codes) or self._advance()

    def _advance(self) -> bool:
        script = self._script
        self._replies = 0
        self._number += 1
        if self._number == script.mail_ends:
            now = time.perf_counter()
            self._load.milliseconds.append((now - self._began) * 1000)
            if not self._load.plan.per_mail and now < self._load.deadline:
                self._number = script.mail_begins
                self._began = now
        elif self._number == len(script.steps):
            self.close()
            self._ended(self, True)
            return False
        elif self._number == script.mail_begins and not self._load.plan.per_mail:
            self._began = time.perf_counter()
        self._unsent = memoryview(script.steps[self._number].data)
        self._send()
        return True


@final
class _Load:
    """All clients, and what they count."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._mails = _Script.of_mails(plan)
        self._visit = _Script.of_a_visit()
        self.context = _context() if plan.tls else None
        self.epoll = select.epoll()
        self.clients: dict[int, _Client] = {}
        self.deadline = 0.0
        self.milliseconds: list[float] = []
        self._failures = 0
        self._first_failure = ""
        self._visitors = 0  # connected now
        self._visits_begun = 0
        self._visits = 0
        self._visiting_seconds = 0.0

    def fail(self, problem: str) -> None:
        self._first_failure = self._first_failure or problem
        self._failures += 1

    def _next_connection(self, client: _Client, _is_whole: bool) -> None:
        if time.perf_counter() < self.deadline and self._failures < _MAX_FAILURES:
            client.connect()

    def _visit_ended(self, _client: _Client, is_whole: bool) -> None:
        self._visitors -= 1
        self._visits += is_whole

    def _let_visitors_come(self, began: float) -> float:
        """Begin the visits that are due; returns how long the next one has to wait, in seconds."""
        rate = self.plan.visits_per_second
        now = time.perf_counter()
        if not rate or now >= self.deadline:
            return _POLL_SECONDS + self.plan.seconds
        self._visiting_seconds = now - began
        due = int((now - began) * rate)
        while self._visits_begun < due and self._visitors < _MOST_VISITS:
            self._visits_begun += 1
            self._visitors += 1
            _Client(self, self._visit, self._visit_ended).connect()
        self._visits_begun = due  # what is late is not made good
        return max((due + 1) / rate - (time.perf_counter() - began), 0.0)

    def run(self) -> Report:
        cpu, began = time.process_time(), time.perf_counter()
        self.deadline = began + self.plan.seconds
        for _ in range(self.plan.senders):
            _Client(self, self._mails, self._next_connection).connect()
        heard = began
        while self.clients:
            ready = self.epoll.poll(self._let_visitors_come(began))
            now = time.perf_counter()
            heard = now if ready else heard
            if now - heard > _POLL_SECONDS:
                self.fail("no reply")
                break
            for fileno, events in ready:
                client = self.clients.get(fileno)
                if client is not None:
                    client.ready(events)
        return Report(
            mails=len(self.milliseconds),
            failures=self._failures,
            first_failure=self._first_failure,
            seconds=time.perf_counter() - began,
            cpu_seconds=time.process_time() - cpu,
            milliseconds=self.milliseconds,
            visits=self._visits,
            visiting_seconds=self._visiting_seconds,
        )


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """Read the plan, carry it out, report."""
    plan = Plan(**json.load(sys.stdin))
    gc.disable()
    json.dump(asdict(_Load(plan).run()), sys.stdout)


if __name__ == "__main__":
    main()
