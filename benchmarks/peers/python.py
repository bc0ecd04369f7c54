"""The peers in Python: ours, the sketch, aiosmtpd."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.outcome import BenchmarkError
from benchmarks.peers.peer import Open, Peer, Place, Target, through_smtp
from benchmarks.phpfpm import CHILDREN
from benchmarks.processes import HOST, free_port, started, wait_for_port
from benchmarks.scenarios import GIB, MIB, Channel, Kind, Scenario

_ROOT: Final = Path(__file__).parents[2]
#: Whatever slows a server down in earnest is on: a log line for each mail and each connection, every check and every
#: limit; only those limits that the load would run into are widened, and stay limits.
_SETTINGS: Final = """
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
workers = {workers}

[[listeners]]
address = "{listen}"
protocol = "{protocol}"
{tls}

[limits]
message_octets = {message_octets}
connections = 20000
connections_per_ip = 20000
messages_per_connection = 1000000

[fastcgi]
upstreams = ["unix:{socket}"]
max_connections = {children}

[scripts]
validate = "{validate}"
save = "{save}"
body = "{body}"

[log]
file = "{log}"
"""


def _nothing_missing() -> str | None:
    return None


@contextmanager
def serve_ours(
    scenario: Scenario, place: Place, *, workers: int = 1, body: str = "form", protocol: str = "smtp"
) -> Iterator[Target]:
    """Run this server, by a configuration file as anybody would."""
    port = free_port()
    configuration = write_configuration(scenario, place, port, workers=workers, body=body, protocol=protocol)
    with _running(["trio_fcgimail", "serve", "-c", str(configuration)], port, place) as target:
        yield target


def write_configuration(
    scenario: Scenario, place: Place, port: int, *, workers: int = 1, body: str = "form", protocol: str = "smtp"
) -> Path:
    """Write the configuration file of this server."""
    tls = ""
    if scenario.channel is Channel.TLS:
        if place.certificate is None:
            raise BenchmarkError("TLS needs a certificate: pip install trustme")
        chain, key = place.certificate.chain, place.certificate.key
        tls = f'tls = "implicit"\ncertificate = "{chain}"\nprivate_key = "{key}"'
    configuration = place.folder / "fcgimail.toml"
    configuration.write_text(
        _SETTINGS.format(
            workers=workers,
            listen=f"{HOST}:{port}",
            protocol=protocol,
            tls=tls,
            message_octets=64 * MIB,
            socket=place.php.socket,
            children=CHILDREN,
            validate=place.php.validate,
            save=place.php.save(scenario.script),
            body=body,
            log=place.folder / "mail.log",
        )
    )
    return configuration


@contextmanager
def _running(module: Sequence[str], port: int, place: Place) -> Iterator[Target]:
    log = place.folder / "output"
    with started([sys.executable, "-m", *module], log=log, env={"PYTHONPATH": _python_path()}) as pid:
        wait_for_port(port, pid, log)
        yield Target(port, pid)


def _python_path() -> str:
    """What is measured is this checkout, whatever else is installed."""
    return ":".join([str(_ROOT), *(entry for entry in sys.path if entry)])


def _serve_sketch(workers: int, _scenario: Scenario, place: Place) -> AbstractContextManager[Target]:
    port = free_port()
    php = place.php
    arguments = [str(port), str(php.socket), php.validate, php.save(_scenario.script), str(workers)]
    return _running(["benchmarks.sketch", *arguments], port, place)


def _serve_aiosmtpd(scenario: Scenario, place: Place) -> AbstractContextManager[Target]:
    port = free_port()
    php = place.php
    arguments = [str(port), str(php.socket), php.validate, php.save(scenario.script)]
    if scenario.channel is Channel.TLS:
        if place.certificate is None:
            raise BenchmarkError("TLS needs a certificate: pip install trustme")
        arguments += [str(place.certificate.chain), str(place.certificate.key)]
    return _running(["benchmarks.aiosmtpd_server", *arguments], port, place)


def _aiosmtpd_missing() -> str | None:
    return None if importlib.util.find_spec("aiosmtpd") else "pip install aiosmtpd (or: pip install -e '.[bench]')"


def _anything(_: Scenario) -> bool:
    return True


def _in_clear(scenario: Scenario) -> bool:
    return scenario.channel is Channel.CLEAR


def _anything_fast(scenario: Scenario) -> bool:
    """Whether slower ones come to an end of it."""
    return scenario.senders * scenario.octets < GIB


def _in_clear_and_fast(scenario: Scenario) -> bool:
    return _in_clear(scenario) and _anything_fast(scenario)


def _small_in_clear(scenario: Scenario) -> bool:
    return _in_clear(scenario) and scenario.kind is Kind.MAILS and scenario.octets < 100 * 1024


def _large(scenario: Scenario) -> bool:
    return scenario.octets >= 100 * 1024


def _ours(*, workers: int = 1, body: str = "form") -> Open:
    return partial(serve_ours, workers=workers, body=body)


OURS: Final = Peer(
    name="ours",
    about="this server, all checks and limits on, and the log at its level as shipped",
    missing=_nothing_missing,
    suits=_anything,
    measure=through_smtp(_ours()),
)
OURS_RAW: Final = Peer(
    name="ours-raw",
    about='this server with scripts.body = "raw"',
    missing=_nothing_missing,
    suits=_large,
    measure=through_smtp(_ours(body="raw")),
)
OURS_2: Final = Peer(
    name="ours-2",
    about="this server with two workers",
    missing=_nothing_missing,
    suits=_small_in_clear,
    measure=through_smtp(_ours(workers=2)),
)
SKETCH: Final = Peer(
    name="sketch",
    about="the yardstick: a bare Trio loop, nothing checked",
    missing=_nothing_missing,
    suits=_in_clear_and_fast,
    measure=through_smtp(partial(_serve_sketch, 1)),
)
SKETCH_2: Final = Peer(
    name="sketch-2",
    about="the bare Trio loop in two processes",
    missing=_nothing_missing,
    suits=_small_in_clear,
    measure=through_smtp(partial(_serve_sketch, 2)),
)
AIOSMTPD: Final = Peer(
    name="aiosmtpd",
    about="aiosmtpd and a handler with kept FastCGI connections",
    missing=_aiosmtpd_missing,
    suits=_anything_fast,
    measure=through_smtp(_serve_aiosmtpd),
)
