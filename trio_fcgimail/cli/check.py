"""``check``: what a configuration names, tried out."""

from __future__ import annotations

import os
import shutil
import ssl
import tempfile
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, assert_never

import rich.console
import rich.table
import rich.text
import trio

from trio_fcgimail import smtp
from trio_fcgimail.cli.certificate import check_tls
from trio_fcgimail.cli.chaincheck import check_chains
from trio_fcgimail.cli.descriptors import find_shortage, raise_limit
from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.cli.phplimits import judge_php
from trio_fcgimail.cli.phpreport import PROBE_SCRIPT, NoReportError, read_report
from trio_fcgimail.cli.problems import RAN_AND_FAILED, writing_output
from trio_fcgimail.cli.statuscheck import check_status
from trio_fcgimail.config import (
    BoundAddress,
    Concern,
    Configuration,
    ConfigWarning,
    ListenerSettings,
    LogStream,
    ScriptSettings,
    Settings,
    SystemdAddress,
    TcpAddress,
    TlsMode,
    UnixAddress,
    UpstreamAddress,
)
from trio_fcgimail.mail import Envelope, Meaning, Peer, Session, clean, get_parameters
from trio_fcgimail.server import ListenError
from trio_fcgimail.server.entrance import server_options
from trio_fcgimail.server.listeners import close_listener, open_listeners
from trio_fcgimail.server.scripts import Scripts
from trio_fcgimail.server.upstream import UpstreamError, connect, request
from trio_fcgimail.smtp import GreetingWord, Mailbox

_BANNER_SECONDS: Final = 3.0
_LITTLE_FREE_OCTETS: Final = 1 << 30
_LIMITS: Final = "PHP's limits"


async def check_settings(configuration: Configuration, path: Path, *, probe: bool, probe_script: str | None) -> int:
    """Try everything, print the table; returns the exit code.

    Args:
        probe: whether to ask the validate script.
        probe_script: the path of probe.php, as the FastCGI server sees it; None to leave PHP's limits unknown.
    """
    settings = configuration.settings
    findings = [Finding("configuration", State.GOOD, f"{path} can be read")]
    findings += map(_warned, configuration.warnings)
    for number, listener in enumerate(settings.listeners):
        findings.append(await _check_listener(f"listeners[{number}].address", listener, settings))
        findings += check_tls(f"listeners[{number}]", listener, settings, datetime.now(UTC))
        if listener.log_file is not None:
            findings.append(_check_log(f"listeners[{number}].log_file", listener.log_file))
    findings += [_check_descriptors(settings), _check_log("log.file", settings.log.file), _check_spool(settings)]
    findings += await check_status(settings)
    findings += check_chains(settings)
    for number, address in enumerate(settings.fastcgi.upstreams):
        key = f"fastcgi.upstreams[{number}]" if len(settings.fastcgi.upstreams) > 1 else "fastcgi.upstreams"
        findings.append(await _check_upstream(key, address, settings))
    if settings.fastcgi.upstreams:
        findings += _check_scripts(settings.scripts)
        findings += [_unknown_limits(settings)] if probe_script is None else await _ask_php(settings, probe_script)
    if probe:
        findings.append(await _probe(settings))
    _print(findings)
    return RAN_AND_FAILED if any(finding.state is State.BAD for finding in findings) else 0


def _warned(warning: ConfigWarning) -> Finding:
    """What is taken otherwise than it stands in the file; that a key has no effect does no harm."""
    state = State.GOOD if warning.concern is Concern.UNUSED else State.UNKNOWN
    return Finding(warning.key, state, f"found {warning.found}: {warning.done}")


def _print(findings: list[Finding]) -> None:
    table = rich.table.Table("", "what", "finding", box=None, pad_edge=False)
    marks = {State.GOOD: ("ok", "green"), State.UNKNOWN: ("??", "yellow"), State.BAD: ("NO", "bold red")}
    for finding in findings:
        mark, style = marks[finding.state]
        table.add_row(rich.text.Text(mark, style), rich.text.Text(finding.subject), rich.text.Text(finding.detail))
    with writing_output():
        rich.console.Console(highlight=False).print(table)


