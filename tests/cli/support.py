"""A configuration file and a client for the tests of the commands."""

import contextlib
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.server_process import PROGRAM, SECONDS, environment

SENDER: Final = "author@example.net"
MAIL: Final = b"From: author@example.net\r\nSubject: First mail\r\n\r\nHello.\r\n"
HOSTNAME: Final = "mx.example.com"
#: Where nobody listens.
NO_UPSTREAM: Final = "unix:/nonexistent/php.sock"


def configuration(
    *,
    listen: str = "127.0.0.1:0",
    upstream: str = NO_UPSTREAM,
    save: str = "/srv/save.php",
    validate: str = "",
    listener: str = "",
    more: str = "",
) -> str:
    """A TOML file; ``listener`` goes into the table of that name, ``more`` to the end."""
    return f"""
hostname = "{HOSTNAME}"
allowed_hosts = ["example.com"]
[[listeners]]
address = "{listen}"
{listener}
[fastcgi]
upstreams = ["{upstream}"]
max_connections = 2
[scripts]
save = "{save}"
validate = "{validate}"
{more}
"""


def run_in_shell(shell: str, *arguments: str, folder: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command line of bash, in which ``"$@"`` is our program with these arguments, to its end."""
    return subprocess.run(
        ["/bin/bash", "-c", shell, "bash", *PROGRAM, *arguments],
        cwd=folder,
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )


def write_configuration(folder: Path, text: str) -> None:
    """As fcgimail.toml, which is found without being named."""
    (folder / "fcgimail.toml").write_text(text)


def deliver(port: int, content: bytes = MAIL, recipient: str = "info@example.com") -> None:
    """Send one mail, which has to be taken."""
    with smtplib.SMTP("127.0.0.1", port, timeout=SECONDS) as client:
        assert client.sendmail(SENDER, recipient, content) == {}


@contextlib.contextmanager
def greeted(port: int) -> Iterator[smtplib.SMTP]:
    """A client that has said EHLO; at the end it just goes, as the server may have gone before."""
    with contextlib.closing(smtplib.SMTP("127.0.0.1", port, timeout=SECONDS)) as client:
        client.ehlo()
        yield client


def begin_mail(client: smtplib.SMTP) -> None:
    """MAIL and RCPT, both of which have to be taken."""
    assert client.mail(SENDER)[0] == 250
    assert client.rcpt("info@example.com")[0] == 250


def send_mail(client: smtplib.SMTP) -> None:
    """A whole mail, whose reply is not waited for."""
    begin_mail(client)
    client.putcmd("data")
    assert client.getreply()[0] == 354
    client.send(MAIL + b".\r\n")


def answers(port: int) -> bool:
    """Whether a server greets there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
            return sock.recv(4) == b"220 "
    except ConnectionError:
        return False
