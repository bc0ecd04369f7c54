"""What every client is asked: one mail by one route; and how their programs are found and run."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NoReturn

import pytest

HOST: Final = "127.0.0.1"
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

    @property
    def has_foreign_address(self) -> bool:
        """Whether an address is outside ASCII, which takes SMTPUTF8."""
        return not all(address.isascii() for address in (self.sender, *self.recipients))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, as the client says.

    Attributes:
        sent: Whether it takes the mail for delivered.
        said: What it shows its user, the server's last reply among it.
    """

    sent: bool
    said: str


class Channel(Enum):
    """What lies between client and server."""

    PLAIN = "plain text"
    STARTTLS = "STARTTLS"
    IMPLICIT = "implicit TLS"
    LMTP = "LMTP over a unix socket"


class Mechanism(Enum):
    """Of AUTH."""

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"


@dataclass(frozen=True, slots=True)
class Login:
    """Who the client says it is, and by which mechanism, whatever else the server offers."""

    mechanism: Mechanism
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Route:
    """How to the server.

    Attributes:
        port: Of HOST; of no use to Channel.LMTP.
        socket: What Channel.LMTP connects to.
        authority: The certificate of whom the client trusts, and nobody else.
        server_name: A name in the server's certificate, for clients that hold it against a name, not an address.
    """

    port: int = 0
    channel: Channel = Channel.PLAIN
    socket: Path = Path("/nonexistent")
    authority: Path = Path("/nonexistent")
    server_name: str = "mx.example.com"
    login: Login | None = None


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


def run_client(command: Sequence[str], content: bytes | None = None, env: Mapping[str, str] | None = None) -> Outcome:
    """Run a client's program to its end.

    Args:
        content: Its standard input.
        env: Further environment.
    """
    done = subprocess.run(
        command,
        input=content,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | dict(env or {}),
        timeout=SECONDS,
        check=False,
    )
    return Outcome(done.returncode == 0, done.stdout.decode(errors="replace"))
