"""Domains, and lists of them: those that are ours (`allowed_hosts`), those that take no mail (`null_mx_hosts`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Self, final

from trio_fcgimail import smtp
from trio_fcgimail.config.globs import Glob
from trio_fcgimail.mail import comparable_domain

__all__ = ["HostList", "is_domain"]

_MAX_DOMAIN_OCTETS = 255  # RFC 5321 4.5.3.1.2
_JOINERS = {0x200C: None, 0x200D: None}  # which IDNA allows where a script needs them
_ANY = "."
_BELOW = "*."
_GLOB = "glob:"
_IPV6_TAG = "ipv6:"  # RFC 5321 4.1.3, compared without regard to case


def is_domain(text: str) -> bool:
    """Say whether `text` is a Domain of RFC 5321 4.1.2 in ASCII, such as "mx.example.com" or "localhost".

    Names of machines may hold an underscore or end in a dot; those are no domains in SMTP.
    """
    return text.isascii() and smtp.is_domain(text)


@final
@dataclass(frozen=True, slots=True)
class HostList:
    """Recipient domains; make one with `parse`.

    Args:
        exact: domains and address literals, in the form that is compared.
        below: domains any depth of whose subdomains is meant, likewise.
        holds_any: whether every domain is meant.
        entries: as they were written, in their order.
        globs: patterns, of domains in their A-labels and of address literals without brackets and tag.
    """

    exact: frozenset[str]
    below: frozenset[str]
    holds_any: bool
    entries: tuple[str, ...]
    globs: tuple[Glob, ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read the entries of `allowed_hosts` or `null_mx_hosts`.

        Args:
            entries: "example.com", "*.example.com" (every subdomain, but not example.com), an address literal
                such as "[192.0.2.1]" or "[IPv6:2001:db8::1]", a pattern such as "glob:mx*.example.com", or "." for
                any domain. Names may hold U-labels, which are the same names as their A-labels.

        Raises:
            ValueError: an entry is none of these.
        """
        exact: set[str] = set()
        below: set[str] = set()
        globs: list[Glob] = []
        for entry in entries:
            if entry == _ANY:
                continue
            if entry.startswith(_BELOW):
                below.add(_domain(entry.removeprefix(_BELOW)))
            elif entry.startswith(_GLOB):
                globs.append(Glob.parse(entry.removeprefix(_GLOB)))
            elif entry.startswith("["):
                exact.add(_literal(entry))
            else:
                exact.add(_domain(entry))
        return cls(frozenset(exact), frozenset(below), _ANY in entries, tuple(entries), tuple(globs))

    def holds(self, domain: str | None) -> bool:
        """Say whether `domain` is on the list.

        Args:
            domain: the part behind the "@", an address literal with its brackets included; None, when the
                address has none (``<postmaster>``), is on no list: that address has a rule of its own.
        """
        if domain is None:
            return False
        if self.holds_any:
            return True
        if not self.entries:
            return False
        if len(domain) > _MAX_DOMAIN_OCTETS:
            return False
        try:
            name = _literal(domain) if domain.startswith("[") else comparable_domain(domain)
        except ValueError:
            return False
        if name in self.exact or any(glob.matches(_bare(name)) for glob in self.globs):
            return True
        rest = name
        while rest:
            rest = rest.partition(".")[2]
            if rest in self.below:
                return True
        return False


def _domain(text: str) -> str:
    # What cannot be seen in a file, U+200B for one, is more likely a mistake than a part of a name.
    if text.translate(_JOINERS).isprintable() and smtp.is_domain(text):
        try:
            return comparable_domain(text)
        except ValueError as error:
            raise ValueError(f"{text!a} is not a domain: {error}") from error
    raise ValueError(f"{text!a} is not a domain")


def _literal(text: str) -> str:
    if not smtp.is_address_literal(text):
        raise ValueError(f"{text!a} is not an address literal")
    inner = text[1:-1].lower()
    if inner.startswith(_IPV6_TAG):
        return f"[{_IPV6_TAG}{IPv6Address(inner.removeprefix(_IPV6_TAG))}]"
    return f"[{inner}]"


def _bare(name: str) -> str:
    """Give the address of a literal as patterns see it, and any other name as it is."""
    return name[1:-1].removeprefix(_IPV6_TAG) if name.startswith("[") else name
