"""What is shown of a mail: readable at 80 columns, and nothing in it acts on the terminal."""

import io
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

import pytest
import trio
from rich.console import Console

from trio_fcgimail.demo.display import MAX_WAITING, Display
from trio_fcgimail.mail import Answer, Envelope, Peer, Session, Stage, Unexpected, Verdict, failed, judge
from trio_fcgimail.server import MailReport
from trio_fcgimail.smtp import GreetingWord, Mailbox

WIDTH: Final = 80
NOON: Final = datetime(2024, 1, 2, 12, 34, 56, tzinfo=UTC)


def said(text: str) -> Verdict:
    """The verdict when the save script prints a text."""
    return judge(Stage.SAVE, Answer(200, text.encode(), b""), unexpected=Unexpected.TEMPFAIL, queue_id="abc")


def report(
    verdict: Verdict,
    *,
    subject: str = "Hello",
    sender: Mailbox | None = Mailbox("you", "example.org"),  # noqa: B008 - frozen
    recipients: int = 1,
    octets: int = 1234,
    seconds: float = 0.012,
) -> MailReport:
    session = Session(Peer("127.0.0.1", 1024), GreetingWord.EHLO, "client")
    names = tuple(Mailbox(f"me{number}", "example.com") for number in range(recipients))
    return MailReport(
        envelope=Envelope(queue_id="abc", session=session, mail_from=sender, recipients=names),
        subject=subject,
        octets=octets,
        digest="0" * 64,
        verdict=verdict,
        seconds=seconds,
    )


async def shown(*reports: MailReport, terminal: bool = False, file: TextIO | None = None) -> str:
    """What Display prints."""
    out = io.StringIO()
    console = Console(
        file=file or out, width=WIDTH, force_terminal=terminal, color_system="standard" if terminal else None
    )
    display = Display(console, now=lambda: NOON)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(display.run)
        for one in reports:
            display.mail(one)
        display.close()
    return out.getvalue()


@pytest.mark.trio
async def test_mail_is_four_plain_lines_when_nobody_watches() -> None:
    assert await shown(report(said("SAVED id=1700000000.M1P2Q3"))) == (
        "12:34:56  SAVED id=1700000000.M1P2Q3, 1.2 kB in 12 ms\n"
        "  from    you@example.org\n"
        "  to      me0@example.com\n"
        "  subject Hello\n"
    )


ROWS: Final = [
    pytest.param(report(said("SAVED"), sender=None), "  from    <>\n", id="bounce"),
    pytest.param(report(said("SAVED"), subject=""), "  subject\n", id="no-subject"),
    pytest.param(report(said("SAVED"), octets=1), "SAVED, 1 byte in", id="one-octet"),
    pytest.param(report(said("SAVED"), octets=26_214_400), "SAVED, 26.2 MB in", id="a-big-one"),
    pytest.param(report(said("SAVED"), seconds=12.34), "in 12.3 s\n", id="a-slow-one"),
    pytest.param(
        report(said("SAVED"), recipients=3),
        "  to      me0@example.com, me1@example.com, me2@example.com\n",
        id="three-recipients",
    ),
    pytest.param(report(said("SAVED"), recipients=100), "me2@example.com and 97 more\n", id="a-hundred-recipients"),
    pytest.param(report(said("DISCARD spam")), "12:34:56  DISCARD spam, ", id="discarded"),
    pytest.param(report(said("550 5.7.1 No thanks")), "12:34:56  550 5.7.1 No thanks, ", id="refused"),
    pytest.param(report(said("451 4.3.0 Later")), "12:34:56  451 4.3.0 Later, ", id="deferred"),
    pytest.param(
        report(failed("UpstreamTimeout: too late")),
        "12:34:56  FAILED, the sender is told 451 4.3.0 Local error; try again later\n"
        "          (UpstreamTimeout: too late), ",
        id="failed",
    ),
]


