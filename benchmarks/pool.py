"""What kept FastCGI connections gain, and whom they cost: measured on a real php-fpm, round by round side by side.

``python -m benchmarks.pool`` runs all of it, ``python -m benchmarks.pool saturate share gain`` some:

- ``saturate``: two servers with twice as many connections as php-fpm has children, and more clients than that.
- ``share``: a web server at the same php-fpm, idle and busy.
- ``gain``: mails per second and CPU time of ours, on a trivial script.

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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from benchmarks.load import Load
from tests.phpfpm import PhpFpm, call_script
from tests.server_process import ServerProcess

CHILDREN: Final = 4
ROUNDS: Final = 3
TRIVIAL: Final = "<?php echo 'SAVED';"
WORKING: Final = "<?php usleep(5000); echo 'SAVED';"
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
    cpu_seconds: list[float] = field(default_factory=list)
    mails: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, load: Load, cpu_seconds: float) -> None:
        self.seconds.append(load.seconds)
        self.latencies += load.latencies
        self.cpu_seconds.append(cpu_seconds)
        self.mails += len(load.latencies)
        for reply, times in load.failures.items():
            self.failures[reply] = self.failures.get(reply, 0) + times

    @property
    def mails_per_second(self) -> float:
        return self.mails / sum(self.seconds)

    @property
    def cpu_per_mail(self) -> float:
        return sum(self.cpu_seconds) / self.mails

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
[log]
level = "warning"
"""


@contextmanager
def serving(php: PhpFpm, script: str, mode: Mode) -> Iterator[list[ServerProcess]]:
    """Servers that are ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The line that tells the port is one of level info.
        text = configuration(php, script, mode).replace('level = "warning"', 'level = "info"')
        (folder / "fcgimail.toml").write_text(text)
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


def measure(php: PhpFpm, script: str, mode: Mode, *, clients: int, mails: int, into: Measured) -> None:
    """One round of one mode."""
    with serving(php, script, mode) as servers:
        end_load(start_load(servers, clients, 4 * clients))  # to warm up
        before = sum(cpu_seconds(server.pid) for server in servers)
        load = end_load(start_load(servers, clients, mails))
        into.add(load, sum(cpu_seconds(server.pid) for server in servers) - before)


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
        Mode("kept, 4 x children", True, 2 * CHILDREN, 2),
        Mode("not kept, 4 x children", False, 2 * CHILDREN, 2),
    ]
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        with PhpFpm(children=CHILDREN) as php:
            script = php.script("save.php", source)
            found = {mode: Measured() for mode in modes}
            for _ in range(ROUNDS):
                for mode in modes:
                    measure(php, script, mode, clients=40, mails=2000, into=found[mode])
        row(f"saturate, script {name}", "mails/s", "s/2000 mails", "p50", "p99", "max", "not 250")
        for mode, got in found.items():
            took = statistics.mean(got.seconds)
            spread = [_milliseconds(got.percentile(percent)) for percent in (50, 99, 100)]
            row(mode.name, f"{got.mails_per_second:.0f}", f"{took:.2f}", *spread, sum(got.failures.values()))
        for kept, other in ((modes[0], modes[1]), (modes[3], modes[4])):
            ratio = found[kept].percentile(99) / found[other].percentile(99)
            row(f"p99 {kept.name} / not kept", f"{ratio:.2f}")
            ratio = sum(found[kept].seconds) / sum(found[modes[2]].seconds)
            row(f"time {kept.name} / as many", f"{ratio:.2f}")


def share() -> None:
    """A web server at the same php-fpm."""
    for name, source in (("trivial", TRIVIAL), ("5 ms", WORKING)):
        for connections in (CHILDREN, 2 * CHILDREN):
            modes = [Mode("kept", True, connections), Mode("not kept", False, connections)]
            with PhpFpm(children=CHILDREN) as php:
                script = php.script("save.php", source)
                for clients in (0, 2, 4, 20):
                    found: dict[Mode, list[float]] = {mode: [] for mode in modes}
                    for _ in range(ROUNDS):
                        for mode in modes:
                            found[mode] += web_latencies(php, script, mode, clients=clients, seconds=2)
                    row(f"web: {name}, {connections} conns, {clients} clients", "p50", "p95", "max")
                    for mode, got in found.items():
                        row(mode.name, *(_milliseconds(percentile(got, percent)) for percent in (50, 95, 100)))
                    row("p95 ratio", f"{percentile(found[modes[0]], 95) / percentile(found[modes[1]], 95):.2f}")


def gain() -> None:
    """Mails per second and CPU time, kept and not."""
    modes = [Mode("kept", True, CHILDREN), Mode("not kept", False, CHILDREN)]
    with PhpFpm(children=CHILDREN) as php:
        script = php.script("save.php", TRIVIAL)
        for clients in (1, 4, 16):
            found = {mode: Measured() for mode in modes}
            for _ in range(ROUNDS):
                for mode in modes:
                    measure(php, script, mode, clients=clients, mails=3000, into=found[mode])
            row(f"gain, {clients} clients", "mails/s", "CPU per mail", "p99", "not 250")
            for mode, got in found.items():
                cpu = f"{1e6 * got.cpu_per_mail:.0f} us"
                failed = sum(got.failures.values())
                row(mode.name, f"{got.mails_per_second:.0f}", cpu, _milliseconds(got.percentile(99)), failed)
            kept, other = (found[mode] for mode in modes)
            row(
                "ratio",
                f"{kept.mails_per_second / other.mails_per_second:.2f}",
                f"{kept.cpu_per_mail / other.cpu_per_mail:.2f}",
            )


PARTS: Final = {"saturate": saturate, "share": share, "gain": gain}


def main() -> None:
    """Run the parts that the command line names, or all."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
