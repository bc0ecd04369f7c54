"""What kept FastCGI connections gain, and whom they cost: measured on a real php-fpm, round by round side by side.

``python -m benchmarks.pool`` runs all of it, ``python -m benchmarks.pool saturate share gain`` some:

- ``saturate``, (a): twice as many connections as php-fpm has children, in two processes, and more clients than that.
- ``share``, (b): a web server at the same php-fpm, idle and busy.
- ``faults``, (c): workers that retire, reloads and kills under load; see :mod:`benchmarks.pool_faults`.
- ``gain``, (d): mails per second and CPU time of ours, on a trivial script.
- ``requests``: the same without mail around it, the pool alone.

The ways to run it take turns within each round, and medians of the rounds are compared: the machine is never quiet, so
look at the ratios, not at the numbers. A line that begins with a letter in brackets is a target, met or not met; the
exit code is 1 when one is not met.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, final

import trio

from benchmarks import pool_faults
from benchmarks.load import Load
from tests.phpfpm import PhpFpm, call_script, children_of
from tests.server_process import ServerProcess
from trio_fcgimail.config import UnixAddress
from trio_fcgimail.mail import post_parameters
from trio_fcgimail.server.pool import Kind, Pool, PoolRules
from trio_fcgimail.server.upstream import Body

CHILDREN: Final = 4
ROUNDS: Final = 3
TRIVIAL: Final = "<?php echo 'SAVED';"
WORKING: Final = "<?php usleep(5000); echo 'SAVED';"
BODY: Final = b"body=" + 700 * b"x"
GAIN_CLIENTS: Final = 4 * CHILDREN  # of which (d) speaks: more than connections, so that there is something to hand on
_T = TypeVar("_T")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_WEB_PAUSE_SECONDS: Final = 0.002


@final
@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run the servers.

    Args:
        connections: of all workers together.
        workers: processes.
    """

    name: str
    keep_alive: bool
    connections: int
    workers: int = 1


@final
@dataclass(slots=True)
class Measured:
    """The rounds of one mode."""

    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, load: Load, cpu_seconds: float) -> None:
        self.seconds.append(load.seconds)
        self.latencies += load.latencies
        self.p99s.append(percentile(load.latencies, 99))
        self.rates.append(len(load.latencies) / load.seconds)
        self.cpu_seconds.append(cpu_seconds / len(load.latencies))
        for reply, times in load.failures.items():
            self.failures[reply] = self.failures.get(reply, 0) + times

    def median_rate(self) -> float:
        """Mails per second of the median round."""
        return statistics.median(self.rates)

    def median_cpu(self) -> float:
        """Our CPU time for a mail, of the median round."""
        return statistics.median(self.cpu_seconds)

    def percentile(self, percent: int) -> float:
        return percentile(self.latencies, percent)


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def configuration(php: PhpFpm, script: str, mode: Mode) -> str:
    """A server's settings."""
    return f"""
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
workers = {mode.workers}
[[listeners]]
address = "127.0.0.1:0"
[limits]
connections_per_ip = 0
messages_per_connection = 0
[fastcgi]
upstreams = ["{php.address}"]
max_connections = {mode.connections}
reserve_for_validate = 0
keep_alive = {str(mode.keep_alive).lower()}
clean_eof_means_unexecuted = true
[scripts]
save = "{script}"
"""


@contextmanager
def serving(php: PhpFpm, script: str, mode: Mode) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "fcgimail.toml").write_text(configuration(php, script, mode))
        yield stack.enter_context(ServerProcess("serve", folder=folder))


