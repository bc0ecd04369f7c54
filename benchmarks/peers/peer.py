"""What a peer is to the benchmarks, and the measurement that all mail servers share."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, assert_never, final

from benchmarks.clients import Plan, Report
from benchmarks.outcome import BenchmarkError, CpuPerMail, Latency, Outcome
from benchmarks.phpfpm import Php
from benchmarks.processes import HOST, Meter
from benchmarks.scenarios import Channel, Connections, Dialogue, Generator, Kind, Scenario

WARM_UP_SECONDS: Final = 0.3
_MICROSECONDS: Final = 1_000_000
_LOAD_SECONDS: Final = 300.0  # for what was begun in time to come to its end
_MAILS_PER_SENDER: Final = 2  # at least
_ROOT: Final = Path(__file__).parents[2]


@final
@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate for localhost."""

    chain: Path
    key: Path


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a measurement happens.

    Args:
        folder: a new one for each measurement.
        certificate: None where none can be made.
    """

    folder: Path
    php: Php
    certificate: Certificate | None


@final
@dataclass(frozen=True, slots=True)
class Target:
    """A mail server that is ready.

    Args:
        pid: the first of its processes.
        delivered: for a server with a queue: how many mails have left it.
    """

    port: int
    pid: int
    delivered: Callable[[], int] | None = None


Open = Callable[[Scenario, Place], AbstractContextManager[Target]]
Measure = Callable[[Scenario, Place, float], Outcome]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something that is measured.

    Args:
        missing: how to install what it needs; None when all is there.
        suits: whether a scenario makes sense for it.
        measure: does it, for about so many seconds. Raises BenchmarkError.
    """

    name: str
    about: str
    missing: Callable[[], str | None]
    suits: Callable[[Scenario], bool]
    measure: Measure


def through_smtp(opening: Open) -> Measure:
    """Measure a mail server from outside: start it, warm it up, send, read the meters."""
    return partial(_measure, opening)


def _measure(opening: Open, scenario: Scenario, place: Place, seconds: float) -> Outcome:
    with opening(scenario, place) as target:
        match scenario.kind:
            case Kind.MAILS:
                return _send_mails(scenario, place, target, seconds)
            case Kind.IDLE:
                return _hold_connections(scenario, target)
            case other:
                assert_never(other)


def _send_mails(scenario: Scenario, place: Place, target: Target, seconds: float) -> Outcome:
    already = 0 if target.delivered is None else target.delivered()
    warmed = _send_ours(scenario, target, WARM_UP_SECONDS)
    if not warmed.mails:
        raise BenchmarkError(f"no mail was taken: {warmed.first_failure}")
    _wait_delivered(target, already + warmed.mails)
    server, php = Meter(target.pid), Meter(place.php.pid)
    server.reset_peak()
    cpu_server, cpu_php, began = server.cpu_seconds(), php.cpu_seconds(), time.perf_counter()
    match scenario.generator:
        case Generator.OURS:
            report = _send_ours(scenario, target, seconds)
        case Generator.SMTP_SOURCE:
            report = _send_by_smtp_source(scenario, target, round(warmed.mails / warmed.seconds * seconds))
        case other:
            assert_never(other)
    if not report.mails:
        raise BenchmarkError(f"no mail was taken: {report.first_failure}")
    _wait_delivered(target, already + warmed.mails + report.mails)
    took = report.seconds if target.delivered is None else time.perf_counter() - began
    per_mail = _MICROSECONDS / report.mails
    return Outcome(
        mails=report.mails,
        seconds=took,
        failures=report.failures,
        cpu=CpuPerMail(
            server=(server.cpu_seconds() - cpu_server) * per_mail,
            php=(php.cpu_seconds() - cpu_php) * per_mail,
            load=report.cpu_seconds * per_mail,
        ),
        latency=latency_of(report.milliseconds),
        peak_mib=server.peak_mib(),
        visits_per_second=report.visits / report.visiting_seconds if report.visiting_seconds else None,
    )


def latency_of(milliseconds: list[float]) -> Latency | None:
    """The percentiles of a measurement."""
    if len(milliseconds) < 2:
        return None
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return Latency(p50=cuts[49], p95=cuts[94], p99=cuts[98], worst=max(milliseconds))


def run_python(module: str, *arguments: str, text: str = "") -> Report:
    """Run one of our load generators, and read its report. Raises BenchmarkError."""
    done = _run([sys.executable, "-m", module, *arguments], text)
    if done.returncode:
        raise BenchmarkError(f"{module}: {done.stderr.strip().splitlines()[-1:]}")
    return Report(**json.loads(done.stdout))


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=_ROOT, timeout=_LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"{Path(command[0]).name} does not come to its end") from exc


def _send_ours(scenario: Scenario, target: Target, seconds: float) -> Report:
    plan = Plan(
        host=HOST,
        port=target.port,
        senders=scenario.senders,
        octets=scenario.octets,
        seconds=seconds,
        per_mail=scenario.connections is Connections.PER_MAIL,
        pipelined=scenario.dialogue is Dialogue.PIPELINED,
        tls=scenario.channel is Channel.TLS,
        visits_per_second=scenario.visits_per_second,
    )
    return run_python("benchmarks.clients", text=json.dumps(asdict(plan)))


def smtp_source() -> str | None:
    """Where Postfix's load generator is."""
    return shutil.which("smtp-source", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _send_by_smtp_source(scenario: Scenario, target: Target, mails: int) -> Report:
    mails = max(mails, _MAILS_PER_SENDER * scenario.senders)  # with fewer mails than sessions it hangs
    program = smtp_source()
    if program is None:
        raise BenchmarkError("smtp-source is missing: apt-get install postfix")
    command = [program, "-s", str(scenario.senders), "-m", str(mails), "-l", str(scenario.octets)]
    command += ["-d"] if scenario.connections is Connections.KEPT else []
    command += ["-f", "alice@example.net", "-t", "bob@example.com", f"inet:{HOST}:{target.port}"]
    before, began = os.times(), time.perf_counter()
    done = _run(command)
    took, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise BenchmarkError(f"smtp-source: {done.stderr.strip()[-200:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Report(mails=mails, failures=0, first_failure="", seconds=took, cpu_seconds=cpu, milliseconds=[])


def _wait_delivered(target: Target, mails: int) -> None:
    if target.delivered is None:
        return
    deadline = time.monotonic() + _LOAD_SECONDS
    while target.delivered() < mails:
        if time.monotonic() > deadline:
            raise BenchmarkError("the queue does not become empty")
        time.sleep(0.005)


def _hold_connections(scenario: Scenario, target: Target) -> Outcome:
    server = Meter(target.pid)
    _touch(target, 1)  # what the first connection brings once and for all is not counted
    before, began = server.resident_mib(), time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.idle", HOST, str(target.port), str(scenario.connections_idle)]
    holder = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != "ready":
            raise BenchmarkError("the connections cannot all be opened")
        took, after = time.perf_counter() - began, server.resident_mib()
        holder.communicate()
    assert before is not None
    assert after is not None
    idle_kib = (after - before) * 1024 / scenario.connections_idle
    return Outcome(mails=0, seconds=took, peak_mib=server.peak_mib(), idle_kib=idle_kib)


def _touch(target: Target, connections: int) -> None:
    command = [sys.executable, "-m", "benchmarks.idle", HOST, str(target.port), str(connections)]
    subprocess.run(command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
