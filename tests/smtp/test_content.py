"""The content reader against a reference that sees all octets at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.targets.smtp_server import cut
from trio_fcgimail.smtp import BareNewline
from trio_fcgimail.smtp.buffer import ReceiveBuffer
from trio_fcgimail.smtp.content import ContentJudge, DataReader, Fault, HopelessContentError, Newlines

BARE_NEWLINE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)
SETTINGS = st.sampled_from(BareNewline)
WIRE = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\0", b"bcd"]), max_size=24
).map(b"".join)

Outcome = tuple[bytes, Fault, bytes] | str


def reference(wire: bytes, setting: BareNewline, limit: int | None) -> Outcome:
    """RFC 5321 4.1.1.4 and 4.5.2 word by word, for data that hold their end: content, fault, what follows."""
    raw, _, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    content = (raw + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
    bare = BARE_NEWLINE.search(content)
    judged = content
    if bare and setting is BareNewline.CLOSE:
        judged = content[: bare.start()]
    if setting is BareNewline.NORMALIZE:
        judged = content = BARE_NEWLINE.sub(lambda found: b"\r\n" if found[0] == b"\n" else b"", content)
    if limit is not None and len(judged) > 2 * limit:
        return "too big to be read on"
    if bare and setting is BareNewline.CLOSE:
        return "a bare newline, at once"
    if limit is not None and len(content) > limit:
        return b"", Fault.TOO_BIG, rest
    if bare and setting is BareNewline.REJECT:
        return b"", Fault.BARE_NEWLINE, rest
    return content, Fault.NONE, rest


def really(wire: bytes, setting: BareNewline, limit: int | None, sizes: Sequence[int]) -> Outcome | None:
    """The same by the reader; None when it has not seen the end."""
    judge = ContentJudge(setting, Newlines.TEXT, limit)
    reader, buffer = DataReader(judge), ReceiveBuffer()
    chunks: list[bytes] = []
    pieces = list(cut(wire, sizes))
    for number, piece in enumerate(pieces, 1):
        buffer.append(piece)
        try:
            while chunk := reader.read(buffer):
                assert not chunk.endswith(b"\r"), "a CRLF may have been split"
                chunks.append(chunk)
        except HopelessContentError as exc:
            return "a bare newline, at once" if exc.fault is Fault.BARE_NEWLINE else "too big to be read on"
        if reader.ended:
            rest = buffer.take(len(buffer)) + b"".join(pieces[number:])
            assert judge.fault is not Fault.NONE or judge.octets == sum(map(len, chunks))
            return (b"" if judge.fault is not Fault.NONE else b"".join(chunks)), judge.fault, rest
    return None


@settings(deadline=None)
@given(WIRE, WIRE, SETTINGS, st.none() | st.integers(1, 20), SIZES)
@example(b"a\nb", b"x", BareNewline.REJECT, 4, [1])  # both faults: the greater one, however cut
@example(b"aaaa\n", b"", BareNewline.CLOSE, 1, [100])  # twice the limit before the bare newline
@example(b"\r\n.\rb", b"", BareNewline.CLOSE, 1, [1])  # and after it, in one piece for the core
def test_reader_equals_reference(
    wire: bytes, behind: bytes, setting: BareNewline, limit: int | None, sizes: list[int]
) -> None:
    wire += b"\r\n.\r\n" + behind
    expected = reference(wire, setting, limit)
    assert really(wire, setting, limit, sizes) == expected
    assert really(wire, setting, limit, [len(wire)]) == expected


@settings(deadline=None)
@given(WIRE, SETTINGS, SIZES)
def test_without_an_end_there_is_no_end(wire: bytes, setting: BareNewline, sizes: list[int]) -> None:
    wire = (b"a" + wire).replace(b"\r\n.\r\n", b"")
    if b"\r\n.\r\n" not in wire:
        assert really(wire, setting, None, sizes) in (None, "a bare newline, at once")


@pytest.mark.parametrize("content", [b"", b".\r\n", b"..\r\n", b".\r\n.\r\n", b"a\r\n.b\r\n\r\n", b"\r\n"])
def test_what_a_client_stuffs_is_what_arrives(content: bytes) -> None:
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    for sizes in ([1], [2], [3, 5], [len(stuffed)]):
        assert really(stuffed, BareNewline.REJECT, None, sizes) == (content, Fault.NONE, b"")


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b".", b"..", b"\r\n"]), max_size=30).map(b"".join), SIZES)
def test_any_content_survives_stuffing(text: bytes, sizes: list[int]) -> None:
    content = text + b"\r\n"
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    assert really(stuffed, BareNewline.REJECT, None, sizes) == (content, Fault.NONE, b"")


@pytest.mark.parametrize("unit", [b"\r", b"\r\n.\r", b".", b"\r\n..", b"x"], ids=repr)
def test_one_octet_at_a_time_keeps_the_buffer_at_five(unit: bytes) -> None:
    """Linear by construction: what waits for its next octet is never more than the mark of the end less one."""
    reader, buffer = DataReader(ContentJudge(BareNewline.NORMALIZE, Newlines.TEXT, None)), ReceiveBuffer()
    for octet in unit * 200:
        buffer.append(bytes([octet]))
        reader.read(buffer)
        assert len(buffer) <= 4
