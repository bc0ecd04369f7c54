"""Mails through a php-fpm whose workers retire, are killed and reloaded: who was told what, and what has run.

Senders do what senders do: a mail that was deferred comes again, the very same, until it is taken.
"""

from __future__ import annotations

import json
import os
import random
import signal
import smtplib
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tests.phpfpm import PhpFpm
from tests.server_process import ServerProcess

CHILDREN: Final = 4
CLIENTS: Final = 12
MAILS_OF_EACH: Final = 150
SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.04  # between two faults
_RELOADS: Final = 0.15  # of all faults
_DEAF_SECONDS: Final = 0.1  # php-fpm starts as many anew
_DEFERRED: Final = 451
#: Every run leaves a line, before the answer.
NOTING: Final = """<?php
file_put_contents('%s', $_POST['subject'] . "\\n", FILE_APPEND | LOCK_EX);
echo 'SAVED';
"""
#: What may have run: a request that was sent whole, and whose connection then broke, or ended within an answer. With
#: ``clean_eof_means_unexecuted`` everything else may be hidden from the sender by another try.
UNKNOWN: Final = "UpstreamBroken: "


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What came of it.

    Args:
        runs: of the script.
        untrue: mails that were answered 250 and have not run.
        doubled: mails that have run oftener than they were deferred, and once.
        needless: why mails were deferred that need not have been.
    """

    mails: int
    saved: int
    deferred: int
    runs: int
    untrue: int
    doubled: int
    needless: tuple[str, ...]


def measure(*, keep_alive: bool, workers: int = 1, mails_of_each: int = MAILS_OF_EACH) -> Found:
    """Send mails while php-fpm is in trouble, with ``pm.max_requests = 20``."""
    saved: Counter[str] = Counter()
    deferred: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as name,
        PhpFpm(children=CHILDREN, pool="pm.max_requests = 20") as php,
    ):
        folder, notes = Path(name), php.data / "notes"
        script = php.script("save.php", NOTING % notes)
        (folder / "fcgimail.toml").write_text(_configuration(php, script, keep_alive=keep_alive, workers=workers))
        with ServerProcess("serve", folder=folder) as server:
            over = threading.Event()
            trouble = threading.Thread(target=_trouble, args=(php, over))
            trouble.start()
            try:
                with ThreadPoolExecutor(CLIENTS) as threads:
                    for client in range(CLIENTS):
                        threads.submit(_send, server.port, client, mails_of_each, saved, deferred)
            finally:
                over.set()
                trouble.join()
            assert server.stop() == 0
            reasons = _reasons(server.log)
        ran = Counter(notes.read_text().split())
    assert len(saved) == CLIENTS * mails_of_each, "a sender has given up"
    return Found(
        mails=len(saved),
        saved=saved.total(),
        deferred=deferred.total(),
        runs=ran.total(),
        untrue=sum(mail not in ran for mail in saved),
        doubled=sum(times > deferred[mail] + 1 for mail, times in ran.items()),
        needless=tuple(reason for reason in reasons if not reason.startswith(UNKNOWN)),
    )


def _configuration(php: PhpFpm, script: str, *, keep_alive: bool, workers: int) -> str:
    return f"""
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
workers = {workers}
[[listeners]]
address = "127.0.0.1:0"
[limits]
connections_per_ip = 0
messages_per_connection = 0
[log]
format = "json"
[fastcgi]
upstreams = ["{php.address}"]
max_connections = {CHILDREN}
keep_alive = {str(keep_alive).lower()}
clean_eof_means_unexecuted = true
[scripts]
save = "{script}"
"""


def _trouble(php: PhpFpm, over: threading.Event) -> None:
    dice = random.Random(4)
    while not over.wait(_PAUSE_SECONDS):
        if dice.random() < _RELOADS:
            os.kill(php.master_pid, signal.SIGUSR2)
            over.wait(_DEAF_SECONDS)
        elif children := php.child_pids():
            with suppress(ProcessLookupError):
                os.kill(dice.choice(children), dice.choice([signal.SIGKILL, signal.SIGTERM]))


def _send(port: int, client: int, mails: int, saved: Counter[str], deferred: Counter[str]) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as smtp:
        for number in range(mails):
            name = f"m-{client}-{number}"
            while name not in saved:
                try:
                    smtp.sendmail("a@client.example", "b@example.com", f"Subject: {name}\r\n\r\n")
                except smtplib.SMTPDataError as exc:
                    if exc.smtp_code != _DEFERRED:
                        raise
                    deferred[name] += 1
                else:
                    saved[name] += 1


def _reasons(log: str) -> list[str]:
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [str(entry["reason"]) for entry in entries if entry["event"] == "mail" and entry["verdict"] == "failed"]
