"""The processes beside the server: attackers, the good load, the bare server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from benchmarks.clients import Plan, Report
from benchmarks.processes import Meter
from tests.server_process import SECONDS
from tests.trust.hostile.attacks import Attack
from tests.trust.hostile.field import HOST, Tally

ROOT: Final = Path(__file__).parents[3]
_ENVIRONMENT: Final = os.environ | {"PYTHONPATH": str(ROOT)}
_STAT: Final = Path("/proc/stat")
_LEAST_SHARE: Final = 0.1  # of the machine: with less than that, nothing can be said
_OCTETS: Final = 4_096  # of a good mail
_KEEPERS: Final = 6  # good senders that keep their connections
_VISITORS: Final = 2  # good senders with a connection for each mail


@contextmanager
def _program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def bare_server() -> Iterator[int]:
    """Accepts and closes; its port."""
    with _program("tests.trust.hostile.bare") as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def attacking(attack: Attack, port: int, connections: int | None = None) -> Iterator[Tally]:
    """While this lasts, all connections of an attack are in position and go on; the tally is filled at its end."""
    tally = Tally()
    number = attack.connections if connections is None else connections
    with _program("tests.trust.hostile.attacker", attack.name, str(port), str(number)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield tally
        told = process.communicate(timeout=SECONDS)[0]
        done = Tally.from_json(told)
        tally.connections, tally.octets, tally.replies = done.connections, done.octets, done.replies


@final
@dataclass(frozen=True, slots=True)
class Good:
    """What a good load came to.

    Args:
        mails: in a second of the whole machine; what others took of it is not counted.
        failures: replies that were not the right one, and connections that ended.
        worst_seconds: of one mail.
    """

    mails: float
    failures: tuple[str, ...]
    worst_seconds: float


@final
class Machine:
    """How much of it others than us and our children take from now on (Linux only)."""

    def __init__(self) -> None:
        self._cores = os.cpu_count() or 1
        self._began, self._cpu = time.monotonic(), self._others()

    def share_left_by_others(self) -> float:
        """Of all cores, since the beginning."""
        taken = (self._others() - self._cpu) / (time.monotonic() - self._began) / self._cores
        return min(1.0, max(_LEAST_SHARE, 1 - taken))

    def _others(self) -> float:
        user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().split(maxsplit=9)[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - Meter(os.getpid()).cpu_seconds()


def good_load(port: int, seconds: float) -> Good:
    """Good senders, some of which keep their connections, for so long; every reply is checked."""
    plans = [
        Plan(
            host=HOST,
            port=port,
            senders=senders,
            octets=_OCTETS,
            seconds=seconds,
            per_mail=per_mail,
            pipelined=True,
            tls=False,
        )
        for senders, per_mail in ((_KEEPERS, False), (_VISITORS, True))
    ]
    machine = Machine()
    with ExitStack() as stack:
        processes = [stack.enter_context(_program("benchmarks.clients")) for _ in plans]
        for process, plan in zip(processes, plans, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(plan)))
            process.stdin.close()
            process.stdin = None
        told = [process.communicate(timeout=seconds + SECONDS)[0] for process in processes]
    reports = [Report(**json.loads(text)) for text in told]
    return Good(
        mails=sum(report.mails / report.seconds for report in reports) / machine.share_left_by_others(),
        failures=tuple(f"{report.failures}: {report.first_failure}" for report in reports if report.failures),
        worst_seconds=max(max(report.milliseconds, default=0.0) for report in reports) / 1000,
    )
