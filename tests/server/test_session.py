"""What a session answers: envelope, limits, spool, and the words of scripts and clients. Time is Trio's test clock."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from tests.support import MAIL, TEMPFAIL, Act, House, Journal, Line, ScriptedResponder, refuse, stderr
from trio_fcgimail.config import LogFormat, LogSettings
from trio_fcgimail.server import MailReport, make_log

pytestmark = pytest.mark.trio

VALIDATE: Final = '[scripts]\nvalidate = "/srv/mail/validate.php"\n'
STORED: Final = b"250 2.0.0 OK: queued as "
TAKEN: Final = b"250 2.1.5 Recipient OK\r\n"
SENDER: Final = b"250 2.1.0 Sender OK\r\n"
NO_NAME: Final = b"553 5.6.7 The domain is not a valid internationalised name\r\n"
FULL: Final = b"452 4.3.1 Insufficient storage; try again later\r\n"
TOO_MANY: Final = b"452 4.5.3 Too many recipients\r\n"
LOCAL_ERROR: Final = b"421 4.3.0 Local error; closing\r\n"
NOW: Final = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)


@pytest.fixture
def responder(nursery: trio.Nursery) -> ScriptedResponder:
    return ScriptedResponder(nursery)


def saying(output: bytes) -> Act:
    async def act(line: Line) -> None:
        await line.request()
        await line.answer(output)

    return act


# The envelope


async def test_the_script_gets_envelope_and_content(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    assert (await client.mail(b"Subject: hello\r\n\r\n..dot\r\n")).startswith(STORED)
    validate, save = responder.requests
    assert validate.params["SCRIPT_FILENAME"] == "/srv/mail/validate.php"
    assert validate.fields["rcpt_to"] == "b@example.com"
    assert validate.fields["mail_from"] == save.fields["mail_from"] == "a@client.example"
    assert save.params["SCRIPT_FILENAME"] == "/srv/mail/save.php"
    assert save.fields["body"] == (
        "Received: from client.example ([192.0.2.1])\n\tby mx.example.com with ESMTP id q1\n\tfor <b@example.com>;\n\t"
        "Thu, 29 Feb 2024 12:00:00 +0000\nSubject: hello\n\n.dot\n"
    )
    assert save.fields["size"] == str(len(save.fields["body"]))
    assert save.fields["subject"] == "hello"
    assert save.fields["queue_id"] == "q1"
    assert save.fields["rcpt_to_0"] == "b@example.com"


async def test_two_mails_in_a_connection_are_two(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    for number in (1, 2):
        await client.begin(b"u%d@example.com" % number)
        assert await client.ask(MAIL + b".") == b"250 2.0.0 OK: queued as q%d\r\n" % number
    assert [request.fields["rcpt_to_0"] for request in responder.requests] == ["u1@example.com", "u2@example.com"]
    assert [request.fields["rcpt_count"] for request in responder.requests] == ["1", "1"]


@pytest.mark.parametrize("command", [b"RSET", b"EHLO other.example", b"HELO other.example"])
async def test_a_reset_forgets_the_envelope(
    command: bytes, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<forgotten@client.example>")
    await client.ask(b"RCPT TO:<forgotten@example.com>")
    assert (await client.ask(command)).startswith(b"250")
    assert (await client.ask(b"RCPT TO:<b@example.com>")).startswith(b"503 ")
    assert (await client.mail()).startswith(STORED)
    fields = responder.requests[0].fields
    assert fields["mail_from"] == "a@client.example"
    assert fields["rcpt_count"] == "1"
    assert fields["rcpt_to_0"] == "b@example.com"


async def test_a_mail_refused_by_the_core_leaves_nothing_behind(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, connect=responder.connect)
    client = await house.guest()
    assert await client.mail(b"bare\nnewline\r\n") == b"550 5.5.2 Message holds a bare CR or LF\r\n"
    assert (await client.mail()).startswith(STORED)
    assert len(responder.requests) == 1
    assert [(entry["verdict"], str(entry["reply"])[:9], entry["digest"]) for entry in journal.entries("mail")] == [
        ("refused", "550 5.5.2", ""),
        ("accepted", "250 2.0.0", hashlib.sha256(b"a@client.example\0b@example.com\0\0" + MAIL).hexdigest()),
    ]


# Recipients


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        pytest.param(b"b@example.com", TAKEN, id="allowed"),
        pytest.param(b"b@EXAMPLE.com", TAKEN, id="domains-have-no-case"),
        pytest.param(b"b@example.org", b"550 5.7.1 Relaying denied\r\n", id="foreign"),
        pytest.param(b"b@sub.example.com", b"550 5.7.1 Relaying denied\r\n", id="subdomain"),
        pytest.param(b"postmaster", TAKEN, id="postmaster"),
        pytest.param(b"PostMaster", TAKEN, id="postmaster-in-any-case"),
        pytest.param(b"someone", b"501 5.1.3 Bad recipient address syntax\r\n", id="no-domain"),
    ],
)
async def test_only_allowed_domains_are_taken(
    recipient: bytes,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<>")
    assert await client.ask(b"RCPT TO:<" + recipient + b">") == reply


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        pytest.param("MAIL FROM:<a@☕.example> SMTPUTF8", NO_NAME, id="sender"),
        pytest.param("MAIL FROM:<a@bücher.example> SMTPUTF8", SENDER, id="good-sender"),
        pytest.param("MAIL FROM:<a@xn--a.example>", SENDER, id="odd-a-label-of-a-sender"),
        pytest.param("MAIL FROM:<☕@client.example> SMTPUTF8", SENDER, id="local-parts-are-free"),
        pytest.param("RCPT TO:<b@☕.example.com>", NO_NAME, id="recipient"),
        pytest.param("RCPT TO:<b@BÜCHER.example>", TAKEN, id="u-label"),
        pytest.param("RCPT TO:<b@xn--bcher-kva.example>", TAKEN, id="a-label"),
        pytest.param("RCPT TO:<b@bucher.example>", b"550 5.7.1 Relaying denied\r\n", id="another-name"),
        pytest.param("RCPT TO:<b@xn--a.example>", b"550 5.7.1 Relaying denied\r\n", id="odd-a-label"),
    ],
)
async def test_a_domain_that_is_no_name_is_refused(
    command: str,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    toml = 'allowed_hosts = ["*.example.com", "bücher.example"]'
    client = await House(nursery, journal, toml, connect=responder.connect).guest()
    if command.startswith("RCPT"):
        assert await client.ask(b"MAIL FROM:<> SMTPUTF8") == SENDER
    assert await client.ask(command.encode()) == reply
    assert (await client.ask(b"RCPT TO:<b@xn--bcher-kva.example>")).startswith(
        b"503 " if reply == NO_NAME and command.startswith("MAIL") else TAKEN
    )
    entries = journal.entries("sender refused") + journal.entries("recipient refused")
    assert [str(entry["reply"]).encode() + b"\r\n" for entry in entries] == [reply][: reply not in (SENDER, TAKEN)]


async def test_postmaster_is_taken_unasked_and_gets_our_name(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = saying(b"no such user")
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    await client.begin(b"postmaster")
    assert responder.connections == 0
    responder.act = None
    assert (await client.ask(MAIL + b".")).startswith(STORED)
    assert responder.requests[0].fields["rcpt_to_0"] == "postmaster@mx.example.com"


async def test_a_refused_recipient_is_no_recipient(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<>")
    assert await client.ask(b"RCPT TO:<first@example.com>") == TAKEN
    responder.act = saying(b"no such user")
    assert await client.ask(b"RCPT TO:<second@example.com>") == b"550 5.1.1 No such user\r\n"
    responder.act = refuse
    assert await client.ask(b"RCPT TO:<third@example.com>") == TEMPFAIL
    responder.act = None
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    assert (await client.ask(MAIL + b".")).startswith(STORED)
    fields = responder.requests[-1].fields
    assert fields["rcpt_count"] == "1"
    assert fields["rcpt_to_0"] == "first@example.com"
    assert "rcpt_to_1" not in fields


@pytest.mark.parametrize(
    ("recipient", "most"),
    [
        pytest.param(b"u%04d@example.com", 860, id="900-fields"),
        pytest.param(
            b"%04d." + 56 * b"x" + b"@" + 60 * b"y" + b"." + 60 * b"y" + b".example.com", 227, id="60000-octets"
        ),
    ],
)
async def test_more_recipients_than_a_request_can_carry(
    recipient: bytes,
    most: int,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    toml = 'allowed_hosts = ["*.example.com", "example.com"]\n[limits]\nrecipients = 0\nrefused_recipients = 0'
    client = await House(nursery, journal, toml, connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<a@client.example>")
    taken = 0
    while (reply := await client.ask(b"RCPT TO:<" + recipient % taken + b">")) == TAKEN:
        taken += 1
    assert reply == TOO_MANY
    assert taken == most
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    assert (await client.ask(b"Subject: " + 900 * b"s" + b"\r\n\r\n.")).startswith(STORED)
    fields = responder.requests[0].fields
    assert fields["rcpt_count"] == str(taken)
    assert len(fields) <= 900
    assert sum(len(name) + len(value) + 2 for name, value in fields.items() if name != "body") <= 60_000


# The content


@pytest.mark.parametrize(
    ("received", "reply"),
    [
        pytest.param(100, STORED, id="as-many-as-allowed"),
        pytest.param(101, b"554 5.4.6 Too many hops\r\n", id="one-more"),
    ],
)
async def test_a_loop_is_ended(
    received: int,
    reply: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    assert (await client.mail(received * b"Received: from x\r\n\tby y; z\r\n" + MAIL)).startswith(reply)
    assert len(responder.requests) == (reply == STORED)
    assert (await client.mail()).startswith(STORED)


async def test_a_full_spool_is_452_and_the_session_goes_on(
    responder: ScriptedResponder, nursery: trio.Nursery, journal: Journal
) -> None:
    house = House(
        nursery, journal, "[spool]\nmemory_octets = 1000\ntotal_octets = 1_000_000", connect=responder.connect
    )
    client, other = await house.guest(), await house.guest()
    big = b"Subject: big\r\n\r\n" + 12_000 * (98 * b"x" + b"\r\n")
    half = b"Subject: half\r\n\r\n" + 7000 * (98 * b"x" + b"\r\n")
    assert await client.mail(4 * big) == FULL
    assert house.room.used_octets == 0
    await other.begin()
    await other.send(half)
    assert (await client.mail()).startswith(STORED)
    await client.begin()
    await client.send(half)
    assert sorted([(await client.ask(b"."))[:24], (await other.ask(b"."))[:24]]) == [STORED, FULL[:24]]
    assert (await client.mail(half)).startswith(STORED)
    assert house.room.used_octets == 0
    await client.close()
    await other.close()


async def test_a_spool_folder_that_is_gone_is_452(
    responder: ScriptedResponder, nursery: trio.Nursery, journal: Journal, tmp_path: Path
) -> None:
    toml = f'[spool]\nmemory_octets = 10\ntotal_octets = 1_000_000\ndirectory = "{tmp_path}/gone"'
    house = House(nursery, journal, toml, connect=responder.connect)
    client = await house.guest()
    assert await client.mail() == FULL
    await trio.Path(tmp_path / "gone").mkdir()
    assert (await client.mail()).startswith(STORED)
    assert house.room.used_octets == 0
    await client.close()


# The words of scripts


async def test_stderr_is_logged_whatever_becomes_of_the_answer(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    said = b"begins " + 9000 * b"x" + b" ends"

    async def dies(line: Line) -> None:
        await line.request()
        await line.write(stderr(said))

    async def hangs(line: Line) -> None:
        await dies(line)
        await trio.sleep_forever()

    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    await client.ask(b"MAIL FROM:<>")
    for act in (dies, hangs):
        responder.act = act
        assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
    entries = journal.entries("script stderr")
    assert [(entry["queue_id"], entry["stage"], entry["stderr"]) for entry in entries] == 2 * [
        ("q1", "validate", said.decode())
    ]


async def test_recipients_are_logged_when_the_script_was_asked(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    for toml, lines in (("", 0), (VALIDATE, 1)):
        client = await House(nursery, journal, toml, connect=responder.connect).guest()
        await client.begin(b"b@example.com", b"postmaster")
        assert len(journal.entries("recipient")) == lines
    await client.ask(MAIL + b".")
    responder.act = saying(b"no such user")
    await client.ask(b"MAIL FROM:<>")
    assert await client.ask(b"RCPT TO:<c@example.com>") == b"550 5.1.1 No such user\r\n"
    # The line of a mail names who passed; nothing else does those who did not.
    assert [entry["level"] for entry in journal.entries("recipient")] == ["debug", "info"]


async def test_who_passes_is_in_the_line_of_the_mail_alone_at_level_info(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    journal.log = make_log(LogSettings(format=LogFormat.JSON), journal.file)
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    recipients = [f"first.last.{number:03}@example.com" for number in range(100)]
    await client.begin(*(one.encode() for one in recipients))
    assert (await client.ask(MAIL + b".")).startswith(STORED)
    assert not journal.entries("recipient")
    (entry,) = journal.entries("mail")
    assert entry["rcpts"] == ", ".join(recipients)


@dataclass(frozen=True)
class Word:
    """What a script says, and what the sender gets."""

    id: str
    output: bytes
    reply: bytes


SAVE_WORDS: Final = [
    Word("saved", b"SAVED", b"250 2.0.0 OK: queued as q1\r\n"),
    Word("saved-with-id", b"SAVED id=abc-1", b"250 2.0.0 OK: queued as abc-1\r\n"),
    Word("discard", b"DISCARD", b"250 2.0.0 OK: queued as q1\r\n"),
    Word("temporary", b"450 4.2.1 Mailbox busy", b"450 4.2.1 Mailbox busy\r\n"),
    Word("permanent", b"550 5.7.1 No", b"550 5.7.1 No\r\n"),
    Word("no-enhanced-code", b"554 No", b"554 5.7.1 No\r\n"),
    Word("wrong-class", b"554 4.0.0 No", b"554 5.7.1 No\r\n"),
    Word("no-text", b"550", b"550 5.7.1 Refused\r\n"),
    Word("lines", b"550-5.7.1 No\r\n550 5.7.1 Never", b"550-5.7.1 No\r\n550 5.7.1 Never\r\n"),
    Word("lines-by-LF", b"550-5.7.1 No\n550 5.7.1 Never", b"550-5.7.1 No\r\n550 5.7.1 Never\r\n"),
    Word("NUL", b"550 5.7.1 a\0b", b"550 5.7.1 a b\r\n"),
    Word("escape", b"550 5.7.1 a\x1b[2Jb", b"550 5.7.1 a [2Jb\r\n"),
    Word("not-UTF-8", b"550 5.7.1 a\xff", b"550 5.7.1 a?\r\n"),
    Word("CR", b"550 5.7.1 a\r250 OK", TEMPFAIL),
    Word("CRLF", b"550 5.7.1 a\r\n250 OK", TEMPFAIL),
    Word("line-separator", "550 5.7.1 a\u2028250 OK".encode(), b"550 5.7.1 a 250 OK\r\n"),
    Word("success-of-its-own", b"250 OK", TEMPFAIL),
    Word("354", b"354 go on", TEMPFAIL),
]


@pytest.mark.parametrize("word", SAVE_WORDS, ids=attrgetter("id"))
async def test_what_save_says(
    word: Word, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = saying(word.output)
    client = await House(nursery, journal, connect=responder.connect).guest()
    await client.begin()
    await client.send(MAIL + b".\r\nQUIT\r\n")
    assert await client.rest() == word.reply + b"221 2.0.0 Bye\r\n"


VALIDATE_WORDS: Final = [
    Word("pass", b"PASS", TAKEN),
    Word("passed", b"PASSED because", TAKEN),
    Word("other-words", b"who is that?", b"550 5.1.1 No such user\r\n"),
    Word("temporary", b"450 4.2.0 Greylisted", b"450 4.2.0 Greylisted\r\n"),
    Word("permanent", b"552 5.2.2 Over quota", b"552 5.2.2 Over quota\r\n"),
    Word("lines", b"550-5.1.1 No\n550 5.1.1 Never", b"550-5.1.1 No\r\n550 5.1.1 Never\r\n"),
    Word("CRLF-in-a-refusal", b"550 5.1.1 a\r\n250 OK", TEMPFAIL),
]


@pytest.mark.parametrize("word", VALIDATE_WORDS, ids=attrgetter("id"))
async def test_what_validate_says(
    word: Word, responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    responder.act = saying(word.output)
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    await client.send(b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nQUIT\r\n")
    assert await client.rest() == b"250 2.1.0 Sender OK\r\n" + word.reply + b"221 2.0.0 Bye\r\n"


@pytest.mark.parametrize("code", [b"421", b"521"])
@pytest.mark.parametrize("stage", ["validate", "save"])
async def test_a_script_can_close_the_session(
    stage: str,
    code: bytes,
    responder: ScriptedResponder,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    journal: Journal,
) -> None:
    house = House(nursery, journal, VALIDATE, connect=responder.connect)
    client = await house.guest()
    if stage == "save":
        await client.begin()
        responder.act = saying(code + b" go away")
        await client.send(MAIL + b".\r\nNOOP\r\n")
    else:
        responder.act = saying(code + b" go away")
        await client.ask(b"MAIL FROM:<>")
        await client.send(b"RCPT TO:<b@example.com>\r\nNOOP\r\n")
    assert await client.rest() in (b"421 4.3.2 go away\r\n", b"521 5.3.2 go away\r\n")
    assert house.room.used_octets == 0


@pytest.mark.parametrize("log_format", list(LogFormat))
async def test_nothing_from_outside_starts_a_line_of_the_log(
    log_format: LogFormat, nursery: trio.Nursery, autojump_clock: MockClock, tmp_path: Path
) -> None:
    evil = b"550 5.7.1 a\x0b\x0c\x1b[31m\x00\x85 \xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9 end\r\nlevel=error event=forged\r"
    journal = Journal(tmp_path / "evil.log", log_format)
    responder = ScriptedResponder(nursery)
    client = await House(nursery, journal, VALIDATE, connect=responder.connect).guest()
    await client.begin()
    before = len(journal.lines())
    responder.act = saying(evil)
    subject = b"Subject: =?utf-8?q?a=0D=0Aforged=00=1B=E2=80=A8?=\r\n\r\n"
    assert await client.ask(subject + b".") == TEMPFAIL
    await client.ask(b"MAIL FROM:<>")
    assert await client.ask(b"RCPT TO:<b@example.com>") == TEMPFAIL
    await client.ask(b"MAIL FROM:<a\x00b@c>")
    await client.ask(b"\x1b[31m\x00")
    lines = journal.lines()[before:]
    assert len(lines) == 4
    assert not [line for line in lines if not line.isprintable()]
    journal.file.close()


# Faults of ours


async def test_a_session_that_fails_says_421_and_touches_no_other(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    class Clock:
        broken = False

        def __call__(self) -> datetime:
            if self.broken:
                raise ValueError("no time")
            return NOW

    clock = Clock()
    house = House(nursery, journal, connect=responder.connect, now=clock)
    first, second = await house.guest(), await house.guest()
    await second.begin()
    await first.ask(b"MAIL FROM:<>")
    await first.ask(b"RCPT TO:<b@example.com>")
    clock.broken = True
    assert await first.ask(b"DATA") == LOCAL_ERROR
    assert await first.rest() == b""
    clock.broken = False
    assert (await second.ask(MAIL + b".")).startswith(STORED)
    assert [entry["problem"] for entry in journal.entries("session failed")] == ["ValueError: no time"]
    assert house.room.used_octets == 0


async def test_an_observer_that_fails_changes_no_verdict(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    class Broken:
        def mail(self, report: MailReport) -> None:
            raise BrokenPipeError("nobody looks at the terminal any more")

    class Counting:
        mails = 0

        def mail(self, report: MailReport) -> None:
            self.mails += 1

    counting = Counting()
    house = House(nursery, journal, connect=responder.connect, observers=(Broken(), counting))
    client = await house.guest()
    for _ in range(2):
        assert (await client.mail()).startswith(STORED)
    assert counting.mails == 2
    problem = "BrokenPipeError: nobody looks at the terminal any more"
    assert [entry["problem"] for entry in journal.entries("observer failed")] == 2 * [problem]


async def test_a_log_on_a_full_disk_changes_no_verdict(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    journal = Journal(Path("/dev/full"))
    client = await House(nursery, journal, connect=responder.connect).guest()
    for _ in range(2):
        assert (await client.mail()).startswith(STORED)
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    journal.file.close()


async def test_a_stream_that_cannot_be_followed_ends_with_its_reply(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    assert (await client.ask(b"BDAT many")).startswith(b"501 5.5.4 ")
    assert await client.rest() == b""
    assert len(journal.entries("client not understood")) == 1


async def test_a_reset_connection_ends_the_session(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    house = House(nursery, journal, connect=responder.connect)
    client = await house.guest()
    await client.begin()
    await client.send(b"Subject: never fin")
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    assert responder.connections == 0
    assert house.room.used_octets == 0


async def test_many_pipelined_commands_are_answered_as_they_are_read(
    responder: ScriptedResponder, nursery: trio.Nursery, autojump_clock: MockClock, journal: Journal
) -> None:
    client = await House(nursery, journal, connect=responder.connect).guest()
    await client.send(5000 * b"NOOP\r\n" + b"QUIT\r\n")
    assert await client.rest() == 5000 * b"250 2.0.0 OK\r\n" + b"221 2.0.0 Bye\r\n"
