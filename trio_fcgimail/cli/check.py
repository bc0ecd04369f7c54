"""``check``: what a configuration names, tried out."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, assert_never, final

import rich.console
import rich.table
import rich.text
import trio

from trio_fcgimail import smtp
from trio_fcgimail.cli.descriptors import find_shortage, raise_limit
from trio_fcgimail.cli.problems import RAN_AND_FAILED, writing_output
from trio_fcgimail.config import ListenAddress, ListenerSettings, Settings, TcpAddress, UnixAddress, UpstreamAddress
from trio_fcgimail.mail import Envelope, Meaning, Peer, Session
from trio_fcgimail.server import ListenError
from trio_fcgimail.server.app import server_options
from trio_fcgimail.server.listeners import close_listener, open_listeners
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.upstream import UpstreamError, connect
from trio_fcgimail.smtp import GreetingWord, Mailbox

_BANNER_SECONDS: Final = 3.0
_LITTLE_FREE_OCTETS: Final = 1 << 30


class State(Enum):
    """How a thing that was tried stands."""

    GOOD = "good"
    UNKNOWN = "unknown"
    BAD = "bad"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table.

    Args:
        subject: the key or the thing.
        detail: what was found, and how to mend it when it is bad.
    """

    subject: str
    state: State
    detail: str


async def check_settings(settings: Settings, path: Path, *, probe: bool) -> int:
    """Try everything, print the table; returns the exit code."""
    findings = [Finding("configuration", State.GOOD, f"{path} can be read")]
    for number, listener in enumerate(settings.listeners):
        findings.append(await _check_listener(f"listeners[{number}].address", listener, settings))
    findings += [_check_descriptors(settings), _check_log(settings), _check_spool(settings)]
    for number, address in enumerate(settings.fastcgi.upstreams):
        key = f"fastcgi.upstreams[{number}]" if len(settings.fastcgi.upstreams) > 1 else "fastcgi.upstreams"
        findings.append(await _check_upstream(key, address, settings))
    findings += [_check_script("scripts.validate", settings.scripts.validate)] if settings.scripts.validate else []
    findings.append(_check_script("scripts.save", settings.scripts.save))
    findings.append(_check_php_limits(settings))
    if probe:
        findings.append(await _probe(settings))
    _print(findings)
    return RAN_AND_FAILED if any(finding.state is State.BAD for finding in findings) else 0


def _print(findings: list[Finding]) -> None:
    table = rich.table.Table("", "what", "finding", box=None, pad_edge=False)
    marks = {State.GOOD: ("ok", "green"), State.UNKNOWN: ("??", "yellow"), State.BAD: ("NO", "bold red")}
    for finding in findings:
        mark, style = marks[finding.state]
        table.add_row(rich.text.Text(mark, style), rich.text.Text(finding.subject), rich.text.Text(finding.detail))
    with writing_output():
        rich.console.Console(highlight=False).print(table)


async def _check_listener(key: str, listener: ListenerSettings, settings: Settings) -> Finding:
    try:
        opened = await open_listeners(listener)
    except ListenError as exc:
        if await _greets_with(listener.address, _banner(settings, listener)):
            return Finding(key, State.GOOD, f"{listener.address}: our server is running there")
        return Finding(key, State.BAD, f"{exc}; end the other program or choose another address")
    for one in opened:
        close_listener(one)
    return Finding(key, State.GOOD, f"{listener.address} can be listened on")


def _banner(settings: Settings, listener: ListenerSettings) -> bytes:
    """What our server says first: the core's own words, and not those of another server with our name."""
    conn = smtp.ServerConnection(server_options(settings, listener))
    event = conn.next_event()
    assert isinstance(event, smtp.Connected), "the core's first event"
    return conn.accept(event)


