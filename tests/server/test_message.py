"""A mail while it comes in: one reading, and everything known at its end."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.mail.support import ALICE, BOB, CAROL, cut, envelope
from trio_fcgimail.mail import BOUNDARY_RANDOM_OCTETS, BodyLines, HeaderFacts, MailDigest, save_fields
from trio_fcgimail.server.message import IncomingMessage
from trio_fcgimail.server.spool import SpoolFullError, SpoolRoom

ENVELOPE: Final = envelope(BOB, CAROL)
TRACE: Final = b"Received: from x\r\n\tby y;\r\n\tnow\r\n"
CONTENT: Final = b"Received: a\r\nSubject: 100% & =?utf-8?q?gr=C3=BCn?=\r\n\r\n" + bytes(range(256)) + b"\r\n+;=\r\n"
ENDS: Final = pytest.mark.parametrize("lines", [pytest.param(one, id=one.value) for one in BodyLines])


def as_script_gets_it(content: bytes, lines: BodyLines) -> bytes:
    return content.replace(b"\r\n", b"\n") if lines is BodyLines.LF else content


async def form_of(message: IncomingMessage) -> bytes:
    form = message.body(message.save_request(bytes(BOUNDARY_RANDOM_OCTETS)))
    octets = b"".join([piece async for piece in form.pieces()])
    assert len(octets) == form.octets
    return octets


def fields_of(form: bytes) -> list[tuple[str, str]]:
    """The fields; an octet of a value is a character."""
    return parse_qsl(form.decode("latin-1"), keep_blank_values=True, strict_parsing=True, encoding="latin-1")


def room(memory: int, directory: Path | None = None, total: int | None = None) -> SpoolRoom:
    return SpoolRoom(directory=directory, memory_octets=memory, total_octets=total)


@ENDS
@pytest.mark.parametrize("memory", [pytest.param(1 << 20, id="memory"), pytest.param(0, id="file")])
@pytest.mark.trio
async def test_the_form_is_all_there_is_to_say(lines: BodyLines, memory: int) -> None:
    whole = room(memory)
    message = IncomingMessage(ENVELOPE, whole, lines)
    await message.add_trace(TRACE)
    await message.add(CONTENT)
    body = as_script_gets_it(TRACE + CONTENT, lines)
    fields = [("body", body), *((name, value.encode()) for name, value in save_fields(ENVELOPE, message.received()))]
    expected = [(name, value.decode("latin-1")) for name, value in fields]
    assert fields_of(await form_of(message)) == expected
    assert fields_of(await form_of(message)) == expected  # also for a second try
    assert dict(expected)["size"] == str(len(body))
    assert dict(expected)["subject"].encode("latin-1").decode() == "100% & grün"
    message.close()
    assert whole.used_octets == 0


@pytest.mark.trio
async def test_the_trace_header_is_no_part_of_what_is_learnt() -> None:
    message = IncomingMessage(ENVELOPE, room(1 << 20), BodyLines.LF)
    await message.add_trace(TRACE)
    await message.add(CONTENT)
    digest = MailDigest(ALICE, [BOB, CAROL])
    digest.update(CONTENT)
    assert message.octets == len(CONTENT)
    assert message.header_facts() == HeaderFacts("100% & grün", 1)
    assert message.received().digest == digest.hexdigest()
    assert message.received().size == len(TRACE + CONTENT) - (TRACE + CONTENT).count(b"\r\n")
    message.close()


FOLDED: Final = b" ;\r\n\tTue, 1 Jan 2030 00:00:00 +0000\r\nSubject: x\r\n"


@pytest.mark.parametrize("memory", [pytest.param(1 << 20, id="memory"), pytest.param(0, id="file")])
@pytest.mark.parametrize(
    ("trace", "fronts", "content", "whole"),
    [
        pytest.param(TRACE, [], FOLDED, TRACE + b"\r\n" + FOLDED, id="behind-the-trace"),
        pytest.param(TRACE, [], b"\tx\r\n", TRACE + b"\r\n\tx\r\n", id="tab"),
        pytest.param(b"", [b"X: 1\r\n"], FOLDED, b"X: 1\r\n\r\n" + FOLDED, id="behind-a-processor"),
        pytest.param(b"", [b"X: 1\r\n", b"Y: 2\r\n"], FOLDED, b"Y: 2\r\nX: 1\r\n\r\n" + FOLDED, id="behind-two"),
        pytest.param(TRACE, [b"X: 1\r\n"], FOLDED, b"X: 1\r\n" + TRACE + b"\r\n" + FOLDED, id="behind-both"),
        pytest.param(b"", [], FOLDED, FOLDED, id="nothing-of-ours"),
        pytest.param(TRACE, [], b"A: 1\r\n b\r\n", TRACE + b"A: 1\r\n b\r\n", id="a-fold-of-its-own"),
        pytest.param(TRACE, [], b"", TRACE, id="no-content"),
    ],
)
@pytest.mark.trio
async def test_the_content_never_goes_on_with_a_header_of_ours(
    memory: int, trace: bytes, fronts: list[bytes], content: bytes, whole: bytes
) -> None:
    whole_and_by_octets: tuple[list[int], ...] = ([], list(range(1, len(content))))
    for points in whole_and_by_octets:
        message = IncomingMessage(ENVELOPE, room(memory), BodyLines.LF)
        if trace:
            await message.add_trace(trace)
        for piece in cut(content, points):
            await message.add(piece)
        for front in fronts:
            message.put_in_front(front)
        assert b"".join([piece async for piece in message.pieces()]) == whole
        (name, body), *_ = fields_of(await form_of(message))
        assert (name, body.encode("latin-1")) == ("body", as_script_gets_it(whole, BodyLines.LF))
        digest = MailDigest(ALICE, [BOB, CAROL])
        digest.update(content)
        assert (message.octets, message.received().digest) == (len(content), digest.hexdigest())
        message.close()


CONTENTS: Final = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"%&+;=", b"\0\xff", b"Subject: x"]), max_size=10
).map(b"".join)


@given(CONTENTS, st.lists(st.integers(0, 99), max_size=5), st.integers(0, 20), st.sampled_from(BodyLines))
def test_the_length_known_first_is_that_of_what_is_sent(
    content: bytes, points: list[int], memory: int, lines: BodyLines
) -> None:
    async def pass_through() -> None:
        whole = room(memory)
        message = IncomingMessage(ENVELOPE, whole, lines)
        for piece in cut(content, points):
            await message.add(piece)
        (name, body), *_ = fields_of(await form_of(message))
        assert (name, body.encode("latin-1")) == ("body", as_script_gets_it(content, lines))
        digest = b"alice@example.net\0bob@example.com\0carol@example.com\0\0" + content
        assert message.received().digest == hashlib.sha256(digest).hexdigest()
        message.close()
        assert whole.used_octets == 0

    trio.run(pass_through)


@ENDS
@pytest.mark.trio
async def test_blocks_of_the_spool_that_part_a_crlf(lines: BodyLines) -> None:
    message = IncomingMessage(ENVELOPE, room(1000), lines)
    content = b"x" + b"\r\n" * 400_000  # every piece ends within one
    for at in range(0, len(content), 65_536):
        await message.add(content[at : at + 65_536])
    body = fields_of(await form_of(message))[0][1]
    assert body == as_script_gets_it(content, lines).decode("latin-1")
    message.close()


@pytest.mark.trio
async def test_a_full_spool_is_told(tmp_path: Path) -> None:
    whole = room(10, tmp_path, total=20)
    message = IncomingMessage(ENVELOPE, whole, BodyLines.LF)
    with pytest.raises(SpoolFullError):
        await message.add(CONTENT)
    message.close()
    with pytest.raises(SpoolFullError):
        await message.add_trace(CONTENT)
    message.close()
    assert whole.used_octets == 0
