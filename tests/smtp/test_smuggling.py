"""SMTP smuggling: nothing but CR LF "." CR LF ends the data (RFC 5321 4.1.1.4; CVE-2023-51764 and its family).

Every case is the marker in the midst of a message, with commands behind it that a server which takes it for the end
of data would run. Each is played with all three settings of ``bare_newline`` and cut in every way, by DATA and by BDAT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import final

import pytest

from fuzz.targets.smtp_server import Session
from tests.smtp.support import LMTP_OPTIONS, OPTIONS, RCPT, Cut, codes, in_state
from trio_fcgimail.smtp import BareNewline, MailFrom, MessageRefused, State

SMUGGLED = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nsmuggled\r\n"
END = b".\r\n"


class Newlines(Enum):
    """What a marker holds besides CR LF."""

    CLEAN = "nothing: no bare CR or LF"
    BARE = "a bare CR or LF"


@final
@dataclass(frozen=True, slots=True)
class Marker:
    """Octets that look like the end of data.

    ``content`` is what they mean to a recipient: dots unstuffed, in "normalize" a bare LF made CR LF, a bare CR gone.
    """

    id: str
    octets: bytes
    newlines: Newlines
    content: bytes
    why: str


BARE, CLEAN = Newlines.BARE, Newlines.CLEAN
MARKERS = [
    # Bare LF and bare CR in the place of CR LF
    Marker("lf-dot-lf", b"\n.\n", BARE, b"\r\n.\r\n", "smtpsmug; CVE-2023-51764"),
    Marker("cr-dot-cr", b"\r.\r", BARE, b".", "smtpsmug"),
    Marker("cr-dot-lf", b"\r.\n", BARE, b".\r\n", "smtpsmug"),
    Marker("lf-dot-cr", b"\n.\r", BARE, b"\r\n.", "smtpsmug"),
    Marker("lf-dot-crlf", b"\n.\r\n", BARE, b"\r\n.\r\n", "smtpsmug; CVE-2023-51765"),
    Marker("crlf-dot-lf", b"\r\n.\n", BARE, b"\r\n\r\n", "smtpsmug; the dot follows a CR LF, so it is a stuffed one"),
    Marker("cr-dot-crlf", b"\r.\r\n", BARE, b".\r\n", "smtpsmug; CVE-2023-51766"),
    Marker("crlf-dot-cr", b"\r\n.\r", BARE, b"\r\n", "smtpsmug"),
    Marker("lfcr-dot-lfcr", b"\n\r.\n\r", BARE, b"\r\n.\r\n", "swapped"),
    Marker("lflf-dot-lflf", b"\n\n.\n\n", BARE, b"\r\n\r\n.\r\n\r\n", "doubled"),
    Marker("crcr-dot-crcr", b"\r\r.\r\r", BARE, b".", "doubled"),
    # Near CR LF
    Marker("crlf-dot-crcrlf", b"\r\n.\r\r\n", BARE, b"\r\n\r\n", "The-Login; S4: CR CR LF is no CR LF"),
    Marker("crcrlf-dot-lf", b"\r\r\n.\n", BARE, b"\r\n\r\n", "S1"),
    Marker("crcrlf-dot-crcrlf", b"\r\r\n.\r\r\n", BARE, b"\r\n\r\n", "S1"),
    Marker("lf-dot-crcrlf", b"\n.\r\r\n", BARE, b"\r\n.\r\n", "S1"),
    Marker("crlf-dot-lflf", b"\r\n.\n\n", BARE, b"\r\n\r\n\r\n", "S1"),
    Marker("crlflf-dot-crlf", b"\r\n\n.\r\n", BARE, b"\r\n\r\n.\r\n", "S1"),
    Marker("crlflf-dot-lf", b"\r\n\n.\n", BARE, b"\r\n\r\n.\r\n", "S1"),
    Marker("crlfcr-dot-crlf", b"\r\n\r.\r\n", BARE, b"\r\n.\r\n", "S1"),
    Marker("cr-crlf-dot-cr", b"\r\r\n.\r", BARE, b"\r\n", "S1"),
    # Something between
    Marker("nul-before-dot", b"\r\n\0.\r\n", CLEAN, b"\r\n\0.\r\n", "smtpsmug"),
    Marker("nul-behind-dot", b"\r\n.\0\r\n", CLEAN, b"\r\n\0\r\n", "smtpsmug"),
    Marker("blank-before-dot", b"\r\n .\r\n", CLEAN, b"\r\n .\r\n", "S1"),
    Marker("blank-behind-dot", b"\r\n. \r\n", CLEAN, b"\r\n \r\n", "S1"),
    Marker("tab-before-dot", b"\r\n\t.\r\n", CLEAN, b"\r\n\t.\r\n", "S1"),
    Marker("tab-behind-dot", b"\r\n.\t\r\n", CLEAN, b"\r\n\t\r\n", "S1"),
    Marker("backspace-behind-dot", b"\r\n.\x08\r\n", CLEAN, b"\r\n\x08\r\n", "S1"),
    Marker("backspace-alone-before-dot", b"\r\n\x08.\r\n", CLEAN, b"\r\n\x08.\r\n", "S1"),
    Marker("backspace-before-dot", b"\r\nx\x08.\r\n", CLEAN, b"\r\nx\x08.\r\n", "S1"),
    # What Python's splitlines would take for a line end
    Marker("vt", b"\x0b.\x0b", CLEAN, b"\x0b.\x0b", "a splitlines trap"),
    Marker("ff", b"\x0c.\x0c", CLEAN, b"\x0c.\x0c", "a splitlines trap"),
    Marker("fs", b"\x1c.\x1c", CLEAN, b"\x1c.\x1c", "a splitlines trap"),
    Marker("gs", b"\x1d.\x1d", CLEAN, b"\x1d.\x1d", "a splitlines trap"),
    Marker("rs", b"\x1e.\x1e", CLEAN, b"\x1e.\x1e", "a splitlines trap"),
    Marker("nel", b"\xc2\x85.\xc2\x85", CLEAN, b"\xc2\x85.\xc2\x85", "a splitlines trap"),
    Marker("nel-latin1", b"\x85.\x85", CLEAN, b"\x85.\x85", "a splitlines trap"),
    Marker("line-separator", b"\xe2\x80\xa8.\xe2\x80\xa8", CLEAN, b"\xe2\x80\xa8.\xe2\x80\xa8", "a splitlines trap"),
    Marker("paragraph-separator", b"\xe2\x80\xa9.\xe2\x80\xa9", CLEAN, b"\xe2\x80\xa9.\xe2\x80\xa9", "as above"),
    Marker("crlf-dot-vt", b"\r\n.\x0b\r\n", CLEAN, b"\r\n\x0b\r\n", "a splitlines trap behind a true line end"),
    Marker("crlf-dot-ff", b"\r\n.\x0c\r\n", CLEAN, b"\r\n\x0c\r\n", "as above"),
    Marker("crlf-dot-nel", b"\r\n.\xc2\x85\r\n", CLEAN, b"\r\n\xc2\x85\r\n", "as above"),
    Marker("nel-dot-crlf", b"\xc2\x85.\r\n", CLEAN, b"\xc2\x85.\r\n", "as above, before the dot"),
    Marker("line-separator-dot-crlf", b"\xe2\x80\xa8.\r\n", CLEAN, b"\xe2\x80\xa8.\r\n", "as above"),
    # Dots that are none or too many
    Marker("two-dots", b"\r\n..\r\n", CLEAN, b"\r\n.\r\n", "RFC 5321 4.5.2: a stuffed dot"),
    Marker("full-width-dot", b"\r\n\xef\xbc\x8e\r\n", CLEAN, b"\r\n\xef\xbc\x8e\r\n", "S1"),
    Marker("bom-dot", b"\r\n\xef\xbb\xbf.\r\n", CLEAN, b"\r\n\xef\xbb\xbf.\r\n", "S1"),
    Marker("dot-without-cr", b"\r\n.x\r\n", CLEAN, b"\r\nx\r\n", "RFC 5321 4.5.2"),
]
AT_START = [
    Marker("start-dot-lf", b".\n", BARE, b"\r\n", "the very start stands for a CR LF"),
    Marker("start-dot-cr", b".\r", BARE, b"", "as above"),
    Marker("start-dot-crcrlf", b".\r\r\n", BARE, b"\r\n", "as above"),
    Marker("start-two-dots", b"..\r\n", CLEAN, b".\r\n", "as above"),
    Marker("start-lf-dot-crlf", b"\n.\r\n", BARE, b"\r\n.\r\n", "as above"),
    Marker("start-blank-dot", b" .\r\n", CLEAN, b" .\r\n", "as above"),
]
# These hold the one true end: what follows is the next command, as in any pipelining
TRUE_ENDS = [
    Marker("crcrlf-dot-crlf", b"\r\r\n.\r\n", BARE, b"text\r\n", "row 98, S4: answer, never hang"),
    Marker("crlf-dot-crlf", b"\r\n.\r\n", CLEAN, b"text\r\n", "the end itself"),
    Marker("lf-before-crlf-dot-crlf", b"\n\r\n.\r\n", BARE, b"text\r\n\r\n", "S1"),
    Marker("dots-before", b"\r\n..\r\n.\r\n", CLEAN, b"text\r\n.\r\n", "RFC 5321 4.5.2"),
]
CASES = [(b"text", marker) for marker in MARKERS] + [(b"", marker) for marker in AT_START]
IDS = [marker.id for _, marker in CASES]


def message(text: bytes, marker: Marker) -> Iterator[tuple[bytes, bytes]]:
    """The octets up to the end and what they mean; the smuggled part once as it is, once with LF, once with CR."""
    for newline in (b"\r\n", b"\n", b"\r") if marker.newlines is BARE else (b"\r\n",):
        meaning = b"" if newline == b"\r" else b"\r\n"
        octets = text + marker.octets + SMUGGLED.replace(b"\r\n", newline) + b"\r\n"
        yield octets, text + marker.content + SMUGGLED.replace(b"\r\n", meaning) + b"\r\n"


def played(setting: BareNewline, how: Cut, wire: bytes) -> Session:
    session = in_state(State.DATA, replace(OPTIONS, bare_newline=setting))
    session.play(how.pieces(wire, b"NOOP\r\n"))
    mails = [event for event in session.events if isinstance(event, MailFrom)]
    assert len(mails) == 1, "a smuggled command was run"
    return session


def more(how: Cut) -> list[str]:
    return ["250 2.0.0"] if how in (Cut.BEHIND, Cut.BEHIND_BYTEWISE) else []


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize(("text", "marker"), CASES, ids=IDS)
def test_reject_reads_to_the_true_end_and_refuses_once(text: bytes, marker: Marker, how: Cut) -> None:
    for wire, content in message(text, marker):
        session = played(BareNewline.REJECT, how, wire + END)
        if marker.newlines is BARE:
            assert codes(session.output) == ["550 5.5.2", *more(how)], marker.why
            assert session.messages == []
        else:
            assert codes(session.output) == ["250 2.0.0", *more(how)], marker.why
            assert session.messages == [content]


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize(("text", "marker"), CASES, ids=IDS)
def test_normalize_passes_one_message_on(text: bytes, marker: Marker, how: Cut) -> None:
    for wire, content in message(text, marker):
        session = played(BareNewline.NORMALIZE, how, wire + END)
        assert codes(session.output) == ["250 2.0.0", *more(how)], marker.why
        assert session.messages == [content]


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize(("text", "marker"), CASES, ids=IDS)
def test_close_closes_at_once(text: bytes, marker: Marker, how: Cut) -> None:
    for wire, content in message(text, marker):
        session = played(BareNewline.CLOSE, how, wire + END)
        if marker.newlines is BARE:
            assert codes(session.output) == ["521 5.5.2"], marker.why
            assert session.closed
            assert session.messages == []
        else:
            assert session.messages == [content]


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
@pytest.mark.parametrize("marker", TRUE_ENDS, ids=attrgetter("id"))
def test_true_end_is_seen_whatever_stands_before_it(marker: Marker, setting: BareNewline, how: Cut) -> None:
    session = played(setting, how, b"text" + marker.octets + b"NOOP\r\n")
    fault = marker.newlines is BARE and setting is not BareNewline.NORMALIZE
    if fault and setting is BareNewline.CLOSE:
        assert codes(session.output) == ["521 5.5.2"]
    else:
        assert codes(session.output) == ["550 5.5.2" if fault else "250 2.0.0", "250 2.0.0", *more(how)]
    assert session.messages == ([] if fault else [marker.content])


@pytest.mark.parametrize("marker", MARKERS, ids=attrgetter("id"))
def test_marker_at_the_edge_of_every_piece(marker: Marker) -> None:
    """Two pieces, cut at each offset of the marker: packets and buffers end where they like."""
    for setting in BareNewline:
        wire = b"text" + marker.octets + b"QUIT\r\n"
        for at in range(1, len(wire)):
            session = in_state(State.DATA, replace(OPTIONS, bare_newline=setting))
            session.play([wire[:at], wire[at:]])
            assert session.messages == []
            assert session.connection.state is (
                State.CLOSED if setting is BareNewline.CLOSE and marker.newlines is BARE else State.DATA
            )


# By BDAT: octets are counted, and no marker means anything


BY_BDAT = [*CASES, *((b"text", marker) for marker in TRUE_ENDS)]
BDAT_IDS = [marker.id for _, marker in BY_BDAT]
BARE_NEWLINES = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def in_chunks(content: bytes, at: int) -> bytes:
    """The content in two chunks, the second of which is the last."""
    return b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (at, content[:at], len(content) - at, content[at:])


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
@pytest.mark.parametrize(("text", "marker"), BY_BDAT, ids=BDAT_IDS)
def test_every_marker_is_data_in_a_chunk(text: bytes, marker: Marker, setting: BareNewline, how: Cut) -> None:
    for content, _ in message(text, marker):
        session = in_state(State.RCPT, replace(OPTIONS, bare_newline=setting))
        session.play(how.pieces(b"BDAT %d LAST\r\n%b" % (len(content), content), b"NOOP\r\n"))
        assert_one_message(session, content, setting, more(how))


@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
@pytest.mark.parametrize(("text", "marker"), BY_BDAT, ids=BDAT_IDS)
def test_marker_at_the_edge_of_every_chunk(text: bytes, marker: Marker, setting: BareNewline) -> None:
    content = text + marker.octets + SMUGGLED
    for at in range(len(text + marker.octets) + 1):
        session = in_state(State.RCPT, replace(OPTIONS, bare_newline=setting))
        session.feed(in_chunks(content, at))
        refused_at_once = BARE_NEWLINES.search(content[: at - content[:at].endswith(b"\r")]) is not None
        first = "550 5.5.2" if refused_at_once and setting is BareNewline.REJECT else "250 2.0.0"
        session.output[:] = session.output.removeprefix(b"250 2.0.0 Chunk received\r\n")
        if first == "550 5.5.2":
            assert codes(session.output) == ["550 5.5.2", "550 5.5.2"]
            assert session.messages == []
        else:
            assert_one_message(session, content, setting, [])


def assert_one_message(session: Session, content: bytes, setting: BareNewline, behind: list[str]) -> None:
    """One message, or none where a bare newline is refused; whatever it holds, never a second one."""
    assert sum(isinstance(event, MailFrom) for event in session.events) == 1, "a smuggled command was run"
    is_bare = BARE_NEWLINES.search(content) is not None
    match setting:
        case BareNewline.NORMALIZE:
            expected = BARE_NEWLINES.sub(lambda found: b"\r\n" if found[0] == b"\n" else b"", content)
            assert (codes(session.output), session.messages) == (["250 2.0.0", *behind], [expected])
        case BareNewline.CLOSE if is_bare:
            assert (codes(session.output), session.messages) == (["521 5.5.2"], [])
        case BareNewline.REJECT if is_bare:
            assert (codes(session.output), session.messages) == (["550 5.5.2", *behind], [])
        case _:
            assert (codes(session.output), session.messages) == (["250 2.0.0", *behind], [content])


@pytest.mark.parametrize(("text", "marker"), BY_BDAT, ids=BDAT_IDS)
def test_binary_chunks_are_never_judged(text: bytes, marker: Marker) -> None:
    for content, _ in message(text, marker):
        session = in_state(State.READY, replace(OPTIONS, bare_newline=BareNewline.CLOSE))
        session.feed(b"MAIL FROM:<> BODY=BINARYMIME\r\n" + RCPT + in_chunks(content, len(text)))
        assert session.messages == [content]


def test_lone_dot_and_end_of_file_deliver_nothing() -> None:
    """S6, row 99."""
    for wire in (b".", b".\r", b"x\r\n.", b"x\r\n.\r", b"x\r\n", b"x\n.\n"):
        session = in_state(State.DATA)
        session.play([wire, b""])
        assert session.messages == []
        assert codes(session.output) == []
        assert session.closed


def test_lmtp_refuses_for_each_recipient() -> None:
    session = in_state(State.RCPT, LMTP_OPTIONS)
    session.feed(RCPT + b"DATA\r\n")
    session.output.clear()
    assert codes(session.feed(b"a\n.\n" + SMUGGLED + b".\r\nNOOP\r\n")) == ["550 5.5.2", "550 5.5.2", "250 2.0.0"]
    assert any(isinstance(event, MessageRefused) for event in session.events)
