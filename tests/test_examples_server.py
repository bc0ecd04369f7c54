"""The examples of docs/api.md, each run as it says, and the page itself: its code is theirs, its names are ours."""

import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import trio_fcgimail

ROOT: Final = Path(__file__).parents[1]
EXAMPLES: Final = ROOT / "examples"
PAGES: Final = {name: (ROOT / "docs" / name).read_text() for name in ("api.md", "processors.md")}
SECONDS: Final = 30.0
SENDER: Final = "me@client.example"
MAIL: Final = "Subject: hello\r\n\r\nWell?\r\n"


class Running:
    """An example that runs.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self.line().rpartition(":")[2])

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return line.rstrip("\n")

    def lines_to(self, last: str) -> list[str]:
        """Lines up to one that holds this."""
        lines = [self.line()]
        while last not in lines[-1]:
            lines.append(self.line())
        return lines

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> str:
        """Stop it; what it still prints."""
        self.signal(signal.SIGTERM)
        rest, errors = self.process.communicate(timeout=SECONDS)
        assert (self.process.returncode, "Traceback" in errors) == (0, False), errors
        return rest

    def send(self, *recipients: str, mail: str = MAIL) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=SECONDS) as client:
            assert client.sendmail(SENDER, recipients, mail) == {}


@contextmanager
def running(name: str, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def test_embedded(tmp_path: Path) -> None:
    with running("server_embedded.py", str(tmp_path), "0") as server:
        server.send("alice@example.com", "bob@example.com")
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="No such user"):
            server.send("carol@example.com")
        assert server.end() == "stopped\n"
    for user in ("alice", "bob"):
        (path,) = (tmp_path / user / "new").iterdir()
        assert path.read_bytes().endswith(MAIL.replace("\r\n", "\n").encode())


def test_embedded_tells_why_it_cannot_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "server_embedded.py", tmp_path, "99999"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("settings: listeners[0].address: found")


def test_processor(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    with running("server_processor.py", str(folder), "0") as server:
        server.send("alice@example.com")
        server.send("alice@example.com")
        server.send("bob@example.com", "alice@example.com")
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="Nobody here"):
            server.send("carol@example.com")
        with pytest.raises(smtplib.SMTPDataError, match="needs a subject"):
            server.send("alice@example.com", mail="X: 1\r\n\r\nWell?\r\n")
        server.end()
    contents = [path.read_bytes() for path in folder.iterdir()]
    assert len(contents) == 2
    assert all(content.endswith(MAIL.encode()) for content in contents)
    assert sorted(content.startswith(b"Delivered-To: alice@mx.example.com") for content in contents) == [False, True]


def test_events(tmp_path: Path) -> None:
    config, log = tmp_path / "fcgimail.toml", tmp_path / "log"

    def write(more: str, port: int = 0) -> None:
        config.write_text(
            f'hostname = "mx.example.com"\nallowed_hosts = ["."]\nlisteners = [{{address = "127.0.0.1:{port}"}}]\n'
            f'chain = {{save = ["Debugger"], validate = [], discard = true}}\nlog.file = "{log}"\n{more}'
        )

    write("")
    with running("server_events.py", str(config)) as server:
        server.send("a@example.org")
        lines = server.lines_to("ConnectionClosed")
        assert "connection from 127.0.0.1" in lines
        assert "me@client.example | hello | 25 | 250 2.0.0 OK: queued as " in "\n".join(lines)

        write("limits.message_octets = 1000")
        server.signal(signal.SIGHUP)
        assert "largest mail was 26214400 and is 1000" in server.lines_to("Reloaded")
        with pytest.raises(smtplib.SMTPSenderRefused):
            server.send("a@example.org", mail=MAIL + "x" * 2000)
        server.lines_to("ConnectionClosed")

        write("limits.message_octets = -1")
        server.signal(signal.SIGHUP)
        server.lines_to("the old settings stay: ")

        log.rename(tmp_path / "log.1")
        server.signal(signal.SIGUSR1)
        server.lines_to("LogsReopened")
        server.send("a@example.org")
        server.lines_to("ConnectionClosed")
        assert "Stopping" in server.end()
    assert "queued as" in log.read_text()


# The pages

BLOCKS: Final = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_is_from_an_example(block: str) -> None:
    sources = [path.read_text() for path in EXAMPLES.glob("server_*.py")]
    assert any(block in source for source in sources)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("server_*.py")))
def test_every_example_is_named_and_quoted(name: str) -> None:
    assert f"(../examples/{name})" in PAGES["api.md"]
    source = (EXAMPLES / name).read_text()
    assert any(block in source for text in PAGES.values() for block in re.findall(r"(?ms)^```python\n(.*?)^```$", text))


def test_page_names_everything_that_is_offered_and_nothing_else() -> None:
    told = set(re.findall(r"^\| `(\w+)`", PAGES["api.md"].split("\n## All names\n")[1], re.MULTILINE))
    assert told == set(trio_fcgimail.__all__) - {"__version__"}


def test_every_name_can_be_had() -> None:
    for name in trio_fcgimail.__all__:
        assert getattr(trio_fcgimail, name) is not None
    assert set(trio_fcgimail.__all__) <= set(dir(trio_fcgimail))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(trio_fcgimail, "nothing")  # noqa: B009 - no type checker knows of it
