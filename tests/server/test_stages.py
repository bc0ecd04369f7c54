"""The scripts of every stage: what each answer leads to, who may log in, and what the log never shows.

Time is Trio's test clock.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.phpfpm import PhpFpm, php_fpm
from tests.support import MAIL, Act, Dialogue, House, Journal, Line, Request, ScriptedResponder, elapsed, end, stderr
from trio_fcgimail.config import LogFormat, UpstreamAddress

pytestmark = pytest.mark.trio

LISTENER: Final = '[[listeners]]\naddress = "127.0.0.1:2525"\n'
IN_CLEAR: Final = "auth_without_tls = true\n"
STAGES: Final = ("connect", "helo", "auth", "mail", "validate")
SCRIPTS: Final = "[scripts]\n" + "".join(f'{stage} = "/srv/mail/{stage}.php"\n' for stage in STAGES)
ALL: Final = LISTENER + IN_CLEAR + SCRIPTS
BANNER: Final = b"220 mx.example.com ESMTP\r\n"
NO_SERVICE: Final = b"503 5.5.1 No service here; say QUIT\r\n"
SENDER: Final = b"250 2.1.0 Sender OK\r\n"
RECIPIENT: Final = b"250 2.1.5 Recipient OK\r\n"
RELAY_DENIED: Final = b"550 5.7.1 Relaying denied\r\n"
LOGGED_IN: Final = b"235 2.7.0 Authentication succeeded\r\n"
WRONG: Final = b"535 5.7.8 Authentication credentials invalid\r\n"
NOT_NOW: Final = b"454 4.7.0 Temporary authentication failure\r\n"
AUTH_REQUIRED: Final = b"530 5.7.0 Authentication required\r\n"
PASSWORD: Final = "s3cr\u00e9t horse/battery"


def plain(user: str = "bob", password: str = PASSWORD, identity: str = "") -> bytes:
    """The command that logs in."""
    return b"AUTH PLAIN " + base64.b64encode(f"{identity}\0{user}\0{password}".encode())


def says(output: str) -> Act:
    async def act(line: Line) -> None:
        await line.answer(output.encode())

    return act


async def breaks_off(_: Line) -> None:
    """Answers nothing and closes."""


async def hangs(_: Line) -> None:
    await trio.sleep_forever()


class Desk:
    """All scripts behind one responder. Each passes unless told otherwise.

    Attributes:
        acts: What a stage does once it was asked.
        asked: The requests, in order.
    """

    def __init__(self) -> None:
        self.acts: dict[str, Act] = {}
        self.asked: list[Request] = []

    async def __call__(self, line: Line) -> None:
        request = await line.request()
        self.asked.append(request)
        stage = request.fields["stage"]
        assert request.params["SCRIPT_FILENAME"] == f"/srv/mail/{stage}.php"
        await self.acts.get(stage, says("SAVED" if stage == "save" else "PASSED"))(line)

    @property
    def stages(self) -> list[str]:
        """Which were asked."""
        return [request.fields["stage"] for request in self.asked]

    def fields(self, stage: str) -> dict[str, str]:
        """What a stage was told at last."""
        return next(request.fields for request in reversed(self.asked) if request.fields["stage"] == stage)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def open_house(nursery: trio.Nursery, journal: Journal, desk: Desk, toml: str = ALL) -> House:
    return House(nursery, journal, toml, connect=ScriptedResponder(nursery, desk).connect)


async def arrive(nursery: trio.Nursery, journal: Journal, desk: Desk, toml: str = ALL) -> Dialogue:
    """A client that has said EHLO."""
    return await open_house(nursery, journal, desk, toml).guest()


async def is_closed(client: Dialogue) -> bool:
    """Whether the server has nothing more to say and closes."""
    return await client.rest() == b""


# What is asked, and what the scripts are told


async def test_each_stage_is_asked_in_its_order(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    assert await client.ask(plain()) == LOGGED_IN
    assert (await client.mail()).startswith(b"250 2.0.0 OK: queued as ")
    assert desk.stages == ["connect", "helo", "auth", "mail", "validate", "save"]
    methods = [request.params["REQUEST_METHOD"] for request in desk.asked]
    assert methods == ["GET", "GET", "POST", "GET", "GET", "POST"]


async def test_what_is_known_grows(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    await client.ask(plain())
    assert desk.fields("connect")["helo"] == ""
    assert desk.fields("helo")["helo"] == "client.example"
    auth = desk.fields("auth")
    assert (auth["username"], auth["auth_mechanism"]) == ("bob", "PLAIN")
    assert auth["password"] == PASSWORD.encode().decode("latin-1")
    await client.begin(b"b@example.com", b"c@example.com")
    assert desk.fields("mail")["mail_from"] == "a@client.example"
    assert [one.fields["rcpt_count"] for one in desk.asked] == ["0", "0", "0", "0", "0", "1"]
    for stage in ("mail", "validate"):
        assert (desk.fields(stage)["auth_user"], desk.fields(stage)["with"]) == ("bob", "ESMTPA")
    await client.ask(MAIL + b".")
    assert (desk.fields("save")["auth_user"], desk.fields("save")["with"]) == ("bob", "ESMTPA")
    assert "with ESMTPA id" in desk.fields("save")["body"]


@pytest.mark.parametrize("stage", ["helo", "mail", "validate", "save"])
async def test_the_password_is_told_to_auth_alone(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal, stage: str
) -> None:
    client = await arrive(nursery, journal, desk)
    await client.ask(plain())
    await client.ask(b"EHLO again.example")
    await client.mail()
    request = next(one for one in reversed(desk.asked) if one.fields["stage"] == stage)
    assert request.fields["auth_user"] == "bob"
    assert "s3cr" not in str(request.params) + str(request.body)
    assert "password" not in request.fields


async def test_without_scripts_everybody_passes_unasked(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk, "")
    assert await client.ask(plain()) == b"502 5.5.1 Command not implemented\r\n"
    await client.mail()
    assert desk.stages == ["save"]
    assert [entry for event in ("connection", "greeting", "login", "sender") for entry in journal.entries(event)] == []


# Each stage, whatever comes of it


@dataclass(frozen=True, slots=True)
class Row:
    """What a script does, and what the client is told in place of yes."""

    id: str
    act: Act
    reply: bytes
    verdict: str
    seconds: float = 0


LOCAL_ERROR: Final = b"451 4.3.0 Local error; try again later\r\n"


def _failures(reply: bytes) -> list[Row]:
    return [
        Row("empty", says(""), reply, "failed"),
        Row("saved", says("SAVED"), reply, "failed"),
        Row("more-lines", says("PASSED\nor not"), reply, "failed"),
        Row("breaks-off", breaks_off, reply, "failed"),
        Row("hangs", hangs, reply, "failed", seconds=5),
    ]


CONNECT_CLOSES: Final = [
    *_failures(b"421 4.3.0 Local error; closing\r\n"),
    Row("421", says("421 4.7.1 later"), b"421 4.7.1 later\r\n", "refused"),
    Row("4xx", says("450 4.7.1 later"), b"421 4.7.1 later\r\n", "refused"),
    Row("521", says("521 nobody here"), b"521 5.3.2 nobody here\r\n", "refused"),
]
CONNECT_REFUSES: Final = [
    Row("words", says("go away"), b"554 5.7.1 No service for you\r\n", "refused"),
    Row("554", says("554 5.7.0 not you"), b"554 5.7.0 not you\r\n", "refused"),
    Row("5xx", says("550-not\n550 you"), b"554-5.7.1 not\r\n554 5.7.1 you\r\n", "refused"),
]


@pytest.mark.parametrize("row", CONNECT_CLOSES, ids=attrgetter("id"))
async def test_connect_closes(
    row: Row, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    desk.acts["connect"] = row.act
    time = elapsed()
    client, _ = open_house(nursery, journal, desk).visit()
    assert await client.reply() == row.reply
    assert time() == row.seconds
    assert await is_closed(client)
    assert [entry["verdict"] for entry in journal.entries("connection")] == [row.verdict]


@pytest.mark.parametrize("row", CONNECT_REFUSES, ids=attrgetter("id"))
async def test_connect_refuses(
    row: Row, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    """RFC 5321 3.1: the client is waited for, and told 503 to all but QUIT."""
    desk.acts["connect"] = row.act
    client, _ = open_house(nursery, journal, desk).visit()
    assert await client.reply() == row.reply
    for command in (b"EHLO client.example", b"MAIL FROM:<a@client.example>", b"NOOP", plain()):
        assert await client.ask(command) == NO_SERVICE
    assert await client.ask(b"QUIT") == b"221 2.0.0 Bye\r\n"
    assert await is_closed(client)
    assert desk.stages == ["connect"]
    assert [entry["verdict"] for entry in journal.entries("connection")] == [row.verdict]


HELO: Final = [
    *_failures(LOCAL_ERROR),
    Row("utf-8", says("550 5.7.1 gr\u00fcn"), b"550 5.7.1 gr?n\r\n", "refused"),  # no SMTPUTF8, no UTF-8
    Row("words", says("no"), b"550 5.7.1 Not accepted\r\n", "refused"),
    Row("550", says("550 no"), b"550 5.7.1 no\r\n", "refused"),
    Row("450", says("450 4.7.1 later"), b"450 4.7.1 later\r\n", "refused"),
]


@pytest.mark.parametrize("row", HELO, ids=attrgetter("id"))
async def test_helo_refused_leaves_the_session_as_it_was(
    row: Row, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    assert await client.ask(b"MAIL FROM:<a@client.example>") == SENDER
    desk.acts["helo"] = row.act
    time = elapsed()
    assert await client.ask(b"HELO other.example") == row.reply
    assert time() == row.seconds
    assert await client.ask(b"RCPT TO:<b@example.com>") == RECIPIENT  # the mail under way goes on
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    await client.ask(MAIL + b".")
    assert (desk.fields("save")["helo"], desk.fields("save")["with"]) == ("client.example", "ESMTP")
    entries = [(entry["helo"], entry["verdict"]) for entry in journal.entries("greeting")]
    assert entries == [("client.example", "accepted"), ("other.example", row.verdict)]


async def test_nobody_goes_on_without_a_greeting_that_was_taken(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    desk.acts["helo"] = says("no")
    client, _ = open_house(nursery, journal, desk).visit()
    assert await client.reply() == BANNER
    assert await client.ask(b"EHLO client.example") == b"550 5.7.1 Not accepted\r\n"
    assert await client.ask(b"MAIL FROM:<a@client.example>") == b"503 5.5.1 Say hello first\r\n"
    del desk.acts["helo"]
    assert (await client.ask(b"EHLO client.example")).startswith(b"250-")


MAIL_ROWS: Final = [
    *_failures(LOCAL_ERROR),
    Row("utf-8", says("550 5.7.1 gr\u00fcn"), b"550 5.7.1 gr?n\r\n", "refused"),  # no SMTPUTF8, no UTF-8
    Row("words", says("no"), b"550 5.7.1 Not accepted\r\n", "refused"),
    Row("553", says("553 5.7.1 not you"), b"553 5.7.1 not you\r\n", "refused"),
    Row("450", says("450 4.7.1 later"), b"450 4.7.1 later\r\n", "refused"),
]


@pytest.mark.parametrize("row", MAIL_ROWS, ids=attrgetter("id"))
async def test_mail_refused_begins_nothing(
    row: Row, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts["mail"] = row.act
    time = elapsed()
    assert await client.ask(b"MAIL FROM:<a@client.example>") == row.reply
    assert time() == row.seconds
    assert await client.ask(b"RCPT TO:<b@example.com>") == b"503 5.5.1 MAIL comes first\r\n"
    (entry,) = journal.entries("sender")
    assert (entry["mail_from"], entry["verdict"]) == ("a@client.example", row.verdict)
    del desk.acts["mail"]
    await client.mail()
    assert "save" in desk.stages


AUTH_ROWS: Final = [
    *_failures(NOT_NOW),
    Row("words", says("no"), WRONG, "refused"),
    Row("535", says("535 5.7.8 not you"), b"535 5.7.8 not you\r\n", "refused"),
    Row("550", says("550 5.7.1 locked"), b"535 5.7.1 locked\r\n", "refused"),
    Row("454", says("454 4.7.0 later"), b"454 4.7.0 later\r\n", "refused"),
    Row("450", says("450 later"), b"454 4.7.0 later\r\n", "refused"),
]


@pytest.mark.parametrize("row", AUTH_ROWS, ids=attrgetter("id"))
async def test_auth_refused_lets_nobody_in(
    row: Row, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts["auth"] = row.act
    time = elapsed()
    assert await client.ask(plain()) == row.reply
    assert time() == row.seconds
    (entry,) = journal.entries("login")
    assert (entry["user"], entry["verdict"]) == ("bob", row.verdict)
    await client.mail()
    assert "auth_user" not in desk.fields("save")
    assert desk.fields("save")["with"] == "ESMTP"
    del desk.acts["auth"]
    assert await client.ask(plain()) == LOGGED_IN  # and may try again


async def test_who_asks_for_smtputf8_gets_utf_8(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts["validate"] = says("550 5.1.1 gr\u00fcn")
    assert await client.ask(b"MAIL FROM:<a@client.example> SMTPUTF8") == SENDER
    assert await client.ask(b"RCPT TO:<b@example.com>") == "550 5.1.1 gr\u00fcn\r\n".encode()


async def test_auth_may_close(desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    desk.acts["auth"] = says("421 4.7.0 enough")
    client = await arrive(nursery, journal, desk)
    assert await client.ask(plain()) == b"421 4.7.0 enough\r\n"
    assert await is_closed(client)


@pytest.mark.parametrize("stage", ["helo", "mail", "validate"])
async def test_each_stage_may_close(
    stage: str, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts[stage] = says("421 4.7.0 enough")
    replies = [
        await client.ask(command)
        for command in {
            "helo": [b"EHLO client.example"],
            "mail": [b"MAIL FROM:<a@client.example>"],
            "validate": [b"MAIL FROM:<a@client.example>", b"RCPT TO:<b@example.com>"],
        }[stage]
    ]
    assert replies[-1] == b"421 4.7.0 enough\r\n"
    assert await is_closed(client)


# Logging in


async def test_login_in_two_steps(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    assert await client.ask(b"AUTH LOGIN") == b"334 VXNlcm5hbWU6\r\n"
    assert await client.ask(base64.b64encode(b"bob")) == b"334 UGFzc3dvcmQ6\r\n"
    assert await client.ask(base64.b64encode(PASSWORD.encode())) == LOGGED_IN
    assert desk.fields("auth")["auth_mechanism"] == "LOGIN"
    assert await client.ask(plain()) == b"503 5.5.1 Authenticated already\r\n"
    assert desk.stages.count("auth") == 1


@pytest.mark.parametrize(
    ("identity", "reply", "asked"),
    [
        pytest.param("", LOGGED_IN, 1, id="none"),
        pytest.param("bob", LOGGED_IN, 1, id="its-own"),
        pytest.param("alice", WRONG, 0, id="another"),
        pytest.param("BOB", WRONG, 0, id="in-another-case"),
    ],
)
async def test_nobody_acts_for_another(
    identity: str,
    reply: bytes,
    asked: int,
    desk: Desk,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    client = await arrive(nursery, journal, desk)
    assert await client.ask(plain(identity=identity)) == reply
    assert desk.stages.count("auth") == asked
    assert len(journal.entries("login refused")) == 1 - asked


async def test_three_refused_logins_end_the_connection(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts["auth"] = says("no")
    assert await client.ask(plain()) == WRONG
    assert await client.ask(plain(identity="alice")) == WRONG  # asked or not
    assert await client.ask(plain()) == b"421 4.7.0 Too many failed logins; closing\r\n"
    assert await is_closed(client)


async def test_failures_of_ours_are_no_failed_logins(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    desk.acts["auth"] = says("")
    for _ in range(4):
        assert await client.ask(plain()) == NOT_NOW


async def test_without_tls_nobody_logs_in_unless_told_otherwise(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client, _ = open_house(nursery, journal, desk, LISTENER + SCRIPTS).visit()
    await client.reply()
    assert b"AUTH" not in await client.ask(b"EHLO client.example")
    assert (await client.ask(plain())).startswith(b"502 ")
    assert "auth" not in desk.stages


async def test_require_auth(desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    client = await arrive(nursery, journal, desk, LISTENER + IN_CLEAR + "require_auth = true\n" + SCRIPTS)
    assert await client.ask(b"MAIL FROM:<a@client.example>") == AUTH_REQUIRED
    assert await client.ask(b"RCPT TO:<b@example.com>") == b"503 5.5.1 MAIL comes first\r\n"
    assert "mail" not in desk.stages
    (entry,) = journal.entries("sender refused")
    assert entry["reply"] == "530 5.7.0 Authentication required"
    assert await client.ask(plain()) == LOGGED_IN
    await client.mail()
    assert await client.ask(b"EHLO again.example") != b""
    assert (await client.mail()).startswith(b"250 ")  # a new greeting forgets no login


@pytest.mark.parametrize(
    ("setting", "user", "reply"),
    [
        pytest.param("auth_any_recipient = true", "bob", RECIPIENT, id="user"),
        pytest.param("auth_any_recipient = true", None, RELAY_DENIED, id="stranger"),
        pytest.param("auth_any_recipient = false", "bob", RELAY_DENIED, id="off"),
    ],
)
async def test_auth_any_recipient(
    setting: str,
    user: str | None,
    reply: bytes,
    desk: Desk,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    toml = f'null_mx_hosts = ["null.example"]\n{LISTENER}{IN_CLEAR}{setting}\n{SCRIPTS}'
    client = await arrive(nursery, journal, desk, toml)
    if user is not None:
        assert await client.ask(plain(user)) == LOGGED_IN
    await client.ask(b"MAIL FROM:<a@client.example>")
    assert await client.ask(b"RCPT TO:<b@elsewhere.example>") == reply
    assert ("validate" in desk.stages) == (reply == RECIPIENT)  # who may relay is asked about all the same
    assert await client.ask(b"RCPT TO:<b@null.example>") == b"556 5.1.10 This domain takes no mail\r\n"
    assert await client.ask(b"RCPT TO:<b@example.com>") == RECIPIENT


# What the log shows


_PAGE: Final = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
_LOG_ROW: Final = re.compile(r"^\| `([a-z ]+)` \| [^|]+ \| ([a-z_, ]+) \|$", re.MULTILINE)


async def test_each_line_has_the_values_of_the_documentation(
    desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk, LISTENER + IN_CLEAR + "require_auth = true\n" + SCRIPTS)
    await client.ask(b"MAIL FROM:<a@client.example>")
    await client.ask(plain(identity="alice"))
    await client.ask(plain())
    await client.ask(b"MAIL FROM:<a@client.example>")
    await client.ask(b"RCPT TO:<b@elsewhere.example>")
    await client.ask(b"RCPT TO:<b@example.com>")
    documented = {name: set(values.split(", ")) for name, values in _LOG_ROW.findall(_PAGE)}
    events = ["connection", "greeting", "sender refused", "login refused", "login", "sender", "recipient refused"]
    for event in [*events, "recipient"]:
        (entry,) = journal.entries(event)
        assert entry.keys() - {"event", "level", "timestamp"} == documented[event], event


# What the log never shows


def _prints(output: str) -> Act:
    return says(output)


def _writes(text: str, output: str = "PASSED") -> Act:
    async def act(line: Line) -> None:
        await line.write(stderr(text.encode()))
        await line.answer(output.encode())

    return act


def _writes_and_dies(text: str) -> Act:
    async def act(line: Line) -> None:
        await line.write(stderr(text.encode()))

    return act


def _writes_and_hangs(text: str) -> Act:
    async def act(line: Line) -> None:
        await line.write(stderr(text.encode()))
        await trio.sleep_forever()

    return act


def _ends_badly(text: str) -> Act:
    async def act(line: Line) -> None:
        await line.write(stderr(text.encode()) + end(app_status=255))

    return act


def _no_head(text: str) -> Act:
    async def act(line: Line) -> None:
        await line.write(text.encode())

    return act


BASE64: Final = base64.b64encode(PASSWORD.encode()).decode()
FATAL: Final = f"PHP message: PHP Fatal error:  Uncaught E: {PASSWORD} in /s.php:3"
TRACE: Final = f"#0 /s.php(3): check('bob', '{PASSWORD.encode()[:15].decode()}...')"
LEAKS: Final = [
    pytest.param(_prints("PASSED"), id="says-nothing-of-it"),
    pytest.param(_prints(f"PASSED {PASSWORD}"), id="passes"),
    pytest.param(_prints(f"bob has no password {PASSWORD}"), id="words"),
    pytest.param(_prints(f"535 5.7.8 {PASSWORD} is wrong"), id="reply"),
    pytest.param(_prints(f"535-5.7.8 wrong:\n535 5.7.8 {BASE64}"), id="reply-in-base64"),
    pytest.param(_prints(f"535 5.7.8 {'x' * 390}{PASSWORD}"), id="reply-that-is-cut"),
    pytest.param(_prints("x" * 490 + PASSWORD), id="words-that-are-cut"),
    pytest.param(_prints(f"array(2) {{ 'password' => '{PASSWORD}' }}"), id="dump"),
    pytest.param(_prints(f"PASSED\n\nWarning: no {PASSWORD} in /s.php on line 3"), id="warning"),
    pytest.param(_writes(f"PHP message: bob {PASSWORD} {BASE64}"), id="stderr"),
    pytest.param(_writes(FATAL), id="fatal"),
    pytest.param(_writes(FATAL + "x" * 290 + PASSWORD), id="fatal-that-is-cut"),
    pytest.param(_writes(TRACE), id="trace"),
    pytest.param(_writes(PASSWORD * 2000), id="stderr-that-is-cut"),
    pytest.param(_writes("x" * 8180 + PASSWORD + "y" * 16_384), id="stderr-that-is-cut-within-it"),
    pytest.param(_writes_and_dies(f"{'x' * 280}{PASSWORD}"), id="broken-off"),
    pytest.param(_writes_and_hangs(f"{'x' * 280}{PASSWORD}"), id="hangs"),
    pytest.param(_ends_badly(f"{'x' * 280}{PASSWORD}"), id="ends-without-a-head"),
    pytest.param(_no_head(PASSWORD), id="no-fastcgi"),
]
#: The password, its beginning and its end as it stands, and the same of its base64 and of what the client sent.
PIECES: Final = ("s3cr", "\u00e9t ho", "battery", BASE64[:8], BASE64[-12:-4], plain()[-20:-4].decode())


def shown(journal: Journal) -> list[str]:
    """What of the password stands in the log, wherever that is."""
    text = "\n".join(journal.lines())
    assert "bob" in text  # there is a log to look into
    return [piece for piece in PIECES if piece in text]


@pytest.mark.parametrize("act", LEAKS)
@pytest.mark.parametrize("log_format", [pytest.param(one, id=one.value) for one in LogFormat])
async def test_no_line_of_the_log_has_the_password(
    act: Act, log_format: LogFormat, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "log", log_format)
    desk.acts["auth"] = act
    client = await arrive(nursery, journal, desk)
    assert (await client.ask(plain()))[:3] in (b"235", b"454", b"535")
    await client.mail()
    await client.ask(b"QUIT")
    assert shown(journal) == []
    journal.file.close()


async def test_nor_when_the_session_crashes(nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal) -> None:
    async def crash(address: UpstreamAddress, *, seconds: float) -> trio.abc.Stream:
        raise ZeroDivisionError("bob")

    client = await House(nursery, journal, LISTENER + IN_CLEAR + '[scripts]\nauth = "/a.php"', connect=crash).guest()
    assert await client.ask(plain()) == b"421 4.3.0 Local error; closing\r\n"
    assert len(journal.entries("session failed")) == 1
    assert shown(journal) == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(base64.b64encode(f"bob\0{PASSWORD}".encode()), id="not-three-parts"),
        pytest.param(base64.b64encode(f"\0bob\0{PASSWORD}\r".encode()), id="control"),
        pytest.param(base64.b64encode(f"\0bob\0{PASSWORD}".encode()) + b"!", id="no-base64"),
        pytest.param(base64.b64encode(f"\0bob\0{PASSWORD}".encode() * 400), id="too-long"),
    ],
)
async def test_nor_of_what_cannot_be_read(
    line: bytes, desk: Desk, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await arrive(nursery, journal, desk)
    assert (await client.ask(b"AUTH PLAIN")).startswith(b"334")
    assert (await client.ask(line))[:3] in (b"500", b"501")
    await client.ask(plain(password="other"))
    assert shown(journal) == []


# With a real PHP

ALL_IN_ONE: Final = """<?php
$field = fn ($name) => $_POST[$name] ?? $_GET[$name] ?? '';
file_put_contents('%s', $field('stage') . ' ' . $field('helo') . ' ' . $field('auth_user') . "\\n", FILE_APPEND);
echo match ($field('stage')) {
    'save' => 'SAVED id=' . $field('with'),
    'auth' => $field('password') === '%s' ? 'PASSED' : '535 5.7.8 Not with ' . $field('password'),
    'helo' => $field('helo') === 'liar.example' ? 'no' : 'PASSED',
    default => 'PASSED',
};
"""


@pytest.fixture(scope="module")
def php() -> Iterator[PhpFpm]:
    yield from php_fpm()


async def test_one_script_for_all_stages_on_php_fpm(php: PhpFpm, nursery: trio.Nursery, journal: Journal) -> None:
    noted = php.data / "stages"
    script = php.script("all.php", ALL_IN_ONE % (noted, PASSWORD))
    paths = "".join(f'{stage} = "{script}"\n' for stage in (*STAGES, "save"))
    toml = f'{LISTENER}{IN_CLEAR}[fastcgi]\nupstreams = ["unix:{php.socket_path}"]\n[scripts]\n{paths}'
    client, _ = House(nursery, journal, toml).visit()
    assert await client.reply() == BANNER
    assert await client.ask(b"EHLO liar.example") == b"550 5.7.1 Not accepted\r\n"
    await client.ask(b"EHLO client.example")
    assert await client.ask(plain(password=PASSWORD * 2)) == b"535 5.7.8 Not with [password]\r\n"
    assert await client.ask(plain()) == LOGGED_IN
    assert await client.mail() == b"250 2.0.0 OK: queued as ESMTPA\r\n"
    assert noted.read_text().splitlines() == [
        "connect  ",
        "helo liar.example ",
        "helo client.example ",
        "auth client.example ",
        "auth client.example ",
        "mail client.example bob",
        "validate client.example bob",
        "save client.example bob",
    ]
    assert shown(journal) == []
