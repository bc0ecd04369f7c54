"""The whole way: a mail goes in over SMTP, is handed over by FastCGI, stored and shown; and how it all ends."""

import io
import os
import re
import shlex
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from rich.console import Console

from tests.demo.support import SECONDS
from trio_fcgimail.config import BoundAddress, ConfigErrors, TcpAddress, UnixAddress
from trio_fcgimail.demo import run_demo
from trio_fcgimail.demo.welcome import first_mail_commands

ANY_PORT: Final = TcpAddress("127.0.0.1", 0)
MAIL: Final = b"Subject: Hello\r\n\r\n.\r\n..two dots\r\n\xff\x80 8-bit\r\nlast line\r\n"
TRACE: Final = re.compile(
    rb"Received: from client\.example\.org \(\[127\.0\.0\.1\]\)\n\tby mx\.example\.com with ESMTP id [0-9a-f]+\n"
    rb"\tfor <me@example\.com>;\n\t[^\n]+\n"
)


class Running:
    """A demo in this process."""

    def __init__(self, address: TcpAddress, folder: Path, output: io.StringIO) -> None:
        self.address = address
        self.folder = folder
        self._output = output

    @property
    def output(self) -> str:
        return self._output.getvalue()

    async def send(self, content: bytes, *recipients: str) -> None:
        """Send by smtplib, in a thread, as a client that knows nothing of us."""
        await trio.to_thread.run_sync(self._send, content, recipients or ("me@example.com",))

    def _send(self, content: bytes, recipients: tuple[str, ...]) -> None:
        with smtplib.SMTP(
            self.address.host, self.address.port, local_hostname="client.example.org", timeout=SECONDS
        ) as client:
            client.sendmail("you@example.org", recipients, content)

    def names(self) -> list[str]:
        return [path.name for path in (self.folder / "new").iterdir()]

    def stored(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.folder / "new").iterdir())]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    """A demo that is ended by a signal, with exit code 0."""
    output = io.StringIO()
    console = Console(file=output, width=80)
    codes: list[int] = []

    async def run(*, task_status: trio.TaskStatus[tuple[BoundAddress, ...]]) -> None:
        codes.append(
            await run_demo(
                listen=ANY_PORT, folder=folder, console=console, hostname="mx.example.com", task_status=task_status
            )
        )

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            ((address),) = await nursery.start(run)
            assert isinstance(address, TcpAddress)
            yield Running(address, folder, output)
            os.kill(os.getpid(), signal.SIGINT)
    assert codes == [0]
    assert output.getvalue().endswith("Bye.\n")


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the private folder is made, so that a test sees it, and whether anything is left."""
    with tempfile.TemporaryDirectory(prefix="fcgi-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.trio
async def test_mail_is_stored_octet_for_octet_and_shown(tmp_path: Path) -> None:
    async with running(tmp_path / "Maildir") as demo:
        await demo.send(MAIL)
    (stored,) = demo.stored()
    trace = TRACE.match(stored)
    assert trace is not None
    assert stored[trace.end() :] == MAIL.replace(b"\r\n", b"\n")
    (name,) = demo.names()
    assert f"SAVED id={'.'.join(name.split('.')[:2])}, {len(MAIL)} bytes in " in demo.output
    for line in ("  from    you@example.org\n", "  to      me@example.com\n", "  subject Hello\n"):
        assert line in demo.output


@pytest.mark.trio
async def test_retry_is_stored_once_and_shown_as_such(tmp_path: Path) -> None:
    async with running(tmp_path / "Maildir") as demo:
        await demo.send(MAIL)
        await demo.send(MAIL)
    assert len(demo.stored()) == 1
    assert "a retry of the same mail" in " ".join(demo.output.split())


@pytest.mark.trio
async def test_clients_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    contents = [b"Subject: %d\r\n\r\n" % number + b"%d\r\n" % number * 100_000 for number in range(8)]
    async with running(tmp_path / "Maildir") as demo, trio.open_nursery() as nursery:
        for mail in contents:
            nursery.start_soon(demo.send, mail, "a@example.com", "b@anywhere.example")
    bodies = sorted(stored[stored.index(b"Subject:") :] for stored in demo.stored())
    assert bodies == sorted(mail.replace(b"\r\n", b"\n") for mail in contents)
    assert demo.output.count("  to      a@example.com, b@anywhere.example\n") == len(contents)


@pytest.mark.trio
async def test_hostile_subject_does_not_act(tmp_path: Path) -> None:
    async with running(tmp_path / "Maildir") as demo:
        await demo.send(b"Subject: =?utf-8?q?=1B[2J=0D=0A[red]x=E2=80=AE?=\r\n\r\nx\r\n")
    assert "\x1b" not in demo.output
    assert "  subject [2J [red]x\n" in demo.output


@pytest.mark.trio
async def test_disk_error_is_451_and_the_next_mail_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(tmp_path / "Maildir") as demo:
        for path in demo.folder.iterdir():
            path.rmdir()
        demo.folder.rmdir()
        demo.folder.write_bytes(b"")
        with pytest.raises(smtplib.SMTPDataError) as caught:
            await demo.send(MAIL)
        demo.folder.unlink()
        await demo.send(MAIL)
    assert caught.value.smtp_code == 451
    assert "  451 4.3.0 The mail cannot be stored now, " in demo.output
    assert "the mail cannot be stored" in capfd.readouterr().err
    assert len(demo.stored()) == 1


@pytest.mark.trio
async def test_socket_is_private_and_nothing_is_left(tmp_path: Path, private: Path) -> None:
    async with running(tmp_path / "Maildir"):
        (folder,) = content(private)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.is_socket() for path in content(folder)] == [True]
    assert content(private) == []


@pytest.mark.trio
async def test_mail_under_way_is_stored_and_shown_before_the_end(tmp_path: Path) -> None:
    """The responder and the display outlive the server's drain."""
    output = io.StringIO()
    folder, console = tmp_path / "Maildir", Console(file=output, width=80)
    run = partial(run_demo, listen=ANY_PORT, folder=folder, console=console, hostname="mx.example.com")
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            ((address),) = await nursery.start(run)
            async with await trio.open_tcp_stream(address.host, address.port) as stream:
                await stream.send_all(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<me@example.com>\r\nDATA\r\nSubject: a\r\n")
                await read_until(stream, b"354 ")
                os.kill(os.getpid(), signal.SIGINT)
                await trio.testing.wait_all_tasks_blocked(0.01)
                with pytest.raises(OSError, match="connect"):
                    await trio.open_tcp_stream(address.host, address.port)
                await stream.send_all(b"\r\n.\r\n")
                await read_until(stream, b"250 2.0.0 OK: queued as ")
                await read_until(stream, b"421 4.3.2 ")
    assert len(content(folder / "new")) == 1
    assert "  from    <>\n  to      me@example.com\n  subject a\nBye.\n" in output.getvalue()


async def read_until(stream: trio.SocketStream, words: bytes) -> None:
    received = b""
    while words not in received:
        data = await stream.receive_some(1)
        assert data, f"closed after {received!r}"
        received += data


async def fails(listen: BoundAddress, folder: Path) -> int:
    console = Console(file=io.StringIO(), width=80)
    with trio.fail_after(SECONDS):
        return await run_demo(listen=listen, folder=folder, console=console, hostname="mx.example.com")


@pytest.mark.trio
async def test_busy_port_is_one_line(tmp_path: Path, private: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        assert await fails(TcpAddress("127.0.0.1", port), tmp_path / "Maildir") == 1
    expected = f"cannot listen on 127.0.0.1:{port}: the address is in use; is another server running there?"
    assert capsys.readouterr().err == f"trio_fcgimail: {expected}\n"
    assert content(private) == []
    assert not (tmp_path / "Maildir").exists()


@pytest.mark.trio
async def test_maildir_that_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Maildir").write_bytes(b"")
    assert await fails(ANY_PORT, tmp_path / "Maildir") == 1
    assert capsys.readouterr().err == f"trio_fcgimail: cannot store mail in {tmp_path / 'Maildir'}: Not a directory\n"


@pytest.mark.trio
async def test_address_that_others_can_reach_is_refused(tmp_path: Path, private: Path) -> None:
    with pytest.raises(ConfigErrors, match="can be reached from other machines"):
        await fails(TcpAddress("0.0.0.0", 0), tmp_path / "Maildir")
    assert content(private) == []


PROGRAM: Final = """
import sys, trio
from functools import partial
from pathlib import Path
from rich.console import Console
from trio_fcgimail.config import parse_listen_address
from trio_fcgimail.demo import run_demo
listen, folder = parse_listen_address(sys.argv[1]), Path("Maildir")
sys.exit(trio.run(partial(run_demo, listen=listen, folder=folder, console=Console(), hostname="mx.example.com")))
"""


@contextmanager
def program(folder: Path, *, before: tuple[str, ...] = ()) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A demo in a process of its own; its first lines, up to the one that says how to end it."""
    environment = {**os.environ, "TMPDIR": str(folder / "t"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (folder / "t").mkdir()
    with subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM, str(ANY_PORT)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or (lines[-1] and not lines[-1].startswith("Ctrl-C")):
                lines.append(process.stdout.readline())
            yield process, lines
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_ends_it_without_a_traceback(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path) as (process, _):
        process.send_signal(number)
        assert process.communicate(timeout=SECONDS) == ("Bye.\n", "")
    assert process.returncode == 0
    assert list((tmp_path / "t").iterdir()) == []


def test_nohup_is_respected(tmp_path: Path) -> None:
    with program(tmp_path, before=("nohup",)) as (process, lines):
        process.send_signal(signal.SIGHUP)
        (line,) = [line for line in lines if line.startswith("  python3 -c")]
        subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


def test_printed_python_line_sends_a_mail(tmp_path: Path) -> None:
    with program(tmp_path) as (process, lines):
        (line,) = [line for line in lines if line.startswith("  python3 -c")]
        _, *arguments = shlex.split(line)
        subprocess.run([sys.executable, *arguments], check=True, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
    assert re.search(r"SAVED id=\S+, \d+ bytes in .*\n  from    you@example.org\n  to      me@example.com\n", output)
    assert errors == ""
    (mail,) = (tmp_path / "Maildir" / "new").iterdir()
    assert b"\nSubject: Hello\n\nIt is " in mail.read_bytes()


def test_welcome_says_where_and_how(tmp_path: Path) -> None:
    with program(tmp_path) as (_, lines):
        text = "".join(lines)
    assert re.search(r"listens on   127\.0\.0\.1:[1-9][0-9]* ", text)
    assert f"stores in    {tmp_path}/Maildir " in text
    assert "\n  python -m trio_fcgimail serve --save save.php\n" in text


def test_reader_that_goes_away_stops_nobody(tmp_path: Path) -> None:
    """As in `python -m trio_fcgimail | head -5`."""
    with program(tmp_path) as (process, lines):
        assert process.stdout is not None
        process.stdout.close()
        (line,) = [line for line in lines if line.startswith("  python3 -c")]
        for _ in range(2):
            subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list((tmp_path / "Maildir" / "new").iterdir())


ADDRESSES: Final = [
    pytest.param(TcpAddress("127.0.0.1", 2525), id="ipv4"),
    pytest.param(TcpAddress("::1", 2525), id="ipv6"),
    pytest.param(UnixAddress("/tmp/a b'c/s"), id="unix"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_printed_command_is_a_shell_command(address: BoundAddress) -> None:
    for command in first_mail_commands(address):
        subprocess.run(["sh", "-n", "-c", command], check=True)
        assert any(str(address).removeprefix("unix:") in word for word in shlex.split(command)) or "2525" in command


@pytest.mark.parametrize("tool", ["swaks", "curl"])
def test_printed_command_sends_a_mail(tmp_path: Path, tool: str) -> None:
    if subprocess.run(["sh", "-c", f"command -v {tool}"], stdout=subprocess.DEVNULL, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is needed")
        pytest.skip(f"{tool} is not installed")
    with program(tmp_path) as (_, lines):
        (line,) = [line for line in lines if f"{tool} " in line]
        subprocess.run(["sh", "-c", line], check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
        assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 1
