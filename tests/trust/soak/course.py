"""One soak: full speed for some seconds, half of it for long, and a look at everything every few seconds."""

import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.certificates import HOSTNAME, Authority
from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess, eventually, free_port
from tests.trust.chaos.attempts import Route
from tests.trust.soak.load import Plan, Second
from tests.trust.soak.trend import DESCRIPTORS_A_MINUTE, KIB_A_MINUTE, Trend, growth, latency_growth, settled
from tests.trust.soak.watch import Points, Watch

_CHILDREN: Final = 4
_WORKERS: Final = 2
_QUANTILES: Final = (50, 95, 99)
_FEWEST: Final = 2  # values that have quantiles
_SLOWEST: Final = 1.0  # mails a second, on a machine that has no time for us
#: Less says nothing of growth: after the warm-up too few minutes are left.
JUDGED_MINUTES: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is to happen.

    Args:
        minutes: at the share of full speed; before them full speed is measured for ``full_seconds``.
        look_seconds: between two looks at the processes.
        largest: octets of a mail.
    """

    minutes: float
    share: float = 0.5
    full_seconds: float = 20.0
    senders: int = 16
    look_seconds: float = 5.0
    largest: int = 1_048_576
    seed: int = 1


@dataclass(slots=True)
class Soak:
    """What came of it.

    Attributes:
        full: mails a second at full speed.
        mails: at the steady rate.
        latency: in milliseconds, by the minute, for each quantile in percent.
        lateness: the same of the machine itself: by how much a process that only sleeps is woken too late.
    """

    watch: Watch
    full: float = 0.0
    rate: float = 0.0
    mails: int = 0
    minutes: float = 0.0
    failures: list[str] = field(default_factory=list)
    latency: dict[int, Points] = field(default_factory=lambda: {quantile: [] for quantile in _QUANTILES})
    lateness: dict[int, Points] = field(default_factory=lambda: {quantile: [] for quantile in _QUANTILES})

    def problems(self) -> list[str]:
        """What failed, and, when it took long enough to say so, what grows."""
        found = [f"{len(self.failures)} failures, the first: {self.failures[0]}"] if self.failures else []
        if self.minutes < JUDGED_MINUTES:
            return found
        for name, points in self.watch.kib.items():
            if (trend := growth(points, KIB_A_MINUTE)) is not None:
                found.append(f"the memory of {name} grows: {trend} KiB")
        for name, points in self.watch.descriptors.items():
            if (trend := growth(points, DESCRIPTORS_A_MINUTE)) is not None:
                found.append(f"the file descriptors of {name} grow: {trend}")
        for quantile, points in self.latency.items():
            if (trend := latency_growth(points)) is not None and not self.disturbances():
                found.append(f"the latency of {quantile} % grows: {trend} ms")
        return found

    def disturbances(self) -> list[str]:
        """What the machine did meanwhile, so that nothing can be said of our latency."""
        return [
            f"the machine grew slower by itself: {quantile} % of the wake-ups of a process that only sleeps: {trend} ms"
            for quantile, points in self.lateness.items()
            if (trend := latency_growth(points)) is not None
        ]

    def text(self) -> str:
        """All figures."""
        lines = [f"full speed {self.full:.0f} mails/s; {self.mails:,} mails at {self.rate:.0f} a second"]
        lines.append(f"{self.minutes:.1f} minutes, {len(self.failures)} failures")
        for title, series in (("RSS, KiB", self.watch.kib), ("descriptors", self.watch.descriptors)):
            lines += [f"{title}, {name}: {_told(points)}" for name, points in series.items()]
        for title, quantiles in (("latency", self.latency), ("wake-ups of the machine", self.lateness)):
            lines += [f"{title}, ms, {quantile} %: {_told(points)}" for quantile, points in quantiles.items()]
        head = "  ".join(f"{quantile:>6} %" for quantile in _QUANTILES)
        lines.append(f"minute   {head}  of latency, ms;  {head}  of the machine's own")
        for values in zip(*self.latency.values(), *self.lateness.values(), strict=True):
            told = [f"{value:8.2f}" for _, value in values]
            lines.append(f"{values[0][0]:>6.0f}   {'  '.join(told[:3])}{' ' * 18}{'  '.join(told[3:])}")
        return "\n".join(lines)


def _told(points: Points) -> str:
    if not points:
        return "none"
    values = [value for _, value in points]
    after = settled(points)
    trend = Trend.of(after)
    return (
        f"first {values[0]:.2f}, after the warm-up {after[0][1]:.2f}, last {values[-1]:.2f}, "
        f"largest {max(values):.2f}; {trend or 'too few for a line'}"
    )


async def run(course: Course, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Soak:
    """Run it in a folder that is open to every user."""
    authority = Authority(folder)
    ports = {route.name: free_port() for route in Route if route is not Route.LMTP}
    mails = folder / "mails"
    mails.mkdir()
    mails.chmod(0o777)
    with PhpFpm(children=_CHILDREN, env={"SOAK_FOLDER": str(mails)}, ini={"opcache.enable": "1"}) as php:
        script = php.script("save.php", (Path(__file__).parent / "save.php").read_text())
        (folder / "fcgimail.toml").write_text(_configuration(folder, authority, ports, php, script))
        with ServerProcess("serve", folder=folder, ready=lambda _: _wait_for(ports)) as server:
            soak = Soak(Watch(server.pid))
            plan = Plan(
                ports=ports,
                lmtp=str(folder / "lmtp.sock"),
                ca_file=str(authority.ca_file),
                senders=course.senders,
                rate=0,
                seconds=course.full_seconds,
                largest=course.largest,
                seed=course.seed,
            )
            await _measure_full(soak, plan)
            soak.rate = max(soak.full * course.share, _SLOWEST)
            tell(f"full speed is {soak.full:.0f} mails a second; {soak.rate:.0f} from here on")
            steady = {"rate": soak.rate, "seconds": 60 * course.minutes}
            await _steady(soak, Plan(**asdict(plan) | steady), course, tell)
            assert await trio.to_thread.run_sync(server.stop) == 0
    return soak


def _configuration(folder: Path, authority: Authority, ports: dict[str, int], php: PhpFpm, script: str) -> str:
    encrypted = "\n".join(
        f'[[listeners]]\naddress = "127.0.0.1:{ports[route.name]}"\ntls = "{tls}"\n'
        f'certificate = "{authority.certificate}"'
        for route, tls in ((Route.STARTTLS, "starttls"), (Route.IMPLICIT, "implicit"))
    )
    return f"""
