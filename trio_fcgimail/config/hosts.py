"""Domains, and which recipient domains are ours (`allowed_hosts`)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self, final

from trio_fcgimail.smtp import is_address_literal

__all__ = ["AllowedHosts", "is_domain"]

_MAX_DOMAIN_OCTETS = 255  # RFC 5321 4.5.3.1.2
_MAX_LABEL_CHARS = 63  # RFC 1035 2.3.4
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")  # sub-domain of RFC 5321 4.1.2
_ANY = "."
_BELOW = "*."
_IPV6_TAG = "ipv6:"  # RFC 5321 4.1.3, compared without regard to case


def is_domain(text: str) -> bool:
    """Say whether `text` is a Domain of RFC 5321 4.1.2 in ASCII, such as "mx.example.com" or "localhost".

    Names of machines may hold an underscore or end in a dot; those are no domains in SMTP.
    """
    return text.isascii() and _is_international_domain(text)


@final
@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The recipient domains that are taken; make one with `parse`.

    Args:
        exact: domains and address literals, in lower case and normalised.
        below: domains any depth of whose subdomains is taken, in lower case.
        takes_any: whether every domain is taken.
        entries: as they were written, in their order.
    """

    exact: frozenset[str]
    below: frozenset[str]
    takes_any: bool
    entries: tuple[str, ...]

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read the entries of `allowed_hosts`.

        Args:
            entries: "example.com", "*.example.com" (every subdomain, but not example.com), an address literal
                such as "[192.0.2.1]" or "[IPv6:2001:db8::1]", or "." for any domain. Names may hold U-labels;
                they and A-labels are two names, so list both.

        Raises:
            ValueError: an entry is none of these.
        """
        exact: set[str] = set()
        below: set[str] = set()
        for entry in entries:
            if entry == _ANY:
                continue
            if entry.startswith(_BELOW):
                below.add(_domain(entry.removeprefix(_BELOW)))
            elif entry.startswith("["):
                exact.add(_literal(entry))
            else:
                exact.add(_domain(entry))
        return cls(frozenset(exact), frozenset(below), _ANY in entries, tuple(entries))

    def allows(self, domain: str | None) -> bool:
        """Say whether mail for `domain` is taken.

        Args:
            domain: the part behind the "@", an address literal with its brackets included; None, when the
                address has none (``<postmaster>``), is never taken here: that address has a rule of its own.
        """
        if domain is None:
            return False
        if self.takes_any:
            return True
        if len(domain) > _MAX_DOMAIN_OCTETS:
            return False
        name = _comparable(domain)
        if name in self.exact:
            return True
        rest = name
        while rest:
            rest = rest.partition(".")[2]
            if rest in self.below:
                return True
        return False


def _comparable(domain: str) -> str:
    if not domain.startswith("["):
        return domain.lower()
    try:
        return _literal(domain)
    except ValueError:
        return domain  # equal to no entry, since entries are normalised


def _domain(text: str) -> str:
    if not _is_international_domain(text):
        raise ValueError(f"{text!a} is not a domain")
    return text.lower()


def _literal(text: str) -> str:
    if not is_address_literal(text):
        raise ValueError(f"{text!a} is not an address literal")
    inner = text[1:-1].lower()
    if inner.startswith(_IPV6_TAG):
        return f"[{_IPV6_TAG}{IPv6Address(inner.removeprefix(_IPV6_TAG))}]"
    return f"[{inner}]"


def _is_international_domain(text: str) -> bool:
    octets = len(text.encode("utf-8", "surrogatepass"))
    return octets <= _MAX_DOMAIN_OCTETS and all(map(_is_label, text.split(".")))


def _is_label(label: str) -> bool:
    if len(label) > _MAX_LABEL_CHARS:
        return False
    # A U-label (RFC 6531 3.3): judged as if each character beyond ASCII that can be seen were a letter.
    return label.isprintable() and _LABEL.fullmatch(re.sub(r"[^\x00-\x7f]", "x", label)) is not None
