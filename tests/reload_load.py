"""A load that runs through reloads, good and bad, and through a restart with socket inheritance.

Every mail has a number. At the end the numbers that were answered 250 are exactly those that the save script stored,
each once; no connection was refused, and none ended between a final dot and its reply. The suite runs a short one; a
long one is::

    python -m tests.reload_load --reloads 200 --restarts 10 --clients 30
"""

import argparse
import itertools
import random
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.cli.support import configuration, write_configuration
from tests.phpfpm import open_folder
from tests.server_process import ServerProcess
from tests.support import Dialogue, Line, ScriptedResponder

_STEP_SECONDS: Final = 60.0  # for anything that a client waits for
_BAD: Final = (
    "hostnome = 'x'\n",
    "this is no TOML",
    "[[listeners]]\naddress = '192.0.2.1:25'\n",
    "user = 'no-such-user'\n",
)


class WentWrongError(Exception):
    """What must not happen to a client."""


@dataclass(slots=True)
class Ledger:
    """What the clients and the script know of the mails.

    Attributes:
        sent: numbers that were answered 250.
        stored: how often the script got each number.
        told_to_go: how many 421 there were.
    """

    sent: set[int] = field(default_factory=set)
    stored: Counter[int] = field(default_factory=Counter)
    told_to_go: int = 0

    def faults(self) -> list[str]:
        """What is wrong with it."""
        lost = sorted(self.sent - set(self.stored))
        doubled = sorted(number for number, times in self.stored.items() if times > 1)
        unasked = sorted(set(self.stored) - self.sent)
        named = {"lost": lost, "doubled": doubled, "stored without a 250": unasked}
        return [f"{name}: {numbers}" for name, numbers in named.items() if numbers]


class Store(ScriptedResponder):
    """A save script that takes a while."""

    def __init__(self, nursery: trio.Nursery, ledger: Ledger, chance: random.Random) -> None:
        super().__init__(nursery, self._save)
        self._ledger = ledger
        self._chance = chance

    async def _save(self, line: Line) -> None:
        while True:
            await self._save_one(line)

    async def _save_one(self, line: Line) -> None:
        request = await line.request()
        await trio.sleep(self._chance.choice((0, 0, 0.01, 0.1)))
        self._ledger.stored[int(request.fields["subject"])] += 1
        await line.answer(b"SAVED")


