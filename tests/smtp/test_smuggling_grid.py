"""Every newline of one to three CRs and LFs before a dot, and every one behind it (S1), by DATA and by BDAT.

``test_smuggling.py`` names the forms that were seen in attacks and says what each of them means. Here nobody had to
think of a form: what each comes to is told by a parser of RFC 5321 4.5.2 that has nothing of ours.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from operator import attrgetter
from typing import Final

import pytest

from fuzz.targets.smtp_server import MAX_PIECE_OCTETS, cut
from tests.smtp.support import OPTIONS, codes, in_state
from trio_fcgimail.smtp import BareNewline, MailFrom, State

SMUGGLED: Final = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nsmuggled\r\n.\r\n"
RUN: Final = ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]  # what the client behind a true end is answered
NOT_RUN: Final = ["500 5.5.2", "503 5.5.1", "503 5.5.1", "500 5.5.1", "500 5.5.1"]  # with a bare CR or LF before it
NEWLINES: Final = [bytes(octets) for length in (1, 2, 3) for octets in product(b"\r\n", repeat=length)]
BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def name(newline: bytes) -> str:
    return newline.decode().replace("\r", "cr").replace("\n", "lf")


GRID: Final = [
    pytest.param(before + b"." + behind, id=f"{name(before)}-dot-{name(behind)}")
    for before, behind in product(NEWLINES, repeat=2)
]


def read_data(wire: bytes) -> tuple[bytes, bytes]:
    """RFC 5321 4.5.2, line by line: the content, and what is behind its end."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    content = [line.removeprefix(b".") for line in lines[:end]]
    return b"".join(line + b"\r\n" for line in content), b"\r\n".join(lines[end + 1 :])


def outcome(content: bytes, setting: BareNewline) -> tuple[list[str], list[bytes]]:
    """What a message of this content is answered, and what of it arrives."""
    if setting is BareNewline.NORMALIZE:
        return ["250 2.0.0"], [BARE.sub(lambda found: b"\r\n" if found[0] == b"\n" else b"", content)]
    if not BARE.search(content):
        return ["250 2.0.0"], [content]
    return ["521 5.5.2" if setting is BareNewline.CLOSE else "550 5.5.2"], []


@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
@pytest.mark.parametrize("marker", GRID)
def test_data(marker: bytes, setting: BareNewline) -> None:
    """One message, and a second one only behind CR LF "." CR LF itself."""
    wire = b"text" + marker + SMUGGLED
    content, behind = read_data(wire)
    expected, messages = outcome(content, setting)
    if behind and expected != ["521 5.5.2"]:
        assert b"\r\n.\r\n" in marker, "nothing else ends the data"
        assert behind.removesuffix(SMUGGLED) in (b"", b"\r", b"\n")
        is_mail = behind == SMUGGLED
        expected, messages = expected + (RUN if is_mail else NOT_RUN), [*messages, *[b"smuggled\r\n"] * is_mail]
    for size in (1, 3, MAX_PIECE_OCTETS):
        session = in_state(State.DATA, replace(OPTIONS, bare_newline=setting))
        session.play(cut(wire, [size]))
        assert (codes(session.output), session.messages) == (expected, messages)


@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
@pytest.mark.parametrize("marker", GRID)
def test_chunk(marker: bytes, setting: BareNewline) -> None:
    """Octets are counted: one message, CR LF "." CR LF within it or not."""
    content = b"text" + marker + SMUGGLED
    for size in (1, 3, MAX_PIECE_OCTETS):
        session = in_state(State.RCPT, replace(OPTIONS, bare_newline=setting))
        session.play(cut(b"BDAT %d LAST\r\n%b" % (len(content), content), [size]))
        assert (codes(session.output), session.messages) == outcome(content, setting)
        assert sum(isinstance(event, MailFrom) for event in session.events) == 1
