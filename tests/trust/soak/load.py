"""Senders at a given rate, in a process of their own.

Reads a plan as JSON from standard input, and writes one line of JSON each second: how long each mail took from
when it was due to its answer, so that a server which falls behind is seen to.
"""

import json
import random
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.trust.chaos.attempts import Route
from tests.trust.chaos.mails import Mail, Post, Transfer
from tests.trust.chaos.wire import Doors, GoneError, HungError, Wire

_ROUTES: Final = (Route.PLAIN, Route.PLAIN, Route.PLAIN, Route.STARTTLS, Route.IMPLICIT, Route.LMTP)
_MAILS: Final = 500  # different ones, over and over
_MAILS_OF_A_CONNECTION: Final = 20
#: Prints by how many milliseconds it was woken too late, twenty times a second; whole lines, which a pipe keeps whole.
_YARDSTICK: Final = """
import os, time
while True:
    due = time.perf_counter() + 0.05
    time.sleep(0.05)
    os.write(1, b"%.3f\\n" % (1000 * (time.perf_counter() - due)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send.

    Args:
        ports: of the routes, by their names.
        rate: mails a second; 0 for as many as the server takes.
        largest: octets of a mail.
    """

    ports: dict[str, int]
    lmtp: str
    ca_file: str
    senders: int
    rate: float
    seconds: float
    largest: int
    seed: int


@dataclass(slots=True)
class Second:
    """What came of one second.

    Attributes:
        milliseconds: of each mail.
        lateness: in milliseconds, by which a process that only sleeps was woken too late: the machine's own latency.
    """

    milliseconds: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        ports = {Route[name]: port for name, port in plan.ports.items()}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(plan.ca_file)
        self._doors = Doors(ports, Path(plan.lmtp), context)
        self._dice = random.Random(plan.seed)
        post = Post(plan.seed, plan.largest)
        self._mails = [_prepare(post.mail(number), self._dice) for number in range(1, _MAILS + 1)]
        self._began = trio.current_time()
        self._slots = self._count()
        self.second = Second()

    def _count(self) -> Iterator[float]:
        """When mails are due."""
        plan, count = self._plan, 0
        while True:
            due = self._began + count / plan.rate if plan.rate else trio.current_time()
            if due > self._began + plan.seconds:
                return
            count += 1
            yield due

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            nursery.start_soon(self._read_yardstick)
            async with trio.open_nursery() as senders:
                for _ in range(self._plan.senders):
                    senders.start_soon(self._send)
            nursery.cancel_scope.cancel()
        self._tell_second()  # the last, which is none

    async def _read_yardstick(self) -> None:
        """What a process of its own tells of the machine."""
        process = await trio.lowlevel.open_process([sys.executable, "-c", _YARDSTICK], stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            async for data in process.stdout:
                self.second.lateness += map(float, data.split())
        finally:
            process.kill()

    async def _tell(self) -> None:
        for number in range(1, sys.maxsize):
            await trio.sleep_until(self._began + number)
            self._tell_second()

    def _tell_second(self) -> None:
        second, self.second = self.second, Second()
        told = {"milliseconds": second.milliseconds, "lateness": second.lateness}
        rounded = {name: [round(one, 2) for one in values] for name, values in told.items()}
        print(json.dumps(rounded | {"failures": second.failures}), flush=True)

    async def _send(self) -> None:
        """Connections, one after the other, until the time is over."""
        is_over = False
        while not is_over:
            try:
                is_over = await self._visit()
            except (GoneError, HungError, ValueError) as exc:
                self.second.failures.append(repr(exc))
                await trio.sleep(1)

    async def _visit(self) -> bool:
        """One connection; whether the time is over."""
        route = self._dice.choice(_ROUTES)
        wire = await Wire.connect(self._doors, route)
        try:
            await self._greet(wire, route)
            for _ in range(_MAILS_OF_A_CONNECTION):
                due = next(self._slots, None)
                if due is None:
                    return True
                await trio.sleep_until(due)
                await self._mail(wire, route)
                self.second.milliseconds.append(1000 * (trio.current_time() - due))
            await wire.send(b"QUIT\r\n")
            _expect(await wire.reply(), "221")
        finally:
            await wire.close()
        return False

    async def _greet(self, wire: Wire, route: Route) -> None:
        hello = b"LHLO soak.example\r\n" if route is Route.LMTP else b"EHLO soak.example\r\n"
        if route is Route.IMPLICIT:
            await wire.encrypt(self._doors.trusting)
        _expect(await wire.reply(), "220")
        await wire.send(hello)
        _expect(await wire.reply(), "250")
        if route is Route.STARTTLS:
            await wire.send(b"STARTTLS\r\n")
            _expect(await wire.reply(), "220")
            await wire.encrypt(self._doors.trusting)
            await wire.send(hello)
            _expect(await wire.reply(), "250")

    async def _mail(self, wire: Wire, route: Route) -> None:
        mail = self._dice.choice(self._mails)
        await wire.send(mail.envelope)
        for code in mail.codes:
            _expect(await wire.reply(), code)
        await wire.send(mail.content)
        for _ in range(mail.chunks + (mail.recipients if route is Route.LMTP else 1)):
            _expect(await wire.reply(), "250")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Octets to send. ``codes`` are of the replies to the envelope, ``chunks`` are all but the last."""

    envelope: bytes
    codes: tuple[str, ...]
    content: bytes
    chunks: int
    recipients: int


def _prepare(mail: Mail, dice: random.Random) -> _Prepared:
    lines = [f"MAIL FROM:<{mail.sender}>{mail.parameters}", *(f"RCPT TO:<{one}>" for one in mail.recipients)]
    codes = ["250"] * len(lines)
    if mail.transfer is Transfer.DATA:
        lines.append("DATA")
        codes.append("354")
        chunks, content = 0, mail.stuffed()
    else:
        parts = mail.chunks(dice)
        chunks, content = len(parts) - 1, b"".join(parts)
    envelope = "".join(f"{line}\r\n" for line in lines).encode()
    return _Prepared(envelope, tuple(codes), content, chunks, len(mail.recipients))


def _expect(reply: str, code: str) -> None:
    if not reply.startswith(code):
        raise ValueError(f"{code} was expected: {reply}")


async def _main() -> None:
    await _Load(Plan(**json.load(sys.stdin))).run()


if __name__ == "__main__":
    trio.run(_main)
