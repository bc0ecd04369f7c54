"""`allowed_hosts` of go-guerrilla as ours: a "." that counts only when it stands alone, patterns, bare literals."""

from ipaddress import IPv4Address, ip_address

from trio_fcgimail.config.errors import shown
from trio_fcgimail.config.guerrilla.fields import Fields
from trio_fcgimail.config.hosts import HostList
from trio_fcgimail.config.warnings import Concern

__all__ = ["allowed_hosts"]

_ANY = "."
_KEY = "allowed_hosts"


def allowed_hosts(fields: Fields, default_hostname: str) -> list[str]:
    """Give the entries of our `allowed_hosts`; one that can never match is left out with a warning."""
    given = fields.strings(_KEY)
    if not given:
        return [default_hostname]
    patterns = [entry for entry in given if "*" in entry]
    names = [entry for entry in given if "*" not in entry]
    if _ANY in names and set(names) != {_ANY}:
        done = "it counts only as the only entry that is no pattern, so it is left out"
        fields.warn(_KEY, shown(_ANY), done, Concern.UNUSABLE)
        names = [entry for entry in names if entry != _ANY]
    wanted = [entry for entry in given if entry in patterns or entry in names]
    return list(dict.fromkeys(taken for entry in wanted if (taken := _entry(fields, entry)) is not None))


def _entry(fields: Fields, entry: str) -> str | None:
    """Give one entry as ours, None when it is left out."""
    ours = _translated(entry)
    try:
        HostList.parse([ours])
    except ValueError:
        done = "no domain, address literal or pattern that a mail could be for, so it is left out"
        fields.warn(_KEY, shown(entry), done, Concern.UNUSABLE)
        return None
    return ours


def _translated(entry: str) -> str:
    if entry == "*":
        return _ANY
    if "*" in entry:
        rest = entry.removeprefix("*.")
        return entry.lower() if rest != entry and _is_plain(rest) else f"glob:{entry}"
    if entry.startswith("[") and entry.endswith("]"):
        return _literal(entry)
    return entry


def _is_plain(name: str) -> bool:
    """Whether our own "*.NAME" means the same as the pattern."""
    if not name.isascii() or any(mark in name for mark in "*?[\\"):
        return False
    try:
        HostList.parse([name])
    except ValueError:
        return False
    return name != _ANY


def _literal(entry: str) -> str:
    """Give a literal with the tag that RFC 5321 wants and go-guerrilla leaves out."""
    try:
        address = ip_address(entry[1:-1])
    except ValueError:
        return entry
    return f"[{address}]" if isinstance(address, IPv4Address) else f"[IPv6:{address}]"
