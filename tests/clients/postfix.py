"""Postfix as a sending server: a mail into its queue, and its own SMTP or LMTP client takes it from there to us.

It runs with a configuration, a queue and a log of its own, so that an installed one neither notices nor is used.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, assert_never

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


@contextlib.contextmanager
def _running(route: Route) -> Iterator[Path]:
    """The folder of a Postfix that delivers by this route and no other."""
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
            yield folder
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
    """Its sendmail wants the line ends of its system, and returns as soon as the mail is in the queue."""
    sendmail = require("sendmail", "postfix")
    with _running(route) as private:
        command = [sendmail, "-C", str(private / "conf"), "-i", "-f", mail.sender, "--", *mail.recipients]
        queued = run_client(command, mail.content.replace(b"\r\n", b"\n"))
        assert queued.sent, queued.said
        verdict = re.compile(r"postfix/[sl]mtp\[.* to=<([^>]*)>.* status=(\w+) .*")

        def verdicts() -> list[tuple[str, str]]:
            return verdict.findall(_log(private))

        eventually(lambda: len(verdicts()) == len(mail.recipients), "Postfix tries each recipient once")
        return Outcome(all(status == "sent" for _, status in verdicts()), _log(private))
