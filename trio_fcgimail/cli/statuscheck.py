"""What ``check`` says of the status page."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import trio

from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.config import ListenerSettings, Settings, TcpAddress
from trio_fcgimail.server import ListenError
from trio_fcgimail.server.listeners import close_listener, open_listeners
from trio_fcgimail.server.upstream import UpstreamError, connect
from trio_fcgimail.server.workers.statuskeeper import check_packages, read_password

_SECONDS: Final = 3.0
_QUESTION: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_OURS: Final = b"content-security-policy: default-src 'none'"
_MAX_OCTETS: Final = 4096


async def check_status(settings: Settings) -> list[Finding]:
    """Look at the settings ``[status]``; nothing to say without an address."""
    status = settings.status
    if status.address is None:
        return []
    try:
        check_packages(status.address)
    except ListenError as exc:
        return [Finding("status.address", State.BAD, str(exc))]
    findings = [await _check_address(status.address)]
    if status.password_file is not None:
        findings.append(_check_password(status.password_file))
    return findings


async def _check_address(address: TcpAddress) -> Finding:
    try:
        opened = await open_listeners(ListenerSettings(address=address))
    except ListenError as exc:
        if await _is_ours(address):
            return Finding("status.address", State.GOOD, f"{address}: our server is running there")
        return Finding("status.address", State.BAD, f"{exc}; end the other program or choose another address")
    for one in opened:
        close_listener(one)
    return Finding("status.address", State.GOOD, f"{address} can be listened on")


async def _is_ours(address: TcpAddress) -> bool:
    """Whether what holds the address is a status page of ours."""
    reachable = TcpAddress("localhost", address.port) if address.host == "*" else address
    answer = b""
    with trio.move_on_after(_SECONDS):
        try:
            async with await connect(reachable, seconds=_SECONDS) as stream:
                await stream.send_all(_QUESTION)
                while len(answer) < _MAX_OCTETS and (data := await stream.receive_some(_MAX_OCTETS)):
                    answer += data
        except (UpstreamError, trio.BrokenResourceError):
            return False
    return _OURS in answer


def _check_password(path: Path) -> Finding:
    key = "status.password_file"
    try:
        read_password(path)
        mode = path.stat().st_mode
    except (ListenError, OSError) as exc:
        return Finding(key, State.BAD, str(exc))
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return Finding(key, State.UNKNOWN, f"{path} can be read by others: chmod 600, as only the parent reads it")
    return Finding(key, State.GOOD, f"{path} holds a password")
