"""What a script's answer means: the table of docs/scripts.md as pure functions.

Whatever is not clearly a verdict is a temporary failure, so that a mistake of a script or of PHP never loses a mail and
never bounces one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, assert_never, final

from trio_fcgimail.mail.text import clean, cut_utf8
from trio_fcgimail.smtp import EnhancedCode, Reply, catalogue

MAX_ANSWER_OCTETS: Final = 65_536  # ours: a verdict is a line; what is longer is not read on
MAX_STDERR_OCTETS: Final = 16_384  # ours: what is kept of it for the log
LOSS_OCTETS: Final = 300  # ours: of what PHP says when it lost a request
_MAX_REPLY_LINES: Final = 20
_MAX_TEXT_OCTETS: Final = 400  # leaves room for the codes within the 512 of RFC 5321 4.5.3.1.5


class Stage(Enum):
    """What a script is asked, in the order of a session."""

    __hash__ = object.__hash__  # keys of tables, compared by identity: Enum hashes their names, in Python

    CONNECT = "connect"
    HELO = "helo"
    AUTH = "auth"
    MAIL = "mail"
    VALIDATE = "validate"
    SAVE = "save"


class Unexpected(Enum):
    """What other words of a save script lead to."""

    TEMPFAIL = "tempfail"
    REJECT = "reject"


class Meaning(Enum):
    """What came of asking a script."""

    __hash__ = object.__hash__  # likewise

    ACCEPTED = "accepted"
    DISCARDED = "discarded"
    REFUSED = "refused"
    FAILED = "failed"


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: END_REQUEST came with protocolStatus 0. Anything less is no answer at all.

    Args:
        status: of HTTP.
        output: STDOUT behind the head.
        stderr: STDERR, cut at ``MAX_STDERR_OCTETS``.
        headers: of the head, names in lower case; no verdict depends on them.
        app_status: of END_REQUEST; no verdict depends on it, as php-fpm always says 0.
    """

    status: int
    output: bytes
    stderr: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    app_status: int = 0


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the sender, and for the log why.

    Args:
        meaning: only ACCEPTED and DISCARDED come with a 2xx.
        reply: what the sender gets.
        reason: one clean line; never sent.
        identifier: what a script named the mail that it stored, the same as in the reply.
    """

    meaning: Meaning
    reply: Reply
    reason: str
    identifier: str = field(default="", compare=False)


# Of any control, TAB among them, or line end of Unicode: no word goes on behind one.
_BEHIND: Final = r"(?:[ \x00-\x1f\x7f-\x9f\u2028\u2029].*)?"
_PASSED: Final = re.compile(r"PASS(?:ED)?" + _BEHIND)
_SAVED: Final = re.compile(r"SAVED" + _BEHIND)
_DISCARD: Final = re.compile(r"DISCARD" + _BEHIND)
_NOT_IN_A_VERDICT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SAVED_ID: Final = re.compile(r"[ \t]id=([A-Za-z0-9._-]{1,64})(?=[ \t]|$)")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_REPLY_LINE: Final = re.compile(r"(?P<code>[45][0-9]{2})(?:(?P<mark>[ \t-])(?P<text>.*))?")
_REPLY_DIGITS: Final = ("4", "5")  # that it begins with
_ENHANCED: Final = re.compile(r"(?P<klass>[0-9])\.(?P<subject>[0-9]{1,3})\.(?P<detail>[0-9]{1,3})(?: +|$)")

# What PHP itself prints when something goes wrong, with html_errors on or off, always on a line of its own; a message
# of any length and " on line " with a number follow.
_BEGUN_BY_PHP: Final = re.compile(
    r"^(?:<b>)?(?:PHP )?"
    r"(?:(?:Fatal|Parse|Recoverable fatal|Catchable fatal) error|Warning|Notice|Deprecated|Strict Standards)"
    r"(?:</b>)?: ",
    re.MULTILINE,
)
_ENDED_BY_PHP: Final = re.compile(r" on line (?:<b>)?[0-9]")
# What no script would print: a line of PHP's log, cut or with a trace of its own; a page of Xdebug.
_ONLY_BY_PHP: Final = re.compile(
    r"^PHP (?:Fatal|Parse|Recoverable fatal|Catchable fatal) error: |<[a-z][^>]* class=['\"]xdebug-error", re.MULTILINE
)
# What PHP says on STDERR when it dropped a part of the request or died: the script ran on less than we sent.
_LOST_BY_PHP: Final = re.compile(
    rb"PHP (?:Fatal|Parse|Recoverable fatal|Catchable fatal) error"
    rb"|POST Content-Length of [0-9]+ bytes exceeds the limit|Actual POST length does not match Content-Length"
    rb"|POST data can't be buffered|Input variables exceeded|Input variable nesting level exceeded"
    rb"|Multipart body parts limit exceeded|File Upload Mime headers garbled"
    rb"|(?:Missing boundary|Invalid boundary|Boundary too large) in multipart/form-data POST data"
    rb"|Unable to create temporary file|unable to create a temporary file"
    rb"|Maximum number of allowable file uploads"
)

_DEFAULT_CODES: Final[Mapping[int, EnhancedCode]] = {
    421: EnhancedCode(4, 3, 2),
    535: EnhancedCode(5, 7, 8),
    450: EnhancedCode(4, 2, 0),
    451: EnhancedCode(4, 3, 0),
    452: EnhancedCode(4, 3, 1),
    454: EnhancedCode(4, 7, 0),
    521: EnhancedCode(5, 3, 2),
    550: EnhancedCode(5, 1, 1),
    551: EnhancedCode(5, 1, 6),
    552: EnhancedCode(5, 2, 2),
    553: EnhancedCode(5, 1, 3),
    554: EnhancedCode(5, 7, 1),
    556: EnhancedCode(5, 1, 10),
}
_PASSES: Final[Mapping[Stage, Reply]] = {
    Stage.AUTH: catalogue.AUTHENTICATED,
    Stage.MAIL: catalogue.SENDER_OK,
    Stage.VALIDATE: catalogue.RECIPIENT_OK,
}
_REFUSALS: Final[Mapping[Stage, Reply]] = {
    Stage.CONNECT: catalogue.NO_SERVICE,
    Stage.AUTH: catalogue.BAD_CREDENTIALS,
    Stage.VALIDATE: catalogue.NO_SUCH_USER,
}
_FAILURES: Final[Mapping[Stage, Reply]] = {
    Stage.CONNECT: catalogue.LOCAL_ERROR_CLOSING,
    Stage.AUTH: catalogue.AUTH_FAILED_FOR_NOW,
}
_POLICY: Final = EnhancedCode(5, 7, 1)
_UNEXPECTED_REJECT: Final = Reply(554, EnhancedCode(5, 3, 0), ("Message not accepted",))


def find_loss(stderr: bytes | bytearray) -> bytes:
    """The beginning of what PHP says of a lost request, ``LOSS_OCTETS`` at most; empty when it says nothing of it."""
    found = _LOST_BY_PHP.search(stderr)
    return bytes(stderr[found.start() : found.start() + LOSS_OCTETS]) if found else b""


def failed(reason: str, stage: Stage = Stage.SAVE) -> Verdict:
    """A temporary failure: no verdict of the script was to be had."""
    return Verdict(Meaning.FAILED, _FAILURES.get(stage, catalogue.LOCAL_ERROR), clean(reason, 500))


@lru_cache(maxsize=16)  # one mail has it twice: from its script, and from the chain around that
def taken(meaning: Meaning, identifier: str, reason: str) -> Verdict:
    """The mail is not the sender's any more: it was stored, or discarded on purpose."""
    reply = Reply(catalogue.OK.code, catalogue.OK.enhanced, (f"OK: queued as {identifier}",))
    return Verdict(meaning, reply, clean(reason, 500), identifier)


