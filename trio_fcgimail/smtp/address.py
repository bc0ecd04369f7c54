"""Mailboxes and paths (RFC 5321 4.1.2): parsed to what they mean, printed to what parses to the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from trio_fcgimail.smtp import grammar
from trio_fcgimail.smtp.errors import LocalProtocolError


class BadPathError(ValueError):
    """The text is not a path. Internal to the core: a reply takes its place before anything leaves it."""


@final
@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox by its meaning.

    Args:
        local_part: without quotes and escapes, case kept; at most 64 octets in UTF-8.
        domain: as the client wrote it, an address literal with its brackets; None only for ``<postmaster>`` without
            a domain (RFC 5321 4.5.1).

    Raises:
        LocalProtocolError: no such mailbox can be written in SMTP.
    """

    local_part: str
    domain: str | None
    _text: str = field(init=False, repr=False, compare=False)  # as SMTP writes it, which is asked for a dozen times

    def __post_init__(self) -> None:
        if len(self.local_part.encode(errors="replace")) > grammar.MAX_LOCAL_PART_OCTETS:
            raise LocalProtocolError("local part is too long")
        if not grammar.LOCAL_PART_MEANING.fullmatch(self.local_part):
            raise LocalProtocolError("local part holds a control character")
        if self.domain is None:
            if not grammar.POSTMASTER.fullmatch(self.local_part):
                raise LocalProtocolError("only postmaster may stand without a domain")
        elif not (grammar.is_domain(self.domain) or grammar.is_address_literal(self.domain)):
            raise LocalProtocolError("neither a domain nor an address literal")
        local = self.local_part
        if not grammar.DOT_STRING.fullmatch(local):
            local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
        object.__setattr__(self, "_text", local if self.domain is None else f"{local}@{self.domain}")

    def __str__(self) -> str:
        """The mailbox as SMTP writes it: quoted only where a dot-string cannot say it."""
        return self._text

    @property
    def is_ascii(self) -> bool:
        """Whether it can be written without SMTPUTF8 (RFC 6531)."""
        return self.local_part.isascii() and (self.domain is None or self.domain.isascii())


def parse_mailbox(text: str) -> Mailbox:
    """Parse a Mailbox (RFC 5321 4.1.2), quoted or not. Raises BadPathError."""
    found = grammar.MAILBOX.fullmatch(text)
    if found is None:
        raise BadPathError("not a mailbox")
    local = found["dot"] if found["dot"] is not None else grammar.QUOTED_PAIR.sub(r"\1", found["quoted"][1:-1])
    try:
        return Mailbox(local, found["domain"])
    except LocalProtocolError as exc:
        raise BadPathError(str(exc)) from exc


def parse_path(path: str) -> Mailbox | None:
    """Parse a path with its brackets (RFC 5321 4.1.2); a source route is dropped (appendix C).

    Returns:
        The mailbox, or None for ``<>``. ``<postmaster>`` gives a mailbox without a domain.

    Raises:
        BadPathError: it is no path, or longer than the RFC's 256 octets.
    """
    if len(path.encode()) > grammar.MAX_PATH_OCTETS:
        raise BadPathError("path is too long")
    inside = path[1:-1]
    if not inside:
        return None
    if grammar.POSTMASTER.fullmatch(inside):
        return Mailbox(inside, None)
    route = grammar.A_D_L.match(inside)
    return parse_mailbox(inside[route.end() :] if route else inside)
