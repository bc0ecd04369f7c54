"""Random faults at random octets: a 250 follows only a save that ran and was acknowledged, and none runs twice.

The responder is our own core; each connection, and each request on it, meets a fault by the dice. Time is a test clock.
"""

import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.support import HEAD, Dialogue, House, Journal, end, stdout
from trio_fcgimail import fastcgi
from trio_fcgimail.config import UpstreamAddress
from trio_fcgimail.fastcgi import ProtocolStatus
from trio_fcgimail.server.upstream import UpstreamUnavailable

pytestmark = pytest.mark.trio

#: For a longer run: FCGIMAIL_CHAOS_SEEDS=1250 are 5,000 towns full of trouble.
SEEDS: Final = int(os.environ.get("FCGIMAIL_CHAOS_SEEDS", "4"))
CLIENTS: Final = 6
MAILS: Final = 8
STORED: Final = b"250 2.0.0 OK: queued as "
RECIPIENT: Final = b"250 2.1.5 "
TOML: Final = """
[fastcgi]
upstreams = ["unix:/one", "unix:/other"]
max_connections = 3
reserve_for_validate = 1
keep_alive = {keep_alive}
clean_eof_means_unexecuted = {clean_eof}
wait_seconds = 5
[limits]
messages_per_connection = 0
[scripts]
validate = "/srv/mail/validate.php"
validate_seconds = 1
save_seconds = 2
"""


class Fault(Enum):
    """What a responder does with a request."""

    NONE = "runs it and answers"
    CLOSE_UNREAD = "reads some of it, and closes"
    DISCARD = "reads all of it, runs nothing and closes, as a worker of php-fpm that retires"
    DIE = "reads all of it, runs it and dies without an octet"
    CUT = "runs it, and dies within the answer"
    HANG = "runs it, and says nothing more"
    HANG_UNRUN = "reads all of it, and does nothing at all"
    REFUSE = "answers OVERLOADED without running it"
    GARBAGE = "runs it, and answers in another language"
    EXTRA = "runs it, answers, and goes on talking"
    RETIRE = "runs it, answers, and half-closes"


#: A server that dies in silence after it has run a script must not be called one whose clean ends mean nothing.
_SILENT: Final = {True: Fault.DISCARD, False: Fault.DIE}


@dataclass(frozen=True)
class Told:
    """What was run, and for which of them an answer left whole."""

    ran: Counter[str]
    answered: set[str]


