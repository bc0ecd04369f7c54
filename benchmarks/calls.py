"""The two script calls of a mail, one after the other and nothing beside: ours, and those of a blocking client.

Ours go through `Scripts`, with its pool, its deadlines and its verdicts; the blocking client sends the same octets over
one kept connection, and reads until END_REQUEST. Both in one process, by turns, so that they meet the same machine.
Writes a report as benchmarks/clients.py does, of the one or of the other:

    python -m benchmarks.calls CONFIGURATION OCTETS SECONDS ours|blocking
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from benchmarks import wire
from benchmarks.clients import Report, message
from trio_fcgimail.config import Settings, UnixAddress, load_settings
from trio_fcgimail.fastcgi import ClientConnection, ConstantParams
from trio_fcgimail.mail import (
    FORM_TYPE,
    Envelope,
    Meaning,
    Parameter,
    Peer,
    Session,
    body_parameters,
    constant_parameters,
    query_string,
    request_parameters,
    validate_fields,
)
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.spool import SpoolRoom
from trio_fcgimail.smtp import GreetingWord, Mailbox

_RECEIVE_OCTETS: Final = 65_536
_WARM_UP: Final = 20  # mails
_IP: Final = "127.0.0.1"
_SENDER, _RECIPIENT = Mailbox("alice", "example.net"), Mailbox("bob", "example.com")
_SESSION: Final = Session(Peer(_IP, 40_000), GreetingWord.EHLO, "client.example.net")
_EMPTY: Final = Envelope(queue_id="0006412345678abcdef0123", session=_SESSION, mail_from=_SENDER)
_WHOLE: Final = Envelope(queue_id=_EMPTY.queue_id, session=_SESSION, mail_from=_SENDER, recipients=(_RECIPIENT,))


async def _received(settings: Settings, content: bytes) -> IncomingMessage:
    spool = settings.spool
    room = SpoolRoom(directory=spool.directory, memory_octets=spool.memory_octets, total_octets=spool.total_octets)
    received = IncomingMessage(_WHOLE, room, settings.scripts.line_ends, settings.scripts.body)
    await received.add(content)
    return received


async def _call_ours(scripts: Scripts, received: IncomingMessage) -> None:
    verdict = await scripts.validate(_EMPTY, _RECIPIENT)
    verdicts = await scripts.save(received)
    if {verdict.meaning, verdicts[0].meaning} != {Meaning.ACCEPTED}:
        raise SystemExit(f"PHP answered {verdict.reason!r}, {verdicts[0].reason!r}")


def _octets(settings: Settings, received: IncomingMessage) -> tuple[bytes, bytes]:
    """What our two requests are on the wire."""
    validate, save = settings.scripts.validate, settings.scripts.save
    assert validate is not None, "the configuration has both"
    assert save is not None, "likewise"
    asked = received.save_request(bytes(20))
    body = received.body(asked).whole
    assert body is not None, "a small mail"
    query = query_string(validate_fields(_EMPTY, _RECIPIENT))
    get = _request(settings, validate, "GET", request_parameters(validate, query, remote_ip=_IP))
    own = [*request_parameters(save, "", remote_ip=_IP), *body_parameters(FORM_TYPE, len(body))]
    return get, _request(settings, save, "POST", own, body)


def _request(settings: Settings, script: str, method: str, own: list[Parameter], body: bytes = b"") -> bytes:
    constant = ConstantParams(constant_parameters(script, method, hostname=settings.hostname))
    return ClientConnection().request(params=own, constant=constant, body=body, keep_connection=True)


def _call_blocking(sock: socket.socket, requests: tuple[bytes, bytes]) -> None:
    for request, expected in zip(requests, (b"PASSED", b"SAVED"), strict=True):
        sock.sendall(request)
        received = b""
        while (answer := wire.answer(received)) is None:
            received += sock.recv(_RECEIVE_OCTETS)
        if answer != expected:
            raise SystemExit(f"PHP answered {answer!r}")


async def run(configuration: Path, octets: int, seconds: float) -> dict[str, list[float]]:
    """Call by turns; the milliseconds of each mail, by who called."""
    settings = load_settings(configuration, default_hostname="mx.example.com")
    address = settings.fastcgi.upstreams[0]
    assert isinstance(address, UnixAddress), "php-fpm of the benchmarks"
    received = await _received(settings, message(octets))
    requests = _octets(settings, received)
    scripts = Scripts(settings)
    took: dict[str, list[float]] = {"ours": [], "blocking": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scripts.run)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(address.path)
            deadline = time.perf_counter() + seconds
            while time.perf_counter() < deadline or len(took["ours"]) < 2 * _WARM_UP:
                began = time.perf_counter()
                _call_blocking(sock, requests)
                between = time.perf_counter()
                await _call_ours(scripts, received)
                took["blocking"].append((between - began) * 1000)
                took["ours"].append((time.perf_counter() - between) * 1000)
        nursery.cancel_scope.cancel()
    received.close()
    return {who: milliseconds[_WARM_UP:] for who, milliseconds in took.items()}


def main() -> None:
    """Measure, and report on one of both."""
    milliseconds = trio.run(run, Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))[sys.argv[4]]
    report = Report(
        mails=len(milliseconds),
        failures=0,
        first_failure="",
        seconds=sum(milliseconds) / 1000,
        cpu_seconds=0.0,
        milliseconds=milliseconds,
    )
    json.dump(asdict(report), sys.stdout)


if __name__ == "__main__":
    main()
