"""Limits, each at its value and one above, and that no buffer grows beyond its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fuzz.targets.smtp_server import MAX_PIECE_OCTETS, cut
from tests.smtp.support import DATA, LMTP_OPTIONS, MAIL, OPTIONS, RCPT, codes, in_state
from trio_fcgimail.smtp import (
    MAX_BUFFER_OCTETS,
    MAX_COMMAND_OCTETS,
    NEED_DATA,
    PAUSED,
    BareNewline,
    CloseReason,
    ConnectionClosed,
    LocalProtocolError,
    MailFrom,
    RemoteProtocolError,
    ServerOptions,
    State,
    Waiting,
    catalogue,
)

SMALL = replace(OPTIONS, max_message_octets=10)
BAD_RCPT = b"RCPT TO:<bad@example.com>\r\n"
SPLITS = pytest.mark.parametrize("sizes", [[1], [3], [MAX_PIECE_OCTETS]], ids=["1", "3", "whole"])


# Size of a message


@SPLITS
@pytest.mark.parametrize(
    ("wire", "replies"),
    [
        pytest.param(b"12345678\r\n.\r\n", ["250 2.0.0"], id="row-75-exact"),
        pytest.param(b"123456789\r\n.\r\n", ["552 5.3.4"], id="row-76-one-more"),
        pytest.param(b"..2345678\r\n.\r\n", ["250 2.0.0"], id="row-77-stuffing-not-counted"),
        pytest.param(b"..\r\n..\r\n..\r\n.\r\n", ["250 2.0.0"], id="row-77-three-stuffed-lines"),
        pytest.param(b"1234567890123456\r\n\r\n.\r\n", ["552 5.3.4"], id="twice-the-limit"),
    ],
)
def test_message_octets(wire: bytes, replies: list[str], sizes: list[int]) -> None:
    session = in_state(State.DATA, SMALL)
    session.play(cut(wire + b"NOOP\r\n", sizes))
    assert codes(session.output) == [*replies, "250 2.0.0"]
    assert session.connection.state is State.READY


@SPLITS
def test_more_than_twice_the_limit_closes(sizes: list[int]) -> None:
    session = in_state(State.DATA, SMALL)
    session.play(cut(b"x" * 21 + b"\r\n.\r\nNOOP\r\n", sizes))
    assert session.lost == catalogue.MESSAGE_TOO_BIG
    assert codes(session.output) == ["552 5.3.4"]
    assert session.events[-1] == ConnectionClosed(CloseReason.ERROR)


@SPLITS
def test_too_big_outweighs_a_bare_newline(sizes: list[int]) -> None:
    """552 tells the sender more than 550; and which came first must not depend on how the octets were cut."""
    for wire in (b"\n1234567890\r\n.\r\n", b"1234567890\n\r\n.\r\n"):
        session = in_state(State.DATA, SMALL)
        session.play(cut(wire, sizes))
        assert codes(session.output) == ["552 5.3.4"]


@SPLITS
@pytest.mark.parametrize(("octets", "reply"), [(20, catalogue.BARE_NEWLINE_CLOSE), (21, catalogue.MESSAGE_TOO_BIG)])
def test_what_closes_first_is_told(octets: int, reply: object, sizes: list[int]) -> None:
    session = in_state(State.DATA, replace(SMALL, bare_newline=BareNewline.CLOSE))
    session.play(cut(b"x" * octets + b"\ny\r\n.\r\n", sizes))
    assert session.lost == reply


def test_no_limit_of_octets() -> None:
    session = in_state(State.DATA, replace(OPTIONS, max_message_octets=None))
    for _ in range(100):
        session.feed(b"x" * 100_000)
    assert codes(session.feed(b"\r\n.\r\n")) == ["250 2.0.0"]
    assert len(session.messages[0]) == 10_000_002


def test_lmtp_oversize_is_told_to_each_and_the_session_goes_on() -> None:
    """Row 155."""
    session = in_state(State.RCPT, replace(LMTP_OPTIONS, max_message_octets=10))
    assert codes(session.feed(RCPT + DATA + b"123456789\r\n.\r\n")) == ["250 2.1.5", "354", "552 5.3.4", "552 5.3.4"]
    assert codes(session.feed(MAIL + RCPT + DATA + b".\r\n")) == ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]


# Counts


@pytest.mark.parametrize("limit", [1, 100])
def test_recipients(limit: int) -> None:
    """Rows 66 and 67: each one more is 452, and the mail goes on with those there are; RSET begins anew."""
    session = in_state(State.MAIL, replace(OPTIONS, max_recipients=limit))
    assert codes(session.feed(RCPT * (limit + 3))) == ["250 2.1.5"] * limit + ["452 4.5.3"] * 3
    assert session.connection.state is State.RCPT
    assert codes(session.feed(b"RSET\r\n" + MAIL + RCPT + DATA)) == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]


def test_refused_recipients_do_not_take_the_place_of_accepted_ones() -> None:
    session = in_state(State.MAIL, replace(OPTIONS, max_recipients=1))
    assert codes(session.feed(BAD_RCPT + RCPT + RCPT)) == ["550 5.1.1", "250 2.1.5", "452 4.5.3"]


def test_no_limit_of_recipients() -> None:
    session = in_state(State.MAIL, replace(OPTIONS, max_recipients=None))
    assert codes(session.feed(RCPT * 1500)) == ["250 2.1.5"] * 1500


def test_refused_recipients() -> None:
    """Row 68: over all transactions; 4xx never counts; what the core refuses with 553 counts as well."""
    session = in_state(State.MAIL, replace(OPTIONS, max_refused_recipients=3))
    assert codes(session.feed(b"RCPT TO:<busy@example.com>\r\n" * 9)) == ["451 4.3.0"] * 9
    assert codes(session.feed(BAD_RCPT * 2)) == ["550 5.1.1"] * 2
    assert codes(session.feed(b"RSET\r\n" + MAIL + RCPT)) == ["250 2.0.0", "250 2.1.0", "250 2.1.5"]
    assert codes(session.feed("RCPT TO:<\u00fc@b.c>\r\n".encode())) == ["553 5.6.7"]
    assert codes(session.feed(RCPT + RCPT)) == ["421 4.7.0"]
    assert session.events[-1] == ConnectionClosed(CloseReason.REPLY)


def test_no_limit_of_refused_recipients() -> None:
    session = in_state(State.MAIL, replace(OPTIONS, max_refused_recipients=None))
    assert codes(session.feed(BAD_RCPT * 1000)) == ["550 5.1.1"] * 1000


def test_messages() -> None:
    """Every message counts, accepted or not; a transaction that was reset does not."""
    session = in_state(State.READY, replace(SMALL, max_messages=2))
    session.feed(MAIL + b"RSET\r\n" + MAIL + RCPT + DATA + b"too big for you\r\n.\r\n" + MAIL + RCPT + DATA + b".\r\n")
    session.output.clear()
    assert codes(session.feed(b"NOOP\r\n" + MAIL + MAIL)) == ["250 2.0.0", "421 4.7.0"]


def test_no_limit_of_messages() -> None:
    session = in_state(State.READY, replace(OPTIONS, max_messages=None))
    for _ in range(1100):
        session.feed(MAIL + RCPT + DATA + b".\r\n")
    assert len(session.messages) == 1100


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        pytest.param(b"XYZZY\r\n", "500 5.5.1", id="row-171-500"),
        pytest.param(b"EHLO\r\n", "501 5.5.4", id="501"),
        pytest.param(b"STARTTLS\r\n", "502 5.5.1", id="502"),
        pytest.param(b"BDAT 1\r\nx", "503 5.5.1", id="503-bdat"),
        pytest.param(DATA, "503 5.5.1", id="503"),
        pytest.param(b"MAIL FROM:<> FOO\r\n", "555 5.5.4", id="555"),
        pytest.param(b"x" * 3000 + b"\r\n", "500 5.5.2", id="500-line-too-long"),
    ],
)
def test_bad_commands(line: bytes, reply: str) -> None:
    session = in_state(State.READY, replace(OPTIONS, max_bad_commands=3))
    assert codes(session.feed(line * 3 + b"NOOP\r\n")) == [reply] * 3 + ["250 2.0.0"]
    assert codes(session.feed(line + b"NOOP\r\n")) == ["421 4.7.0"]
    assert session.closed


def test_what_is_no_bad_command() -> None:
    session = in_state(State.READY, replace(OPTIONS, max_bad_commands=1))
    size = b"MAIL FROM:<a@b.c> SIZE=99999999999\r\n"
    assert codes(session.feed(size * 9 + b"VRFY x\r\n" * 9)) == ["552 5.3.4"] * 9 + ["252 2.5.2"] * 9


def test_no_limit_of_bad_commands() -> None:
    session = in_state(State.READY, replace(OPTIONS, max_bad_commands=None))
    assert codes(session.feed(b"XYZZY\r\n" * 200)) == ["500 5.5.1"] * 200


@pytest.mark.parametrize(
    "below",
    [
        pytest.param(lambda: replace(OPTIONS, max_message_octets=0), id="message-octets"),
        pytest.param(lambda: replace(OPTIONS, max_recipients=0), id="recipients"),
        pytest.param(lambda: replace(OPTIONS, max_messages=0), id="messages"),
        pytest.param(lambda: replace(OPTIONS, max_bad_commands=0), id="bad-commands"),
        pytest.param(lambda: replace(OPTIONS, max_refused_recipients=-1), id="refused-recipients"),
    ],
)
def test_limit_below_one_is_refused(below: Callable[[], ServerOptions]) -> None:
    with pytest.raises(LocalProtocolError, match="at least one"):
        below()


# Lines and buffers


@SPLITS
@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        pytest.param(512, "250 2.0.0", id="row-167"),
        pytest.param(MAX_COMMAND_OCTETS, "250 2.0.0", id="longest"),
        pytest.param(MAX_COMMAND_OCTETS + 1, "500 5.5.2", id="one-more"),
        pytest.param(MAX_COMMAND_OCTETS + 2, "500 5.5.2", id="two-more"),
        pytest.param(20_000, "500 5.5.2", id="row-168"),
    ],
)
def test_command_line(octets: int, reply: str, sizes: list[int]) -> None:
    """S10: dropped up to its CR LF, so that its rest is no command."""
    line = b"NOOP " + b"x" * (octets - 12) + b" NOOP\r\n"
    assert len(line) == octets
    session = in_state(State.READY)
    session.play(cut(line + b"RSET\r\n", sizes))
    assert codes(session.output) == [reply, "250 2.0.0"]


def test_endless_line_is_not_kept() -> None:
    """S10: whatever comes at NEED_DATA is taken for ever, so none of it can be kept."""
    session = in_state(State.READY)
    for _ in range(20):
        assert session.feed(b"x\r" * (MAX_BUFFER_OCTETS // 2 - MAX_COMMAND_OCTETS)) == b""
    assert codes(session.feed(b"\nNOOP\r\n")) == ["500 5.5.2", "250 2.0.0"]


def test_endless_line_of_a_body_is_not_kept() -> None:
    session = in_state(State.DATA, replace(OPTIONS, max_message_octets=None))
    for _ in range(20):
        session.feed(b"x" * (MAX_BUFFER_OCTETS - 4))
    assert codes(session.feed(b"\r\n.\r\n")) == ["250 2.0.0"]


def test_buffer_overrun_is_the_embedders_mistake() -> None:
    connection = in_state(State.READY).connection
    connection.receive_data(b"x" * MAX_BUFFER_OCTETS)
    with pytest.raises(LocalProtocolError, match="received and not used"):
        connection.receive_data(b"x")
    assert connection.next_event() is NEED_DATA
    connection.receive_data(b"\r\n")


def test_buffer_overrun_while_paused() -> None:
    connection = in_state(State.READY).connection
    connection.receive_data(MAIL)
    event = connection.next_event()
    assert isinstance(event, MailFrom)
    connection.receive_data(b"NOOP\r\n")
    connection.receive_data(b"x" * (MAX_BUFFER_OCTETS - 6))
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"x")
    assert connection.next_event() is PAUSED
    assert codes(connection.accept(event)) == ["250 2.1.0"]
    assert connection.state is State.MAIL


# Chunks that nobody wants


@SPLITS
def test_skipped_chunk_may_be_larger_than_the_buffer(sizes: list[int]) -> None:
    chunk = b"QUIT\r\n" * 10_000
    session = in_state(State.READY)
    session.play(cut(b"BDAT %d LAST\r\n" % len(chunk) + chunk + b"NOOP\r\n", sizes))
    assert codes(session.output) == ["503 5.5.1", "250 2.0.0"]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        pytest.param(SMALL, 10 + (16 << 20), id="message-octets-and-16-MiB"),
        pytest.param(replace(OPTIONS, max_message_octets=None), 16 << 20, id="16-MiB"),
    ],
)
def test_largest_chunk_that_is_skipped(options: ServerOptions, most: int) -> None:
    session = in_state(State.READY, options)
    session.feed(b"BDAT %d\r\n" % most)
    left = most
    while left:
        left -= len(piece := b"x" * min(left, MAX_PIECE_OCTETS))
        written = session.feed(piece)
    assert codes(written) == ["503 5.5.1"]
    assert codes(session.feed(b"BDAT %d\r\n" % (most + 1))) == ["552 5.3.4"]
    assert session.lost == catalogue.MESSAGE_TOO_BIG


def test_end_of_file_within_a_skipped_chunk() -> None:
    session = in_state(State.READY)
    session.feed(b"BDAT 10\r\n12345")
    assert session.connection.waiting_for is Waiting.DATA
    session.feed(b"")
    assert session.events[-1] == ConnectionClosed(CloseReason.EOF)


def test_lost_framing_carries_its_reply() -> None:
    session = in_state(State.READY)
    session.connection.receive_data(b"BDAT x\r\nNOOP\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        session.connection.next_event()
    assert caught.value.reply == catalogue.BAD_CHUNK_SIZE
    assert codes(caught.value.to_send) == ["501 5.5.4"]
    assert session.connection.next_event() == ConnectionClosed(CloseReason.ERROR)
    assert session.connection.waiting_for is Waiting.NOTHING