async def _check_listener(key: str, listener: ListenerSettings, settings: Settings) -> Finding:
    if isinstance(listener.address, SystemdAddress):
        return Finding(key, State.UNKNOWN, f"{listener.address}: systemd knows; systemctl list-sockets says so")
    try:
        opened = await open_listeners(listener)
    except ListenError as exc:
        if await _greets_with(listener.address, listener.tls, _banner(settings, listener)):
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


async def _greets_with(address: BoundAddress, tls: TlsMode, banner: bytes) -> bool:
    """Whether what holds the address says exactly that; who it is by its certificate is not asked."""
    with trio.move_on_after(_BANNER_SECONDS):
        try:
            stream: trio.abc.Stream = await connect(_reachable(address), seconds=_BANNER_SECONDS)
            if tls is TlsMode.IMPLICIT:
                stream = trio.SSLStream(stream, _trusting(), https_compatible=True)
            async with stream:
                return await stream.receive_some(len(banner) + 1) == banner
        except (UpstreamError, trio.BrokenResourceError):
            return False
    return False


def _reachable(address: BoundAddress) -> BoundAddress:
    match address:
        case TcpAddress(host="*", port=port):
            return TcpAddress("localhost", port)
        case _:
            return address


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check_descriptors(settings: Settings) -> Finding:
    """Only a warning: the server may be started with another limit than we were."""
    limit = raise_limit()
    shortage = find_shortage(settings, limit)
    if shortage is None:
        return Finding("limits.connections", State.GOOD, f"{limit} file descriptors are allowed")
    return Finding("limits.connections", State.UNKNOWN, shortage)


def _check_log(key: str, path: Path | LogStream) -> Finding:
    if isinstance(path, LogStream):
        return Finding(key, State.GOOD, path.value)
    writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
    if writable and not path.is_dir():
        return Finding(key, State.GOOD, f"{path} can be written")
    return Finding(key, State.BAD, f"{path} cannot be written: make its folder, or give it to our user")


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


def _check_scripts(scripts: ScriptSettings) -> list[Finding]:
    paths = {
        "scripts.connect": scripts.connect,
        "scripts.helo": scripts.helo,
        "scripts.auth": scripts.auth,
        "scripts.mail": scripts.mail,
        "scripts.validate": scripts.validate,
        "scripts.save": scripts.save,
    }
    return [_check_script(key, path) for key, path in paths.items() if path is not None]


def _check_script(key: str, script: str) -> Finding:
    if Path(script).is_file():
        return Finding(key, State.GOOD, f"{script} is there; whether the FastCGI server may read it only a call tells")
    return Finding(key, State.UNKNOWN, f"{script} is not on this machine; a call tells whether the server has it")


def _unknown_limits(settings: Settings) -> Finding:
    octets = settings.limits.message_octets
    mails = "mails of any size" if octets is None else f"mails of {octets} octets"
    return Finding(
        _LIMITS,
        State.UNKNOWN,
        f"not asked for: post_max_size, memory_limit and others must have room for {mails}; "
        f"copy {PROBE_SCRIPT} to where PHP may read it, and name it with --probe-script",
    )


async def _ask_php(settings: Settings, script: str) -> list[Finding]:
    """What the probe says, judged; or why it says nothing."""
    parameters = get_parameters(script, [], hostname=settings.hostname, remote_ip="127.0.0.1")
    try:
        stream = await connect(settings.fastcgi.upstreams[0], seconds=settings.fastcgi.connect_seconds)
        answer = await request(stream, parameters, None, seconds=settings.scripts.validate_seconds)
        if answer.status == HTTPStatus.OK:
            return list(judge_php(read_report(answer.output), settings))
    except UpstreamError as exc:
        return [Finding(_LIMITS, State.BAD, f"the probe cannot be asked: {exc}")]
    except NoReportError as exc:
        fault = f"{script} is not our probe, or of another version ({exc})"
    else:
        fault = f"{script}: HTTP status {answer.status}, {clean(answer.output, 100)}"
    return [Finding(_LIMITS, State.BAD, f"{fault}; copy {PROBE_SCRIPT} there, readable for PHP")]


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
