"""What kept FastCGI connections gain, and whom they cost: measured on a real php-fpm, round by round side by side.

``python -m benchmarks.pool`` runs all of it, ``python -m benchmarks.pool saturate share gain`` some:

- ``saturate``: two servers with twice as many connections as php-fpm has children, and more clients than that.
- ``share``: a web server at the same php-fpm, idle and busy.
- ``gain``: mails per second and CPU time of ours, on a trivial script.
- ``requests``: the same without mail around it, the pool alone.

The machine is never quiet: look at the ratios, not at the numbers.
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
from typing import Final, final

import trio

from benchmarks.load import Load
from tests.phpfpm import PhpFpm, call_script
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
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_WEB_PAUSE_SECONDS: Final = 0.002


@final
@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run the servers.

    Args:
        connections: of each server.
    """

    name: str
    keep_alive: bool
    connections: int
    servers: int = 1


@final
@dataclass(slots=True)
class Measured:
    """The rounds of one mode."""

    seconds: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, load: Load, cpu_seconds: float) -> None:
        self.seconds.append(load.seconds)
        self.latencies += load.latencies
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
def serving(php: PhpFpm, script: str, mode: Mode) -> Iterator[list[ServerProcess]]:
    """Servers that are ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "fcgimail.toml").write_text(configuration(php, script, mode))
        yield [stack.enter_context(ServerProcess("serve", folder=folder)) for _ in range(mode.servers)]


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def start_load(servers: list[ServerProcess], clients: int, mails: int) -> subprocess.Popen[str]:
    """Start clients."""
    ports = ",".join(str(server.port) for server in servers)
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", ports, str(clients), str(mails)],
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


def measure(
    php: PhpFpm, script: str, modes: Sequence[Mode], *, clients: int, mails: int, rounds: int
) -> list[Measured]:
    """The servers of all modes run side by side, and one after the other has a round of load."""
    found = [Measured() for _ in modes]
    with ExitStack() as stack:
        running = [stack.enter_context(serving(php, script, mode)) for mode in modes]
        for servers in running:
            end_load(start_load(servers, clients, 10 * clients))  # to warm up
        for _ in range(rounds):
            for servers, into in zip(running, found, strict=True):
                before = sum(cpu_seconds(server.pid) for server in servers)
                load = end_load(start_load(servers, clients, mails))
                into.add(load, sum(cpu_seconds(server.pid) for server in servers) - before)
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
    with serving(php, script, mode) as servers:
        end_load(start_load(servers, clients or 8, 200))
        load = start_load(servers, clients, 0) if clients else None
        with Web(php, script) as web:
            time.sleep(seconds)
        if load is not None:
            failures = end_load(load).failures
            assert not failures, failures
        return web.latencies


def row(*cells: object) -> None:
    """Print a line of a table."""
    print("  ".join(f"{cell:>14}" if index else f"{cell:<34}" for index, cell in enumerate(cells)), flush=True)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def saturate() -> None:
    """Twice as many connections as children, in two processes."""
    modes = [
        Mode("kept, 2 x children", True, CHILDREN, 2),
        Mode("not kept, 2 x children", False, CHILDREN, 2),
        Mode("kept, as many as children", True, CHILDREN // 2, 2),
    ]
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        with PhpFpm(children=CHILDREN) as php:
            script = php.script("save.php", source)
            found = measure(php, script, modes, clients=40, mails=2000, rounds=ROUNDS)
        row(f"saturate, script {name}", "mails/s", "s/2000 mails", "p50", "p99", "max", "not 250")
        for mode, got in zip(modes, found, strict=True):
            spread = [_milliseconds(got.percentile(percent)) for percent in (50, 99, 100)]
            took = f"{statistics.mean(got.seconds):.2f}"
            row(mode.name, f"{got.median_rate():.0f}", took, *spread, sum(got.failures.values()))
        kept, other, fewer = found
        row("p99, kept / not kept", f"{kept.percentile(99) / other.percentile(99):.2f}")
        row("time, kept / as many as children", f"{sum(kept.seconds) / sum(fewer.seconds):.2f}")


def share() -> None:
    """A web server at the same php-fpm."""
    modes = [Mode("kept", True, CHILDREN), Mode("not kept", False, CHILDREN)]
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        with PhpFpm(children=CHILDREN) as php:
            script = php.script("save.php", source)
            for clients in (0, 4, 20):
                found: list[list[float]] = [[] for _ in modes]
                for _ in range(ROUNDS):
                    for mode, latencies in zip(modes, found, strict=True):
                        latencies.extend(web_latencies(php, script, mode, clients=clients, seconds=2))
                row(f"share, {name}, {clients} clients", "web p50", "web p95", "web max")
                for mode, got in zip(modes, found, strict=True):
                    row(mode.name, *(_milliseconds(percentile(got, percent)) for percent in (50, 95, 100)))
                row("p95, kept / not kept", f"{percentile(found[0], 95) / percentile(found[1], 95):.2f}")


def gain() -> None:
    """Mails per second and CPU time, kept and not."""
    modes = [Mode("kept", True, CHILDREN), Mode("not kept", False, CHILDREN)]
    with PhpFpm(children=CHILDREN) as php:
        script = php.script("save.php", TRIVIAL)
        for clients in (1, 4, 16, 40):
            found = measure(php, script, modes, clients=clients, mails=800, rounds=4 * ROUNDS)
            row(f"gain, {clients} clients", "mails/s", "CPU per mail", "p99", "not 250")
            for mode, got in zip(modes, found, strict=True):
                cpu = f"{1e6 * got.median_cpu():.0f} us"
                failed = sum(got.failures.values())
                row(mode.name, f"{got.median_rate():.0f}", cpu, _milliseconds(got.percentile(99)), failed)
            kept, other = found
            row(
                "ratio",
                f"{kept.median_rate() / other.median_rate():.2f}",
                f"{kept.median_cpu() / other.median_cpu():.2f}",
            )


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


PARTS: Final = {"saturate": saturate, "share": share, "gain": gain, "requests": requests}


def main() -> None:
    """Run the parts that the command line names, or all."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
