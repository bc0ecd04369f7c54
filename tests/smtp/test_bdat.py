"""BDAT row by row (RFC 3030). ``row n`` is the number in our conformance table, S16 our checklist of its dangers."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

import pytest

from fuzz.targets.smtp_server import Session, cut
from tests.smtp.support import (
    ALL,
    DATA,
    EHLO,
    LMTP_OPTIONS,
    MAIL,
    NO_CHUNKING,
    OPTIONS,
    RCPT,
    Cut,
    Row,
    codes,
    in_state,
    refuse_message,
)
from trio_fcgimail.smtp import (
    Answerable,
    BareNewline,
    BodyType,
    CloseReason,
    CommandAnswered,
    ConnectionClosed,
    DataBegun,
    DataCommand,
    Extension,
    LocalProtocolError,
    MailFrom,
    MessageChunk,
    MessageEnd,
    MessageRefused,
    Outcome,
    Reply,
    ServerOptions,
    State,
    Verb,
    Waiting,
    catalogue,
)

START, READY, MAILED, RCPTED, CLOSED = State.START, State.READY, State.MAIL, State.RCPT, State.CLOSED
CHUNKING, REFUSED = State.CHUNKING, State.CHUNKS_REFUSED
BAD_RCPT: Final = b"RCPT TO:<bad@example.com>\r\n"
LAST: Final = b"BDAT 0 LAST\r\n"
QUIT: Final = b"QUIT\r\n"  # as the content of a chunk: six octets that are no command there
ONE: Final = b"BDAT 6\r\n" + QUIT
WHOLE: Final = b"BDAT 6 LAST\r\n" + QUIT
BARE: Final = b"BDAT 3\r\na\nb"
BINARY: Final = b"MAIL FROM:<alice@example.net> BODY=BINARYMIME\r\n"
SMALL: Final = replace(OPTIONS, max_message_octets=10)
CLOSE: Final = replace(OPTIONS, bare_newline=BareNewline.CLOSE)
NORMALIZE: Final = replace(OPTIONS, bare_newline=BareNewline.NORMALIZE)
NO_BINARY: Final = replace(OPTIONS, extensions=ALL - {Extension.BINARYMIME})
NO_8BITMIME: Final = replace(OPTIONS, extensions=ALL - {Extension.EIGHT_BIT_MIME})
NO_LIMIT: Final = replace(OPTIONS, max_message_octets=None)


def want_no_data(event: Answerable) -> Reply | None:
    """An embedder who turns every message away when it begins."""
    return catalogue.LOCAL_ERROR if isinstance(event, DataBegun) else None


ROWS = [
    # What a message is made of
    Row("last", RCPTED, WHOLE, "250 2.0.0", READY, "row 112"),
    Row("one-and-empty-last", RCPTED, ONE + LAST, "250 2.0.0 | 250 2.0.0", READY, "row 113"),
    Row("one", RCPTED, ONE, "250 2.0.0", CHUNKING, "RFC 3030 2: each chunk is answered"),
    Row("empty", RCPTED, LAST, "250 2.0.0", READY, "an empty message, as with DATA"),
    Row("empty-first", RCPTED, b"BDAT 0\r\n" + WHOLE, "250 2.0.0 | 250 2.0.0", READY, "RFC 3030 2: 0 is a size"),
    Row("several", RCPTED, ONE * 5 + WHOLE, " | ".join(["250 2.0.0"] * 6), READY, "RFC 3030 2"),
    Row("lower-case", RCPTED, b"bdat 6\r\n" + QUIT + b"bdat 6 last\r\n" + QUIT, "250 2.0.0 | 250 2.0.0", READY,
        "RFC 5321 2.4"),
    Row("blanks", RCPTED, b"BDAT  6  LAST \r\n" + QUIT, "250 2.0.0", READY, "lenient, as with any command"),
    Row("leading-zeros", RCPTED, b"BDAT 00000000000000000006 LAST\r\n" + QUIT, "250 2.0.0", READY, "20 digits"),
    Row("group", READY, MAIL + RCPT + WHOLE + QUIT, "250 2.1.0 | 250 2.1.5 | 250 2.0.0 | 221 2.0.0", CLOSED, "row 126"),
    Row("next-mail", RCPTED, WHOLE + MAIL + RCPT + WHOLE, "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY,
        "nothing of the last message is left"),
    Row("then-data", RCPTED, WHOLE + MAIL + RCPT + DATA + b"x\r\n.\r\n",
        "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 354 | 250 2.0.0", READY, "the two in turn"),
    Row("looks-like-end-of-data", RCPTED, b"BDAT 14\r\nx\r\n.\r\nQUIT\r\n\r\n" + LAST, "250 2.0.0 | 250 2.0.0", READY,
        "row 122"),
    Row("all-octets", READY, BINARY + RCPT + b"BDAT 256 LAST\r\n" + bytes(range(256)),
        "250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY, "RFC 3030 3"),
    Row("refused-at-end", RCPTED, ONE + WHOLE + MAIL, "250 2.0.0 | 451 4.3.0 | 250 2.1.0", MAILED, "RFC 3030 2",
        judge=refuse_message),
    # Out of place: the octets are eaten, nothing changes
    Row("before-hello", START, WHOLE + b"NOOP\r\n", "503 5.5.1 | 250 2.0.0", START, "S16"),
    Row("before-mail", READY, WHOLE + b"NOOP\r\n", "503 5.5.1 | 250 2.0.0", READY, "row 114"),
    Row("before-rcpt", MAILED, ONE + RCPT, "503 5.5.1 | 250 2.1.5", RCPTED, "row 115"),
    Row("after-refused-rcpts", MAILED, BAD_RCPT + WHOLE + RCPT, "550 5.1.1 | 503 5.5.1 | 250 2.1.5", RCPTED, "S16"),
    Row("after-last", RCPTED, WHOLE + WHOLE, "250 2.0.0 | 503 5.5.1", READY, "row 125"),
    Row("after-helo", START, b"HELO x\r\n" + MAIL + RCPT + WHOLE + DATA,
        "250 | 250 2.1.0 | 250 2.1.5 | 502 5.5.1 | 354", State.DATA, "RFC 5321 4.1.1.1: HELO offers nothing"),
    Row("not-offered", RCPTED, ONE + WHOLE + RCPT, "502 5.5.1 | 502 5.5.1 | 250 2.1.5", RCPTED, "S16", NO_CHUNKING),
    # Between two chunks
    Row("data-between", CHUNKING, DATA + LAST, "503 5.5.1 | 250 2.0.0", READY, "row 118"),
    Row("mail-between", CHUNKING, MAIL + LAST, "503 5.5.1 | 250 2.0.0", READY, "row 119"),
    Row("rcpt-between", CHUNKING, RCPT + LAST, "503 5.5.1 | 250 2.0.0", READY, "RFC 3030 2"),
    Row("noop-between", CHUNKING, b"NOOP\r\n" + LAST, "250 2.0.0 | 250 2.0.0", READY, "RFC 5321 4.1.1.9: no effect"),
    Row("unknown-between", CHUNKING, b"XYZZY\r\n" + LAST, "500 5.5.1 | 250 2.0.0", READY, "RFC 5321 4.1.4"),
    Row("rset-between", CHUNKING, b"RSET\r\n" + RCPT, "250 2.0.0 | 503 5.5.1", READY, "row 120"),
    Row("rset-then-mail", CHUNKING, b"RSET\r\n" + MAIL + RCPT + WHOLE, "250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0",
        READY, "row 120"),
    Row("rset-then-long-line", CHUNKING, b"RSET\r\nNOOP " + b"x" * 3000 + b"\r\nNOOP\r\n",
        "250 2.0.0 | 500 5.5.2 | 250 2.0.0", READY, "RSET between chunks keeps the limit of lines"),
    Row("ehlo-between", CHUNKING, EHLO + WHOLE, "250 | 503 5.5.1", READY, "RFC 5321 4.1.4"),
    Row("bad-ehlo-between", CHUNKING, b"EHLO\r\n" + LAST, "501 5.5.4 | 250 2.0.0", READY, "RFC 5321 4.1.4"),
    Row("quit-between", CHUNKING, QUIT, "221 2.0.0", CLOSED, "RFC 5321 4.1.1.10"),
    # Refused: and so is each chunk up to LAST or RSET, by the same reply
    Row("refused-then-more", RCPTED, BARE + ONE + WHOLE, "550 5.5.2 | 550 5.5.2 | 550 5.5.2", READY, "S16"),
    Row("refused-then-empty-last", REFUSED, LAST, "550 5.5.2", READY, "S16"),
    Row("refused-then-rset", REFUSED, b"RSET\r\n" + MAIL, "250 2.0.0 | 250 2.1.0", MAILED, "RFC 3030 2"),
    Row("refused-then-ehlo", REFUSED, EHLO + MAIL, "250 | 250 2.1.0", MAILED, "RFC 5321 4.1.4"),
    Row("refused-then-others", REFUSED, MAIL + RCPT + DATA + b"NOOP\r\n" + LAST,
        "503 5.5.1 | 503 5.5.1 | 503 5.5.1 | 250 2.0.0 | 550 5.5.2", READY, "row 119"),
    Row("refused-then-next-mail", RCPTED, BARE + LAST + MAIL + RCPT + WHOLE,
        "550 5.5.2 | 550 5.5.2 | 250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY, "what was refused is over"),
    Row("refused-goes-on", RCPTED, BARE + ONE * 9 + LAST, " | ".join(["550 5.5.2"] * 11), READY,
        "refused chunks are no bad commands: a client may have pipelined them"),
    Row("unwanted", RCPTED, ONE + WHOLE + MAIL, "451 4.3.0 | 451 4.3.0 | 250 2.1.0", MAILED,
        "a temporary failure stays one to the last chunk", judge=want_no_data),
    Row("unwanted-last", RCPTED, WHOLE + WHOLE, "451 4.3.0 | 503 5.5.1", READY, "as above", judge=want_no_data),
    Row("unwanted-empty", RCPTED, LAST, "451 4.3.0", READY, "as above", judge=want_no_data),
    # Sizes
    Row("exact", RCPTED, b"BDAT 10 LAST\r\n12345678\r\n", "250 2.0.0", READY, "row 75", SMALL),
    Row("one-more", RCPTED, b"BDAT 11 LAST\r\n123456789\r\n", "552 5.3.4", READY, "row 121", SMALL),
    Row("sum-exact", RCPTED, b"BDAT 4\r\n1234BDAT 6 LAST\r\n" + QUIT, "250 2.0.0 | 250 2.0.0", READY, "row 121", SMALL),
    Row("sum-one-more", RCPTED, b"BDAT 5\r\n12345BDAT 6\r\n" + QUIT + WHOLE + MAIL,
        "250 2.0.0 | 552 5.3.4 | 552 5.3.4 | 250 2.1.0", MAILED, "row 121: the rest is eaten", SMALL),
    Row("sum-with-a-cr-at-the-edge", RCPTED, b"BDAT 5\r\n1234\rBDAT 6 LAST\r\n\n12345", "250 2.0.0 | 552 5.3.4", READY,
        "the CR counts though its LF has not come", SMALL),
    Row("too-big-outweighs-bare", RCPTED, b"BDAT 2\r\n\n\nBDAT 9 LAST\r\n123456789", "550 5.5.2 | 550 5.5.2", READY,
        "what was said first is said again", SMALL),
    Row("normalized-too-big", RCPTED, b"BDAT 6 LAST\r\n\n\n\n\n\n\n", "552 5.3.4", READY, "RFC 1870 3: CRLF counts two",
        replace(SMALL, bare_newline=BareNewline.NORMALIZE)),
    Row("dots-are-not-stuffed", RCPTED, b"BDAT 10 LAST\r\n..\r\n..\r\n..", "250 2.0.0", READY, "RFC 3030 2", SMALL),
    Row("beyond-2^63", RCPTED, b"BDAT 9223372036854775808\r\n", "552 5.3.4", CLOSED, "issue: sizes beyond 2^63"),
    Row("beyond-2^64", RCPTED, b"BDAT 18446744073709551622 LAST\r\n" + QUIT, "552 5.3.4", CLOSED, "no wrap to 6"),
    Row("20-digits", RCPTED, b"BDAT 99999999999999999999 LAST\r\n", "552 5.3.4", CLOSED, "row 117"),
    Row("21-digits", RCPTED, b"BDAT 000000000000000000006 LAST\r\n", "501 5.5.4", CLOSED, "RFC 3030 2: 20 at most"),
    Row("2000-digits", RCPTED, b"BDAT " + b"9" * 2000 + b"\r\n", "501 5.5.4", CLOSED, "RFC 3030 2"),
    Row("beyond-2^63-no-limit", RCPTED, b"BDAT 9223372036854775808\r\n", "552 5.3.4", CLOSED, "no file holds it",
        NO_LIMIT),
    Row("sum-beyond-2^63-no-limit", CHUNKING, b"BDAT 9223372036854775807\r\n", "552 5.3.4", CLOSED, "as above",
        NO_LIMIT),
    # What cannot be read closes: nobody knows where the next command is
    Row("no-size", CHUNKING, b"BDAT\r\nNOOP\r\n", "501 5.5.4", CLOSED, "row 116"),
    Row("only-last", CHUNKING, b"BDAT LAST\r\nNOOP\r\n", "501 5.5.4", CLOSED, "row 116"),
    Row("negative", CHUNKING, b"BDAT -5\r\nNOOP\r\n", "501 5.5.4", CLOSED, "row 116"),
    Row("plus", CHUNKING, b"BDAT +5\r\nNOOP\r\n", "501 5.5.4", CLOSED, "decimal digits only"),
    Row("hexadecimal", CHUNKING, b"BDAT 0x5\r\nNOOP\r\n", "501 5.5.4", CLOSED, "decimal digits only"),
    Row("underscore", CHUNKING, b"BDAT 1_0\r\nNOOP\r\n", "501 5.5.4", CLOSED, "what Python's int() would take"),
    Row("two-lasts", CHUNKING, b"BDAT 0 LAST LAST\r\nNOOP\r\n", "501 5.5.4", CLOSED, "RFC 3030 2"),
    Row("glued-last", CHUNKING, b"BDAT 0LAST\r\nNOOP\r\n", "501 5.5.4", CLOSED, "RFC 3030 2"),
    Row("nul-in-line", RCPTED, b"BDAT 6\0 LAST\r\n" + QUIT, "500 5.5.2", CLOSED, "S16: no chunk is ever run"),
    Row("bare-lf-in-line", RCPTED, b"BDAT 6\n LAST\r\n" + QUIT, "500 5.5.2", CLOSED, "as above"),
    Row("bare-cr-in-line", RCPTED, b"BDAT\r6 LAST\r\n" + QUIT, "500 5.5.2", CLOSED, "as above"),
    Row("bad-utf8-in-line", RCPTED, b"BDAT 6 \xff\r\n" + QUIT, "500 5.5.2", CLOSED, "as above"),
    Row("blank-before-word", RCPTED, b" BDAT 6 LAST\r\n" + QUIT, "500 5.5.2", CLOSED, "as above"),
    Row("line-too-long", RCPTED, b"BDAT 6" + b" " * 3000 + b"LAST\r\n" + QUIT, "500 5.5.2", CLOSED, "as above"),
    Row("another-word", READY, b"BDATA 6\r\nNOOP\r\n", "500 5.5.1 | 250 2.0.0", READY, "no BDAT"),
    Row("another-word-too-long", READY, b"BDAT-" + b"x" * 3000 + b"\r\nNOOP\r\n", "500 5.5.2 | 250 2.0.0", READY,
        "no BDAT"),
    # BINARYMIME
    Row("binary-then-data", READY, BINARY + RCPT + DATA + WHOLE, "250 2.1.0 | 250 2.1.5 | 503 5.5.1 | 250 2.0.0", READY,
        "row 123"),
    Row("binary-then-data-with-argument", READY, BINARY + RCPT + b"DATA x\r\n", "250 2.1.0 | 250 2.1.5 | 501 5.5.4",
        RCPTED, "row 25"),
    Row("binary-not-offered", READY, BINARY, "501 5.5.4", READY, "row 124", NO_BINARY),
    Row("binary-without-chunking", READY, BINARY, "501 5.5.4", READY, "RFC 3030 3", NO_CHUNKING),
    Row("binary-without-8bitmime", READY, BINARY + RCPT + b"BDAT 1 LAST\r\n\n",
        "250 2.1.0 | 250 2.1.5 | 250 2.0.0", READY, "RFC 3030 3: BODY is of either extension", NO_8BITMIME),
    Row("8bitmime-not-offered", READY, b"MAIL FROM:<> BODY=8BITMIME\r\n", "501 5.5.4", READY, "RFC 6152 2",
        NO_8BITMIME),
    Row("binary-after-helo", START, b"HELO x\r\n" + BINARY, "250 | 555 5.5.4", READY, "RFC 5321 3.2"),
    Row("binary-is-not-judged", READY, BINARY + RCPT + BARE + b"BDAT 2 LAST\r\n\r\r",
        "250 2.1.0 | 250 2.1.5 | 250 2.0.0 | 250 2.0.0", READY, "RFC 3030 3: no octet is a line's"),
    Row("binary-is-not-judged-close", READY, BINARY + RCPT + BARE + LAST,
        "250 2.1.0 | 250 2.1.5 | 250 2.0.0 | 250 2.0.0", READY, "as above", CLOSE),
    Row("binary-ends-with-its-mail", READY, BINARY + b"RSET\r\n" + MAIL + RCPT + BARE + DATA,
        "250 2.1.0 | 250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 550 5.5.2 | 503 5.5.1", REFUSED, "of one transaction"),
    # Bare newlines
    Row("bare-reject", RCPTED, BARE, "550 5.5.2", REFUSED, "issue, point 3"),
    Row("bare-reject-last", RCPTED, b"BDAT 3 LAST\r\na\rb", "550 5.5.2", READY, "issue, point 3"),
    Row("bare-close", RCPTED, BARE + LAST, "521 5.5.2", CLOSED, "issue, point 3", CLOSE),
    Row("bare-normalize", RCPTED, BARE + LAST, "250 2.0.0 | 250 2.0.0", READY, "issue, point 3", NORMALIZE),
    Row("crlf-over-two-chunks", RCPTED, b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb", "250 2.0.0 | 250 2.0.0", READY,
        "CR LF is one newline wherever the chunks meet"),
    Row("crlf-over-three-chunks", RCPTED, b"BDAT 2\r\na\rBDAT 0\r\nBDAT 2 LAST\r\n\nb",
        "250 2.0.0 | 250 2.0.0 | 250 2.0.0", READY, "as above"),
    Row("crlf-over-two-chunks-close", RCPTED, b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb", "250 2.0.0 | 250 2.0.0", READY,
        "as above", CLOSE),
    Row("cr-at-edge", RCPTED, b"BDAT 2\r\na\rBDAT 1 LAST\r\nb", "250 2.0.0 | 550 5.5.2", READY, "so it was bare"),
    Row("cr-at-edge-close", RCPTED, b"BDAT 2\r\na\rBDAT 1 LAST\r\nb", "250 2.0.0 | 521 5.5.2", CLOSED, "as above",
        CLOSE),
    Row("cr-at-end", RCPTED, b"BDAT 2\r\na\r" + LAST, "250 2.0.0 | 550 5.5.2", READY, "no LF comes any more"),
    Row("cr-at-end-of-last", RCPTED, b"BDAT 2 LAST\r\na\r", "550 5.5.2", READY, "as above"),
    Row("lf-at-edge", RCPTED, b"BDAT 1\r\naBDAT 1\r\n\n" + LAST, "250 2.0.0 | 550 5.5.2 | 550 5.5.2", READY, "bare"),
    Row("cr-at-edge-then-rset", RCPTED, b"BDAT 1\r\n\rRSET\r\n" + MAIL + RCPT + b"BDAT 1 LAST\r\n\n",
        "250 2.0.0 | 250 2.0.0 | 250 2.1.0 | 250 2.1.5 | 550 5.5.2", READY, "the CR went with its message"),
    # LMTP
    Row("lmtp-each-at-last", RCPTED, RCPT + ONE + WHOLE, "250 2.1.5 | 250 2.0.0 | 250 2.0.0 | 250 2.0.0", READY,
        "row 156", LMTP_OPTIONS),
    Row("lmtp-refused-each-at-last", RCPTED, RCPT + BARE + LAST, "250 2.1.5 | 550 5.5.2 | 550 5.5.2 | 550 5.5.2", READY,
        "row 156: a chunk is answered once, the message for each", LMTP_OPTIONS),
    Row("lmtp-unwanted-each-at-last", RCPTED, RCPT + WHOLE, "250 2.1.5 | 451 4.3.0 | 451 4.3.0", READY, "row 156",
        LMTP_OPTIONS, want_no_data),
    Row("lmtp-too-big-each-at-last", RCPTED, RCPT + b"BDAT 11 LAST\r\n12345678901", "250 2.1.5 | 552 5.3.4 | 552 5.3.4",
        READY, "row 155", replace(LMTP_OPTIONS, max_message_octets=10)),
    Row("lmtp-out-of-place", MAILED, WHOLE, "503 5.5.1", MAILED, "row 150: no recipient, no message", LMTP_OPTIONS),
]  # fmt: skip


@pytest.mark.parametrize("how", Cut, ids=attrgetter("name"))
@pytest.mark.parametrize("row", ROWS, ids=attrgetter("id"))
def test_row(row: Row, how: Cut) -> None:
    row.play(how)


def test_row_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


# What arrives


@pytest.mark.parametrize("sizes", [[1], [3], [100_000]], ids=["1", "3", "whole"])
@pytest.mark.parametrize(
    ("wire", "content", "options"),
    [
        pytest.param(b"BDAT 8 LAST\r\n..\r\n.\r\n.", b"..\r\n.\r\n.", OPTIONS, id="dots-as-they-are"),
        pytest.param(b"BDAT 1\r\naBDAT 1 LAST\r\nb", b"ab", OPTIONS, id="no-newline-at-the-seam-or-the-end"),
        pytest.param(b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb", b"a\r\nb", OPTIONS, id="crlf-over-two-chunks"),
        pytest.param(b"BDAT 2\r\na\rBDAT 2 LAST\r\n\nb", b"a\r\nb", NORMALIZE, id="crlf-over-two-chunks-normalize"),
        pytest.param(b"BDAT 2\r\na\rBDAT 2 LAST\r\nb\r", b"ab", NORMALIZE, id="bare-cr-dropped-at-both-ends"),
        pytest.param(b"BDAT 1\r\n\nBDAT 1 LAST\r\n\n", b"\r\n\r\n", NORMALIZE, id="bare-lf-made-crlf-at-both-ends"),
        pytest.param(b"BDAT 4 LAST\r\nMAIL", b"MAIL", OPTIONS, id="a-command"),
        pytest.param(b"BDAT 3 LAST\r\n\0\xff\xfe", b"\0\xff\xfe", OPTIONS, id="octets-without-declaration"),
    ],
)
def test_content(wire: bytes, content: bytes, options: ServerOptions, sizes: list[int]) -> None:
    session = in_state(RCPTED, options)
    session.play(cut(wire, sizes))
    assert session.messages == [content]
    assert session.events[-1] == MessageEnd(len(content))


@pytest.mark.parametrize("setting", BareNewline, ids=attrgetter("name"))
def test_binary_content_is_passed_on_octet_for_octet(setting: BareNewline) -> None:
    content = bytes(range(256)) + b"\r\n.\r\n\r\r\n\n\r"
    session = in_state(READY, replace(OPTIONS, bare_newline=setting))
    session.feed(BINARY + RCPT)
    for at, octet in enumerate(content):
        session.feed(b"BDAT 1%s\r\n%c" % (b" LAST" if at == len(content) - 1 else b"", octet))
    assert session.messages == [content]


def test_a_chunk_larger_than_the_buffer() -> None:
    chunk = b"QUIT\r\n" * 100_000
    session = in_state(RCPTED)
    session.play(cut(b"BDAT %d LAST\r\n" % len(chunk) + chunk + b"NOOP\r\n", [200_000]))
    assert codes(session.output) == ["250 2.0.0", "250 2.0.0"]
    assert session.messages == [chunk]


@pytest.mark.parametrize("octets", [16 << 20, (16 << 20) + 1], ids=["16-MiB", "one-more"])
def test_without_a_limit_a_chunk_may_be_of_any_size(octets: int) -> None:
    """Only what is thrown away has a bound."""
    session = in_state(RCPTED, NO_LIMIT)
    session.play(cut(b"BDAT %d LAST\r\n" % octets + b"x" * octets + b"NOOP\r\n", [200_000]))
    assert codes(session.output) == ["250 2.0.0", "250 2.0.0"]
    assert len(session.messages[0]) == octets


def test_unwanted_chunk_too_big_to_be_thrown_away() -> None:
    session = in_state(RCPTED, NO_LIMIT, want_no_data)
    session.feed(b"BDAT %d LAST\r\n" % ((16 << 20) + 1))
    assert session.lost == catalogue.MESSAGE_TOO_BIG
    assert session.events[-1] == ConnectionClosed(CloseReason.ERROR)


# What the embedder is told


def test_events_of_a_message_in_two_chunks() -> None:
    session = in_state(RCPTED)
    session.feed(ONE + WHOLE)
    begun, answered, end = session.events[-3:]
    assert begun == DataBegun(DataCommand.BDAT)
    assert isinstance(answered, CommandAnswered)
    assert (answered.verb, answered.reply) == (Verb.BDAT, catalogue.CHUNK_OK)
    assert end == MessageEnd(12)
    assert session.messages == [QUIT * 2]


def test_mail_event_names_the_body() -> None:
    session = in_state(READY)
    session.feed(BINARY)
    event = session.events[-1]
    assert isinstance(event, MailFrom)
    assert event.body is BodyType.BINARY_MIME


def test_a_message_refused_before_it_began() -> None:
    session = in_state(RCPTED, SMALL)
    session.feed(b"BDAT 11 LAST\r\n12345678901")
    assert not any(isinstance(event, DataBegun) for event in session.events)
    assert isinstance(session.events[-1], MessageRefused)
    assert session.messages == []


def test_first_chunk_is_read_only_after_the_answer() -> None:
    """And what is answered is the message: no reply goes out before the octets came."""
    connection = in_state(RCPTED).connection
    connection.receive_data(ONE)
    begun = connection.next_event()
    assert isinstance(begun, DataBegun)
    waits = [(connection.state, connection.waiting_for)]
    assert connection.accept(begun) == b""
    waits.append((connection.state, connection.waiting_for))
    assert connection.next_event() == MessageChunk(QUIT)
    answered = connection.next_event()
    assert isinstance(answered, CommandAnswered)
    assert codes(answered.to_send) == ["250 2.0.0"]
    waits.append((connection.state, connection.waiting_for))
    assert waits == [(RCPTED, Waiting.ANSWER), (RCPTED, Waiting.DATA), (CHUNKING, Waiting.COMMAND)]


@pytest.mark.parametrize("reply", [catalogue.SHUTTING_DOWN, catalogue.BARE_NEWLINE_CLOSE], ids=attrgetter("code"))
def test_closing_answer_to_the_first_chunk_waits_for_nothing(reply: Reply) -> None:
    assert reply.outcome is Outcome.CLOSE
    session = in_state(RCPTED, judge=lambda event: reply if isinstance(event, DataBegun) else None)
    assert codes(session.feed(b"BDAT 1000\r\n")) == [" ".join(reply.text.split()[:2])]
    assert session.events[-1] == ConnectionClosed(CloseReason.REPLY)


def test_first_chunk_takes_no_250() -> None:
    """As DATA takes none: one answer fits both commands."""
    connection = in_state(RCPTED).connection
    connection.receive_data(ONE)
    begun = connection.next_event()
    assert isinstance(begun, DataBegun)
    with pytest.raises(LocalProtocolError, match="DataBegun"):
        connection.accept(begun, catalogue.OK)
    assert connection.accept(begun) == b""


# How it ends


@pytest.mark.parametrize(
    ("state", "wire"),
    [
        pytest.param(RCPTED, b"BDAT 10\r\n12345", id="within-the-first"),
        pytest.param(RCPTED, b"BDAT 10 LAST\r\n123456789", id="an-octet-before-the-end"),
        pytest.param(CHUNKING, b"BDAT 10 LAST\r\n", id="before-the-last"),
        pytest.param(CHUNKING, b"", id="between"),
        pytest.param(CHUNKING, b"BDAT 0 LAS", id="within-the-command"),
        pytest.param(REFUSED, b"BDAT 10 LAST\r\n12345", id="within-a-refused-one"),
        pytest.param(READY, b"BDAT 10 LAST\r\n12345", id="within-an-unwanted-one"),
    ],
)
def test_end_of_file_delivers_nothing(state: State, wire: bytes) -> None:
    """S6."""
    session = in_state(state)
    session.play([*([wire] if wire else []), b""])
    assert session.messages == []
    assert codes(session.output) == []
    assert session.events[-1] == ConnectionClosed(CloseReason.EOF)


def test_refused_messages_count_once() -> None:
    session = in_state(READY, replace(OPTIONS, max_messages=2))
    for _ in range(2):
        session.feed(MAIL + RCPT + BARE + ONE + LAST)
    session.output.clear()
    assert codes(session.feed(MAIL)) == ["421 4.7.0"]


def test_many_small_chunks_are_no_recursion() -> None:
    session = in_state(RCPTED)
    session.feed(b"BDAT 0\r\n" * 5000)
    assert session.connection.state is CHUNKING
    session = in_state(REFUSED)
    assert codes(session.feed(b"BDAT 0\r\n" * 5000)) == ["550 5.5.2"] * 5000


def test_binarymime_needs_chunking() -> None:
    with pytest.raises(LocalProtocolError, match="CHUNKING"):
        replace(OPTIONS, extensions=frozenset({Extension.BINARYMIME}))


def test_refusal_of_one_message_is_not_that_of_the_next() -> None:
    verdicts = iter([catalogue.LOCAL_ERROR])
    session = Session(OPTIONS, lambda event: next(verdicts, None) if isinstance(event, DataBegun) else None)
    session.feed(EHLO + MAIL + RCPT)
    assert codes(session.feed(ONE + LAST + MAIL + RCPT + ONE + LAST)) == [
        "451 4.3.0",
        "451 4.3.0",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
        "250 2.0.0",
    ]
