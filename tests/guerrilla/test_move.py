"""The whole way of somebody who moves: their file, their scripts, a real php-fpm, mail by smtplib, signals, the end.

The scripts are of the kind that users of the FastCGI processor have: they know no field but the old ones.
"""

import json
import re
import signal
import smtplib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Final

import pytest

from tests.cli.support import answers
from tests.config.guerrilla_files import text_of
from tests.phpfpm import PhpFpm, open_folder, php_fpm
from tests.server_process import SECONDS, ServerProcess, eventually, free_port

SENDER: Final = "author@example.net"

#: One file for each mail, and a list of who got it, as such a script writes them into its database.
SAVE: Final = r"""<?php
if ($_SERVER['SERVER_SOFTWARE'] !== 'Go-guerrilla fastcgi' || $_SERVER['REMOTE_ADDR'] !== '127.0.0.1') {
    die('who are you');
}
list($header, $text) = explode("\n\n", $_POST['body'], 2);
$rcpts = [];
for ($i = 0; isset($_POST["rcpt_to_$i"]); $i++) {
    $rcpts[] = $_POST["rcpt_to_$i"];
}
$mail = [
    'from' => $_POST['mail_from'], 'helo' => $_POST['helo'], 'ip' => $_POST['remote_ip'], 'tls' => $_POST['tls_on'],
    'subject' => $_POST['subject'], 'rcpts' => $rcpts, 'header' => $header, 'text' => $text,
];
file_put_contents('%(data)s/' . md5($_POST['body']) . '.json', json_encode($mail, JSON_THROW_ON_ERROR));
echo 'SAVED';
"""
VALIDATE: Final = r"""<?php
$known = ['alice@example.com', 'bob@lists.example.org', 'gone@example.com'];
echo in_array($_GET['rcpt_to'], $known, true) ? 'PASSED' : 'NO';
"""


@pytest.fixture
def php() -> Iterator[PhpFpm]:
    yield from php_fpm(children=2)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@dataclass(frozen=True, slots=True)
class Home:
    """A machine with a goguerrilla.conf.json."""

    folder: Path
    php: PhpFpm
    port: int

    @property
    def log(self) -> Path:
        """The log file."""
        return self.folder / "mail.log"

    def write(self, **backend: object) -> None:
        """The file, with other keys of ``backend_config``."""
        content = {
            "allowed_hosts": ["example.com", "*.example.org"],
            "pid_file": "/var/run/go-guerrilla.pid",
            "log_file": str(self.log),
            "log_level": "info",
            "backend_name": "guerrilla",
            "backend_config": {
                "save_process": "HeadersParser | hasher | Header | Debugger | FastCGI | MailDir",
                "validate_process": "FastCGI",
                "save_workers_size": 2,
                "log_received_mails": True,
                "primary_mail_host": "mail.example.com",
                "gw_save_timeout": "10s",
                "gw_val_rcpt_timeout": "3s",
                "fcgi_script_filename_save": self.php.script("save.php", SAVE % {"data": self.php.data}),
                "fcgi_script_filename_validate": self.php.script("validate.php", VALIDATE),
                "fcgi_connection_type": "unix",
                "fcgi_connection_address": str(self.php.socket_path),
                "maildir_path": f"{self.folder}/[user]/Maildir",
                "maildir_user_map": "alice=-1:-1,Bob=-1:-1",
                **backend,
            },
            "servers": [
                {
                    "is_enabled": True,
                    "host_name": "mail.example.com",
                    "max_size": 100_000,
                    "timeout": 180,
                    "listen_interface": f"127.0.0.1:{self.port}",
                    "max_clients": 100,
                    "tls": {
                        "start_tls_on": False,
                        "private_key_file": "/path/to/key",
                        "public_key_file": "/path/to/pem",
                    },
                },
                {"is_enabled": False, "listen_interface": "127.0.0.1:465", "tls": {"tls_always_on": True}},
            ],
        }
        (self.folder / "goguerrilla.conf.json").write_text(text_of(content))

    def logged(self, pattern: str, times: int = 1) -> None:
        """Wait for a line of the log."""
        eventually(lambda: len(re.findall(pattern, self.log.read_text())) >= times, f"{pattern} is logged")

    def client(self) -> smtplib.SMTP:
        """Somebody who sends mail."""
        return smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=SECONDS)

    def saved(self) -> list[dict[str, object]]:
        """What save.php has stored, which is forgotten."""
        found = []
        for path in self.php.data.glob("*.json"):
            found.append(json.loads(path.read_bytes()))
            path.unlink()
        return found

    def maildir(self, user: str) -> list[Path]:
        """The new mails of somebody."""
        return sorted((self.folder / user / "Maildir/new").iterdir())


@pytest.fixture
def home(php: PhpFpm, folder: Path) -> Home:
    for user in ("alice", "bob"):
        (folder / user).mkdir()
    return Home(folder, php, free_port())


def _mail(subject: str, recipient: str = "alice@example.com") -> bytes:
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["To"], mail["Subject"] = SENDER, recipient, subject
    mail.set_content("One line\n\n.and another\n")
    return mail.as_bytes()


