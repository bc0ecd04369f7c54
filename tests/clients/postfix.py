"""Postfix as a sending server: a mail into its queue, and its own SMTP or LMTP client takes it from there to us.

It runs with a configuration, a queue and a log of its own, so that an installed one neither notices nor is used.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never, final

from tests.clients.routes import HELO, HOST, Channel, Mail, Outcome, Route, missing, require, run_client
from tests.phpfpm import wait_gone
from tests.server_process import eventually

#: postconf(5). A bounce goes nowhere: its sender is of example.net.
_MAIN: Final = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = {helo}
mydestination =
alias_maps =
alias_database =
transport_maps = inline:{{ {{ example.net = discard: }} }}
message_size_limit = 0
smtputf8_enable = yes
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
lmtp_lhlo_name = {helo}
"""
#: master(5): what a mail passes on its way from the queue to us, nothing in a chroot, nothing that listens.
_MASTER: Final = """
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
tlsmgr unix - - n 1000? 1 tlsmgr
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
discard unix - - n - - discard
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""
#: Its folders by owner, group and mode: what ``postfix start`` makes and checks unless told that a check was passed.
_QUEUE: Final = {
    ("root", "root", 0o755): ["pid"],
    ("postfix", "root", 0o700): [
        *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
    ],
    ("postfix", "postdrop", 0o730): ["maildrop"],
    ("postfix", "postdrop", 0o710): ["public"],
}
#: When its files were changed: each of its programs waits up to 1.5 s for the end of changes that look recent.
_LONG_AGO: Final = (0, 0)
_VERDICT: Final = re.compile(r"postfix/[sl]mtp\[.* to=<([^>]*)>.* status=(\w+) (.*)")


def _settings(route: Route, folder: Path) -> list[str]:
    next_hop = f"[{HOST}]:{route.port}"
    match route.channel:
        case Channel.PLAIN:
            lines = [f"relayhost = {next_hop}"]
        case Channel.STARTTLS | Channel.IMPLICIT:
            authority = shutil.copy(route.authority, folder / "authority.pem")
            lines = [
                f"relayhost = {next_hop}",
                "smtp_tls_security_level = verify",
                f"smtp_tls_verify_cert_match = {route.server_name}",
                f"smtp_tls_CAfile = {authority}",
                f"smtp_tls_wrappermode = {'yes' if route.channel is Channel.IMPLICIT else 'no'}",
            ]
        case Channel.LMTP:
            lines = [f"default_transport = lmtp:unix:{route.socket}"]
        case other:
            assert_never(other)
    if route.login is None:
        return lines
    passwords = folder / "passwords"
    passwords.write_text(f"{next_hop} {route.login.username}:{route.login.password}\n")
    os.utime(passwords, _LONG_AGO)
    return [
        *lines,
        "smtp_sasl_auth_enable = yes",
        f"smtp_sasl_password_maps = texthash:{passwords}",
        f"smtp_sasl_mechanism_filter = {route.login.mechanism.value.lower()}",
        "smtp_sasl_security_options = noanonymous",
    ]


@final
@dataclass(frozen=True, slots=True)
class Postfix:
    """One that runs.

    Attributes:
        folder: where all of it is, its configuration in ``conf``.
    """

    folder: Path

    def submit(self, mail: Mail) -> None:
        """Put a mail into its queue. Its sendmail wants the line ends of its system."""
        sendmail = require("sendmail", "postfix")
        command = [sendmail, "-C", str(self.folder / "conf"), "-i", "-f", mail.sender, "--", *mail.recipients]
        queued = run_client(command, mail.content.replace(b"\r\n", b"\n"))
        assert queued.sent, queued.said

    def probe(self, mail: Mail) -> None:
        """Have it ask whether the recipients exist, and send a report to the sender."""
        command = [require("sendmail", "postfix"), "-C", str(self.folder / "conf"), "-bv", "-f", mail.sender, "--"]
        asked = run_client([*command, *mail.recipients], b"")
        assert asked.sent, asked.said

    def verdicts(self) -> list[tuple[str, str, str]]:
        """Each try of each recipient: the recipient, the status, and what was said of it."""
        return _VERDICT.findall(self.log())

    def queue(self) -> dict[str, str]:
        """The recipients that wait, and why they do."""
        listed = run_client([require("postqueue", "postfix"), "-c", str(self.folder / "conf"), "-j"])
        assert listed.sent, listed.said
        mails = [json.loads(line) for line in listed.said.splitlines()]
        return {one["address"]: one.get("delay_reason", "") for mail in mails for one in mail["recipients"]}

    def flush(self) -> None:
        """Have it try everything that waits again."""
        flushed = run_client([require("postqueue", "postfix"), "-c", str(self.folder / "conf"), "-f"])
        assert flushed.sent, flushed.said

    def log(self) -> str:
        """What it has logged so far."""
        return _log(self.folder)


@contextlib.contextmanager
def running_postfix(route: Route) -> Iterator[Postfix]:
    """A Postfix that delivers by this route and no other."""
    program = require("postfix", "postfix")
    if os.geteuid() != 0:
        missing("only root can run Postfix")
    folder = Path(tempfile.mkdtemp(prefix="fcgimail-postfix-"))
    folder.chmod(0o755)
    for name in ("conf", "queue", "data"):
        (folder / name).mkdir(0o755)
    shutil.chown(folder / "data", "postfix")
    for (user, group, mode), names in _QUEUE.items():
        for name in names:
            place = folder / "queue" / name
            place.mkdir()
            shutil.chown(place, user, group)
            place.chmod(mode)
    (folder / "queue" / "quick-start").touch()
    conf = folder / "conf"
    main = [_MAIN.format(folder=folder, helo=HELO), *_settings(route, folder), ""]
    for name, text in (("main.cf", "\n".join(main)), ("master.cf", _MASTER)):
        (conf / name).write_text(text)
        os.utime(conf / name, _LONG_AGO)
    try:
        started = run_client([program, "-c", str(conf), "start"])
        assert started.sent, f"{started.said}{_log(folder)}"
        try:
            yield Postfix(folder)
        finally:
            _stop(program, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(program: str, folder: Path) -> None:
    """``postfix abort`` asks for an end as ``stop`` does, which then looks once a second whether it has come."""
    master = int((folder / "queue" / "pid" / "master.pid").read_text())
    run_client([program, "-c", str(folder / "conf"), "abort"])
    wait_gone(master)


def _log(folder: Path) -> str:
    path = folder / "log"
    return path.read_text(errors="replace") if path.exists() else ""


def by_postfix(route: Route, mail: Mail, folder: Path) -> Outcome:
    """The mail goes into the queue, and from there to us."""
    with running_postfix(route) as private:
        private.submit(mail)
        eventually(lambda: len(private.verdicts()) == len(mail.recipients), "Postfix tries each recipient once")
        return Outcome(all(status == "sent" for _, status, _ in private.verdicts()), private.log())