hostname = "{HOSTNAME}"
allowed_hosts = ["example.com"]
workers = {_WORKERS}
[[listeners]]
address = "127.0.0.1:{ports[Route.PLAIN.name]}"
[[listeners]]
address = "unix:{folder}/lmtp.sock"
protocol = "lmtp"
{encrypted}
[limits]
connections_per_ip = 0
[fastcgi]
upstreams = ["{php.address}"]
max_connections = {_CHILDREN}
[scripts]
save = "{script}"
line_ends = "crlf"
[log]
file = "/dev/null"
"""


def _wait_for(ports: dict[str, int]) -> None:
    """Until the server takes connections; its log is thrown away, as nothing may grow here."""

    def accepts() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", ports[Route.PLAIN.name])) == 0

    eventually(accepts, "the server listens")


async def _seconds(plan: Plan) -> AsyncIterator[Second]:
    """What a load tells, second by second."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.trust.soak.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdin.send_all(json.dumps(asdict(plan)).encode())
        await process.stdin.aclose()
        unread = b""
        async for data in process.stdout:
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                yield Second(told["milliseconds"], told["lateness"], told["failures"])
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def _measure_full(soak: Soak, plan: Plan) -> None:
    """The mean of the seconds after the first two, which are for warming up."""
    counts = []
    async for second in _seconds(plan):
        counts.append(len(second.milliseconds))
        soak.failures += second.failures
    soak.full = statistics.fmean(counts[2 : int(plan.seconds)] or counts)


async def _steady(soak: Soak, plan: Plan, course: Course, tell: Callable[[str], None]) -> None:
    minute = 0
    mails: list[float] = []
    lateness: list[float] = []
    began = looked = trio.current_time()
    async for second in _seconds(plan):
        now = trio.current_time()
        soak.minutes = (now - began) / 60
        soak.mails += len(second.milliseconds)
        soak.failures += second.failures
        if now >= looked + course.look_seconds:
            looked = now
            soak.watch.look(soak.minutes)
        mails += second.milliseconds
        lateness += second.lateness
        if int(soak.minutes) > minute:
            _note_minute(soak, minute, mails, lateness, tell)
            minute, mails, lateness = int(soak.minutes), [], []


def _note_minute(
    soak: Soak, minute: int, mails: list[float], lateness: list[float], tell: Callable[[str], None]
) -> None:
    """One that is over."""
    for values, series in ((mails, soak.latency), (lateness, soak.lateness)):
        if len(values) < _FEWEST:
            continue
        cuts = statistics.quantiles(values, n=100)
        for quantile, points in series.items():
            points.append((float(minute), cuts[quantile - 1]))
    memory = ", ".join(f"{name} {points[-1][1] / 1024:.1f} MiB" for name, points in soak.watch.kib.items() if points)
    latency = ", ".join(f"{quantile} % {points[-1][1]:.1f} ms" for quantile, points in soak.latency.items() if points)
    tell(f"minute {minute}: {len(mails)} mails, {latency}; {memory}")
