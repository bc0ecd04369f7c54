"""The ceilings: PHP without a mail server, and the cores without the rest."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.outcome import CpuPerMail, Outcome
from benchmarks.peers.peer import Peer, Place, latency_of, run_python
from benchmarks.peers.python import write_configuration
from benchmarks.processes import Meter, free_port
from benchmarks.scenarios import Channel, Connections, Dialogue, Generator, Kind, Scenario

_MICROSECONDS: Final = 1_000_000


def _nothing_missing() -> str | None:
    return None


def _measure_ceiling(scenario: Scenario, place: Place, seconds: float) -> Outcome:
    php = place.php
    arguments = [str(php.socket), php.validate, php.save(scenario.script), str(scenario.octets)]
    run_python("benchmarks.ceiling", *arguments, "0.2")
    meter = Meter(php.pid)
    before = meter.cpu_seconds()
    report = run_python("benchmarks.ceiling", *arguments, str(seconds))
    per_mail = _MICROSECONDS / report.mails
    return Outcome(
        mails=report.mails,
        seconds=report.seconds,
        cpu=CpuPerMail(
            server=None,
            php=(meter.cpu_seconds() - before) * per_mail,
            load=report.cpu_seconds * per_mail,
        ),
        latency=latency_of(report.milliseconds),
    )


def _measure_cores(scenario: Scenario, _: Place, seconds: float) -> Outcome:
    pipelined = scenario.dialogue is Dialogue.PIPELINED
    report = run_python(
        "benchmarks.cores", str(scenario.octets), str(seconds), "pipelined" if pipelined else "lockstep"
    )
    cpu = CpuPerMail(server=report.cpu_seconds * _MICROSECONDS / report.mails, php=None, load=None)
    return Outcome(mails=report.mails, seconds=report.seconds, cpu=cpu)


def _suits(scenario: Scenario) -> bool:
    """Whether it differs for PHP."""
    return (
        scenario.kind is Kind.MAILS
        and scenario.channel is Channel.CLEAR
        and scenario.connections is Connections.KEPT
        and scenario.generator is Generator.OURS
        and scenario.senders > 1
    )


def _measure_calls(who: str, scenario: Scenario, place: Place, seconds: float) -> Outcome:
    configuration = write_configuration(scenario, place, free_port())
    report = run_python("benchmarks.calls", str(configuration), str(scenario.octets), str(seconds), who)
    return Outcome(
        mails=report.mails,
        seconds=report.seconds,
        cpu=CpuPerMail(server=None, php=None, load=None),
        latency=latency_of(report.milliseconds),
    )


def _one_at_a_time(scenario: Scenario) -> bool:
    return scenario.kind is Kind.MAILS and scenario.senders == 1


CALLS: Final = Peer(
    name="calls",
    about="the two script calls of a mail by our pool, no SMTP",
    missing=_nothing_missing,
    suits=_one_at_a_time,
    measure=partial(_measure_calls, "ours"),
)
BLOCKING: Final = Peer(
    name="blocking",
    about="the same octets by a blocking client over one kept connection",
    missing=_nothing_missing,
    suits=_one_at_a_time,
    measure=partial(_measure_calls, "blocking"),
)
CEILING: Final = Peer(
    name="ceiling",
    about="the two FastCGI requests of a mail straight to php-fpm, no mail server",
    missing=_nothing_missing,
    suits=_suits,
    measure=_measure_ceiling,
)
CORES: Final = Peer(
    name="cores",
    about="our two cores alone, in memory, for one mail",
    missing=_nothing_missing,
    suits=_suits,
    measure=_measure_cores,
)
