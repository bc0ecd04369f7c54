"""XCLIENT: a trusted proxy says on whose behalf it speaks (Postfix's XCLIENT protocol; there is no RFC).

Only the grammar is here. Who may use it, and what becomes of what was said, is the embedder's business.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, final

from trio_fcgimail.smtp import catalogue, grammar
from trio_fcgimail.smtp.errors import CommandError
from trio_fcgimail.smtp.options import GreetingWord

MAX_LOGIN_OCTETS: Final = 255  # ours, as for AUTH

_HEXCHAR: Final = re.compile(rb"\+([0-9A-Fa-f]{2})")
_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x7e]|\+[0-9A-Fa-f]{2})+")  # RFC 1891 5, "=" included as Postfix has it
_TEXT: Final = re.compile(rf"{grammar.TEXT}+")
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_IPV6_TAG: Final = "IPV6:"
_PROTOCOLS: Final = {"SMTP": GreetingWord.HELO, "ESMTP": GreetingWord.EHLO}


class Unavailable(Enum):
    """What stands for a value that the proxy does not have."""

    UNAVAILABLE = "[UNAVAILABLE]"  # and never will
    TEMPUNAVAIL = "[TEMPUNAVAIL]"  # a lookup failed for now


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class XclientAttributes:
    """What XCLIENT said of the client behind the proxy. None: nothing was said of it, what was known stays.

    Args:
        name: its host name.
        address: its IP address as text, without the tag of IPv6.
        port: its TCP port.
        protocol: SMTP (HELO) or ESMTP (EHLO).
        helo: its argument of HELO or EHLO.
        login: the user that it authenticated as. None: nobody, whoever had authenticated before.
        destination_address: the IP address that it connected to.
        destination_port: the TCP port there.
    """

    name: str | Unavailable | None = None
    address: str | Unavailable | None = None
    port: int | Unavailable | None = None
    protocol: GreetingWord | Unavailable | None = None
    helo: str | Unavailable | None = None
    login: str | Unavailable | None = None
    destination_address: str | Unavailable | None = None
    destination_port: int | Unavailable | None = None


def parse_xclient(rest: str) -> XclientAttributes:
    """The argument of XCLIENT: ``NAME=value`` once or more, each name once, the values in xtext.

    Raises:
        CommandError: 501.
    """
    attributes = XclientAttributes()
    seen: set[str] = set()
    for token in filter(None, rest.split(" ")):
        name, _, value = token.partition("=")
        name = grammar.fold(name)
        setter = _ATTRIBUTES.get(name)
        if setter is None or name in seen:
            raise CommandError(catalogue.BAD_ARGUMENTS)
        seen.add(name)
        try:
            attributes = setter(attributes, _decode_xtext(value))
        except ValueError as exc:
            raise CommandError(catalogue.BAD_PARAMETER_VALUE) from exc
    if not seen:
        raise CommandError(catalogue.BAD_ARGUMENTS)
    return attributes


def _decode_xtext(value: str) -> str:
    if not _XTEXT.fullmatch(value):
        raise ValueError(value)
    text = _HEXCHAR.sub(lambda found: bytes.fromhex(found[1].decode()), value.encode()).decode()
    if not _TEXT.fullmatch(text):
        raise ValueError(text)
    return text


def _unavailable(value: str) -> Unavailable | None:
    return next((one for one in Unavailable if one.value == grammar.fold(value)), None)


def _host(value: str) -> str:
    if len(value) > grammar.MAX_DOMAIN_OCTETS or not grammar.GREETING_NAME.fullmatch(value):
        raise ValueError(value)
    return value


def _address(value: str) -> str:
    if value[: len(_IPV6_TAG)].upper() != _IPV6_TAG:
        return str(ipaddress.IPv4Address(value))
    address = ipaddress.IPv6Address(value[len(_IPV6_TAG) :])
    if address.scope_id is not None:  # a zone means nothing to the other side
        raise ValueError(value)
    return str(address)


def _port(value: str) -> int:
    if not _PORT.fullmatch(value) or not 0 < int(value) < 65_536:
        raise ValueError(value)
    return int(value)


def _protocol(value: str) -> GreetingWord:
    word = _PROTOCOLS.get(grammar.fold(value))
    if word is None:
        raise ValueError(value)
    return word


def _login(value: str) -> str:
    if len(value.encode()) > MAX_LOGIN_OCTETS:
        raise ValueError(value)
    return value


_Setter = Callable[[XclientAttributes, str], XclientAttributes]
_ATTRIBUTES: Final[Mapping[str, _Setter]] = {
    "NAME": lambda known, value: replace(known, name=_unavailable(value) or _host(value)),
    "ADDR": lambda known, value: replace(known, address=_unavailable(value) or _address(value)),
    "PORT": lambda known, value: replace(known, port=_unavailable(value) or _port(value)),
    "PROTO": lambda known, value: replace(known, protocol=_unavailable(value) or _protocol(value)),
    "HELO": lambda known, value: replace(known, helo=_unavailable(value) or _host(value)),
    "LOGIN": lambda known, value: replace(known, login=_unavailable(value) or _login(value)),
    "DESTADDR": lambda known, value: replace(known, destination_address=_unavailable(value) or _address(value)),
    "DESTPORT": lambda known, value: replace(known, destination_port=_unavailable(value) or _port(value)),
}
XCLIENT_NAMES: Final = tuple(_ATTRIBUTES)  # as EHLO lists them