class Load:
    """Clients that send numbered mails until they are told to stop."""

    def __init__(self, port: int, ledger: Ledger, chance: random.Random) -> None:
        self._port = port
        self._ledger = ledger
        self._chance = chance
        self._numbers = itertools.count(1)
        self._is_over = False

    def end(self) -> None:
        """Let each client finish its mail."""
        self._is_over = True

    async def client(self) -> None:
        """One mail after the other, some in one connection; a mail that was not taken is sent again."""
        for number in self._numbers:
            sent = False
            while not sent:
                sent = await self._visit(number)
            if self._is_over:
                return

    async def _visit(self, number: int) -> bool:
        """Connect, and send this mail and perhaps more; whether this one was taken."""
        with trio.fail_after(_STEP_SECONDS):
            client = Dialogue(await trio.open_tcp_stream("127.0.0.1", self._port))  # raises when it is refused
            try:
                if not (await client.reply()).startswith(b"220 "):
                    return self._was_told_to_go()
                if not (await client.ask(b"EHLO load.example")).startswith(b"250-"):
                    return self._was_told_to_go()
                taken = await self._mail(client, number)
                for _ in range(self._chance.choice((0, 0, 1, 5)) if taken and not self._is_over else 0):
                    await self._think()
                    another = next(self._numbers)
                    if not await self._mail(client, another):
                        await client.close()
                        while not await self._visit(another):
                            pass
                        break
                return taken
            finally:
                await client.close()

    async def _mail(self, client: Dialogue, number: int) -> bool:
        """One mail; False when the client was told to go before it."""
        try:
            if not (await client.ask(b"MAIL FROM:<a@load.example>")).startswith(b"250 "):
                return self._was_told_to_go()
        except (EOFError, trio.BrokenResourceError):  # it was told while we were thinking
            return self._was_told_to_go()
        await self._think()
        for command in (b"RCPT TO:<b@example.com>", b"DATA"):
            reply = await client.ask(command)
            if reply[:3] not in {b"250", b"354"}:
                raise WentWrongError(f"{command!r} was answered {reply!r}")
        await client.send(b"Subject: %d\r\n\r\n" % number)
        await self._think()
        reply = await client.ask(self._chance.choice((1, 500)) * b"hello\r\n" + b".")
        if not reply.startswith(b"250 "):
            raise WentWrongError(f"mail {number} was answered {reply!r}")
        self._ledger.sent.add(number)
        return True

    def _was_told_to_go(self) -> bool:
        self._ledger.told_to_go += 1
        return False

    async def _think(self) -> None:
        await trio.sleep(self._chance.choice((0, 0.01, 0.05, 0.2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happens during the load.

    Args:
        reloads: how many; every other one is of a file that is wrong.
        restarts: how many; each ends the server, and starts another one on the same sockets.
        clients: how many send at the same time.
        seed: of all that is left to chance.
    """

    reloads: int
    restarts: int
    clients: int
    seed: int


async def run(course: Course, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Ledger:
    """Run a load through a course; the ledger is complete then. Raises AssertionError when the server does wrong."""
    chance = random.Random(course.seed)
    ledger = Ledger()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        load = Load(sock.getsockname()[1], ledger, chance)
        async with trio.open_nursery() as nursery:
            await Store(nursery, ledger, chance).listen(folder / "fcgi")
            steps = _steps(course, chance)
            write_configuration(folder, _good(folder, 2))
            async with trio.open_nursery() as clients:
                server = await _start(folder, sock)
                try:
                    for _ in range(course.clients):
                        clients.start_soon(load.client)
                    for step in steps:
                        if step == "restart":
                            server = await _restart(server, folder, sock)
                        else:
                            await _reload(server, folder, step, chance)
                        tell(f"{step!r}: {len(ledger.sent)} mails")
                    load.end()
                except BaseException:
                    server.__exit__(None, None, None)
                    raise
            assert await _ends(server) == 0, server.log
            nursery.cancel_scope.cancel()
    return ledger


def _steps(course: Course, chance: random.Random) -> list[str]:
    bad = [chance.choice(_BAD) if number % 2 else "" for number in range(course.reloads)]
    for number in range(course.restarts):
        bad.insert((number + 1) * len(bad) // (course.restarts + 1), "restart")
    return bad


def _good(folder: Path, workers: int) -> str:
    text = configuration(listen="systemd:smtp", upstream=f"unix:{folder}/fcgi")
    return f"workers = {workers}\n" + text.replace("max_connections = 2", "max_connections = 6")


async def _start(folder: Path, sock: socket.socket) -> ServerProcess:
    server = ServerProcess(
        "serve", folder=folder, sockets=[("smtp", sock)], ready=lambda one: one.wait_for_log("listening")
    )
    return await trio.to_thread.run_sync(server.__enter__)


async def _ends(server: ServerProcess) -> int:
    code = await trio.to_thread.run_sync(server.stop, signal.SIGTERM)
    server.__exit__(None, None, None)
    return code


async def _restart(server: ServerProcess, folder: Path, sock: socket.socket) -> ServerProcess:
    write_configuration(folder, _good(folder, 2))
    assert await _ends(server) == 0, server.log
    return await _start(folder, sock)


async def _reload(server: ServerProcess, folder: Path, bad: str, chance: random.Random) -> None:
    """HUP with a good file, or with a bad one, and wait for what comes of it."""
    good = _good(folder, chance.choice((1, 1, 2)))
    is_listener = bad.startswith("[[listeners]]")
    write_configuration(folder, good + bad if is_listener else bad + good)
    outcome = "error.*not reloaded" if bad else "info.*] reloaded"
    before = len(re.findall(outcome, server.log))
    server.send(signal.SIGHUP)
    await trio.to_thread.run_sync(server.wait_for_log, outcome, before + 1)
    await trio.sleep(0.1)


def main() -> int:
    """Run a long one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    course = Course(reloads=given.reloads, restarts=given.restarts, clients=given.clients, seed=given.seed)
    print(course)
    with open_folder() as folder:
        ledger = trio.run(run, course, folder, print)
    print(f"{len(ledger.sent)} mails, {ledger.told_to_go} times 421; {ledger.faults() or 'no fault'}")
    return bool(ledger.faults())


if __name__ == "__main__":
    sys.exit(main())