def _send(client: smtplib.SMTP, subject: str, recipient: str = "alice@example.com") -> str:
    """Send a mail; the id that it got."""
    client.ehlo_or_helo_if_needed()
    assert client.mail(SENDER)[0] == 250
    assert client.rcpt(recipient)[0] == 250
    code, reply = client.data(_mail(subject, recipient))
    found = re.fullmatch(r"2\.0\.0 OK: queued as (\S+)", reply.decode())
    assert (code, found is not None) == (250, True), reply
    assert found is not None
    return found[1]


def _check_first_mails(home: Home) -> None:
    """What two mails have come to, and what was refused."""
    with home.client() as client:
        queue_id = _send(client, "Grüße")
        (mail,) = home.saved()
        assert {name: mail[name] for name in ("from", "helo", "ip", "tls", "subject", "rcpts")} == {
            "from": SENDER,
            "helo": "client.example",
            "ip": "127.0.0.1",
            "tls": "false",
            "subject": "Grüße",
            "rcpts": ["alice@example.com"],
        }
        header = str(mail["header"])
        assert re.match(
            r"Delivered-To: alice@mail\.example\.com\nReceived: from client\.example \(\[127\.0\.0\.1\]\)\n"
            rf"\tby mail\.example\.com with ESMTP id {queue_id};\n\t[^\n]+\nFrom: ",
            header,
        )
        assert mail["text"] == "One line\n\n.and another\n"
        (path,) = home.maildir("alice")
        assert path.read_bytes().decode() == f"{header}\n\n{mail['text']}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        # Known to the script, and without a maildir; unknown to it; not ours; too large; and <postmaster>.
        client.mail(SENDER)
        refused = [client.rcpt(name)[0] for name in ("gone@example.com", "no@example.com", "x@elsewhere.example")]
        assert refused == [550, 550, 550]
        client.rset()
        assert client.mail(SENDER, ["size=100001"]) == (552, b"5.3.4 Message too big")
        _send(client, "To a list", "bob@lists.example.org")
        assert len(home.maildir("bob")) == len(home.saved()) == 1
    home.logged(rf"\] mail .*queue_id={queue_id} .*verdict=accepted")
    home.logged(r"\] mail received .*processor=Debugger")
    home.logged(r"configuration .*save_workers_size.*at most 2 requests run at a time")


def _check_usr1(home: Home, server: ServerProcess) -> None:
    moved = home.log.rename(home.folder / "mail.log.1")
    server.send(signal.SIGUSR1)
    eventually(home.log.exists, "the log is opened anew")
    with home.client() as client:
        queue_id = _send(client, "After logrotate")
    home.logged(queue_id)
    assert queue_id not in moved.read_text()


def _check_hup(home: Home, server: ServerProcess) -> None:
    with home.client() as before:
        before.ehlo()
        home.write(save_process="HeadersParser|Redis")
        server.send(signal.SIGHUP)
        home.logged(r"not reloaded .*save_process.*Redis")
        _send(before, "The old settings stay")

    home.php.stop()
    home.write(primary_mail_host="other.example.com")
    server.send(signal.SIGHUP)
    home.logged(r"\] reloaded ")
    with home.client() as client:
        client.ehlo()
        client.mail(SENDER)
        assert client.rcpt("alice@example.com")[0] == 451  # and its sender comes again
    home.php.start()
    home.saved()
    with home.client() as client:
        _send(client, "The new settings are there")
    (mail,) = home.saved()
    assert str(mail["header"]).startswith("Delivered-To: alice@other.example.com\n")


def _check_term(home: Home, server: ServerProcess) -> None:
    with home.client() as client:
        client.ehlo()
        client.mail(SENDER)
        client.rcpt("alice@example.com")
        assert client.docmd("DATA")[0] == 354
        server.send(signal.SIGTERM)
        home.logged(r"\] stopping ")
        eventually(lambda: not answers(home.port), "nobody new is let in")
        client.send(_mail("The last one").replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert client.getreply()[0] == 250
        assert client.docmd("NOOP")[0] == 421
    assert server.wait() == 0
    assert [mail["subject"] for mail in home.saved()] == ["The last one"]


def test_they_find_that_everything_works(home: Home) -> None:
    home.write()
    pid_file = home.folder / "file.pid"

    def serves(_: ServerProcess) -> None:
        eventually(lambda: answers(home.port), "it serves")

    arguments = ("serve", "-c", "goguerrilla.conf.json", "-p", "file.pid")
    with ServerProcess(*arguments, folder=home.folder, ready=serves) as server:
        assert pid_file.read_text() == f"{server.pid}\n"
        _check_first_mails(home)
        _check_usr1(home, server)
        _check_hup(home, server)
        assert pid_file.read_text() == f"{server.pid}\n"
        _check_term(home, server)
        assert server.log == ""  # all of it is in the file
    assert not pid_file.exists()
    assert len(home.maildir("alice")) == 5
    assert not list((home.folder / "alice/Maildir/tmp").iterdir())