def judge(stage: Stage, answer: Answer, *, unexpected: Unexpected, queue_id: str) -> Verdict:
    """Read an answer.

    Args:
        unexpected: the setting ``unexpected_output``, for the save script.
        queue_id: what the sender is told unless the script names an id of its own.
    """
    text = _text_of(answer)
    if (failure := _find_failure(answer, text)) is not None:
        return failed(failure, stage)
    lines = _lines_of(text)
    if text.startswith(_REPLY_DIGITS):
        if (reply := _parse_reply(stage, lines)) is not None:
            return Verdict(Meaning.REFUSED, reply, clean(text, 500))
        if _REPLY_LINE.fullmatch(lines[0]):  # half a reply must not become a bounce that it did not ask for
            return failed(f"unexpected output: {text}", stage)
    if stage is Stage.SAVE:
        return _judge_save(lines, text, unexpected, queue_id)
    return _judge_passing(stage, lines, text)


def judge_each(answer: Answer, recipients: int, *, unexpected: Unexpected, queue_id: str) -> tuple[Verdict, ...]:
    """Read the save script's answer to a mail that came by LMTP (RFC 2033 4.2).

    As many lines as recipients, each of them a verdict, are one for each, in order. One verdict is for all.

    Args:
        recipients: how many were accepted, at least one.

    Returns:
        So many verdicts.
    """
    text = _text_of(answer)
    lines = _lines_of(text)
    if len(lines) == recipients > 1 and _find_failure(answer, text) is None:
        each = [_read_line(line, queue_id) for line in lines]
        if (verdicts := tuple(one for one in each if one is not None)) and len(verdicts) == recipients:
            return verdicts
    return (judge(Stage.SAVE, answer, unexpected=unexpected, queue_id=queue_id),) * recipients


def _read_line(line: str, queue_id: str) -> Verdict | None:
    """A line that is a verdict by itself, or None."""
    if (reply := _parse_reply(Stage.SAVE, [line])) is not None:
        return Verdict(Meaning.REFUSED, reply, clean(line, 500))
    return _read_acceptance([line], line, queue_id)


def _text_of(answer: Answer) -> str:
    return answer.output.decode("utf-8", "replace").strip().removeprefix("\ufeff").strip()


def _lines_of(text: str) -> list[str]:
    return [text] if text.isprintable() else _LINE_END.split(text)


