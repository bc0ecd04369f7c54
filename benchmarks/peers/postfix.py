"""Postfix with pipe(8) and a new PHP for each mail, and the same Postfix handing mails to us by LMTP.

Its time goes on until the last mail was delivered, as its own 250 only says that the mail is in the queue. It runs with
a configuration, a queue and a log of its own, as a Postfix that is installed for mail would not be disturbed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from benchmarks.outcome import BenchmarkError
from benchmarks.peers.peer import Peer, Place, Target, through_smtp
from benchmarks.peers.python import serve_ours
from benchmarks.processes import HOST, free_port, wait_for_port, wait_gone
from benchmarks.scenarios import MIB, Channel, Kind, SaveScript, Scenario

#: postconf(5): nothing slows it on purpose, and as many deliveries go on at a time as there are senders.
_MAIN: Final = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mx.example.com
mydestination =
local_recipient_maps =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
default_transport = {transport}
message_size_limit = {octets}
mailbox_size_limit = 0
in_flow_delay = 0
initial_destination_concurrency = 16
default_destination_concurrency_limit = 16
default_destination_recipient_limit = 1
lmtp_destination_concurrency_limit = 16
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
"""
#: master(5): what a mail passes on its way, nothing in a chroot.
_MASTER: Final = """
{host}:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
lmtp unix - - n - - lmtp
php unix - n n - 16 pipe flags=Rq user={user} argv={php} -n {script}
postlog unix-dgram n - n - 1 postlogd
"""
#: Its folders by owner, group and mode, as ``postfix start`` would make them.
_QUEUE: Final = {
    ("root", "root", 0o755): ["pid"],
    ("postfix", "root", 0o700): [
        *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
    ],
    ("postfix", "postdrop", 0o730): ["maildrop"],
    ("postfix", "postdrop", 0o710): ["public"],
}
_LONG_AGO: Final = (0, 0)  # Postfix waits for the end of changes to files that look recent


def _missing() -> str | None:
    if shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        return "apt-get install postfix"
    if shutil.which("php") is None:
        return "apt-get install php-cli"
    return None if os.geteuid() == 0 else "only root can run Postfix: sudo python -m benchmarks"


class _Log:
    """Counts deliveries, reading only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._sent = 0
        self._rest = b""

    def sent(self) -> int:
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")
        if self._file is not None:
            *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
            self._sent += sum(b" status=sent " in line for line in lines)
        return self._sent

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def _postfix(place: Place, transport: str) -> Iterator[tuple[int, int, Callable[[], int]]]:
    """Give its port, its first process and what counts deliveries."""
    postfix = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert postfix is not None
    folder, port = place.folder / "postfix", free_port()
    _make_folders(folder)
    user = place.php.folder.owner()
    main = _MAIN.format(folder=folder, transport=transport, octets=64 * MIB)
    master = _MASTER.format(host=HOST, port=port, user=user, php=shutil.which("php"), script=place.php.pipe)
    for name, text in (("main.cf", main), ("master.cf", master)):
        (folder / "conf" / name).write_text(text)
        os.utime(folder / "conf" / name, _LONG_AGO)
    command = [postfix, "-c", str(folder / "conf")]
    log = _Log(folder / "log")
    done = subprocess.run([*command, "start"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"postfix does not start: {done.stderr.strip()[-200:]}")
    pid = int((folder / "queue" / "pid" / "master.pid").read_text())
    try:
        wait_for_port(port, pid, folder / "log")
        yield port, pid, log.sent
    finally:
        subprocess.run([*command, "abort"], capture_output=True, check=False)
        wait_gone(pid)
        log.close()


def _make_folders(folder: Path) -> None:
    for name in ("", "conf", "queue", "data"):
        (folder / name).mkdir(0o755)
    shutil.chown(folder / "data", "postfix")
    for (user, group, mode), names in _QUEUE.items():
        for name in names:
            place = folder / "queue" / name
            place.mkdir()
            shutil.chown(place, user, group)
            place.chmod(mode)
    (folder / "queue" / "quick-start").touch()


@contextmanager
def _serve_pipe(_: Scenario, place: Place) -> Iterator[Target]:
    with _postfix(place, "php:") as (port, pid, delivered):
        yield Target(port, pid, delivered)


@contextmanager
def _serve_lmtp(scenario: Scenario, place: Place) -> Iterator[Target]:
    """Only Postfix is metered as the server: what we add is known from the peer ``ours``."""
    with (
        serve_ours(scenario, place, protocol="lmtp") as ours,
        _postfix(place, f"lmtp:inet:{HOST}:{ours.port}") as (port, pid, delivered),
    ):
        yield Target(port, pid, delivered)


def _suits(scenario: Scenario) -> bool:
    return (
        scenario.kind is Kind.MAILS
        and scenario.channel is Channel.CLEAR
        and scenario.script is SaveScript.COUNT
        and scenario.senders > 1
    )


POSTFIX_PIPE: Final = Peer(
    name="postfix-pipe",
    about="Postfix starting PHP per mail by pipe(8), to delivery; no recipient check",
    missing=_missing,
    suits=_suits,
    measure=through_smtp(_serve_pipe),
)
POSTFIX_LMTP: Final = Peer(
    name="postfix-lmtp",
    about="the same Postfix delivering to us by LMTP, to delivery",
    missing=_missing,
    suits=_suits,
    measure=through_smtp(_serve_lmtp),
)
