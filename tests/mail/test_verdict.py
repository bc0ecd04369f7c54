"""What a script's answer means: the table of docs/scripts.md, row by row, and what holds for any answer."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.mail.support import QUEUE_ID
from trio_fcgimail.mail import MAX_ANSWER_OCTETS, Answer, Meaning, Stage, Unexpected, Verdict, judge

ACCEPTED, DISCARDED, REFUSED, FAILED = Meaning.ACCEPTED, Meaning.DISCARDED, Meaning.REFUSED, Meaning.FAILED
VALIDATE, SAVE = Stage.VALIDATE, Stage.SAVE
BOM: Final = b"\xef\xbb\xbf"

QUEUED: Final = f"250 2.0.0 OK: queued as {QUEUE_ID}\r\n".encode()
REJECTED: Final = b"554 5.3.0 Message not accepted\r\n"


class Usual(Enum):
    """What is told when the script does not say it itself; each stage has its own."""

    TAKEN = "it passes"
    REFUSAL = "other words"
    FAILURE = "nothing, or no answer"


TAKEN, REFUSAL, FAILURE = Usual.TAKEN, Usual.REFUSAL, Usual.FAILURE
LOCAL_ERROR: Final = b"451 4.3.0 Local error; try again later\r\n"
USUAL: Final = {
    Stage.CONNECT: {
        TAKEN: b"250 2.0.0 OK\r\n",  # never sent: a greeting is 220
        REFUSAL: b"554 5.7.1 No service for you\r\n",
        FAILURE: b"421 4.3.0 Local error; closing\r\n",
    },
    Stage.HELO: {TAKEN: b"250 2.0.0 OK\r\n", REFUSAL: b"550 5.7.1 Not accepted\r\n", FAILURE: LOCAL_ERROR},
    Stage.AUTH: {
        TAKEN: b"235 2.7.0 Authentication succeeded\r\n",
        REFUSAL: b"535 5.7.8 Authentication credentials invalid\r\n",
        FAILURE: b"454 4.7.0 Temporary authentication failure\r\n",
    },
    Stage.MAIL: {TAKEN: b"250 2.1.0 Sender OK\r\n", REFUSAL: b"550 5.7.1 Not accepted\r\n", FAILURE: LOCAL_ERROR},
    Stage.VALIDATE: {
        TAKEN: b"250 2.1.5 Recipient OK\r\n",
        REFUSAL: b"550 5.1.1 No such user\r\n",
        FAILURE: LOCAL_ERROR,
    },
    Stage.SAVE: {FAILURE: LOCAL_ERROR},
}


@dataclass(frozen=True, slots=True)
class Row:
    """An answer, and what it means to a stage."""

    id: str
    output: bytes
    meaning: Meaning
    reply: bytes | Usual
    status: int = 200
    stderr: bytes = b""


def queued_as(identifier: str) -> bytes:
    return f"250 2.0.0 OK: queued as {identifier}\r\n".encode()


def ask(
    stage: Stage,
    output: bytes,
    *,
    status: int = 200,
    stderr: bytes = b"",
    unexpected: Unexpected = Unexpected.TEMPFAIL,
) -> Verdict:
    return judge(stage, Answer(status, output, stderr), unexpected=unexpected, queue_id=QUEUE_ID)


def check(stage: Stage, row: Row, unexpected: Unexpected = Unexpected.TEMPFAIL) -> None:
    verdict = ask(stage, row.output, status=row.status, stderr=row.stderr, unexpected=unexpected)
    expected = row.reply if isinstance(row.reply, bytes) else USUAL[stage][row.reply]
    assert (verdict.meaning, verdict.reply.render(utf8=True)) == (row.meaning, expected)


# What makes a verdict none: each starts a new line, or a new page, for somebody.
CONTROLS: Final = [
    ("form-feed", b"\x0c"),
    ("blank-form-feed", b" \x0c"),
    ("vertical-tab", b" a\x0b"),
    ("nul", b" \0"),
    ("group-separator", b"\x1d"),
    ("escape", b" \x1b"),
    ("nel", b" \xc2\x85"),
    ("line-separator", " \u2028".encode()),
    ("paragraph-separator", "\u2029".encode()),
]

PASSING_ROWS: Final = [  # to all stages but save
    Row("passed", b"PASSED", ACCEPTED, TAKEN),
    Row("pass", b"PASS", ACCEPTED, TAKEN),
    Row("status-299", b"PASSED", ACCEPTED, TAKEN, status=299),
    Row("passed-with-words", b"PASSED by the book", ACCEPTED, TAKEN),
    Row("pass-tab-words", b"PASS\tfine", ACCEPTED, TAKEN),
    Row("white-space-around", b" \t\r\n\x0b\x0cPASSED \r\n\r\n", ACCEPTED, TAKEN),
    Row("bom", BOM + b"PASSED", ACCEPTED, TAKEN),
    Row("white-space-bom-white-space", b"\n" + BOM + b"\r\nPASSED\n", ACCEPTED, TAKEN),
    Row("crlf", b"PASSED\r\n", ACCEPTED, TAKEN),
    Row("harmless-stderr", b"PASSED", ACCEPTED, TAKEN, stderr=b"PHP message: looked it up"),
    Row("warning-on-stderr", b"PASSED", ACCEPTED, TAKEN, stderr=b"PHP message: PHP Warning:  Undefined variable $x"),
    Row("lower-case", b"passed", REFUSED, REFUSAL),
    Row("glued-word", b"PASSEDxyz", REFUSED, REFUSAL),
    Row("other-words", b"who is that?", REFUSED, REFUSAL),
    Row("other-words-in-lines", b"who\nis\nthat?", REFUSED, REFUSAL),
    Row("2xx-is-no-verdict", b"250 OK", REFUSED, REFUSAL),
    Row("3xx-is-no-verdict", b"354 go on", REFUSED, REFUSAL),
    Row("verdict-not-first", b"well\nPASSED", REFUSED, REFUSAL),
    Row("not-utf-8", b"\xff\xfe", REFUSED, REFUSAL),
    Row("line-behind-passed", b"PASSED\nreally", FAILED, FAILURE),
    Row("cr-line-behind-passed", b"PASSED\rreally", FAILED, FAILURE),
    Row("reply-behind-passed", b"PASSED\n550 no", FAILED, FAILURE),
    *(Row(f"behind-passed-{name}", b"PASSED" + octets + b"x", FAILED, FAILURE) for name, octets in CONTROLS),
    Row("passed-twice", b"PASSED\nPASSED", FAILED, FAILURE),
    Row("saved", b"SAVED", FAILED, FAILURE),
    Row("saved-id", b"SAVED id=1", FAILED, FAILURE),
    Row("discard", b"DISCARD", FAILED, FAILURE),
]

SAVE_ROWS: Final = [
    Row("saved", b"SAVED", ACCEPTED, QUEUED),
    Row("saved-with-words", b"SAVED in the attic", ACCEPTED, QUEUED),
    Row("saved-crlf", b"SAVED\r\n", ACCEPTED, QUEUED),
    Row("saved-bom", BOM + b"SAVED\n", ACCEPTED, QUEUED),
    Row("saved-id", b"SAVED id=42", ACCEPTED, queued_as("42")),
    Row("saved-id-all-kinds", b"SAVED id=aZ0._-", ACCEPTED, queued_as("aZ0._-")),
    Row("saved-id-then-words", b"SAVED id=42 in the attic", ACCEPTED, queued_as("42")),
    Row("saved-words-then-id", b"SAVED as id=42", ACCEPTED, queued_as("42")),
    Row("saved-tab-id", b"SAVED\tid=42", ACCEPTED, queued_as("42")),
    Row("saved-id-of-64", b"SAVED id=" + b"x" * 64, ACCEPTED, queued_as("x" * 64)),
    Row("id-of-65", b"SAVED id=" + b"x" * 65, ACCEPTED, QUEUED),
    Row("id-empty", b"SAVED id=", ACCEPTED, QUEUED),
    Row("id-with-slash", b"SAVED id=a/b", ACCEPTED, QUEUED),
    Row("id-not-ascii", "SAVED id=ä".encode(), ACCEPTED, QUEUED),
    Row("id-within-a-word", b"SAVED void=1", ACCEPTED, QUEUED),
    Row("discard", b"DISCARD", DISCARDED, QUEUED),
    Row("discard-with-words", b"DISCARD spam", DISCARDED, QUEUED),
    Row("other-words", b"could not store it", FAILED, FAILURE),
    Row("glued-word", b"SAVEDxx", FAILED, FAILURE),
    Row("lower-case", b"saved", FAILED, FAILURE),
    Row("passed", b"PASSED", FAILED, FAILURE),
    Row("line-behind-saved", b"SAVED\noops", FAILED, FAILURE),
    Row("line-behind-discard", b"DISCARD\noops", FAILED, FAILURE),
    Row("id-with-control", b"SAVED id=a\0b", FAILED, FAILURE),
    *(Row(f"behind-saved-{name}", b"SAVED" + octets + b"x", FAILED, FAILURE) for name, octets in CONTROLS),
    Row("control-behind-discard", b"DISCARD x\x0cy", FAILED, FAILURE),
    Row("saved-twice", b"SAVED\nSAVED", FAILED, FAILURE),
    Row("550-is-not-about-a-user", b"550 no", REFUSED, b"550 5.7.1 no\r\n"),
    Row("550-of-its-own", b"550 5.1.1 no", REFUSED, b"550 5.1.1 no\r\n"),
]

# To all stages but connect and auth
REPLY_ROWS: Final = [
    Row("code-enhanced-text", b"554 5.6.0 bad content", REFUSED, b"554 5.6.0 bad content\r\n"),
    Row("code-text", b"554 bad content", REFUSED, b"554 5.7.1 bad content\r\n"),
    Row("code-enhanced", b"452 4.2.2", REFUSED, b"452 4.2.2 Try again later\r\n"),
    Row("code-blank", b"552 ", REFUSED, b"552 5.2.2 Refused\r\n"),
    Row("tab", b"450\tbusy", REFUSED, b"450 4.2.0 busy\r\n"),
    Row("blanks", b"554   5.6.0   bad content  ", REFUSED, b"554 5.6.0 bad content\r\n"),
    Row("bom-crlf", BOM + b"450 4.2.1 busy\r\n", REFUSED, b"450 4.2.1 busy\r\n"),
    Row("wrong-class", b"450 5.2.1 busy", REFUSED, b"450 4.2.0 busy\r\n"),
    Row("class-of-success", b"554 2.0.0 queued", REFUSED, b"554 5.7.1 queued\r\n"),
    Row("leading-zeros", b"554 5.006.00 bad", REFUSED, b"554 5.6.0 bad\r\n"),
    Row("not-quite-enhanced", b"554 5.7.1000 bad", REFUSED, b"554 5.7.1 5.7.1000 bad\r\n"),
    Row("an-address-is-not-enhanced", b"554 192.0.2.1 is listed", REFUSED, b"554 5.7.1 192.0.2.1 is listed\r\n"),
    Row("no-default-of-its-own", b"455 busy", REFUSED, b"455 4.0.0 busy\r\n"),
    Row(
        "lines",
        b"554-5.6.0 one\r\n554-5.6.0 two\r\n554 5.6.0 three",
        REFUSED,
        b"554-5.6.0 one\r\n554-5.6.0 two\r\n554 5.6.0 three\r\n",
    ),
    Row("lines-enhanced-once", b"554-5.6.0 one\n554 two", REFUSED, b"554-5.6.0 one\r\n554 5.6.0 two\r\n"),
    Row("lines-enhanced-later", b"554-4.6.0 one\n554 5.6.3 two", REFUSED, b"554-5.6.3 one\r\n554 5.6.3 two\r\n"),
    Row("lines-without-text", b"554-\n554", REFUSED, b"554 5.7.1 Refused\r\n"),
    Row("twenty-lines", b"554-x\n" * 19 + b"554 x", REFUSED, b"554-5.7.1 x\r\n" * 19 + b"554 5.7.1 x\r\n"),
    Row("421-closes", b"421 bye", REFUSED, b"421 4.3.2 bye\r\n"),
    Row("521-closes", b"521 bye", REFUSED, b"521 5.3.2 bye\r\n"),
    Row("459-is-legal", b"459 x", REFUSED, b"459 4.0.0 x\r\n"),
    Row("460-is-not", b"460 x", REFUSED, b"451 4.3.0 x\r\n"),
    Row("499-is-not", b"499 4.1.2 x", REFUSED, b"451 4.1.2 x\r\n"),
    Row("599-is-not", b"599 x", REFUSED, b"554 5.7.1 x\r\n"),
    Row("controls", b"554 5.6.0 a\0\x1b[31mb\x7fc\x0bd", REFUSED, b"554 5.6.0 a [31mb c d\r\n"),
    Row("unicode-line-ends", "554 5.6.0 a\u2028b\x85c".encode(), REFUSED, b"554 5.6.0 a b c\r\n"),
    Row("utf-8", "554 5.6.0 gr\u00fcn".encode(), REFUSED, "554 5.6.0 gr\u00fcn\r\n".encode()),
    Row("not-utf-8", b"554 5.6.0 gr\xfcn", REFUSED, "554 5.6.0 gr\ufffdn\r\n".encode()),
    Row("over-long", b"554 5.6.0 " + b"x" * 401, REFUSED, b"554 5.6.0 " + b"x" * 397 + b"...\r\n"),
    Row(
        "over-long-utf-8",
        b"554 5.6.0 " + "\u20ac".encode() * 200,
        REFUSED,
        b"554 5.6.0 " + "\u20ac".encode() * 133 + b"\r\n",
    ),
]

# RFC 5321 3.1 and RFC 7504: what may stand in place of a greeting
CONNECT_ROWS: Final = [
    Row("554", b"554 5.7.0 go away", REFUSED, b"554 5.7.0 go away\r\n"),
    Row("521", b"521 nobody here", REFUSED, b"521 5.3.2 nobody here\r\n"),
    Row("421", b"421 4.7.1 later", REFUSED, b"421 4.7.1 later\r\n"),
    Row("421-alone", b"421", REFUSED, b"421 4.3.2 Try again later\r\n"),
    Row("another-5xx", b"550 5.7.25 no name", REFUSED, b"554 5.7.25 no name\r\n"),
    Row("another-5xx-bare", b"550 no", REFUSED, b"554 5.7.1 no\r\n"),
    Row("another-4xx", b"450 4.7.1 greylisted", REFUSED, b"421 4.7.1 greylisted\r\n"),
    Row("another-4xx-bare", b"451 busy", REFUSED, b"421 4.3.2 busy\r\n"),
    Row("lines", b"550-one\n550 two", REFUSED, b"554-5.7.1 one\r\n554 5.7.1 two\r\n"),
]

# RFC 4954 6
AUTH_ROWS: Final = [
    Row("535", b"535 5.7.8 no", REFUSED, b"535 5.7.8 no\r\n"),
    Row("535-bare", b"535", REFUSED, b"535 5.7.8 Refused\r\n"),
    Row("454", b"454 directory is down", REFUSED, b"454 4.7.0 directory is down\r\n"),
    Row("421", b"421 too often", REFUSED, b"421 4.3.2 too often\r\n"),
    Row("another-5xx", b"550 5.7.1 locked", REFUSED, b"535 5.7.1 locked\r\n"),
    Row("521-does-not-close", b"521 locked", REFUSED, b"535 5.7.8 locked\r\n"),
    Row("another-4xx", b"432 4.7.12 change it", REFUSED, b"454 4.7.12 change it\r\n"),
    Row("another-4xx-bare", b"450 later", REFUSED, b"454 4.7.0 later\r\n"),
    Row("wrong-class", b"535 4.7.8 no", REFUSED, b"535 5.7.8 no\r\n"),
    Row("lines", b"535-one\n535 two", REFUSED, b"535-5.7.8 one\r\n535 5.7.8 two\r\n"),
]

# 550 is about a recipient to validate alone.
OF_ONE_STAGE: Final = [
    *((Stage.CONNECT, row) for row in CONNECT_ROWS),
    *((Stage.AUTH, row) for row in AUTH_ROWS),
    *((stage, Row("550", b"550", REFUSED, b"550 5.7.1 Refused\r\n")) for stage in (Stage.HELO, Stage.MAIL, SAVE)),
    (VALIDATE, Row("550", b"550", REFUSED, b"550 5.1.1 Refused\r\n")),
    *((stage, Row("450", b"450", REFUSED, b"450 4.2.0 Try again later\r\n")) for stage in (VALIDATE, SAVE)),
]

# Half a reply is a mistake of the script: it may refuse nothing for ever, at no stage.
HALF_ROWS: Final = [
    Row("mixed-codes", b"554-one\n550 two", FAILED, FAILURE),
    Row("no-dash", b"554 one\n554 two", FAILED, FAILURE),
    Row("dash-on-the-last", b"554-one", FAILED, FAILURE),
    Row("words-behind", b"554 one\nand two", FAILED, FAILURE),
    Row("passed-behind", b"554 one\nPASSED", FAILED, FAILURE),
    Row("saved-behind", b"450 one\nSAVED", FAILED, FAILURE),
    Row("empty-line-between", b"554-one\n\n554 two", FAILED, FAILURE),
    Row("twenty-one-lines", b"554-x\n" * 20 + b"554 x", FAILED, FAILURE),
]

FATAL_TEXT: Final = (
    b"\nFatal error: Uncaught Exception: no in /s.php:3\nStack trace:\n#0 {main}\n  thrown in /s.php on line 3"
)
FATAL_HTML: Final = (
    b"<br />\n<b>Fatal error</b>:  Uncaught Error: no in /s.php:3 thrown in <b>/s.php</b> on line <b>3</b><br />\n"
)
WARNING_TEXT: Final = b"\nWarning: Undefined variable $x in /s.php on line 3\n"
WARNING_HTML: Final = b"<br />\n<b>Warning</b>:  Undefined variable $x in <b>/s.php</b> on line <b>3</b><br />\n"
DROPPED: Final = {
    "post-size": b"PHP message: PHP Warning:  Unknown: POST Content-Length of 9 bytes exceeds the limit of 8",
    "post-longer-than-said": b"PHP Warning:  Unknown: Actual POST length does not match Content-Length, and ...",
    "post-not-buffered": b"PHP Warning:  Unknown: POST data can't be buffered; all data discarded in Unknown on line 0",
    "input-variables": b"PHP Warning:  PHP Request Startup: Input variables exceeded 1000.",
    "nesting": b"PHP Warning:  Unknown: Input variable nesting level exceeded 64.",
    "parts": b"PHP Warning:  PHP Request Startup: Multipart body parts limit exceeded 1020.",
    "no-boundary": b"PHP Warning:  Unknown: Missing boundary in multipart/form-data POST data in Unknown on line 0",
    "bad-boundary": b"PHP Warning:  Unknown: Invalid boundary in multipart/form-data POST data in Unknown on line 0",
    "long-boundary": b"PHP Warning:  Unknown: Boundary too large in multipart/form-data POST data in Unknown on line 0",
    "part-head": b"PHP Warning:  Unknown: File Upload Mime headers garbled in Unknown on line 0",
    "uploads": b"PHP Warning:  Maximum number of allowable file uploads has been exceeded in Unknown on line 0",
    "no-temporary-file": b"PHP Warning:  File upload error - unable to create a temporary file in Unknown on line 0",
    "no-temporary-stream": b"PHP Notice:  Unable to create temporary file, Check permissions",
    "fatal": b"PHP message: PHP Fatal error:  Uncaught Exception in /s.php:3",
    "parse": b"PHP message: PHP Parse error:  syntax error in /s.php on line 3",
    "catchable": b"PHP Catchable fatal error:  Argument 1 passed to f() must be an instance of X",
    "recoverable": b"PHP Recoverable fatal error:  Object of class X could not be converted",
    "glued": b"PHP message: hello; PHP message: PHP Fatal error:  gone",
}

# Failures to every stage, whatever ``unexpected_output`` says: it is not the script that speaks.
FAILURE_ROWS: Final = [
    Row("empty", b"", FAILED, FAILURE),
    Row("white-space", b" \r\n\t\n", FAILED, FAILURE),
    Row("bom-alone", BOM, FAILED, FAILURE),
    Row("bom-and-white-space", b"\n" + BOM + b"\r\n", FAILED, FAILURE),
    *(
        Row(f"status-{status}-{words.decode().lower()}", words, FAILED, FAILURE, status=status)
        for status in (100, 199, 300, 302, 404, 500, 599)
        for words in (b"PASSED", b"SAVED")
    ),
    Row("status-500-with-reply", b"550 5.1.1 no", FAILED, FAILURE, status=500),
    Row("too-long", b"SAVED " + b"x" * MAX_ANSWER_OCTETS, FAILED, FAILURE),
    Row("fatal-page", FATAL_TEXT, FAILED, FAILURE),
    Row("fatal-page-html", FATAL_HTML, FAILED, FAILURE),
    Row("fatal-page-with-a-long-message", FATAL_TEXT.replace(b"no", b"n" * 9000), FAILED, FAILURE),
    Row("parse-error-page", b"PHP Parse error:  syntax error in /s.php on line 3", FAILED, FAILURE),
    Row("fatal-behind-saved", b"SAVED" + FATAL_TEXT, FAILED, FAILURE),
    Row("fatal-behind-passed", b"PASSED" + FATAL_HTML, FAILED, FAILURE),
    Row("warning-before-passed", WARNING_TEXT + b"PASSED", FAILED, FAILURE),
    Row("warning-before-passed-html", WARNING_HTML + b"PASSED", FAILED, FAILURE),
    Row("warning-before-saved", WARNING_TEXT + b"SAVED", FAILED, FAILURE),
    Row("warning-before-reply", WARNING_TEXT + b"550 5.1.1 no", FAILED, FAILURE),
    Row("notice-alone", b"Notice: x in /s.php on line 3", FAILED, FAILURE),
    Row("strict-standards", b"\nStrict Standards:  x in /s.php on line 3\n", FAILED, FAILURE),
    Row(
        "strict-standards-html",
        b"<br />\n<b>Strict Standards</b>:  x in <b>/s.php</b> on line <b>3</b><br />\n",
        FAILED,
        FAILURE,
    ),
    Row("catchable", b"\nCatchable fatal error:  x in /s.php on line 3\n", FAILED, FAILURE),
    Row(
        "xdebug",
        b"<br />\n<font size='1'><table class='xdebug-error xe-fatal-error' dir='ltr' border='1'>\n"
        b"<tr><th>( ! )</span> Fatal error: Uncaught Error: x in /s.php on line <i>3</i></th></tr>",
        FAILED,
        FAILURE,
    ),
    Row("fatal-without-a-line", b"PHP Fatal error:  Uncaught x in /s.php:3", FAILED, FAILURE),
    Row("parse-error-cut", b"well\nPHP Parse error:  syntax err", FAILED, FAILURE),
    Row("deprecated-alone", b"Deprecated: x in /s.php on line 3", FAILED, FAILURE),
    *(
        Row(f"{name}-{words.split()[0].decode().lower()}", words, FAILED, FAILURE, stderr=line)
        for name, line in DROPPED.items()
        for words in (b"PASSED", b"SAVED", b"550 5.1.1 no")
    ),
]


PASSING: Final = [pytest.param(stage, id=stage.value) for stage in Stage if stage is not SAVE]
REPLYING: Final = [pytest.param(stage, id=stage.value) for stage in Stage if stage not in (Stage.CONNECT, Stage.AUTH)]
STAGES: Final = [pytest.param(stage, id=stage.value) for stage in Stage]


@pytest.mark.parametrize("row", PASSING_ROWS, ids=attrgetter("id"))
@pytest.mark.parametrize("unexpected", Unexpected)
@pytest.mark.parametrize("stage", PASSING)
def test_stages_before_save_answer_the_table(stage: Stage, row: Row, unexpected: Unexpected) -> None:
    check(stage, row, unexpected)  # the setting is for save only


@pytest.mark.parametrize("row", SAVE_ROWS, ids=attrgetter("id"))
def test_save_answers_the_table(row: Row) -> None:
    check(SAVE, row)


@pytest.mark.parametrize("row", REPLY_ROWS, ids=attrgetter("id"))
@pytest.mark.parametrize("unexpected", Unexpected)
@pytest.mark.parametrize("stage", REPLYING)
def test_a_reply_of_the_script_is_the_reply(stage: Stage, row: Row, unexpected: Unexpected) -> None:
    check(stage, row, unexpected)


@pytest.mark.parametrize(
    ("stage", "row"), [pytest.param(stage, row, id=f"{stage.value}-{row.id}") for stage, row in OF_ONE_STAGE]
)
@pytest.mark.parametrize("unexpected", Unexpected)
def test_a_reply_is_one_that_may_stand_there(stage: Stage, row: Row, unexpected: Unexpected) -> None:
    check(stage, row, unexpected)


@pytest.mark.parametrize("row", HALF_ROWS, ids=attrgetter("id"))
@pytest.mark.parametrize("unexpected", Unexpected)
@pytest.mark.parametrize("stage", STAGES)
def test_half_a_reply_is_a_failure(stage: Stage, row: Row, unexpected: Unexpected) -> None:
    check(stage, row, unexpected)


@pytest.mark.parametrize("row", SAVE_ROWS, ids=attrgetter("id"))
def test_save_rejects_other_words_when_told_to(row: Row) -> None:
    if row.meaning is FAILED:
        row = replace(row, meaning=REFUSED, reply=REJECTED)
    check(SAVE, row, Unexpected.REJECT)


@pytest.mark.parametrize("row", FAILURE_ROWS, ids=attrgetter("id"))
@pytest.mark.parametrize("unexpected", Unexpected)
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_is_temporary_to_every_stage(row: Row, unexpected: Unexpected, stage: Stage) -> None:
    check(stage, row, unexpected)


@pytest.mark.parametrize(
    "stderr",
    [
        pytest.param(b"PHP message: mailbox of bob exceeds the limit of 5 GB", id="quota"),
        pytest.param(b"PHP message: no fatal error today", id="words"),
        pytest.param(b"\xff\xfe\0", id="octets"),
    ],
)
def test_what_a_script_logs_itself_changes_nothing(stderr: bytes) -> None:
    assert ask(SAVE, b"SAVED", stderr=stderr).meaning is ACCEPTED


def test_words_like_those_of_php_are_a_reply_all_the_same() -> None:
    words = b"550 5.1.1 Warning: nobody on line 3"
    assert ask(VALIDATE, words).reply.render() == words + b"\r\n"


@pytest.mark.parametrize("stage", STAGES)
def test_the_reason_is_what_was_printed_in_one_clean_line(stage: Stage) -> None:
    assert ask(stage, b"leave me\x1b[2J\r\nalone").reason.endswith("leave me [2J alone")
    assert ask(stage, b"550 5.1.1 Account\xe2\x80\xa8locked").reason == "550 5.1.1 Account locked"


def test_the_reason_of_a_failure_is_what_php_said() -> None:
    reason = ask(SAVE, b"SAVED", stderr=b"PHP message: hello; " + DROPPED["fatal"]).reason
    assert reason == "PHP says on STDERR: PHP Fatal error:  Uncaught Exception in /s.php:3"
    assert ask(SAVE, b"File not found.\n", status=404).reason == "HTTP status 404: File not found."


def test_a_page_full_of_half_warnings_is_read_in_linear_time() -> None:
    page = b"Warning: \n" * (MAX_ANSWER_OCTETS // 10)
    began = time.process_time()
    assert ask(VALIDATE, page).meaning is REFUSED
    assert time.process_time() - began < 0.5


FRAGMENTS: Final = st.sampled_from(
    [b"PASS", b"PASSED", b"SAVED", b"DISCARD", b" id=x", b"550", b"451", b"299", b"5.1.1", b"4.2.2", b"-", b" ", b"\t",
     b"\r\n", b"\n", b"\r", BOM, b"\0", b"\x1b", b"\xff", "\u2028\x85".encode(), b"x" * 500, WARNING_TEXT, b"words"]
)  # fmt: skip
OUTPUTS: Final = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=12).map(b"".join)
STDERRS: Final = st.binary(max_size=20) | st.sampled_from(sorted(DROPPED.values()))
STATUSES: Final = st.just(200) | st.integers(0, 999)

VERDICT_WORDS: Final = {stage: {"PASS", "PASSED"} for stage in Stage} | {SAVE: {"SAVED", "DISCARD"}}
LEGAL_CODES: Final = {Stage.CONNECT: {250, 421, 521, 554}, Stage.AUTH: {235, 421, 454, 535}}
REPLY_WIRE: Final = re.compile(
    r"(?:[245][0-5][0-9]-[245]\.\d{1,3}\.\d{1,3}(?: [^\x00-\x1f\x7f-\x9f\u2028\u2029]*)?\r\n)*"
    r"[245][0-5][0-9] [245]\.\d{1,3}\.\d{1,3}(?: [^\x00-\x1f\x7f-\x9f\u2028\u2029]*)?\r\n"
)


@given(st.sampled_from(Stage), STATUSES, OUTPUTS, STDERRS, st.sampled_from(Unexpected))
@example(SAVE, 200, b"SAVED\nFatal error", b"", Unexpected.TEMPFAIL)
def test_any_answer_has_a_verdict_and_a_sound_reply(
    stage: Stage, status: int, output: bytes, stderr: bytes, unexpected: Unexpected
) -> None:
    verdict = judge(stage, Answer(status, output, stderr), unexpected=unexpected, queue_id=QUEUE_ID)
    accepts = verdict.reply.code < 400
    assert accepts == (verdict.meaning in (ACCEPTED, DISCARDED))
    assert verdict.reply.code in LEGAL_CODES.get(stage, {verdict.reply.code})
    if accepts:
        text = output.decode("utf-8", "replace").strip().removeprefix("\ufeff").strip()
        assert 200 <= status <= 299
        assert stderr not in DROPPED.values()
        assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", text)
        assert text.replace("\t", " ").split(" ")[0] in VERDICT_WORDS[stage]
    for utf8 in (False, True):
        wire = verdict.reply.render(utf8=utf8)
        assert REPLY_WIRE.fullmatch(wire.decode())
        lines = wire.splitlines(keepends=True)
        assert len({line[:3] for line in lines}) == 1
        assert all(line[4:5] == line[:1] and len(line) <= 512 for line in lines)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", verdict.reason)
    assert len(verdict.reason) <= 500
