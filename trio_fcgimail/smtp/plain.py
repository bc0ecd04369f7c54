"""MAIL and RCPT as nearly every client writes them, read by one expression: a short way to what commands.py comes to.

It never refuses anything. What it does not know, a quoted local part, a source route, an address literal, UTF-8, other
parameters, small letters, is left to the grammar.
"""

from __future__ import annotations

import re
from typing import Final

from trio_fcgimail.smtp import grammar
from trio_fcgimail.smtp.address import Mailbox
from trio_fcgimail.smtp.events import MailFrom, RcptTo
from trio_fcgimail.smtp.options import Extension
from trio_fcgimail.smtp.parameters import BodyType

MAIL: Final = b"MAIL "  # how the lines begin that are read here
RCPT: Final = b"RCPT "

_MAILBOX: Final = rf"({grammar.ASCII_DOT_STRING})@({grammar.ASCII_DOMAIN})"
_MAIL_LINE: Final = re.compile(
    rf"MAIL FROM:<(?:{_MAILBOX})?>(?: SIZE=([0-9]{{1,20}}))?(?: BODY=(7BIT|8BITMIME))?".encode()
)
_RCPT_LINE: Final = re.compile(rf"RCPT TO:<{_MAILBOX}>".encode())
_MAX_PATH_OCTETS: Final = grammar.MAX_PATH_OCTETS - 3  # "<", "@" and ">"
_BODIES: Final = {b"7BIT": BodyType.SEVEN_BIT, b"8BITMIME": BodyType.EIGHT_BIT_MIME}
_SIZE: Final = Extension.SIZE
_EIGHT_BIT_MIME: Final = Extension.EIGHT_BIT_MIME


def read_mail(line: bytes, extensions: frozenset[Extension]) -> MailFrom | None:
    """A line of MAIL, or None when the grammar has to look at it."""
    if (found := _MAIL_LINE.fullmatch(line)) is None:
        return None
    local, domain, size, body = found.groups()
    path = None
    if local is not None and (path := _mailbox(local, domain)) is None:
        return None
    if (size is not None and _SIZE not in extensions) or (body is not None and _EIGHT_BIT_MIME not in extensions):
        return None
    return MailFrom(
        path=path,
        declared_octets=None if size is None else int(size),
        body=None if body is None else _BODIES[body],
        smtputf8=False,
        dsn_return=None,
        envelope_id=None,
    )


def read_rcpt(line: bytes) -> RcptTo | None:
    """A line of RCPT, or None when the grammar has to look at it."""
    if (found := _RCPT_LINE.fullmatch(line)) is None:
        return None
    path = _mailbox(*found.groups())
    return None if path is None else RcptTo(path)


def _mailbox(local: bytes, domain: bytes) -> Mailbox | None:
    """None when a part, or the whole, is longer than can be."""
    if (
        len(local) > grammar.MAX_LOCAL_PART_OCTETS
        or len(domain) > grammar.MAX_DOMAIN_OCTETS
        or len(local) + len(domain) > _MAX_PATH_OCTETS
    ):
        return None
    return Mailbox(local.decode(), domain.decode())