@pytest.mark.trio
@pytest.mark.parametrize(("mail", "expected"), ROWS)
async def test_what_each_mail_shows(mail: MailReport, expected: str) -> None:
    assert expected in await shown(mail)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        pytest.param(said("SAVED"), "32", id="accepted-is-green"),
        pytest.param(said("DISCARD"), "36", id="discarded-is-cyan"),
        pytest.param(said("550 no"), "31", id="refused-is-red"),
        pytest.param(said("451 later"), "33", id="deferred-is-yellow"),
        pytest.param(failed("broken"), "1;31", id="failed-is-bold-red"),
    ],
)
async def test_verdict_has_a_colour_of_its_own(verdict: Verdict, code: str) -> None:
    assert f"\x1b[{code}m" in await shown(report(verdict), terminal=True)


HOSTILE: Final = [
    pytest.param("a\r\nb\x1b[2Jc\x07\x9b31m\x00d", id="controls"),
    pytest.param("[bold red]a[/] [link=http://example.com]x[/link] [/nothing]", id="markup"),
    pytest.param(":smile: :skull:", id="emoji-names"),
    pytest.param("\u202eabc\u2066def\u200b\ufeff", id="direction-and-invisible-marks"),
    pytest.param("\u2028a\u2029b\x85c", id="unicode-line-ends"),
    pytest.param("\ud800", id="lone-surrogate"),
    pytest.param("x" * 9000, id="endless"),
    pytest.param("\u4e16\u754c" * 100, id="wide-characters"),
    pytest.param("e" + "\u0301" * 500, id="combining-marks"),
]
PLACES: Final[list[Callable[[str], MailReport]]] = [
    lambda text: report(said("SAVED"), subject=text),
    lambda text: report(failed(text)),
    lambda text: report(Verdict(said("550 x").meaning, said("550 x").reply, text)),
]


@pytest.mark.trio
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", PLACES, ids=["subject", "failure", "refusal"])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
async def test_nothing_from_outside_acts_on_the_terminal(
    text: str, place: Callable[[str], MailReport], terminal: bool
) -> None:
    output = await shown(place(text), terminal=terminal)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output) if terminal else output
    assert plain.replace("\n", "").isprintable()
    labels = [line[:10].strip() for line in plain.splitlines() if line[:10].strip()]
    assert labels == ["12:34:56", "from", "to", "subject"]
    assert len(plain.splitlines()) <= 14
    assert "2;31m" not in output
    assert "http" not in output or "[link=http" in plain, "markup is shown, not obeyed"


@pytest.mark.trio
async def test_hostile_sender_is_shown_on_one_line() -> None:
    sender = Mailbox("[red]\u202e x", "example.org")
    assert '  from    "[red]  x"@example.org\n' in await shown(report(said("SAVED"), sender=sender))


@pytest.mark.trio
@pytest.mark.parametrize("subject", ["word " * 60, "x" * 300], ids=["words", "one-word"])
async def test_no_line_is_longer_than_the_terminal(subject: str) -> None:
    lines = (await shown(report(said("SAVED"), subject=subject, recipients=3))).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) > 4


@pytest.mark.trio
async def test_terminal_that_knows_no_unicode_gets_question_marks() -> None:
    octets = io.BytesIO()
    file = io.TextIOWrapper(octets, encoding="ascii")
    await shown(report(said("SAVED"), subject="gr\u00fc\u00df dich"), file=file)
    file.flush()
    assert b"  subject gr?? dich\n" in octets.getvalue()


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.trio
async def test_output_that_is_closed_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.dup2", lambda *descriptors: None)  # rich would close our own standard output
    await shown(report(said("SAVED")), report(said("SAVED")), file=Closed())


@pytest.mark.trio
async def test_mails_beyond_the_queue_are_counted() -> None:
    mails = [report(said("SAVED")) for _ in range(MAX_WAITING + 5)]
    output = await shown(*mails)
    assert output.count("SAVED") == MAX_WAITING
    assert "and 5 more" in output


class Stopped(io.StringIO):
    """A terminal after Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        self.go.wait()
        return super().write(text)


@pytest.mark.trio
async def test_terminal_that_is_stopped_stops_nobody() -> None:
    file = Stopped()
    try:
        with trio.move_on_after(0.05) as scope:
            await shown(*[report(said("SAVED"))] * (MAX_WAITING + 5), file=file)
        assert scope.cancelled_caught
    finally:
        file.go.set()
