"""Mail on the terminal as it goes by, by rich; plain lines when nobody but a file or a pipe reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, assert_never, final

import trio
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from trio_fcgimail.mail import Meaning, Verdict, clean
from trio_fcgimail.server import MailReport
from trio_fcgimail.smtp import Mailbox

MAX_WAITING: Final = 200  # mails that a stopped terminal may leave unshown before they are only counted
MAX_CHARACTERS: Final = 300  # of one value: some four lines of 80 columns
MAX_RECIPIENTS: Final = 3
LAST_SECONDS: Final = 2.0  # for what still waits at the end
_LABEL_COLUMNS: Final = 10
_ACTING: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})  # Cf: what turns the direction of a line around


def show(console: Console, content: Text, *, may_wrap: bool = True) -> None:
    """Print something. When nobody reads any more that is no reason to end: mail is still stored.

    Args:
        may_wrap: whether lines that are too long are broken; commands to be copied must not be.
    """
    try:
        console.print(content, highlight=False, soft_wrap=not may_wrap)
    except (OSError, ValueError, SystemExit):  # closed; SystemExit is how rich takes a broken pipe
        console.quiet = True


def printable(value: str, encoding: str) -> str:
    """What a terminal shows and does not act on: no controls, no marks of direction, nothing it cannot encode."""
    shown = "".join(" " if unicodedata.category(one) in _ACTING else one for one in clean(value, MAX_CHARACTERS))
    return shown.encode(encoding, "replace").decode(encoding, "replace")


@final
class Display:
    """An Observer that shows each mail. Printing is done by :meth:`run`, so that a terminal can stop nobody.

    Args:
        console: where to.
        now: the time of day.
    """

    def __init__(self, console: Console, *, now: Callable[[], datetime] = datetime.now) -> None:
        self._console = console
        self._now = now
        self._send, self._receive = trio.open_memory_channel[Text](MAX_WAITING)
        self._unshown = 0

    def mail(self, report: MailReport) -> None:
        """Show a mail with its verdict, soon."""
        try:
            self._send.send_nowait(self._rows(report))
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._unshown += 1

    async def run(self) -> None:
        """Print what comes until closed, and what is left then, unless that takes too long."""
        async with self._receive:
            async for rows in self._receive:
                await trio.to_thread.run_sync(show, self._console, rows, abandon_on_cancel=True)
                if self._unshown:
                    note = Text(f"and {self._unshown} more, which came while nothing could be printed", "dim")
                    self._unshown = 0
                    await trio.to_thread.run_sync(show, self._console, note, abandon_on_cancel=True)

    def close(self) -> None:
        """Let :meth:`run` come to its end."""
        self._send.close()

    def _rows(self, report: MailReport) -> Text:
        envelope, verdict = report.envelope, report.verdict
        facts = f", {decimal(report.octets)} in {_duration(report.seconds)}"
        rows = (
            (f"{self._now():%H:%M:%S}", Text.assemble((self._words(verdict), _style(verdict)), facts)),
            ("  from", Text(self._printable(envelope.sender or "<>"))),
            ("  to", Text(self._printable(_some(envelope.recipients)))),
            ("  subject", Text(self._printable(report.subject), "bold")),
        )
        return Text("\n").join(line for label, value in rows for line in self._lines(label, value))

    def _lines(self, label: str, value: Text) -> Iterator[Text]:
        """A value beside its label, broken at the width of the console."""
        columns = max(self._console.width - _LABEL_COLUMNS, 1)
        for line in value.wrap(self._console, columns, overflow="fold") or [Text()]:
            line.rstrip()
            yield Text.assemble((label.ljust(_LABEL_COLUMNS) if line else label, "dim"), line)
            label = ""

    def _words(self, verdict: Verdict) -> str:
        words = self._printable(verdict.reason)
        match verdict.meaning:
            case Meaning.ACCEPTED | Meaning.DISCARDED | Meaning.REFUSED:
                return words
            case Meaning.FAILED:
                return f"FAILED, the sender is told {self._printable(verdict.reply.text)} ({words})"
            case _:
                assert_never(verdict.meaning)

    def _printable(self, value: str) -> str:
        return printable(value, self._console.encoding)


def _style(verdict: Verdict) -> str:
    match verdict.meaning:
        case Meaning.ACCEPTED:
            return "green"
        case Meaning.DISCARDED:
            return "cyan"
        case Meaning.REFUSED:
            return "yellow" if verdict.reply.code < 500 else "red"
        case Meaning.FAILED:
            return "bold red"
        case _:
            assert_never(verdict.meaning)


def _some(recipients: Sequence[Mailbox]) -> str:
    names = ", ".join(map(str, recipients[:MAX_RECIPIENTS]))
    more = len(recipients) - MAX_RECIPIENTS
    return f"{names} and {more} more" if more > 0 else names


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
