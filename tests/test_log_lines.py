"""The log of a real server, in both formats: each line is one that docs/operating.md describes, whatever is sent."""

from __future__ import annotations

import ast
import base64
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.phpfpm import open_folder
from tests.server.responder_process import acting
from tests.server_process import SECONDS, ServerProcess, free_port
from tests.support import Line, stderr

PAGE: Final = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
ROW: Final = re.compile(r"^\| (`[^|]+) \| [^|]+ \| ([^|]*?) ?\|$", re.MULTILINE)
COMMON: Final = {"timestamp", "level", "event", "peer", "via", "worker"}
WHOLE: Final = ("mail", "connection closed")  # always with all of their values
FORMATS: Final = ("console", "json")

#: What would start another line, end a value, or make a terminal do something.
NASTY: Final = (
    'x\r\nverdict=accepted\n{"event": "mail"}\t"\'\\ \x1b[31mred\x1b]0;title\x07 \x00\x08\x7f\x85\x9b'
    "\u2028\u2029\u202e\u2066 verdict=accepted' queue_id=FORGED"
)
PRINTABLE: Final = "o'x\" verdict=accepted \\ queue_id=FORGED"
PASSWORD: Final = "s3cr\u00e9t horse"
VALUE: Final = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s"'=]*)"""
CONSOLE: Final = re.compile(rf"(\S+Z) \[(\w+) *\] (\S.*?) *((?: [a-z_]+={VALUE})*)")
PAIR: Final = re.compile(rf" ([a-z_]+)=({VALUE})")


def documented() -> dict[str, set[str]]:
    """The events of the page, with their values."""
    section = PAGE.partition("## Log lines")[2].partition("\n## ")[0]
    table = section.partition("\nOf `mail`")[0]
    rows: dict[str, set[str]] = {}
    for names, values in ROW.findall(table):
        for name in re.findall(r"`([^`]+)`", names):
            rows[name] = set(re.findall(r"[a-z_]+", values.partition(", as far as")[0]))
    return rows


EVENTS: Final = documented()


def by_json(line: str) -> dict[str, object]:
    entry = json.loads(line)
    assert isinstance(entry, dict)
    return entry


def by_console(line: str) -> dict[str, object]:
    """What stands in a line for people, which is to be as unambiguous as the other."""
    match = CONSOLE.fullmatch(line)
    assert match is not None, line
    entry: dict[str, object] = {"timestamp": match[1], "level": match[2], "event": match[3]}
    for name, value in PAIR.findall(match[4]):
        assert name not in entry, line
        entry[name] = ast.literal_eval(value) if value[:1] in "'\"" and value else value
    return entry


async def misbehaving(line: Line) -> None:
    """Scripts that pass everybody, whose words are nasty; the save script answers as the subject says."""
    request = await line.request()
    stage = request.fields.get("stage", "save")
    await line.write(stderr(f"{stage}: {NASTY}".encode()))
    if stage != "save":
        await line.answer(f"PASSED {NASTY}".splitlines()[0].encode() if stage != "auth" else PASSWORD.encode())
    elif "Subject: odd" in request.fields["body"]:
        await line.answer(NASTY.encode())
    elif "Subject: no" in request.fields["body"]:
        await line.answer(b"550 5.7.1 " + NASTY.encode().splitlines()[0])
    else:
        await line.answer(b"SAVED " + NASTY.encode().splitlines()[0])


def toml(fastcgi: str, log_format: str, proxied: int) -> str:
    scripts = "".join(f'{one} = "/srv/s.php"\n' for one in ("connect", "helo", "auth", "mail", "validate", "save"))
    return f"""
hostname = "mx.example.com"
allowed_hosts = ["example.com"]
[[listeners]]
address = "127.0.0.1:0"
xclient_from = ["127.0.0.1"]
auth_without_tls = true
[[listeners]]
address = "127.0.0.1:{proxied}"
proxy_protocol_from = ["127.0.0.1"]
[limits]
message_octets = 20000
max_received = 3
[fastcgi]
upstreams = ["{fastcgi}"]
[scripts]
{scripts}
[log]
format = "{log_format}"
level = "debug"
"""