class Chaos:
    """A responder that throws dice."""

    def __init__(self, nursery: trio.Nursery, dice: random.Random, *, clean_eof: bool) -> None:
        self.told = Told(Counter(), set())
        self.met: Counter[Fault] = Counter()
        self._keeps: dict[trio.abc.Stream, bool] = {}
        self._nursery = nursery
        self._dice = dice
        self._faults: list[Fault] = [fault for fault in Fault if fault not in (Fault.DISCARD, Fault.DIE)]
        self._faults.append(_SILENT[clean_eof])

    async def connect(self, address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        """Stands in for `upstream.connect`."""
        await trio.lowlevel.checkpoint()
        if self._dice.random() < 0.1:
            raise UpstreamUnavailable(f"{address}: refused")
        ours, theirs = lockstep_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, fastcgi.RemoteProtocolError):
                while await self._one(stream):
                    pass

    async def _one(self, stream: trio.abc.Stream) -> bool:
        """One request; whether there may be another."""
        fault = self._dice.choice(self._faults) if self._dice.random() < 0.4 else Fault.NONE
        if fault is Fault.CLOSE_UNREAD:
            left = self._dice.choice([0, 1, 7, 8, 16, 100, self._dice.randrange(2000)])
            self.met[fault] += 1
            while left > 0 and (data := await stream.receive_some(min(left, 64))):
                left -= len(data)
            return False
        conn = fastcgi.ResponderConnection()
        name = await self._read(stream, conn)
        if name is None:
            return False
        self.met[fault] += 1
        if fault not in (Fault.DISCARD, Fault.HANG_UNRUN, Fault.REFUSE):
            self.told.ran[name] += 1
        return await self._answer(stream, conn, name, fault)

    async def _read(self, stream: trio.abc.Stream, conn: fastcgi.ResponderConnection) -> str | None:
        """Read a request; which mail it is about, or None at the end."""
        name, body = "", b""
        while True:
            match conn.next_event():
                case fastcgi.RequestBegun(params=params, keep_connection=keeps):
                    self._keeps[stream] = keeps
                    name = dict(params).get(b"QUERY_STRING", b"").decode()
                case fastcgi.StdinChunk(data=data):
                    body += data
                case fastcgi.StdinEnded():
                    return f"save {body.partition(b'Subject: ')[2][:7].decode()}" if body else name
                case fastcgi.ConnectionClosed():
                    return None
                case fastcgi.Signal():
                    conn.receive_data(await stream.receive_some(self._dice.choice([1, 50, 65_536])))

    async def _answer(
        self, stream: trio.abc.Stream, conn: fastcgi.ResponderConnection, name: str, fault: Fault
    ) -> bool:
        output = b"SAVED" if name.startswith("save") else b"PASSED"
        whole = conn.send_stdout(1, HEAD + output) + conn.end_request(1)
        match fault:
            case Fault.NONE | Fault.RETIRE | Fault.EXTRA:
                extra = b""
                if fault is Fault.EXTRA:
                    extra = stdout(b"more") if self._dice.random() < 0.5 else b"\1"
                await self._write(stream, whole[:-1])
                self.told.answered.add(name)  # who has the last octet may close before we are told that it went
                await self._write(stream, whole[-1:] + extra)
                return fault is not Fault.RETIRE and self._keeps[stream]
            case Fault.CUT:
                await self._write(stream, whole[: self._dice.randrange(1, len(whole) - 1)])
            case Fault.HANG | Fault.HANG_UNRUN:
                await stream.receive_some(1)
            case Fault.REFUSE:
                await self._write(stream, end(ProtocolStatus.OVERLOADED))
            case Fault.GARBAGE:
                await self._write(stream, b"HTTP/1.1 200 OK\r\n\r\nSAVED")
            case Fault.DISCARD | Fault.DIE | Fault.CLOSE_UNREAD:
                pass
            case _:
                assert_never(fault)
        return False

    async def _write(self, stream: trio.abc.Stream, octets: bytes) -> None:
        at = 0
        while at < len(octets):
            piece = octets[at : at + self._dice.choice([1, 8, 65_536])]
            await stream.send_all(piece)
            at += len(piece)


async def _send_mails(client: Dialogue, number: int, stored: set[str], dice: random.Random) -> None:
    for mail in range(MAILS):
        name = f"m-{number:02}-{mail:02}"
        await client.ask(b"MAIL FROM:<a@client.example>")
        taken = await client.ask(f"RCPT TO:<{name}@example.com>".encode())
        if not taken.startswith(RECIPIENT):
            assert taken.startswith(b"451 ")
            await client.reset()
            continue
        await client.ask(b"DATA")
        filler = dice.choice([0, 1000, 3000]) * (60 * b"x" + b"\r\n")
        reply = await client.ask(b"Subject: " + name.encode() + b"\r\n\r\n" + filler + b".")
        assert reply.startswith((STORED, b"451 4.3.0 "))
        if reply.startswith(STORED):
            stored.add(name)
    await client.close()


@pytest.mark.parametrize("clean_eof", [True, False], ids=["php-fpm", "others"])
@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept", "not-kept"])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_faults_at_random(
    seed: int, keep_alive: bool, clean_eof: bool, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    dice = random.Random(seed)
    chaos = Chaos(nursery, dice, clean_eof=clean_eof)
    toml = TOML.format(keep_alive=str(keep_alive).lower(), clean_eof=str(clean_eof).lower())
    house = House(nursery, journal, toml, connect=chaos.connect)
    stored: set[str] = set()
    async with trio.open_nursery() as inner:
        for number in range(CLIENTS):
            inner.start_soon(_send_mails, await house.guest(), number, stored, random.Random(1000 * seed + number))
    saves = {name: times for name, times in chaos.told.ran.items() if name.startswith("save")}
    assert set(saves.values()) <= {1}, "a save ran twice for one mail"
    assert stored <= {name.removeprefix("save ") for name in chaos.told.answered if name.startswith("save")}
    assert stored, "the dice were too hard on everybody"
    assert len(chaos.met) >= 6
    # A validation may run twice for one recipient.
    assert max(chaos.told.ran.values()) <= 2
