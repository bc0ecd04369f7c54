"""What a newcomer reads first: where mail goes in, where it ends up, how to send one, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

from rich.console import Console
from rich.text import Text

from trio_fcgimail import __version__
from trio_fcgimail.config import BoundAddress, TcpAddress, UnixAddress
from trio_fcgimail.demo.display import printable, show

_SENDER: Final = "you@example.org"
_RECIPIENT: Final = "me@example.com"
_PYTHON_MAIL: Final = r"'Subject: Hello\n\nIt is ' + time.ctime()"


def welcome(console: Console, folder: Path, addresses: Sequence[BoundAddress]) -> None:
    """Print it.

    Args:
        folder: the Maildir.
        addresses: where the server listens, at least one.
    """
    encoding = console.encoding
    where = printable(", ".join(map(str, addresses)), encoding)
    _say(console, f"trio_fcgimail {__version__} with nothing configured", "bold")
    _say(console, f"  listens on   {where} (SMTP; only this machine can reach it)")
    _say(console, f"  stores in    {printable(str(folder), encoding)} (a Maildir; every recipient is taken)")
    _say(console, "Send a first mail from another terminal, by any one of these lines:", "bold")
    for command in first_mail_commands(addresses[0]):
        _say(console, f"  {command}", "cyan")
    _say(console, "Go on with a script of your own, which gets every mail by POST and prints SAVED:", "bold")
    _say(console, "  python -m trio_fcgimail serve --save save.php", "cyan")
    _say(console, "Ctrl-C ends this.", "bold")


def goodbye(console: Console) -> None:
    """Print the last line."""
    _say(console, "Bye.")


def first_mail_commands(address: BoundAddress) -> tuple[str, ...]:
    """Commands of a shell that send a mail, for those who have Python, swaks or curl."""
    ends = f"--mail-from {_SENDER} --mail-rcpt {_RECIPIENT}"
    curl = f"(echo 'Subject: Hello'; echo; date) | curl -sS --crlf -T - {ends}"
    swaks = f"swaks --from {_SENDER} --to {_RECIPIENT}"
    match address:
        case TcpAddress(host=host, port=port):
            server = shlex.quote(f"[{host}]" if ":" in host else host)
            url = shlex.quote(f"smtp://{address}")
            return (_python(host, port), f"{swaks} --server {server} --port {port}", f"{curl} {url}")
        case UnixAddress(path=path):  # Python's smtplib does not do SMTP over a unix socket
            quoted = shlex.quote(path)
            return (f"{swaks} --socket {quoted}", f"{curl} --unix-socket {quoted} smtp://localhost")
        case _:
            assert_never(address)


def _python(host: str, port: int) -> str:
    """The time in it keeps a second mail from being a retry of the first."""
    send = f"smtplib.SMTP('{host}', {port}).sendmail('{_SENDER}', '{_RECIPIENT}', {_PYTHON_MAIL})"
    return f'python3 -c "import smtplib, time; {send}"'


def _say(console: Console, line: str, style: str = "") -> None:
    encoding = console.encoding
    show(console, Text(line.encode(encoding, "replace").decode(encoding), style), may_wrap=False)
