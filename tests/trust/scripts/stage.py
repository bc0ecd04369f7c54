"""A server with two upstreams, one of which plays a fault, and senders that do what senders do.

A mail that was deferred comes again, the very same, until it is taken. At the end each mail that was answered 250 has
been stored by the good one.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import trio

from benchmarks.processes import Meter, free_port, tree
from tests.phpfpm import PhpFpm
from tests.server.responder_process import acting
from tests.server_process import ServerProcess, eventually
from tests.support import MAIL, Dialogue, Line
from tests.trust.hostile.house import descriptors_of
from tests.trust.scripts.faults import Fault

SAVE_SECONDS: Final = 1.5
#: Above the deadline of the script, for a busy machine.
SLACK_SECONDS: Final = 5.0
SENDERS: Final = 6
MOST_CONNECTIONS: Final = 8
#: What the server's memory may grow by, at any time.
MOST_GROWN_MIB: Final = 64.0
_PATIENCE_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.05
_MEETINGS: Final = 5  # with the fault, at least
_CONFIGURATION: Final = """
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
drain_seconds = 5
[[listeners]]
address = "127.0.0.1:{port}"
[limits]
connections_per_ip = 0
[log]
format = "json"
file = "{log}"
[fastcgi]
upstreams = ["unix:{bad}", "{good}"]
max_connections = {connections}
wait_seconds = 5
[scripts]
save = "{save}"
save_seconds = {seconds}
"""
#: The same file runs at both upstreams when both are a php-fpm.
_SAVE: Final = """<?php
if (getenv('FAULTY')) {
    require __DIR__ . '/faulty.php';
    return;
}
file_put_contents('%s', $_POST['subject'] . "\\n", FILE_APPEND | LOCK_EX);
echo 'SAVED';
"""
_UNCLEAN: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CLEAN_REPLY: Final = re.compile(rb"[ -~]{3,510}\r\n")


@final
@dataclass(slots=True)
class Account:
    """What came of one fault.

    Attributes:
        replies: to the final dot, by their code and enhanced code.
        saved: the subjects of the mails that were answered 250.
        problems: whatever is promised and was not so.
        slowest_seconds: of a reply to the final dot.
        met: how often the fault was played.
        grown_mib: the server's memory, at its peak.
        left_mib: and in the end.
    """

    replies: Counter[str] = field(default_factory=Counter)
    saved: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    met: int = 0
    grown_mib: float = 0.0
    left_mib: float = 0.0


@final
class Stage:
    """The running server.

    Attributes:
        bad: where the socket of the bad upstream is to be.
        good: the php-fpm that stores.
    """

    def __init__(
        self, server: ServerProcess, port: int, bad: Path, good: PhpFpm, log: Path, save_seconds: float
    ) -> None:
        self.server = server
        self._save_seconds = save_seconds
        self.bad = bad
        self.good = good
        self._port = port
        self._log = log
        self._meter = Meter(server.pid)
        self._numbers = itertools.count(1)

    def play(self, fault: Fault, seconds: float) -> Account:
        """Send mails for so long, and at least until the fault was met often enough, while a fault is played."""
        account = Account()

        async def act(line: Line) -> None:
            account.met += 1
            assert fault.act is not None
            await fault.act(line)

        with nullcontext() if fault.act is None else acting(self.bad, act):
            self._send(account, fault, seconds, meetings=0 if fault.act is None else _MEETINGS)
        return account

    def play_in_turn(self, faults: list[Fault], seconds: float) -> Account:
        """Likewise, with another fault for each connection, and every second one good, so that it is never ejected."""
        account = Account()
        usable = [one for one in faults if one.act is not None and not one.refusal and one.mail == MAIL]
        turns = itertools.cycle(usable)

        async def act(line: Line) -> None:
            account.met += 1
            if account.met % 2:
                self._note((await line.request()).fields["subject"])
                await line.answer(b"SAVED")
            elif (doing := next(turns).act) is not None:
                await doing(line)

        with acting(self.bad, act):
            self._send(account, Fault("in turn", act), seconds, meetings=2 * len(usable))
        return account

    def play_php(self, source: str, faulty: PhpFpm, fault: Fault, seconds: float) -> Account:
        """Likewise, with a script that a php-fpm of its own runs."""
        self.good.script("faulty.php", source)
        self.bad.symlink_to(faulty.socket_path)
        account = Account()
        try:
            self._send(account, fault, seconds, meetings=0)
        finally:
            self.bad.unlink()
        return account

    def _note(self, subject: str) -> None:
        with (self.good.data / "stored").open("a") as notes:
            notes.write(f"{subject}\n")

    def _send(self, account: Account, fault: Fault, seconds: float, meetings: int) -> None:
        before, resident, read = self._descriptors(), self._meter.resident_mib() or 0.0, self._log.stat().st_size
        self._meter.reset_peak()
        trio.run(self._load, account, fault, seconds, meetings)
        account.grown_mib = (self._meter.peak_mib() or 0.0) - resident
        eventually(lambda: self._descriptors() <= before, "the descriptors are back")
        account.left_mib = (self._meter.resident_mib() or 0.0) - resident
        stored = set((self.good.data / "stored").read_text().split()) if account.saved else set()
        lost = account.saved - stored
        if lost:
            account.problems.append(f"{len(lost)} mails were answered 250 and not stored")
        if account.slowest_seconds > self._save_seconds + SLACK_SECONDS:
            account.problems.append(f"a reply took {account.slowest_seconds:.1f} s")
        if account.grown_mib > MOST_GROWN_MIB:
            account.problems.append(f"memory grew by {account.grown_mib:.0f} MiB")
        wrong = account.replies.keys() - {"250 2.0.0", "451 4.3.0", fault.refusal}
        account.problems += [f"was told {reply}" for reply in sorted(wrong)]
        account.problems += self._unclean_lines(read)

    def _descriptors(self) -> int:
        return sum(map(descriptors_of, tree(self.server.pid)))

    def _unclean_lines(self, begin: int) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode().split("\n")[:-1]
        found = [line for line in lines if _UNCLEAN.search(line) or not _is_clean(json.loads(line))]
        found += [line for line in lines if '"session failed"' in line or '"worker died"' in line]
        return [f"in the log: {line[:200]!r}" for line in found[:3]]

    async def _load(self, account: Account, fault: Fault, seconds: float, meetings: int) -> None:
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(self._sender, account, fault, over)
            await trio.sleep(seconds)
            for _ in range(int(_PATIENCE_SECONDS / _TICK_SECONDS)):
                if account.met >= meetings:
                    break
                await trio.sleep(_TICK_SECONDS)  # it is another thread that counts
            if account.met < meetings:
                account.problems.append(f"the fault was met {account.met} times only")
            over.set()

    async def _sender(self, account: Account, fault: Fault, over: trio.Event) -> None:
        client = Dialogue(await trio.open_tcp_stream("127.0.0.1", self._port))
        await client.hello()
        while not over.is_set():
            subject = f"m{next(self._numbers)}"
            content = b"Subject: %s\r\n" % subject.encode() + fault.mail
            for _ in range(100):
                reply, seconds = await _mail(client, content)
                account.slowest_seconds = max(account.slowest_seconds, seconds)
                account.replies[" ".join(reply.decode("latin-1").split()[:2])] += 1
                if not all(_CLEAN_REPLY.fullmatch(line) for line in reply.splitlines(keepends=True)):
                    account.problems.append(f"an unclean reply: {reply[:200]!r}")
                if not reply.startswith(b"4"):
                    break
            else:
                account.problems.append("a mail was never taken")
            if reply.startswith(b"250"):
                account.saved.add(subject)
        await client.ask(b"QUIT")
        await client.close()


def _is_clean(entry: dict[str, object]) -> bool:
    return not any(isinstance(value, str) and _UNCLEAN.search(value) for value in entry.values())


async def _mail(client: Dialogue, content: bytes) -> tuple[bytes, float]:
    with trio.fail_after(_PATIENCE_SECONDS):
        await client.begin()
        began = trio.current_time()
        reply = await client.ask(content + b".")
        return reply, trio.current_time() - began


@contextmanager
def stage(folder: Path, save_seconds: float = SAVE_SECONDS) -> Iterator[Stage]:
    """Run the server and the good upstream; at its end it has to stop in time."""
    log, port, bad = folder / "log", free_port(), folder / "bad.sock"
    folder.chmod(0o755)
    with PhpFpm(children=MOST_CONNECTIONS) as good:
        (folder / "fcgimail.toml").write_text(
            _CONFIGURATION.format(
                port=port,
                log=log,
                bad=bad,
                good=good.address,
                connections=MOST_CONNECTIONS,
                save=good.script("save.php", _SAVE % (good.data / "stored")),
                seconds=save_seconds,
            )
        )

        def listens(_: ServerProcess) -> None:
            eventually(lambda: log.exists() and '"listening"' in log.read_text(), "the server listens")

        with ServerProcess("serve", "-c", "fcgimail.toml", folder=folder, ready=listens) as server:
            yield Stage(server, port, bad, good, log, save_seconds)
            assert server.stop() == 0