def cpu_seconds(server: ServerProcess) -> float:
    """What a server has used so far: the parent and the children that it has."""
    ticks = 0
    for pid in (server.pid, *children_of(server.pid)):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def start_load(server: ServerProcess, clients: int, mails: int) -> subprocess.Popen[str]:
    """Start clients."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", str(server.port), str(clients), str(mails)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end_load(process: subprocess.Popen[str]) -> Load:
    """Wait for them; endless ones are ended."""
    out, _ = process.communicate()
    assert process.returncode == 0, out
    found = json.loads(out)
    return Load(found["seconds"], found["latencies"], found["failures"])


def in_turn(all_of_them: Sequence[_T], number: int) -> list[_T]:
    """Each once; in each round another one begins."""
    first = number % len(all_of_them)
    return [*all_of_them[first:], *all_of_them[:first]]


def measure(
    php: PhpFpm, script: str, modes: Sequence[Mode], *, clients: int, mails: int, rounds: int
) -> list[Measured]:
    """The servers of all modes run side by side, and one after the other has a round of load."""
    found = [Measured() for _ in modes]
    with ExitStack() as stack:
        running = [stack.enter_context(serving(php, script, mode)) for mode in modes]
        for server in running:
            end_load(start_load(server, clients, 10 * clients))  # to warm up
        for number in range(rounds):
            for server, into in in_turn(list(zip(running, found, strict=True)), number):
                before = cpu_seconds(server)
                load = end_load(start_load(server, clients, mails))
                into.add(load, cpu_seconds(server) - before)
    return found


class Web:
    """A web server at the same php-fpm: a connection for each request, one request after the other.

    Attributes:
        latencies: In seconds.
    """

    def __init__(self, php: PhpFpm, script: str) -> None:
        self.latencies: list[float] = []
        self._php = php
        self._script = script
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_WEB_PAUSE_SECONDS):
            began = time.monotonic()
            assert call_script(self._php.socket_path, self._script).end == (0, 0)
            self.latencies.append(time.monotonic() - began)


def web_latencies(php: PhpFpm, script: str, mode: Mode, *, clients: int, seconds: float) -> list[float]:
    """What the web server sees while so many clients send mail (0: the mail server idles)."""
    with serving(php, script, mode) as server:
        end_load(start_load(server, clients or 8, 200))
        load = start_load(server, clients, 0) if clients else None
        with Web(php, script) as web:
            time.sleep(seconds)
        if load is not None:
            failures = end_load(load).failures
            assert not failures, failures
        return web.latencies


def row(*cells: object) -> None:
    """Print a line of a table."""
    print("  ".join(f"{cell:>14}" if index else f"{cell:<44}" for index, cell in enumerate(cells)), flush=True)


_missed: Final[list[str]] = []


def target(name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
    """Print what a target is, what was measured, and whether that meets it."""
    is_met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    wanted = f"at most {at_most:g}" if at_least is None else f"at least {at_least:g}"
    row(name, f"{value:.2f}", wanted, "met" if is_met else "NOT MET")
    if not is_met:
        _missed.append(name)


def of_median_round(rounds: list[list[float]], percent: int) -> float:
    """The median of the percentiles of the rounds."""
    return statistics.median(percentile(latencies, percent) for latencies in rounds)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def saturate() -> None:
    """Twice as many connections as children, in two processes."""
    modes = [
        Mode("kept, 2 x children", True, 2 * CHILDREN, 2),
        Mode("not kept, 2 x children", False, 2 * CHILDREN, 2),
        Mode("kept, as many as children", True, CHILDREN, 2),
    ]
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        with PhpFpm(children=CHILDREN) as php:
            script = php.script("save.php", source)
            found = measure(php, script, modes, clients=40, mails=2000, rounds=ROUNDS)
        row(f"saturate, script {name}", "mails/s", "s/2000 mails", "p50", "p99", "max", "not 250")
        for mode, got in zip(modes, found, strict=True):
            spread = [_milliseconds(got.percentile(percent)) for percent in (50, 99, 100)]
            took = f"{statistics.median(got.seconds):.2f}"
            row(mode.name, f"{got.median_rate():.0f}", took, *spread, sum(got.failures.values()))
        kept, other, fewer = found
        median = statistics.median
        target(f"(a) {name}: p99, kept / not kept", median(kept.p99s) / median(other.p99s), at_most=1.5)
        target(f"(a) {name}: time, 2 x / as many", median(kept.seconds) / median(fewer.seconds), at_most=1.5)
        target(f"(a) {name}: mails that were not 250", sum(kept.failures.values()), at_most=0)


def share() -> None:
    """A web server at the same php-fpm."""
    modes = [Mode("kept", True, CHILDREN), Mode("not kept", False, CHILDREN)]
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        with PhpFpm(children=CHILDREN) as php:
            script = php.script("save.php", source)
            for clients in (0, 4, 20):
                found: list[list[list[float]]] = [[] for _ in modes]
                for number in range(ROUNDS):
                    for mode, rounds in in_turn(list(zip(modes, found, strict=True)), number):
                        rounds.append(web_latencies(php, script, mode, clients=clients, seconds=2))
                row(f"share, {name}, {clients} clients", "web p50", "web p95", "web max")
                for mode, rounds in zip(modes, found, strict=True):
                    row(mode.name, *(_milliseconds(of_median_round(rounds, percent)) for percent in (50, 95, 100)))
                kept, other = (of_median_round(rounds, 95) for rounds in found)
                what = f"busy with {clients} clients" if clients else "idle"
                target(f"(b) {name}, {what}: web p95", kept / other, at_most=2)


def gain() -> None:
    """Mails per second and CPU time, kept and not."""
    modes = [Mode("kept", True, CHILDREN), Mode("not kept", False, CHILDREN)]
    with PhpFpm(children=CHILDREN) as php:
        script = php.script("save.php", TRIVIAL)
        for clients in (1, 4, GAIN_CLIENTS, 40):
            found = measure(php, script, modes, clients=clients, mails=800, rounds=4 * ROUNDS)
            row(f"gain, {clients} clients", "mails/s", "CPU per mail", "p99", "not 250")
            for mode, got in zip(modes, found, strict=True):
                cpu = f"{1e6 * got.median_cpu():.0f} us"
                failed = sum(got.failures.values())
                row(mode.name, f"{got.median_rate():.0f}", cpu, _milliseconds(got.percentile(99)), failed)
            kept, other = found
            rates, cpus = kept.median_rate() / other.median_rate(), kept.median_cpu() / other.median_cpu()
            if clients == GAIN_CLIENTS:
                target("(d) mails per second, kept / not kept", rates, at_least=1.15)
                target("(d) CPU per mail, kept / not kept", cpus, at_most=1)
            else:
                row("ratio", f"{rates:.2f}", f"{cpus:.2f}")


def requests() -> None:
    """Requests alone, without any mail around them: what the pool itself makes of it."""
    with PhpFpm(children=CHILDREN) as php:
        script = php.script("save.php", TRIVIAL)
        found = {keep_alive: Measured() for keep_alive in (True, False)}
        for _ in range(4 * ROUNDS):
            for keep_alive, into in found.items():
                trio.run(partial(_request_all, php, script, into, keep_alive=keep_alive))
    row("requests", "per second", "CPU each", "p99")
    for keep_alive, got in found.items():
        cpu = f"{1e6 * got.median_cpu():.0f} us"
        row("kept" if keep_alive else "not kept", f"{got.median_rate():.0f}", cpu, _milliseconds(got.percentile(99)))
    kept, other = found[True], found[False]
    rates, cpus = kept.median_rate() / other.median_rate(), kept.median_cpu() / other.median_cpu()
    row("ratio", f"{rates:.2f}", f"{cpus:.2f}")


async def _pieces() -> AsyncGenerator[bytes, None]:
    yield BODY


async def _request_all(php: PhpFpm, script: str, into: Measured, *, keep_alive: bool) -> None:
    rules = PoolRules(max_connections=CHILDREN, keep_alive=keep_alive, is_known_to_keep=True)
    pool = Pool([UnixAddress(str(php.socket_path))], rules)
    parameters = post_parameters(script, len(BODY), hostname="mx.example.com", remote_ip="192.0.2.1")
    latencies: list[float] = []

    async def ask() -> None:
        for _ in range(100):
            began = time.monotonic()
            await pool.request(Kind.SAVE, parameters, Body(len(BODY), _pieces), seconds=10)
            latencies.append(time.monotonic() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        cpu, began = time.process_time(), time.monotonic()
        async with trio.open_nursery() as clients:
            for _ in range(16):
                clients.start_soon(ask)
        into.add(Load(time.monotonic() - began, latencies, {}), time.process_time() - cpu)
        nursery.cancel_scope.cancel()


def faults() -> None:
    """Workers that retire, reloads and kills under load."""
    for keep_alive in (True, False):
        name = "kept" if keep_alive else "not kept"
        found = pool_faults.measure(keep_alive=keep_alive)
        row(f"faults, {name}", "mails", "250", "451", "runs")
        row("", found.mails, found.saved, found.deferred, found.runs)
        target(f"(c) {name}: 250 that was not run", found.untrue, at_most=0)
        target(f"(c) {name}: runs without a 451 between", found.doubled, at_most=0)
        target(f"(c) {name}: 451 that could be hidden", len(found.needless), at_most=0)
        for reason in found.needless:
            row(f"    {reason}")


PARTS: Final = {"saturate": saturate, "share": share, "faults": faults, "gain": gain, "requests": requests}


def main() -> None:
    """Run the parts that the command line names, or all."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
    sys.exit(1 if _missed else 0)


if __name__ == "__main__":
    main()
