"""The paths of MAIL and RCPT against the address parser of the standard library, on which many Python programs rely.

Input: UTF-8, what stands between the angle brackets.

Theirs is the grammar of header fields (RFC 5322 3.4.1), ours that of the envelope (RFC 5321 4.1.2): they may differ,
but only where a `Reason` says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import errors
from email._header_value_parser import AngleAddr, get_angle_addr
from enum import Enum
from typing import Final, final

from trio_fcgimail.smtp.address import BadPathError, parse_path

ENVELOPE_ONLY: Final = re.compile(r"|postmaster", re.IGNORECASE | re.ASCII)
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_GENERAL_LITERAL: Final = re.compile(r"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+", re.ASCII)
_HYPHEN_AT_AN_END: Final = re.compile(r"(?:^|\.)-|-(?:\.|$)")

# What the standard library notes and reads all the same, as RFC 5321 (routes) and RFC 6531 (UTF-8) would have it.
_NOTED_ONLY: Final = (errors.ObsoleteHeaderDefect, errors.NonASCIILocalPartDefect)


@final
@dataclass(frozen=True, slots=True)
class Path:
    """What a parser made of a path: the meaning of the local part, the domain, and the domains of the route before."""

    local_part: str
    domain: str | None
    route: tuple[str, ...] = ()

    @property
    def meaning(self) -> tuple[str, str | None]:
        """All that counts: a route is ignored (RFC 5321 appendix C)."""
        return self.local_part, self.domain


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """What two parsers made of one text; None is a refusal."""

    text: str
    ours: Path | None
    theirs: Path | None

    @property
    def outside_quotes(self) -> str:
        """The text with every quoted string empty."""
        return _QUOTED.sub('""', self.text)


class Reason(Enum):
    """Why the two may differ: the closed list."""

    ENVELOPE_ONLY = "<> and <postmaster> are no addresses of a header (RFC 5321 4.5.1, 4.5.5)"
    COMMENT_OR_BLANK = (
        "comments and white space around the parts of an address, and tabs and folds within, are of headers"
    )
    ENCODED_WORD = "an encoded word means something in a header and nothing in an envelope (RFC 2047 5)"
    CONTROL = "controls, those of C1 too, and the line ends of Unicode are never taken by us"
    UNICODE_BLANK = "a blank beyond ASCII is a letter to RFC 6531, and white space to Python's str.strip()"
    TOO_LONG = "a header knows no lengths (RFC 5321 4.5.3.1, RFC 1035 2.3.4)"
    NO_HOST_NAME = "the domain of a header is of any atoms, that of an envelope of letters, digits and hyphens"
    NO_LITERAL = "a header has anything between [ and ], an envelope an address or what RFC 5321 4.1.3 calls general"
    OBSOLETE_WORDS = "a header may join quoted strings and atoms by dots (RFC 5322 4.4)"
    OBSOLETE_ROUTE = "a header may leave places in a route empty (RFC 5322 4.4)"
    QUOTED_PAIR = "in an envelope a backslash stands before printable ASCII only (RFC 5321 4.1.2)"


def _is_too_long(path: Path, text: str) -> bool:
    domains = [path.domain or "", *path.route]
    return (
        len(text.encode()) + 2 > 256
        or len(path.local_part.encode()) > 64
        or any(len(domain.encode()) > 255 for domain in domains)
        or any(len(label) > 63 for domain in domains for label in domain.split(".") if label.isascii())
    )


def _is_no_host_name(domain: str) -> bool:
    odd = {character for character in domain if character.isascii() and not character.isalnum()} - set("-.")
    return not domain.startswith("[") and bool(odd or _HYPHEN_AT_AN_END.search(domain) or "" in domain.split("."))


def _is_no_literal(domain: str) -> bool:
    if not domain.startswith("["):
        return False
    tag, colon, address = domain[1:-1].partition(":")
    if not colon:
        return not _is_ip(tag, 4)
    if tag.lower() == "ipv6":
        return not _is_ip(address, 6)
    return not _GENERAL_LITERAL.fullmatch(domain[1:-1]) or bool(set('"<>@') & set(address)) or _is_ip(domain[1:-1], 6)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version and "%" not in text
    except ValueError:
        return False


def _of_any_domain(matches: Callable[[str], bool]) -> Callable[[Difference], bool]:
    """Only they take it, and one of its domains is of this kind."""
    return lambda it: (
        it.ours is None
        and it.theirs is not None
        and any(matches(domain) for domain in (it.theirs.domain or "", *it.theirs.route))
    )


def _of_text(pattern: str) -> Callable[[Difference], bool]:
    """Only they take it, and it holds this."""
    return lambda it: it.ours is None and re.search(pattern, it.text) is not None


def _outside_quotes(pattern: str) -> Callable[[Difference], bool]:
    """Only they take it, and it holds this outside of quoted strings."""
    return lambda it: it.ours is None and re.search(pattern, it.outside_quotes) is not None


EXPLAINS: Final[Mapping[Reason, Callable[[Difference], bool]]] = {
    Reason.ENVELOPE_ONLY: lambda it: it.theirs is None and ENVELOPE_ONLY.fullmatch(it.text) is not None,
    Reason.COMMENT_OR_BLANK: lambda it: _outside_quotes(r"[ (]")(it) or _of_text(r"[\t\r\n]")(it),
    Reason.ENCODED_WORD: lambda it: re.search(r"=\?.*\?=", it.text) is not None,
    Reason.CONTROL: _of_text(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"),
    Reason.UNICODE_BLANK: lambda it: any(character.isspace() and not character.isascii() for character in it.text),
    Reason.TOO_LONG: lambda it: it.ours is None and it.theirs is not None and _is_too_long(it.theirs, it.text),
    Reason.NO_HOST_NAME: _of_any_domain(_is_no_host_name),
    Reason.NO_LITERAL: lambda it: _of_any_domain(_is_no_literal)(it) or _outside_quotes(r"\[[^\]]*\\")(it),
    Reason.OBSOLETE_WORDS: _outside_quotes(r'""\s*\.|\.\s*""'),
    Reason.OBSOLETE_ROUTE: _outside_quotes(r"^,|,[\s,]*[,:]"),
    Reason.QUOTED_PAIR: _of_text(r"\\[^ -~]"),
}


def ours(text: str) -> Path | None:
    """What we make of it; the null path has an empty local part and no domain."""
    try:
        mailbox = parse_path(f"<{text}>")
    except BadPathError:
        return None
    return Path("", None) if mailbox is None else Path(mailbox.local_part, mailbox.domain)


def theirs(text: str) -> Path | None:
    """What the standard library makes of it: refused is what it cannot read, or calls invalid."""
    try:
        token, rest = get_angle_addr(f"<{text}>")
        defects = [defect for defect in token.all_defects if not isinstance(defect, _NOTED_ONLY)]
        if rest or defects or not isinstance(token, AngleAddr):
            return None
        return Path(token.local_part, token.domain, tuple(str(domain) for domain in token.route or () if domain))
    except (
        errors.HeaderParseError,
        AttributeError,
        IndexError,
        RecursionError,
    ):  # all but the first are its own faults
        return None


def compare(text: str) -> Difference | None:
    """Returns the difference that no reason explains, if there is one."""
    it = Difference(text, ours(text), theirs(text))
    if (it.ours and it.ours.meaning) == (it.theirs and it.theirs.meaning):
        return None
    return None if any(explains(it) for explains in EXPLAINS.values()) else it


def check(data: bytes) -> None:
    """One input; raises on a breach.

    Invariants:
        - Nothing but BadPathError is raised, and that only internally.
        - Both refuse a path or both read the same from it, save for the closed list of reasons.
        - So they do with what we print of a mailbox that we took; and to us it means the same as before.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert (difference := compare(text)) is None, difference
    path = ours(text)
    if path is None or not path.local_part or path.domain is None:
        return
    mailbox = parse_path(f"<{text}>")
    assert ours(str(mailbox)) == path
    assert (difference := compare(str(mailbox))) is None, difference