class Talk:
    """A client that says anything, and takes any reply."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._file = self._sock.makefile("rb")

    def reply(self) -> bytes:
        while (line := self._file.readline())[3:4] == b"-":
            pass
        return line

    def ask(self, command: str | bytes) -> bytes:
        self._sock.sendall((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return self.reply()

    def mail(self, content: str, sender: str = "a@client.example") -> bytes:
        self.ask(f"MAIL FROM:<{sender}> SMTPUTF8")
        self.ask("RCPT TO:<b@example.com>")
        assert self.ask("DATA").startswith(b"354")
        return self.ask(content.encode() + b".")

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@contextmanager
def talking(port: int) -> Iterator[Talk]:
    talk = Talk(port)
    try:
        yield talk
    finally:
        talk.close()


def _quoted(text: str) -> str:
    return '"' + re.sub(r'([\\"])', r"\\\1", "".join(char for char in text if char not in "\r\n\0")) + '"'


def _be_nasty(port: int, proxied: int) -> None:
    """Put it into every field that comes from outside."""
    one_line = NASTY.replace("\r", "").replace("\n", "")
    xtext = "".join(f"+{octet:02X}" for octet in NASTY.encode())
    forged = base64.b64encode(f"\0bob{one_line}\0{PASSWORD}".encode()).decode()
    for name in (one_line, "under_score='x'", 'q"x=y', "[\u2028]"):
        with talking(port) as talk:
            talk.reply()
            talk.ask(f"EHLO {name}")
    with talking(port) as talk:
        talk.reply()
        talk.ask(f"XCLIENT NAME={xtext} HELO={xtext} LOGIN={xtext}")
        talk.ask("XCLIENT NAME=a'b ADDR=192.0.2.9 LOGIN=bob+20verdict+3Daccepted+22 HELO=o'hara=x")
        talk.ask("EHLO client.example")
        talk.ask(f"MAIL FROM:<{_quoted(one_line)}@client.example> SMTPUTF8")
        talk.ask("RSET")
        sender = f"{_quoted(PRINTABLE)}@client.example"
        subject = base64.b64encode(NASTY.encode()).decode()
        talk.mail(f"Subject: =?utf-8?b?{subject}?=\r\n\r\nx\r\n", sender)
        talk.mail("Subject: odd\r\n\r\n", sender)
        talk.mail("Subject: no\r\n\r\n", sender)
        talk.ask("QUIT")
    with talking(port) as talk:
        talk.reply()
        talk.ask("EHLO client.example")
        talk.ask(f"AUTH PLAIN {forged}")
        login = base64.b64encode(f"\0bob\0{PASSWORD}".encode()).decode()
        assert talk.ask(f"AUTH PLAIN {login}").startswith(b"535 ")
        talk.mail(f"Subject: {one_line}\r\n\r\nbare\nnewline\r\n")
        talk.ask(f"RCPT TO:<{_quoted(one_line)}@example.com>")
        talk.ask("MAIL FROM:<a@client.example> SMTPUTF8")
        talk.ask(f"RCPT TO:<{_quoted(one_line)}@example.com>")
        talk.ask(f"RCPT TO:<{_quoted(PRINTABLE)}@elsewhere.example>")
        talk.ask("RSET")
        talk.mail("Received: x\r\n" * 4 + "\r\n")
        talk.mail("x" * 99 + "\r\n" + ("y" * 98 + "\r\n") * 210)
        talk.ask(one_line)
    with talking(proxied) as talk:
        talk.ask(f"PROXY TCP4 {one_line}")
    with talking(proxied) as talk:
        talk.ask("PROXY TCP4 192.0.2.7 192.0.2.8 1 2")
        talk.ask("EHLO client.example")
        talk.mail("Subject: proxied\r\n\r\n")


MAILS: Final = 7  # that come to the end of their data above


@pytest.fixture(scope="module")
def logs() -> Mapping[str, list[str]]:
    """The lines of a server in each format, to which everything was said."""
    lines: dict[str, list[str]] = {}
    for log_format in FORMATS:
        with open_folder() as folder, acting(folder / "fcgi", misbehaving):
            proxied = free_port()
            (folder / "fcgimail.toml").write_text(toml(f"unix:{folder}/fcgi", log_format, proxied))
            with ServerProcess("serve", folder=folder) as server:
                port = next(
                    int(found) for found in re.findall(r"127\.0\.0\.1:(\d+)", server.log) if int(found) != proxied
                )
                _be_nasty(port, proxied)
                assert server.stop() == 0
                lines[log_format] = server.log.split("\n")[:-1]
    return lines


def entries(logs: Mapping[str, list[str]], log_format: str) -> list[dict[str, object]]:
    parse = by_json if log_format == "json" else by_console
    return [parse(line) for line in logs[log_format]]


@pytest.mark.parametrize("log_format", FORMATS)
def test_each_line_is_documented_and_whole(log_format: str, logs: Mapping[str, list[str]]) -> None:
    found = entries(logs, log_format)
    for entry in found:
        event = str(entry["event"])
        assert event in EVENTS or event.startswith("serving as root"), entry
        assert entry.keys() - COMMON <= EVENTS.get(event, set()), entry
        if event in WHOLE:
            assert entry.keys() >= EVENTS[event], entry
    seen = {str(entry["event"]) for entry in found}
    assert {*WHOLE, "listening", "stopped", "greeting", "login", "sender", "recipient", "recipient refused"} <= seen
    assert {"script stderr", "client introduced", "no PROXY header", "over a limit"} <= seen


@pytest.mark.parametrize("log_format", FORMATS)
def test_there_is_a_line_for_each_connection_and_each_mail(log_format: str, logs: Mapping[str, list[str]]) -> None:
    found = entries(logs, log_format)
    mails = [entry for entry in found if entry["event"] == "mail"]
    closed = [entry for entry in found if entry["event"] == "connection closed"]
    assert [str(entry["verdict"]) for entry in mails] == [
        "accepted",
        "failed",
        "refused",
        "refused",
        "refused",
        "refused",
        "accepted",
    ]
    assert len({entry["queue_id"] for entry in mails}) == len(mails) == MAILS
    assert sum(int(str(entry["mails"])) for entry in closed) == MAILS
    assert len(closed) == 7  # and of the eighth it is told that it had no header
    assert mails[-1]["peer"] == "192.0.2.7"
    assert mails[-1]["via"] == "127.0.0.1"
    assert str(mails[-1]["upstream"]).startswith("unix:/")
    assert mails[0]["peer"] == "192.0.2.9"
    assert (mails[0]["user"], mails[0]["helo"]) == ('bob verdict=accepted"', "o'hara=x")
    assert str(mails[4]["reason"]).startswith("mail loop: 4")


@pytest.mark.parametrize("log_format", FORMATS)
def test_nothing_from_outside_ends_a_line_or_speaks_to_a_terminal(
    log_format: str, logs: Mapping[str, list[str]]
) -> None:
    forbidden = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
    for line in logs[log_format]:
        assert forbidden.search(line) is None, repr(line)
        assert line.splitlines() == [line]
    assert not any(entry.get("queue_id") == "FORGED" for entry in entries(logs, log_format))


@pytest.mark.parametrize("log_format", FORMATS)
def test_no_line_has_a_password(log_format: str, logs: Mapping[str, list[str]]) -> None:
    encoded = base64.b64encode(PASSWORD.encode()).decode()
    for line in logs[log_format]:
        assert "horse" not in line
        assert encoded not in line
    assert any("[password]" in line for line in logs[log_format])


def test_reasons_of_the_end_of_a_connection_are_documented(logs: Mapping[str, list[str]]) -> None:
    sentence = PAGE.partition("`reason` of `connection closed` is one of:")[2].partition("\n\n")[0]
    allowed = set(re.findall(r"`([^`]+)`", sentence.replace("\n", " ")))
    for log_format in FORMATS:
        closed = [entry for entry in entries(logs, log_format) if entry["event"] == "connection closed"]
        assert {str(entry["reason"]) for entry in closed} <= allowed


LEVELS: Final = {"debug", "info", "warning", "error", "exception"}
PACKAGE: Final = Path(__file__).parents[1] / "trio_fcgimail"
#: The embedded responder of the default, which only a terminal sees.
ELSEWHERE: Final = "demo"


def written(path: Path) -> Iterator[str]:
    """The events that a module writes by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[ast.Constant(value=str(event)), *_]) if name in LEVELS:
                yield event


def test_every_event_of_the_code_is_documented() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != ELSEWHERE]
    events = {event for path in paths for event in written(path)}
    undocumented = {event for event in events if event not in EVENTS and event.partition(";")[0] not in PAGE}
    assert undocumented == set()
    assert len(events) > 40
