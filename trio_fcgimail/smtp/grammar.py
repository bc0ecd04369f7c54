"""The pieces of RFC 5321 4.1.2 and 4.1.3 as regular expressions, each under the name of its rule.

All work on text that was decoded as UTF-8: RFC 6531 3.3 adds UTF8-non-ascii to atoms, quoted strings and domains.
Controls of any kind are never part of it, so that nothing parsed here can break a line anywhere else. Every
expression is free of nested repetition over the same characters: matching is linear.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

# The classes of characters say what is not in them: one that lists nearly all of Unicode takes 10 ms to compile, and
# there are many. C1 controls (U+0080..9F) and the line ends U+2028 and U+2029 are left out of what RFC 6531 would
# allow, and surrogates are no characters.
_NEVER: Final = r"\x7f-\x9f\u2028\u2029\ud800-\udfff"

TEXT: Final = rf"[^\x00-\x1f{_NEVER}]"  # a character that can be shown, or a blank
ATEXT: Final = rf"[^\x00-\x20\"(),.:;<>@\[\\\]{_NEVER}]"
_DOT_STRING: Final = rf"{ATEXT}+(?:\.{ATEXT}+)*"
QTEXT_SMTP: Final = rf"[^\x00-\x1f\"\\{_NEVER}]"
_QUOTED_STRING: Final = rf'"(?:{QTEXT_SMTP}|\\[\x20-\x7e])*"'
LET_DIG: Final = rf"[^\x00-/:-@\[-`{{-\x9f{_NEVER}]"
LDH: Final = rf"[^\x00-,./:-@\[-`{{-\x9f{_NEVER}]"
_SUB_DOMAIN: Final = rf"{LET_DIG}(?:{LDH}*{LET_DIG})?"
_DOMAIN: Final = rf"{_SUB_DOMAIN}(?:\.{_SUB_DOMAIN})*"
# Quotation mark, angle brackets and "@" are left out of what RFC 5321 4.1.3 would allow: whoever reads an address
# elsewhere could take them for the end of a quoted string, of a path or of the local part.
_DCONTENT: Final = r"[\x21\x23-\x3b\x3d\x3f\x41-\x5a\x5e-\x7e]"
_ADDRESS_LITERAL: Final = rf"\[{_DCONTENT}+\]"
_AT_DOMAIN: Final = rf"@(?:{_DOMAIN}|{_ADDRESS_LITERAL})"

DOT_STRING: Final = re.compile(_DOT_STRING)
DOMAIN: Final = re.compile(_DOMAIN)
MAILBOX: Final = re.compile(
    rf"(?:(?P<dot>{_DOT_STRING})|(?P<quoted>{_QUOTED_STRING}))@(?P<domain>{_DOMAIN}|{_ADDRESS_LITERAL})"
)
GENERAL_ADDRESS_LITERAL: Final = re.compile(rf"\[(?P<tag>[A-Za-z0-9-]*[A-Za-z0-9]):(?P<content>{_DCONTENT}+)\]")
A_D_L: Final = re.compile(rf"{_AT_DOMAIN}(?:,{_AT_DOMAIN})*:")  # a source route, to be ignored: RFC 5321 appendix C
POSTMASTER: Final = re.compile(r"postmaster", re.IGNORECASE | re.ASCII)
LOCAL_PART_MEANING: Final = re.compile(rf"{TEXT}*")  # what a Quoted-string can say
QUOTED_PAIR: Final = re.compile(r"\\(.)")

ESMTP_CHARACTER: Final = rf"[^\x00-\x20={_NEVER}]"
ESMTP_PARAMETER: Final = re.compile(rf"(?P<keyword>[A-Za-z0-9][A-Za-z0-9-]*)(?:=(?P<value>{ESMTP_CHARACTER}+))?")
SIZE_VALUE: Final = re.compile(r"[0-9]{1,20}", re.ASCII)  # RFC 1870 4

# What senders really put behind HELO: names with underscores, literals, all sorts. Nothing that could be taken for
# a comment, a quotation or an address in a trace header; there only a whole address literal may hold more.
GREETING_NAME: Final = re.compile(r"[\x21#-'*+./0-9:=?A-Z\[\]^_`a-z{|}~-]+")

# The end of a path: the first ">" outside a quoted string, or the end of the text when there is none.
PATH_TOKEN: Final = re.compile(r'<(?:[^"<>]|"(?:[^"\\]|\\.)*")*>')

# The same without UTF-8, and with labels that fit the DNS: what nearly every address is made of.
_ASCII_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ASCII_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ASCII_DOT_STRING: Final = rf"{_ASCII_ATOM}(?:\.{_ASCII_ATOM})*"
ASCII_DOMAIN: Final = rf"{_ASCII_LABEL}(?:\.{_ASCII_LABEL})*"
_ASCII_DOMAIN_ALONE: Final = re.compile(ASCII_DOMAIN)

MAX_LOCAL_PART_OCTETS: Final = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN_OCTETS: Final = 255  # RFC 5321 4.5.3.1.2
MAX_PATH_OCTETS: Final = 256  # RFC 5321 4.5.3.1.3, "<" and ">" included
MAX_LABEL_OCTETS: Final = 63  # RFC 1035 2.3.4, of what the DNS is asked: a label in ASCII


def fold(word: str) -> str:
    """``word`` in upper case if it is ASCII, else as it is: U+017F and U+0131 are no S and no I of SMTP."""
    return word.upper() if word.isascii() else word


def is_domain(text: str) -> bool:
    """Whether ``text`` is a Domain of RFC 5321 4.1.2 whose labels in ASCII and whole fit the DNS.

    A U-label is not measured: its A-label can be shorter. Whether it has one is nothing that is known here.
    """
    if len(text) <= MAX_DOMAIN_OCTETS and _ASCII_DOMAIN_ALONE.fullmatch(text) is not None:
        return True
    return (
        DOMAIN.fullmatch(text) is not None
        and len(text.encode()) <= MAX_DOMAIN_OCTETS
        and all(len(label) <= MAX_LABEL_OCTETS for label in text.split(".") if label.isascii())
    )


def is_address_literal(text: str) -> bool:
    """Whether ``text`` is an address-literal of RFC 5321 4.1.3, brackets included.

    An IPv4 address stands without a tag, an IPv6 address behind the tag ``IPv6`` only; both must be valid. What other
    tags mean is nothing that is known here: their content is taken as it is.
    """
    if len(text) > MAX_DOMAIN_OCTETS:
        return False
    general = GENERAL_ADDRESS_LITERAL.fullmatch(text)
    if general is None:
        return text.startswith("[") and text.endswith("]") and _is_address(ipaddress.IPv4Address, text[1:-1])
    if general["tag"].lower() == "ipv6":
        # a zone means nothing to the other side
        return "%" not in text and _is_address(ipaddress.IPv6Address, general["content"])
    return not _is_address(ipaddress.IPv6Address, text[1:-1])  # whose first group would be the tag


def _is_address(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