async def _greets_with(address: ListenAddress, banner: bytes) -> bool:
    """Whether what holds the address says exactly that."""
    with trio.move_on_after(_BANNER_SECONDS):
        try:
            stream = await connect(address, seconds=_BANNER_SECONDS)
            async with stream:
                return await stream.receive_some(len(banner) + 1) == banner
        except (UpstreamError, trio.BrokenResourceError):
            return False
    return False


def _check_descriptors(settings: Settings) -> Finding:
    """Only a warning: the server may be started with another limit than we were."""
    limit = raise_limit()
    shortage = find_shortage(settings, limit)
    if shortage is None:
        return Finding("limits.connections", State.GOOD, f"{limit} file descriptors are allowed")
    return Finding("limits.connections", State.UNKNOWN, shortage)


def _check_log(settings: Settings) -> Finding:
    path = settings.log.file
    if path is None:
        return Finding("log.file", State.GOOD, "standard error")
    writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
    if writable and not path.is_dir():
        return Finding("log.file", State.GOOD, f"{path} can be written")
    return Finding("log.file", State.BAD, f"{path} cannot be written: make its folder, or give it to our user")


def _check_spool(settings: Settings) -> Finding:
    folder = settings.spool.directory or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as exc:
        return Finding("spool.directory", State.BAD, f"{folder}: {exc.strerror}: make it, or give it to our user")
    if free < (settings.limits.message_octets or _LITTLE_FREE_OCTETS):
        return Finding("spool.directory", State.BAD, f"{folder}: only {free >> 20} MiB free, less than one mail may be")
    return Finding("spool.directory", State.GOOD, f"{folder}: {free >> 20} MiB free")


async def _check_upstream(key: str, address: UpstreamAddress, settings: Settings) -> Finding:
    try:
        stream = await connect(address, seconds=settings.fastcgi.connect_seconds)
    except UpstreamError as exc:
        match address:
            case UnixAddress():
                mend = "is php-fpm running, and is this the listen line of its pool?"
            case TcpAddress():
                mend = "is the FastCGI server running, and does a firewall let us through?"
            case _:
                assert_never(address)
        return Finding(key, State.BAD, f"{exc}; {mend}")
    await trio.aclose_forcefully(stream)
    return Finding(key, State.GOOD, f"{address} accepts connections")


def _check_script(key: str, script: str) -> Finding:
    if Path(script).is_file():
        return Finding(key, State.GOOD, f"{script} is there; whether the FastCGI server may read it only a call tells")
    return Finding(key, State.UNKNOWN, f"{script} is not on this machine; a call tells whether the server has it")


def _check_php_limits(settings: Settings) -> Finding:
    octets = settings.limits.message_octets
    mails = "mails of any size" if octets is None else f"mails of {octets} octets"
    return Finding(
        "PHP's limits", State.UNKNOWN, f"not asked for: post_max_size and memory_limit must have room for {mails}"
    )


async def _probe(settings: Settings) -> Finding:
    """Ask about the one recipient that every domain has to have (RFC 5321 4.5.1)."""
    script = settings.scripts.validate
    if script is None:
        return Finding("probe", State.UNKNOWN, "there is no validate script; every recipient is taken")
    recipient = Mailbox("postmaster", _first_domain(settings))
    session = Session(Peer("127.0.0.1", 0), GreetingWord.EHLO, settings.hostname)
    envelope = Envelope(queue_id="probe", session=session, mail_from=None)
    scripts = Scripts(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scripts.run)
        verdict = await scripts.validate(envelope, recipient)
        nursery.cancel_scope.cancel()
    state = State.GOOD if verdict.meaning is Meaning.ACCEPTED else State.BAD
    return Finding("probe", state, f"{recipient}: {verdict.reply.text} ({verdict.reason})")


def _first_domain(settings: Settings) -> str:
    """The first allowed domain; of a pattern, a name that it matches."""
    entry = settings.allowed_hosts.entries[0]
    return settings.hostname if entry == "." else entry.replace("*", "www", 1)
