"""The ESMTP parameters of MAIL and RCPT (RFC 5321 4.1.2): each extension's own, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeVar, final

from trio_fcgimail.smtp import catalogue, grammar
from trio_fcgimail.smtp.address import Mailbox, parse_mailbox
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.options import Extension

MAX_ENVID_OCTETS: Final = 100  # RFC 3461 4.4
MAX_ORCPT_OCTETS: Final = 500  # RFC 3461 4.2
MAX_SUBMITTER_OCTETS: Final = 500  # RFC 4954 5 adds as many to the line of MAIL

# RFC 3461 4. What it stands for must be printable ASCII (4.2, 4.4): nothing else fits a field or a header.
_XCHAR: Final = r"[\x21-\x2a\x2c-\x3c\x3e-\x7e]"
_HEXCHAR: Final = r"\+([2-6][0-9A-F]|7[0-9A-E])"
_XTEXT: Final = re.compile(rf"(?:{_XCHAR}|{_HEXCHAR})*")
_UNITEXT: Final = re.compile(rf"(?:{_XCHAR}|{_HEXCHAR}|[^\x00-\x7f])*")  # RFC 6533 3; the grammar bars its controls
_ENCODED: Final = re.compile(_HEXCHAR)
_ADDRESS_TYPE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")  # an atom


class BodyType(Enum):
    """The value of BODY= (RFC 6152 2, RFC 3030 3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"


class DsnReturn(Enum):
    """The value of RET= (RFC 3461 4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


class DsnNotify(Enum):
    """A value of NOTIFY= (RFC 3461 4.1); NEVER stands alone."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@final
@dataclass(frozen=True, slots=True)
class OriginalRecipient:
    r"""The value of ORCPT= (RFC 3461 4.2).

    Args:
        address_type: such as ``rfc822``, as the client wrote it.
        address: decoded from xtext, printable ASCII; that of the type ``utf-8`` may be UTF-8, and its ``\x{...}``
            stands as it came (RFC 6533 3).
    """

    address_type: str
    address: str

    def __str__(self) -> str:
        return f"{self.address_type};{self.address}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MailParameters:
    """What followed the path of MAIL. None means that the parameter was absent."""

    declared_octets: int | None = None  # SIZE, RFC 1870 3
    body: BodyType | None = None  # BODY, RFC 6152
    smtputf8: bool = False  # SMTPUTF8, RFC 6531 3.4
    dsn_return: DsnReturn | None = None  # RET, RFC 3461 4.3
    envelope_id: str | None = None  # ENVID, RFC 3461 4.4, decoded from xtext
    require_tls: bool = False  # REQUIRETLS, RFC 8689 2
    submitter: Mailbox | None = None  # AUTH, RFC 4954 5, decoded from xtext; None for <> too: nobody known


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RcptParameters:
    """What followed the path of RCPT. Empty and None mean that the parameter was absent."""

    notify: frozenset[DsnNotify] = frozenset()  # NOTIFY, RFC 3461 4.1
    original: OriginalRecipient | None = None  # ORCPT, RFC 3461 4.2


def split_parameters(text: str) -> Mapping[str, str | None]:
    """``KEYWORD[=value] ...`` as a mapping of upper-case keywords. Raises CommandError (501)."""
    parameters: dict[str, str | None] = {}
    for token in filter(None, text.split(" ")):
        found = grammar.ESMTP_PARAMETER.fullmatch(token)
        if found is None:
            raise CommandError(catalogue.BAD_ARGUMENTS)
        keyword = found["keyword"].upper()
        if keyword in parameters:
            raise CommandError(catalogue.DOUBLED_PARAMETER)
        parameters[keyword] = found["value"]
    return parameters


def read_mail_parameters(text: str, extensions: frozenset[Extension]) -> MailParameters:
    """The parameters of MAIL. Raises CommandError: 555 for one that is not offered, 501 for a bad value."""
    return _read(MailParameters(), _MAIL, text, extensions)


def read_rcpt_parameters(text: str, extensions: frozenset[Extension]) -> RcptParameters:
    """The parameters of RCPT. Raises CommandError, as for MAIL."""
    return _read(RcptParameters(), _RCPT, text, extensions)


_Parameters = TypeVar("_Parameters")
_Setter = Callable[[_Parameters, str, frozenset[Extension]], _Parameters]
_Known = Mapping[str, tuple[frozenset[Extension], _Setter[_Parameters]]]  # any of the extensions brings the parameter


def _read(
    result: _Parameters,
    known: _Known[_Parameters],
    text: str,
    extensions: frozenset[Extension],
) -> _Parameters:
    for keyword, value in split_parameters(text).items():
        needed, setter = known.get(keyword, (frozenset(), None))
        if setter is None or not needed & extensions:
            raise CommandError(catalogue.UNKNOWN_PARAMETER)
        if (value is None) != (keyword in _WITHOUT_VALUE):
            raise CommandError(catalogue.BAD_PARAMETER_VALUE)
        try:
            result = setter(result, value or "", extensions)
        except ValueError as exc:
            raise CommandError(catalogue.BAD_PARAMETER_VALUE) from exc
    return result


def _size(known: MailParameters, value: str, _extensions: frozenset[Extension]) -> MailParameters:
    if not grammar.SIZE_VALUE.fullmatch(value):
        raise ValueError(value)
    return replace(known, declared_octets=int(value))


def _body(known: MailParameters, value: str, extensions: frozenset[Extension]) -> MailParameters:
    body = BodyType(grammar.fold(value))
    if _EXTENSION_OF_BODY.get(body, Extension.EIGHT_BIT_MIME) not in extensions:
        raise ValueError(value)
    return replace(known, body=body)


def _smtputf8(known: MailParameters, _value: str, _extensions: frozenset[Extension]) -> MailParameters:
    return replace(known, smtputf8=True)


def _ret(known: MailParameters, value: str, _extensions: frozenset[Extension]) -> MailParameters:
    return replace(known, dsn_return=DsnReturn(grammar.fold(value)))


def _envid(known: MailParameters, value: str, _extensions: frozenset[Extension]) -> MailParameters:
    if len(value) > MAX_ENVID_OCTETS:
        raise ValueError(value)
    return replace(known, envelope_id=_decode_xtext(value, _XTEXT))


def _requiretls(known: MailParameters, _value: str, _extensions: frozenset[Extension]) -> MailParameters:
    return replace(known, require_tls=True)


def _auth(known: MailParameters, value: str, _extensions: frozenset[Extension]) -> MailParameters:
    if len(value.encode()) > MAX_SUBMITTER_OCTETS:
        raise ValueError(value)
    if value == "<>":
        return known
    return replace(known, submitter=parse_mailbox(_decode_xtext(value, _UNITEXT)))


def _notify(known: RcptParameters, value: str, _extensions: frozenset[Extension]) -> RcptParameters:
    words = [DsnNotify(grammar.fold(word)) for word in value.split(",")]
    notify = frozenset(words)
    if len(words) != len(notify) or (DsnNotify.NEVER in notify and len(notify) > 1):
        raise ValueError(value)
    return replace(known, notify=notify)


def _orcpt(known: RcptParameters, value: str, _extensions: frozenset[Extension]) -> RcptParameters:
    address_type, semicolon, address = value.partition(";")
    if len(value.encode()) > MAX_ORCPT_OCTETS or not semicolon or not _ADDRESS_TYPE.fullmatch(address_type):
        raise ValueError(value)
    grammar_of_address = _UNITEXT if grammar.fold(address_type) == "UTF-8" else _XTEXT
    return replace(known, original=OriginalRecipient(address_type, _decode_xtext(address, grammar_of_address)))


def _decode_xtext(text: str, form: re.Pattern[str]) -> str:
    if not text or not form.fullmatch(text):
        raise ValueError(text)
    return _ENCODED.sub(lambda found: chr(int(found[1], 16)), text)


_WITHOUT_VALUE: Final = frozenset({"SMTPUTF8", "REQUIRETLS"})
_EXTENSION_OF_BODY: Final = {BodyType.BINARY_MIME: Extension.BINARYMIME}
_DSN: Final = frozenset({Extension.DSN})
_MAIL: Final[_Known[MailParameters]] = {
    "SIZE": (frozenset({Extension.SIZE}), _size),
    "BODY": (frozenset({Extension.EIGHT_BIT_MIME, Extension.BINARYMIME}), _body),
    "SMTPUTF8": (frozenset({Extension.SMTPUTF8}), _smtputf8),
    "RET": (_DSN, _ret),
    "ENVID": (_DSN, _envid),
    "REQUIRETLS": (frozenset({Extension.REQUIRETLS}), _requiretls),
    "AUTH": (frozenset({Extension.AUTH}), _auth),
}
_RCPT: Final[_Known[RcptParameters]] = {"NOTIFY": (_DSN, _notify), "ORCPT": (_DSN, _orcpt)}