def _find_failure(answer: Answer, text: str) -> str | None:
    """Why an answer is none, whatever its lines say."""
    if not 200 <= answer.status <= 299:
        return f"HTTP status {answer.status}: {text}"
    if len(answer.output) > MAX_ANSWER_OCTETS:
        return f"the output is longer than {MAX_ANSWER_OCTETS} octets"
    if answer.stderr and (lost := find_loss(answer.stderr)):
        return f"PHP says on STDERR: {clean(lost, 300)}"
    if not text:
        return "the output is empty"
    if _is_by_php(text):
        return f"PHP printed: {text}"
    return None


def _is_by_php(text: str) -> bool:
    if ":" not in text and "<" not in text:  # no message goes without
        return False
    begun = _BEGUN_BY_PHP.search(text)
    return bool(_ONLY_BY_PHP.search(text) or (begun and _ENDED_BY_PHP.search(text, begun.end())))


def _is_single_line(lines: Sequence[str]) -> bool:
    """Whether it can be a verdict: what starts another line for anybody may be an error message."""
    return len(lines) == 1 and not _NOT_IN_A_VERDICT.search(lines[0])


def _judge_passing(stage: Stage, lines: Sequence[str], text: str) -> Verdict:
    """The stages before save: they let pass, or do not."""
    first = lines[0]
    if _PASSED.fullmatch(first) and _is_single_line(lines):
        return Verdict(Meaning.ACCEPTED, _PASSES.get(stage, catalogue.OK), clean(text, 500))
    if _PASSED.fullmatch(first) or _SAVED.fullmatch(first) or _DISCARD.fullmatch(first):
        return failed(f"unexpected output: {text}", stage)
    return Verdict(Meaning.REFUSED, _REFUSALS.get(stage, catalogue.NOT_WELCOME), clean(text, 500))


def _read_acceptance(lines: Sequence[str], text: str, queue_id: str) -> Verdict | None:
    if _is_single_line(lines) and _SAVED.fullmatch(lines[0]):
        named = _SAVED_ID.search(lines[0])
        return taken(Meaning.ACCEPTED, named[1] if named else queue_id, text)
    if _is_single_line(lines) and _DISCARD.fullmatch(lines[0]):
        return taken(Meaning.DISCARDED, queue_id, text)
    return None


def _judge_save(lines: Sequence[str], text: str, unexpected: Unexpected, queue_id: str) -> Verdict:
    if (verdict := _read_acceptance(lines, text, queue_id)) is not None:
        return verdict
    reason = clean(f"unexpected output: {text}", 500)
    match unexpected:
        case Unexpected.TEMPFAIL:
            return failed(reason)
        case Unexpected.REJECT:
            return Verdict(Meaning.REFUSED, _UNEXPECTED_REJECT, reason)
        case _:
            assert_never(unexpected)


def _parse_reply(stage: Stage, lines: Sequence[str]) -> Reply | None:
    """The lines as a reply of one code, ``-`` behind it on all but the last (RFC 5321 4.2); None when they are none."""
    found = [_REPLY_LINE.fullmatch(line) for line in lines]
    matches = [one for one in found if one is not None]
    if len(matches) != len(lines) or len(lines) > _MAX_REPLY_LINES or len({one["code"] for one in matches}) != 1:
        return None
    if [one["mark"] == "-" for one in matches] != [True] * (len(matches) - 1) + [False]:
        return None
    code = _legal_code(stage, int(matches[0]["code"]))
    enhanced: EnhancedCode | None = None
    texts: list[str] = []
    for one in matches:
        text = (one["text"] or "").strip()
        if given := _ENHANCED.match(text):
            text = text[given.end() :]
            if enhanced is None and int(given["klass"]) == code // 100:
                enhanced = EnhancedCode(code // 100, int(given["subject"]), int(given["detail"]))
        texts.append(cut_utf8(clean(text, _MAX_TEXT_OCTETS), _MAX_TEXT_OCTETS))
    if not any(texts):
        texts = ["Refused" if code >= 500 else "Try again later"]
    return Reply(code, enhanced or _default_code(stage, code), tuple(texts))


def _legal_code(stage: Stage, code: int) -> int:
    """A code that may stand there: another one still says clearly whether to try again.

    RFC 5321 4.2 knows second digits 0 to 5; a greeting is 421, 521 or 554 (3.1, RFC 7504), and RFC 4954 6 has those of
    AUTH.
    """
    match stage:
        case Stage.CONNECT:
            temporary, permanent, legal = 421, 554, code in (421, 521, 554)
        case Stage.AUTH:
            temporary, permanent, legal = 454, 535, code in (421, 454, 535)
        case _:
            temporary, permanent, legal = 451, 554, code % 100 < 60
    return code if legal else (permanent if code >= 500 else temporary)


def _default_code(stage: Stage, code: int) -> EnhancedCode:
    if stage is not Stage.VALIDATE and code == 550:  # it cannot be about a single recipient
        return _POLICY
    return _DEFAULT_CODES.get(code, EnhancedCode(code // 100, 0, 0))
