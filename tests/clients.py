"""Mail clients that others wrote, each behind the same call: one mail to a port of 127.0.0.1."""

import os
import shutil
import smtplib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest

HELO: Final = "client.example.net"
SECONDS: Final = 60.0
_FOLDERS: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@dataclass(frozen=True, slots=True)
class Mail:
    """What is sent.

    Attributes:
        content: With CRLF line ends, the last line's among them.
    """

    content: bytes
    recipients: tuple[str, ...] = ("info@example.com",)
    sender: str = "author@example.net"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, as the client says.

    Attributes:
        sent: Whether it takes the mail for delivered.
        said: What it shows its user, the server's last reply among it.
    """

    sent: bool
    said: str


def missing(reason: str) -> NoReturn:
    """Skip a test for want of a program; fail it under CI, where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require(name: str, package: str) -> str:
    """The path of an installed program."""
    path = shutil.which(name, path=_FOLDERS)
    if path is None:
        missing(f"{name} is needed: on Debian or Ubuntu, apt-get install {package}")
    return path


def run_client(command: Sequence[str], content: bytes | None = None) -> Outcome:
    """Run a client's program to its end."""
    done = subprocess.run(
        command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
    )
    return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))


def by_smtplib(port: int, mail: Mail, folder: Path) -> Outcome:
    """Python's own."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname=HELO, timeout=SECONDS) as client:
        try:
            client.sendmail(mail.sender, mail.recipients, mail.content)
        except smtplib.SMTPRecipientsRefused as exc:
            return Outcome(False, repr(exc.recipients))
        except smtplib.SMTPResponseException as exc:
            return Outcome(False, f"{exc.smtp_code} {exc.smtp_error!r}")
    return Outcome(True, "250")


def by_swaks(port: int, mail: Mail, folder: Path) -> Outcome:
    """The Swiss army knife for SMTP. It stuffs no dots when told to leave the mail alone, so that is done here."""
    path = folder / "mail.eml"
    path.write_bytes(mail.content.replace(b"\r\n.", b"\r\n..") + b".")
    program = require("swaks", "swaks")
    envelope = ("--from", mail.sender, "--to", ",".join(mail.recipients))
    where = ("--server", "127.0.0.1", "--port", str(port), "--helo", HELO)
    return run_client([program, *where, *envelope, "--no-data-fixup", "--suppress-data", "--data", f"@{path}"])


def by_msmtp(port: int, mail: Mail, folder: Path) -> Outcome:
    """A sendmail for those who have none; it wants the line ends of its system."""
    program = require("msmtp", "msmtp")
    where = ("--host=127.0.0.1", f"--port={port}", f"--domain={HELO}", "--auth=off", "--tls=off")
    plain = ("--file=/dev/null", "--debug", "--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off")
    command = [program, *plain, *where, f"--from={mail.sender}", "--", *mail.recipients]
    return run_client(command, mail.content.replace(b"\r\n", b"\n"))


def by_curl(port: int, mail: Mail, folder: Path) -> Outcome:
    """The HTTP client, which speaks SMTP too."""
    path = folder / "mail.eml"
    path.write_bytes(mail.content)
    recipients = [word for one in mail.recipients for word in ("--mail-rcpt", one)]
    url = f"smtp://127.0.0.1:{port}/{HELO}"
    program = require("curl", "curl")
    return run_client(
        [program, "-sS", "-v", "--url", url, "--mail-from", mail.sender, *recipients, "--upload-file", str(path)]
    )


def by_smtp_source(port: int, mail: Mail, folder: Path) -> Outcome:
    """Postfix's load generator; it has one recipient and wants the line ends of its system."""
    (recipient,) = mail.recipients
    path = folder / "mail.eml"
    path.write_bytes(mail.content.replace(b"\r\n", b"\n"))
    program = require("smtp-source", "postfix")
    envelope = ("-f", mail.sender, "-t", recipient)
    return run_client([program, "-v", "-4", "-M", HELO, *envelope, "-F", str(path), f"127.0.0.1:{port}"])


@dataclass(frozen=True, slots=True)
class Client:
    """A client.

    Attributes:
        send: Sends a mail to a port; the folder is for its files.
        greeting: The protocol that its first word stands for.
        adds: What it puts behind every mail.
    """

    name: str
    send: Callable[[int, Mail, Path], Outcome]
    greeting: str = "ESMTP"
    adds: bytes = b""


CLIENTS: Final = (
    Client("smtplib", by_smtplib),
    Client("swaks", by_swaks),
    Client("msmtp", by_msmtp),
    Client("curl", by_curl),
    Client("smtp-source", by_smtp_source, greeting="SMTP", adds=b"\r\n"),
)
