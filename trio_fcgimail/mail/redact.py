"""Keeping a password out of what is logged, although the script that was given it may print it."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import replace
from typing import Final
from urllib.parse import quote, quote_plus

from trio_fcgimail.mail.verdict import MAX_STDERR_OCTETS, Answer, Stage, Unexpected, Verdict, find_loss, judge
from trio_fcgimail.smtp import Reply, Secret, catalogue

HIDDEN: Final = b"[password]"
_TRACE_OCTETS: Final = 15  # of an argument, in PHP's traces: zend.exception_string_param_max_len as shipped
_FEWEST_BASE64: Final = 4  # ours: what is shorter would be found in any text
_CUT_ARGUMENT: Final = re.compile(rb"'([^'\r\n]+)\.\.\.'")  # of a trace, with another setting

# What may stand in place of the words of a script that cannot be shown; the codes are all that AUTH has.
_PLAIN_REPLIES: Final = {
    reply.code: reply
    for reply in (
        catalogue.AUTHENTICATED,
        catalogue.LOCAL_ERROR_CLOSING,
        catalogue.AUTH_FAILED_FOR_NOW,
        catalogue.BAD_CREDENTIALS,
    )
}


def hide_password(text: bytes, password: Secret) -> bytes:
    """``text`` with ``[password]`` wherever the password stands: as it is, or as scripts and PHP would write it.

    That is: escaped for HTML, JSON, a query string or a PHP string, in base64 (alone or as a part of more), and cut as
    in a trace of PHP. Cut elsewhere it is not found, so ``text`` should be whole.
    """
    plain = password.reveal().encode()
    for form in _forms(plain):
        text = text.replace(form, HIDDEN)

    def hide_cut(match: re.Match[bytes]) -> bytes:
        return b"'" + HIDDEN + b"'" if plain.startswith(match[1]) else match[0]

    return _CUT_ARGUMENT.sub(hide_cut, text)


def hide_in_stderr(stderr: bytes, password: Secret) -> bytes:
    """STDERR as it is kept of a script, without the password. Of more than is kept nothing is left.

    What was cut may be cut within the password, where nobody finds it.
    """
    if len(stderr) >= MAX_STDERR_OCTETS:
        return b"%d octets or more, which are not shown beside a password" % MAX_STDERR_OCTETS
    return hide_password(stderr, password)


def judge_login(answer: Answer, password: Secret) -> Verdict:
    """Read the answer of the auth script to a password, which no text of the verdict shows.

    The answer means what it says. Where it would mean something else without the password in it, its own words are left
    out.
    """
    verdict = _judge(answer)
    if len(answer.stderr) >= MAX_STDERR_OCTETS and find_loss(answer.stderr):
        return replace(verdict, reason="PHP says on STDERR that it died, or that it dropped input")
    output = hide_password(answer.output, password)
    shown = _judge(replace(answer, output=output, stderr=hide_in_stderr(answer.stderr, password)))
    return replace(verdict, reply=_reply_of(verdict, shown), reason=shown.reason)


def _judge(answer: Answer) -> Verdict:
    return judge(Stage.AUTH, answer, unexpected=Unexpected.TEMPFAIL, queue_id="")


def _reply_of(verdict: Verdict, shown: Verdict) -> Reply:
    alike = (shown.meaning, shown.reply.code) == (verdict.meaning, verdict.reply.code)
    return shown.reply if alike else _PLAIN_REPLIES[verdict.reply.code]


def _forms(plain: bytes) -> list[bytes]:
    """Every way of writing it that is looked for, the longest first, as one may be a part of another."""
    text = plain.decode()
    slashes = re.sub(rb"(['\"\\])", rb"\\\1", plain)
    forms = {
        plain,
        slashes,
        re.sub(rb"(['\\])", rb"\\\1", plain),  # var_export, and PHP's traces
        quote(text, safe="").encode(),
        quote_plus(text).encode(),
        html.escape(text).encode(),
        html.escape(text).replace("&#x27;", "&#039;").encode(),  # as htmlspecialchars has it
        json.dumps(text)[1:-1].encode(),
        json.dumps(text)[1:-1].replace("/", "\\/").encode(),  # as json_encode has it
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        *_in_base64(plain),
    }
    if len(plain) > _TRACE_OCTETS:
        forms.add(plain[:_TRACE_OCTETS] + b"...")
    return sorted(forms, key=len, reverse=True)


def _in_base64(plain: bytes) -> list[bytes]:
    """The characters that are its own, whatever is encoded before and behind it, and all of it alone."""
    found = [base64.b64encode(plain)]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + plain)
        first = -(-before * 8 // 6)  # the characters of which an octet before it has a part
        own = encoded[first : (before + len(plain)) * 8 // 6]
        if len(own) >= _FEWEST_BASE64:
            found += [own, own.replace(b"+", b"-").replace(b"/", b"_")]
    return found
